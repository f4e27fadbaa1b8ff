"""Why the average precision is 0: the usual causes, each checked against the ground truth."""

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from det.data.dataset import DetectionSplit
from det.eval import average_precision
from det.eval.average_precision import Objects
from det.eval.true_positives import match_detections
from engine.data.class_map import ClassMap

Boxes = NDArray[np.float64]


_MISREADINGS: dict[str, Callable[[Boxes, NDArray[np.float64]], Boxes]] = {
    "they are fractions of the image, but pixels are expected": lambda b, wh: b * np.tile(wh, 2),
    "they are (x, y, width, height), but (x1, y1, x2, y2) is expected": (
        lambda b, wh: np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1)
    ),
    "they are (center x, center y, width, height), but (x1, y1, x2, y2) is expected": (
        lambda b, wh: np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], axis=1)
    ),
    "x and y are swapped": lambda b, wh: b[:, [1, 0, 3, 2]],
    "they are fractions of the image with x and y swapped": (
        lambda b, wh: b[:, [1, 0, 3, 2]] * np.tile(wh, 2)
    ),
}
"""Possible mistake in the format of the boxes -> function of the boxes and the sizes (width, height) of their
images that returns (x1, y1, x2, y2)."""


def diagnose_zero_ap(
    detections: NDArray[np.float64], truth: Objects, split: DetectionSplit, classes: ClassMap
) -> list[str]:
    """A short diagnosis, one finding per line.

    Args:
        detections: [D, 7] as in `average_precision.accumulate`.
        truth: the objects, at least one of which is not ignored.
    """
    lines = ["AP is 0. Findings:"]
    if not len(detections):
        remedy = "train longer, or lower the score threshold (task.postprocess.score_threshold)"
        return [*lines, f"- there are no detections at all: {remedy}", _check_truth(truth, classes)]
    return [
        *lines,
        _describe_images(detections, truth),
        _compare_classes(detections, truth, classes),
        *_find_confusions(detections, truth, classes),
        *_find_misreadings(detections, truth, split),
        _score_histogram(detections[:, 5]),
        _check_truth(truth, classes),
    ]


def _describe_images(detections: NDArray[np.float64], truth: Objects) -> str:
    detected, annotated = set(detections[:, 0].astype(np.int64).tolist()), set(truth.image_ids.tolist())
    return (
        f"- images: {len(detected & annotated)} of the {len(annotated)} images with objects have detections, "
        f"and {len(detected - annotated)} without objects"
    )


def _compare_classes(detections: NDArray[np.float64], truth: Objects, classes: ClassMap) -> str:
    names = dict(zip(classes.ids, classes.names, strict=True))
    detected, present = set(detections[:, 6].astype(np.int64).tolist()), set(truth.category_ids.tolist())
    common = detected & present
    if common:
        return f"- classes: {len(common)} of the {len(present)} classes with objects were detected"
    detected_text, present_text = (
        ", ".join(f"{names[id_]} ({id_})" for id_ in sorted(side)[:4]) for side in (detected, present)
    )
    return (
        f"- classes: no detected class has objects (detected: {detected_text}; objects: {present_text}); "
        "compare the run's classes.json with the dataset's ids"
    )


def _find_confusions(detections: NDArray[np.float64], truth: Objects, classes: ClassMap) -> list[str]:
    """Correct boxes with the wrong class."""
    rows = match_detections(detections, truth, any_class=True)
    correct = rows >= 0
    if not correct.any():
        return ["- boxes: none overlaps an object of any class with IoU >= .5"]
    names = dict(zip(classes.ids, classes.names, strict=True))
    true_ids = truth.category_ids[rows[correct]].tolist()
    detected_ids = detections[correct, 6].astype(np.int64).tolist()
    (true, detected), count = Counter(zip(true_ids, detected_ids, strict=True)).most_common(1)[0]
    share = correct.sum() / max(1, (~truth.ignored).sum())
    text = f"- boxes: {share:.0%} of the objects are detected at IoU .5 if classes are ignored"
    if true != detected:
        text += f"; most often {names[true]} is detected as {names[detected]} ({count}x)"
        text += ": class indices may be shifted"
    return [text]


def _find_misreadings(detections: NDArray[np.float64], truth: Objects, split: DetectionSplit) -> list[str]:
    """Boxes that are correct if they are read in another format."""
    lines = [f"- median box: detected {_median(detections[:, 1:5])}, true {_median(truth.boxes)}"]
    size_of = dict(zip(split.image_ids.tolist(), split.sizes[:, ::-1].tolist(), strict=True))
    sizes = np.array([size_of[image] for image in detections[:, 0].astype(np.int64).tolist()], np.float64)
    corners = np.concatenate([detections[:, 1:3], detections[:, 1:3] + detections[:, 3:5]], axis=1)
    shares = {
        text: _hit_share(read(corners, sizes), detections, truth) for text, read in _MISREADINGS.items()
    }
    best = max(shares, key=shares.__getitem__)
    if shares[best] > 0.05 and shares[best] > 2 * _hit_share(corners, detections, truth):
        lines.append(f"- the boxes fit {shares[best]:.0%} of the objects if {best}; check task.postprocess")
    return lines


def _median(boxes: Boxes) -> str:
    """Of boxes (x, y, width, height)."""
    x, y, width, height = np.median(boxes, axis=0)
    return f"{width:.4g} x {height:.4g} at ({x:.4g}, {y:.4g})"


def _hit_share(corners: Boxes, detections: NDArray[np.float64], truth: Objects) -> float:
    """Share of the objects that a box (x1, y1, x2, y2) of any class hits at IoU .5."""
    rows = detections.copy()
    rows[:, 1:3], rows[:, 3:5] = corners[:, :2], corners[:, 2:] - corners[:, :2]
    hits = match_detections(rows, truth, any_class=True) >= 0
    return float(hits.sum() / max(1, (~truth.ignored).sum()))


def _score_histogram(scores: NDArray[np.float64]) -> str:
    edges = (0, 0.01, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9)
    counts = np.bincount(np.searchsorted(edges, scores, side="right"), minlength=len(edges) + 1)[1:]
    parts = [f">={edge:g}: {count}" for edge, count in zip(edges, counts.tolist(), strict=True) if count]
    return f"- scores ({scores.min():.3g} to {scores.max():.3g}): {', '.join(parts)}"


def _check_truth(truth: Objects, classes: ClassMap) -> str:
    """Score the ground truth as detections, which must give 1."""
    scored = ~truth.ignored
    rows = np.column_stack(
        [truth.image_ids[scored], truth.boxes[scored], np.ones(scored.sum()), truth.category_ids[scored]]
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
    text = f"- the objects themselves, scored as detections, have an AP of {score:.3f}"
    if score > 0.999:
        return f"{text}: the evaluation and the annotations are fine"
    flat = int((truth.boxes[scored, 2:] <= 0).any(axis=1).sum())
    return f"{text}, not 1: {flat} of {scored.sum()} have no area; correct the annotations"
