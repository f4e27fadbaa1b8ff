"""The section of detection's reports: classes, precision-recall curves, and F1 against the threshold."""

import numpy as np
from numpy.typing import NDArray

from det.eval.average_precision import mean
from det.eval.evaluator import DetectionEvaluator
from det.eval.true_positives import IGNORED_MATCH
from engine.html.charts import Point, bar_chart, line_chart
from engine.html.page import Page

_MOST_BARS, _MOST_CURVES = 80, 8


def add_detection(page: Page, evaluator: DetectionEvaluator) -> None:
    """Add the classes, the precision-recall curves at IoU .5, and F1, precision and recall by threshold."""
    rows = class_rows(evaluator)
    page.section("Classes", "AP: mean over IoU .50 to .95; AP50: at IoU .50 (COCO's definitions).")
    shown = rows if len(rows) <= _MOST_BARS else sorted(rows, key=lambda row: row[1])[:_MOST_BARS]
    title = "AP per class" if shown is rows else f"The {_MOST_BARS} classes with the lowest AP"
    bars = {"AP": [row[1] for row in shown], "AP50": [row[2] for row in shown]}
    page.chart(bar_chart([row[0] for row in shown], bars, title=title, unit="%"))
    table = [(name, f"{ap:.2f}", f"{ap50:.2f}", objects) for name, ap, ap50, objects in rows]
    page.table(["class", "AP %", "AP50 %", "objects"], table)
    page.section("Precision and recall", _chosen(evaluator))
    if not len(evaluator.detections):
        return
    page.chart(
        line_chart(
            precision_recall(evaluator),
            title="Precision-recall curves at IoU .5",
            x_label="recall",
            y_label="precision",
            y_range=(0, 1),
        )
    )
    page.chart(_by_threshold(evaluator))


def class_rows(evaluator: DetectionEvaluator) -> list[tuple[str, float, float, int]]:
    """(class, AP %, AP50 %, number of objects) of each class."""
    precision, truth = evaluator.curves.precision[:, :, :, 0, -1], evaluator.truth
    ids = truth.category_ids[~truth.ignored]
    return [
        (
            name,
            100 * mean(precision[:, :, index].ravel()),
            100 * mean(precision[0, :, index]),
            int((ids == id_).sum()),
        )
        for index, (name, id_) in enumerate(zip(evaluator.classes.names, evaluator.classes.ids, strict=True))
    ]


def precision_recall(evaluator: DetectionEvaluator) -> dict[str, list[Point]]:
    """(recall, precision) at IoU .5 of the mean over the classes and of each; of many classes, the three with
    the highest and the three with the lowest AP50."""
    curves = evaluator.curves.precision[0, :, :, 0, -1]
    present = np.flatnonzero(~np.isnan(curves[0]))
    recalls = np.linspace(0, 1, len(curves)).tolist()
    if not len(present):
        return {}
    series = {"mean": curves[:, present].mean(1)} if len(present) > 1 else {}
    if len(present) >= _MOST_CURVES:
        order = present[np.argsort(-curves[:, present].mean(0), kind="stable")]
        present = np.concatenate([order[:3], order[-3:]])
    series |= {evaluator.classes.names[index]: curves[:, index] for index in present}
    return {name: list(zip(recalls, values.tolist(), strict=True)) for name, values in series.items()}


def threshold_curves(
    scores: NDArray[np.float64], matches: NDArray[np.int64], num_objects: int
) -> dict[str, list[Point]]:
    """(threshold, value) of F1, precision and recall, for detections with `scores` and `matches` [D]."""
    counted = matches != IGNORED_MATCH
    scores, correct = scores[counted], matches[counted] >= 0
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(correct[order])
    last_of_its_score = np.append(scores[:-1] != scores[1:], True) if len(scores) else np.zeros(0, bool)
    thresholds, hits = scores[last_of_its_score], hits[last_of_its_score]
    shown = np.arange(1, len(scores) + 1)[last_of_its_score]
    curves = {
        "F1": 2 * hits / (shown + num_objects),
        "precision": hits / np.maximum(shown, 1),
        "recall": hits / max(1, num_objects),
    }
    return {
        name: list(zip(thresholds[::-1].tolist(), values[::-1].tolist(), strict=True))
        for name, values in curves.items()
    }


def _by_threshold(evaluator: DetectionEvaluator) -> str:
    num_objects = int((~evaluator.truth.ignored).sum())
    curves = threshold_curves(evaluator.detections[:, 5], evaluator.matches, num_objects)
    best = evaluator.operating_point
    return line_chart(
        curves,
        title="F1, precision and recall at IoU .5",
        x_label="score threshold",
        y_label="all classes together",
        x_range=(0, 1),
        y_range=(0, 1),
        marks=[(best.threshold, best.f1, f"best F1 {best.f1:.2f} at {best.threshold:.2f}")] if best else (),
    )


def _chosen(evaluator: DetectionEvaluator) -> str:
    best = evaluator.operating_point
    if best is None:
        return "No detection is correct at IoU .5." if len(evaluator.detections) else "No detections."
    return (
        f"F1 is highest at a score threshold of {best.threshold:.2f}: precision {best.precision:.1%}, recall "
        f"{best.recall:.1%}. Drawings use this threshold unless task.draw_threshold is set."
    )
