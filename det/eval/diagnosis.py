"""Why the average precision is 0: the usual causes, each checked against the truth."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from det.eval import average_precision
from det.eval.average_precision import Objects
from det.eval.matching import match
from engine.data.class_map import ClassMap

if TYPE_CHECKING:
    from det.data.dataset import Annotations


Boxes = NDArray[np.float64]


# What the boxes may have been meant to be: (x1, y1, x2, y2) and the sizes (width, height) of the images in,
# the true (x1, y1, x2, y2) out.
_READINGS: dict[str, Callable[[Boxes, NDArray[np.float64]], Boxes]] = {
    "they are fractions of the image, where pixels are expected": lambda b, wh: b * np.tile(wh, 2),
    "they are (x, y, width, height), where (x1, y1, x2, y2) is expected": (
        lambda b, wh: np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1)
    ),
    "they are (center x, center y, width, height), where (x1, y1, x2, y2) is expected": (
        lambda b, wh: np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], axis=1)
    ),
    "x and y are exchanged": lambda b, wh: b[:, [1, 0, 3, 2]],
    "they are fractions of the image with x and y exchanged": (
        lambda b, wh: b[:, [1, 0, 3, 2]] * np.tile(wh, 2)
    ),
}


def diagnose(
    found: NDArray[np.float64], truth: Objects, annotations: "Annotations", classes: ClassMap
) -> list[str]:
    """A short diagnosis, one finding a line.

    found: [D, 7] as in `coco_eval.accumulate`. truth: the objects, at least one that is not ignored.
    """
    lines = ["AP is 0. What was checked:"]
    if not len(found):
        remedy = "train longer, or lower the score threshold (task.postprocess.score_threshold)"
        return [*lines, f"- nothing at all was detected: {remedy}", _self_check(truth, classes)]
    return [
        *lines,
        _images(found, truth),
        _class_ids(found, truth, classes),
        *_confused(found, truth, classes),
        *_scale(found, truth, annotations),
        _score_histogram(found[:, 5]),
        _self_check(truth, classes),
    ]


def _images(found: NDArray[np.float64], truth: Objects) -> str:
    detected, annotated = set(found[:, 0].astype(np.int64).tolist()), set(truth.image_ids.tolist())
    return (
        f"- images: {len(detected & annotated)} of the {len(annotated)} images with objects have detections, "
        f"and {len(detected - annotated)} without objects"
    )


def _class_ids(found: NDArray[np.float64], truth: Objects, classes: ClassMap) -> str:
    names = dict(zip(classes.ids, classes.names, strict=True))
    detected, present = set(found[:, 6].astype(np.int64).tolist()), set(truth.category_ids.tolist())
    common = detected & present
    if common:
        return f"- classes: {len(common)} of the {len(present)} classes with objects were detected"
    detected_text, present_text = (
        ", ".join(f"{names[number]} ({number})" for number in sorted(side)[:4])
        for side in (detected, present)
    )
    return (
        f"- classes: none that was detected has objects (detected: {detected_text}; objects: "
        f"{present_text}): compare the run's classes.json with the data set's ids"
    )


def _confused(found: NDArray[np.float64], truth: Objects, classes: ClassMap) -> list[str]:
    """Boxes that fit, with the wrong class."""
    rows = match(found, truth, any_class=True)
    right = rows >= 0
    if not right.any():
        return ["- boxes: none overlaps an object by IoU .5, whatever its class"]
    names = dict(zip(classes.ids, classes.names, strict=True))
    pairs = Counter(
        zip(truth.category_ids[rows[right]].tolist(), found[right, 6].astype(np.int64).tolist(), strict=True)
    )
    (true, said), count = pairs.most_common(1)[0]
    share = right.sum() / max(1, (~truth.ignored).sum())
    text = f"- boxes: {share:.0%} of the objects are found by IoU .5 if classes are not looked at"
    if true != said:
        text += f"; most often {names[true]} is called {names[said]} ({count}x): class indices may be shifted"
    return [text]


def _scale(found: NDArray[np.float64], truth: Objects, annotations: "Annotations") -> list[str]:
    lines = [f"- median box: detected {_median(found[:, 1:5])}, true {_median(truth.boxes)}"]
    size_of = dict(zip(annotations.image_ids.tolist(), annotations.sizes[:, ::-1].tolist(), strict=True))
    sizes = np.array([size_of[image] for image in found[:, 0].astype(np.int64).tolist()], np.float64)
    corners = np.concatenate([found[:, 1:3], found[:, 1:3] + found[:, 3:5]], axis=1)
    shares = {text: _hits(read(corners, sizes), found, truth) for text, read in _READINGS.items()}
    best = max(shares, key=shares.__getitem__)
    if shares[best] > 0.05 and shares[best] > 2 * _hits(corners, found, truth):
        lines.append(f"- the boxes fit {shares[best]:.0%} of the objects if {best}: check task.postprocess")
    return lines


def _median(boxes: Boxes) -> str:
    """Of boxes (x, y, width, height)."""
    x, y, width, height = np.median(boxes, axis=0)
    return f"{width:.4g} x {height:.4g} at ({x:.4g}, {y:.4g})"


def _hits(corners: Boxes, found: NDArray[np.float64], truth: Objects) -> float:
    """Share of the objects that a box (x1, y1, x2, y2) of any class overlaps by IoU .5."""
    rows = found.copy()
    rows[:, 1:3], rows[:, 3:5] = corners[:, :2], corners[:, 2:] - corners[:, :2]
    return float((match(rows, truth, any_class=True) >= 0).sum() / max(1, (~truth.ignored).sum()))


def _score_histogram(scores: NDArray[np.float64]) -> str:
    edges = (0, 0.01, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9)
    counts = np.bincount(np.searchsorted(edges, scores, side="right"), minlength=len(edges) + 1)[1:]
    parts = [f">={edge:g}: {count}" for edge, count in zip(edges, counts.tolist(), strict=True) if count]
    return f"- scores ({scores.min():.3g} to {scores.max():.3g}): {', '.join(parts)}"


def _self_check(truth: Objects, classes: ClassMap) -> str:
    """The truth as prediction must score 1."""
    kept = ~truth.ignored
    rows = np.column_stack(
        [truth.image_ids[kept], truth.boxes[kept], np.ones(kept.sum()), truth.category_ids[kept]]
    ).astype(np.float64)
    _, most = np.unique(rows[:, [0, 6]], axis=0, return_counts=True)
    curves = average_precision.accumulate(
        rows,
        truth,
        image_ids=np.unique(truth.image_ids).tolist(),
        category_ids=classes.ids,
        max_detections=[max(100, int(most.max()))],
        backend=average_precision.choose_backend("auto"),
    )
    score = curves.ap()
    text = f"- the objects themselves, taken as detections, score {score:.3f}"
    if score > 0.999:
        return f"{text}: the evaluation and the annotations are sound"
    flat = int((truth.boxes[kept, 2:] <= 0).any(axis=1).sum())
    return f"{text} and should score 1: {flat} of {kept.sum()} have no area; the annotations are at fault"
