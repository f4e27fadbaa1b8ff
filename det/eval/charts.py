"""Charts of an evaluation: precision-recall curves, and a histogram of the scores."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from det.eval.average_precision import mean
from det.eval.evaluator import DetectionEvaluator
from det.eval.true_positives import IGNORED_MATCH
from engine.fonts import chart_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_MAX_NAMED_CURVES = 12  # more cannot be told apart


def save_charts(evaluator: DetectionEvaluator, path: str | Path) -> None:
    """Write an image with three charts: the precision-recall curves of the classes at IoU .5, their means at
    each IoU threshold, and a histogram of the scores."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    FigureCanvasAgg(figure)
    per_class, means, histogram = figure.subplots(1, 3)
    _plot_classes(per_class, evaluator)
    _plot_means(means, evaluator)
    _plot_scores(histogram, evaluator)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _plot_classes(axes: "Axes", evaluator: DetectionEvaluator) -> None:
    """Names all classes or, if there are too many, those with the lowest and the highest AP."""
    curves, classes = evaluator.curves.precision[0, :, :, 0, -1], evaluator.classes
    scored = sorted(
        (mean(curves[:, index]), index) for index in range(len(classes)) if not np.isnan(curves[0, index])
    )
    half, names = _MAX_NAMED_CURVES // 2, chart_names(classes)
    named = scored if len(scored) <= _MAX_NAMED_CURVES else [*scored[:half], *scored[-half:]]
    recalls = np.linspace(0, 1, len(curves))
    for value, index in reversed(scored):
        is_named = (value, index) in named
        color = np.array(classes.colors[index]) / 255 if is_named else "0.85"
        label = f"{names[index]} {100 * value:.1f}" if is_named else None
        width = 1.4 if is_named else 0.8
        axes.plot(recalls, curves[:, index], color=color, lw=width, label=label, zorder=2 + is_named)
    title = f"{half} best, {half} worst" if len(scored) > _MAX_NAMED_CURVES else None
    _label_axes(axes, "classes at IoU .5 (AP50 %)", legend=title)


def _plot_means(axes: "Axes", evaluator: DetectionEvaluator) -> None:
    curves = evaluator.curves.precision[:, :, :, 0, -1]
    present = ~np.isnan(curves[0, 0])
    if present.any():
        over_classes = curves[:, :, present].mean(axis=2)  # [T, R]
        recalls = np.linspace(0, 1, over_classes.shape[1])
        for position, shade in enumerate(np.linspace(0.25, 0.85, len(over_classes))):
            text = f"IoU {0.5 + 0.05 * position:.2f}: {100 * over_classes[position].mean():.1f}"
            axes.plot(recalls, over_classes[position], color=(0.1, shade * 0.9, shade), lw=1, label=text)
        text = f"mean: {100 * over_classes.mean():.1f}"
        axes.plot(recalls, over_classes.mean(axis=0), color="black", lw=2.2, label=text)
    _label_axes(axes, "mean of the classes (AP %)")


def _label_axes(axes: "Axes", title: str, *, legend: str | None = None) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=title)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7, title_fontsize=7, title=legend, loc="best", framealpha=0.7)


def _plot_scores(axes: "Axes", evaluator: DetectionEvaluator) -> None:
    scores, matches = evaluator.detections[:, 5], evaluator.matches
    correct, wrong = scores[matches >= 0], scores[(matches < 0) & (matches != IGNORED_MATCH)]
    bins = np.linspace(0, 1, 41)
    axes.hist(
        [correct, wrong], bins=bins.tolist(), stacked=True, color=["#2a7f3b", "#d08770"],
        label=[f"correct at IoU .5: {len(correct)}", f"wrong: {len(wrong)}"],
    )  # fmt: skip
    if len(scores):
        axes.set_yscale("log")
    if (best := evaluator.operating_point) is not None:
        text = f"best F1: {100 * best.f1:.1f} at scores >= {best.threshold:.2f}"
        axes.axvline(best.threshold, color="black", lw=1, ls="--", label=text)
    axes.set(xlim=(0, 1), xlabel="score", ylabel="detections", title="scores")
    axes.legend(fontsize=7)
