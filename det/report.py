"""Pictures of detections: boxes with their names, precision-recall curves, scores."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from det.boxes import Detections
from det.eval.average_precision import mean
from det.eval.matching import IGNORED_MATCH
from engine.data.class_map import ClassMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from det.eval.evaluator import DetectionEvaluator


Image = NDArray[np.uint8]


_Plate = tuple[int, int, int, int]


_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


_SHIFT = 4  # OpenCV draws to 1/16 pixel


_MAX_CURVES = 12  # more names than this cannot be told apart


def overlay(
    image: Image,
    found: Detections,
    classes: ClassMap,
    *,
    threshold: float = 0.0,
    names: bool = True,
    scores: bool = True,
) -> Image:
    """`image` [H, W, 3] with the boxes of `found` from the score `threshold` on, the highest score on top.

    Lines and lettering grow with the picture. names: write the class on each box, unless it would cover the
    name of a higher score; scores: and its score. Raises: ValueError for a label that is no class.
    """
    labels = np.asarray(found.labels)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(f"labels must be in 0..{len(classes) - 1}, got {labels.min()}..{labels.max()}")
    values, boxes = np.asarray(found.scores), np.asarray(found.boxes, np.float64)
    shown = [row for row in np.argsort(values, kind="stable") if values[row] >= threshold]
    picture = np.ascontiguousarray(image).copy()
    width = _line_width(image)
    for row in shown:
        _draw_box(picture, boxes[row], classes.colors[labels[row]], width)
    if not names or not shown:
        return picture
    canvas = Pillow.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    font: Any = ImageFont.load_default(size=_letter_size(image))  # scalable, since a size is asked for
    taken: list[_Plate] = []
    for row in reversed(shown):  # the highest score first: it gets the best place
        text = classes.names[labels[row]] + (f" {values[row]:.2f}" if scores else "")
        _draw_name(pen, font, text, boxes[row], classes.colors[labels[row]], image.shape[:2], width, taken)
    return np.asarray(canvas)


def _line_width(image: Image) -> int:
    return max(1, round(int(min(image.shape[:2])) / 240))


def _letter_size(image: Image) -> int:
    return int(np.clip(min(image.shape[:2]) / 30, 11, 40))


def _draw_box(picture: Image, box: NDArray[np.float64], color: tuple[int, int, int], width: int) -> None:
    """Cut to the picture, so that the sides of a box that reaches over its edge can be seen."""
    limits = np.array(picture.shape[1::-1] * 2) - 1
    x1, y1, x2, y2 = (round(side * 2**_SHIFT) for side in np.clip(box, 0, limits))
    cv2.rectangle(picture, (x1, y1), (x2, y2), color, width, cv2.LINE_AA, _SHIFT)


def _draw_name(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    text: str,
    box: NDArray[np.float64],
    color: tuple[int, int, int],
    size: tuple[int, int],
    width: int,
    taken: list[_Plate],
) -> None:
    """A plate in the class's color, above the box or where else it covers no other; where not, none."""
    pad = max(1, width)
    plate_width, plate_height = int(font.getlength(text)) + 2 * pad + 1, round(font.size * 1.2) + pad
    left = int(np.clip(box[0] - width / 2, 0, max(0, size[1] - plate_width)))
    lowest = max(0, size[0] - plate_height)
    tops = (box[1] - plate_height, box[1], box[3] - plate_height, box[3], box[1] + plate_height)
    plates = [
        (left, int(top), left + plate_width, int(top) + plate_height) for top in tops if 0 <= top <= lowest
    ]
    plates = plates or [(left, 0, left + plate_width, plate_height)]
    plate = next((plate for plate in plates if not any(_overlap(plate, other) for other in taken)), None)
    if plate is None:
        return
    taken.append(plate)
    pen.rectangle((plate[0], plate[1], plate[2] - 1, plate[3] - 1), fill=color)
    ink = _BLACK if np.dot(color, (0.299, 0.587, 0.114)) > 140 else _WHITE
    pen.text((plate[0] + pad, (plate[1] + plate[3]) / 2), text, fill=ink, font=font, anchor="lm")


def _overlap(a: _Plate, b: _Plate) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def precision_recall_curves(evaluator: "DetectionEvaluator", path: str | Path) -> None:
    """Write precision over recall (classes at IoU .5, means at each IoU) and a histogram of the scores."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    FigureCanvasAgg(figure)
    per_class, means, histogram = figure.subplots(1, 3)
    _draw_classes(per_class, evaluator)
    _draw_means(means, evaluator)
    _draw_scores(histogram, evaluator)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _draw_classes(axes: "Axes", evaluator: "DetectionEvaluator") -> None:
    """Named where there are few classes, or for those with the lowest and highest AP."""
    curves, classes = evaluator.curves.precision[0, :, :, 0, -1], evaluator.classes
    scored = sorted(
        (mean(curves[:, index]), index) for index in range(len(classes)) if not np.isnan(curves[0, index])
    )
    half = _MAX_CURVES // 2
    named = scored if len(scored) <= _MAX_CURVES else [*scored[:half], *scored[-half:]]
    recalls = np.linspace(0, 1, len(curves))
    for value, index in reversed(scored):
        few = (value, index) in named
        color = np.array(classes.colors[index]) / 255 if few else "0.85"
        label = f"{classes.names[index]} {100 * value:.1f}" if few else None
        axes.plot(recalls, curves[:, index], color=color, lw=1.4 if few else 0.8, label=label, zorder=2 + few)
    title = f"{half} best, {half} worst" if len(scored) > _MAX_CURVES else None
    _frame(axes, "classes at IoU .5 (AP50 %)", legend=title)


def _draw_means(axes: "Axes", evaluator: "DetectionEvaluator") -> None:
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
    _frame(axes, "mean of the classes (AP %)")


def _frame(axes: "Axes", title: str, *, legend: str | None = None) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=title)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7, title_fontsize=7, title=legend, loc="best", framealpha=0.7)


def _draw_scores(axes: "Axes", evaluator: "DetectionEvaluator") -> None:
    scores, matches = evaluator.found[:, 5], evaluator.matches
    right, wrong = scores[matches >= 0], scores[(matches < 0) & (matches != IGNORED_MATCH)]
    bins = np.linspace(0, 1, 41)
    axes.hist(
        [right, wrong], bins=bins.tolist(), stacked=True, color=["#2a7f3b", "#d08770"],
        label=[f"right at IoU .5: {len(right)}", f"wrong: {len(wrong)}"],
    )  # fmt: skip
    if len(scores):
        axes.set_yscale("log")
    if (best := evaluator.operating_point) is not None:
        text = f"best F1 {100 * best.f1:.1f} from {best.threshold:.2f} on"
        axes.axvline(best.threshold, color="black", lw=1, ls="--", label=text)
    axes.set(xlim=(0, 1), xlabel="score", ylabel="detections", title="scores")
    axes.legend(fontsize=7)
