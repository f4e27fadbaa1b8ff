"""Suspicious boxes: labels that confident detections contradict, and detections that no label explains.

The kinds are those of ObjectLab (Tkachenko, Thyagarajan and Mueller, "ObjectLab: Automated Diagnosis of
Mislabeled Images in Object Detection Data", 2023): overlooked objects, swapped classes, shifted boxes. Labels
without any detection are added; they count more the more reliably the network detects such objects.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from det.eval.evaluator import DetectionEvaluator
from engine.report.suspicious import Place, class_thresholds

_HIT, _TOUCHES = 0.5, 0.1  # IoU from which a box is found, and from which a detection is near it
_LEAST_SCORE = 0.25  # of a confident detection; scores of detectors are lower than probabilities
_ABSENCE = 0.5  # no detection is weaker evidence than a confident one
_SIZES = (32.0**2, 96.0**2)  # COCO's limits of small and medium objects, pixels of area


class ImageBoxes(NamedTuple):
    """The labels of an image, and the detections in it, with class indices of the dataset."""

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    found: NDArray[np.float64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]


def suspicious_boxes(evaluator: DetectionEvaluator) -> dict[int, list[Place]]:
    """Index of an image -> its contradicted labels, strongest first, for all images of an evaluation."""
    names = evaluator.classes.names
    found = find(_by_image(evaluator), len(names))
    return {
        index: [_place(each, names) for each in contradictions] for index, contradictions in found.items()
    }


class Contradiction(NamedTuple):
    """kind: `overlooked`, `swapped`, `shifted` or `not found`. label, predicted: class indices (-1: none).
    score: 0..1; sure: the detection's score; box: of the label or, if it is overlooked, of the detection."""

    kind: str
    label: int
    predicted: int
    score: float
    sure: float
    box: NDArray[np.float64]


def find(images: dict[int, ImageBoxes], num_classes: int) -> dict[int, list[Contradiction]]:
    """All contradictions in a set of images, by image, strongest first.

    A detection is confident if its score reaches the mean score that objects of its class are found with.
    """
    own = {index: _own_scores(image) for index, image in images.items()}
    sums, counts = np.zeros(num_classes), np.zeros(num_classes, np.int64)
    expected: dict[tuple[int, int], list[float]] = defaultdict(list)
    for index, image in images.items():
        for row in np.flatnonzero(~image.ignored).tolist():
            label = int(image.labels[row])
            sums[label] += own[index][row]
            counts[label] += 1
            expected[label, _size_group(image.boxes[row])].append(float(own[index][row]))
    thresholds = class_thresholds(sums, counts, least=_LEAST_SCORE)
    usual = {key: float(np.mean(scores)) for key, scores in expected.items()}
    result = {}
    for index, image in images.items():
        each = [*_of_detections(image, own[index], thresholds), *_not_found(image, own[index], usual)]
        if each:
            result[index] = sorted(each, key=lambda contradiction: -contradiction.score)
    return result


def _of_detections(
    image: ImageBoxes, own: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> list[Contradiction]:
    """Overlooked, swapped and shifted labels: one contradiction per confident detection at most."""
    overlaps = iou(image.found, image.boxes)
    result, used = [], set()
    for row in np.argsort(-image.scores, kind="stable").tolist():
        label, score = int(image.classes[row]), float(image.scores[row])
        if score < thresholds[label]:
            continue
        best = int(overlaps[row].argmax()) if len(image.boxes) else -1
        overlap = float(overlaps[row, best]) if best >= 0 else 0.0
        if overlap < _TOUCHES:
            result.append(Contradiction("overlooked", -1, label, score, score, image.found[row]))
            continue
        same = image.labels == label
        if image.ignored[best] or (overlaps[row, same] >= _HIT).any() or best in used:
            continue
        if overlap >= _HIT:
            given = int(image.labels[best])
            result.append(
                Contradiction(
                    "swapped", given, label, max(0.0, score - float(own[best])), score, image.boxes[best]
                )
            )
            used.add(best)
        elif same[best] and own[best] == 0:
            result.append(
                Contradiction("shifted", label, label, score * (1 - overlap), score, image.boxes[best])
            )
            used.add(best)
    return result


def _not_found(
    image: ImageBoxes, own: NDArray[np.float64], usual: dict[tuple[int, int], float]
) -> list[Contradiction]:
    """Labels near which nothing is detected, weighted by how surely such objects usually are."""
    overlaps = iou(image.found, image.boxes)
    result = []
    for row in np.flatnonzero(~image.ignored).tolist():
        near = overlaps[:, row] >= _TOUCHES
        missing = usual[int(image.labels[row]), _size_group(image.boxes[row])]
        missing -= float(image.scores[near].max(initial=0.0))
        score = _ABSENCE * missing
        if own[row] == 0 and missing >= _LEAST_SCORE:
            result.append(
                Contradiction("not found", int(image.labels[row]), -1, score, missing, image.boxes[row])
            )
    return result


def _own_scores(image: ImageBoxes) -> NDArray[np.float64]:
    """The highest score of a detection of each label's class that overlaps it by IoU .5; 0 if none does."""
    hits = (iou(image.found, image.boxes) >= _HIT) & (image.classes[:, None] == image.labels[None])
    own: NDArray[np.float64] = np.where(hits, image.scores[:, None], 0.0).max(axis=0, initial=0.0)
    return own


def iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes xyxy [A, 4], [B, 4] -> [A, B]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - inside
    result: NDArray[np.float64] = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    return result


def _size_group(box: NDArray[np.float64]) -> int:
    area = float(np.prod(box[2:] - box[:2]))
    return int(np.searchsorted(_SIZES, area, side="right"))


def _by_image(evaluator: DetectionEvaluator) -> dict[int, ImageBoxes]:
    """The labels and detections of all images that were seen."""
    state, images = evaluator.state(), {}
    ends = np.cumsum(state["count"]).tolist()
    for index, start, end in zip(state["index"].tolist(), [0, *ends[:-1]], ends, strict=True):
        boxes, labels, ignored = evaluator.split.objects(index)
        images[index] = ImageBoxes(
            boxes.astype(np.float64).reshape(-1, 4),
            labels.astype(np.int64),
            ignored,
            state["boxes"][start:end].astype(np.float64),
            state["labels"][start:end],
            state["scores"][start:end].astype(np.float64),
        )
    return images


def _place(each: Contradiction, names: Sequence[str]) -> Place:
    label, predicted = names[each.label], names[each.predicted]
    text = {
        "overlooked": f"no label, detected as {predicted} ({each.sure:.0%} sure)",
        "swapped": f"label {label}, detected as {predicted} ({each.sure:.0%} sure)",
        "shifted": f"box of {label} is shifted from the detection ({each.sure:.0%} sure)",
        "not found": f"label {label}, nothing detected there",
    }[each.kind]
    left, top, right, bottom = (round(side) for side in each.box.tolist())
    return Place(text, each.score, (left, top, right, bottom))
