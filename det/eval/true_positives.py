"""Which detections are correct at one IoU, for score thresholds, worst images and diagnoses.

COCO's 12 numbers do not come from here but from `det.eval.average_precision`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask

from det.eval.average_precision import Objects

FALSE_POSITIVE, IGNORED_MATCH = -1, -2
"""Markers of detections that hit no object, or only an ignored one."""


class OperatingPoint(NamedTuple):
    """The score threshold with the best F1 = 2 tp / (detections + objects), over all images and classes."""

    threshold: float
    f1: float
    precision: float
    recall: float


def match_detections(
    detections: NDArray[np.float64], truth: Objects, *, iou: float = 0.5, any_class: bool = False
) -> NDArray[np.int64]:
    """The object that each detection hits.

    In order of their scores, each detection takes the unmatched object of its class that it overlaps most, by
    `iou` or more. A detection that overlaps an ignored object but no unmatched one is not counted.

    Args:
        detections: [D, 7] as in `average_precision.accumulate`.
        any_class: match objects of other classes too.

    Returns:
        int64 [D]: the row in `truth`, `FALSE_POSITIVE` or `IGNORED_MATCH`.
    """
    result = np.full(len(detections), FALSE_POSITIVE, np.int64)
    if not len(detections):
        return result
    by_image = np.argsort(detections[:, 0], kind="stable")
    objects = np.argsort(truth.image_ids, kind="stable")
    images, first = np.unique(detections[by_image, 0], return_index=True)
    starts, ends = (
        np.searchsorted(truth.image_ids[objects], images, side=side) for side in ("left", "right")
    )
    for rows, start, end in zip(np.split(by_image, first[1:]), starts, ends, strict=True):
        if start < end:
            of_image = objects[start:end]
            result[rows] = _match_image(detections[rows], truth, of_image, iou, any_class)
    return result


def _match_image(
    detections: NDArray[np.float64], truth: Objects, objects: NDArray[np.int64], iou: float, any_class: bool
) -> NDArray[np.int64]:
    crowd = truth.crowd[objects].astype(np.uint8).tolist()
    overlaps = mask.iou(np.ascontiguousarray(detections[:, 1:5]), truth.boxes[objects], crowd)
    if not any_class:
        overlaps = np.where(detections[:, 6:] == truth.category_ids[objects], overlaps, 0)
    ignored = truth.ignored[objects]
    hits_ignored = (overlaps[:, ignored] >= iou).any(axis=1)
    result = np.where(hits_ignored, IGNORED_MATCH, FALSE_POSITIVE).astype(np.int64)
    overlaps[:, ignored] = 0
    order = np.argsort(-detections[:, 5], kind="stable")
    for row in order[(overlaps[order] >= iou).any(axis=1)]:
        best = int(overlaps[row].argmax())
        if overlaps[row, best] >= iou:
            result[row] = objects[best]
            overlaps[:, best] = 0  # matched
    return result


def best_threshold(
    scores: NDArray[np.float64], matches: NDArray[np.int64], num_objects: int
) -> OperatingPoint | None:
    """The operating point of detections with `scores` [D] and `matches` [D]; None if none is correct."""
    counted = matches != IGNORED_MATCH
    scores, correct = scores[counted], matches[counted] >= 0
    if not correct.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(correct[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + num_objects)
    f1[:-1][scores[:-1] == scores[1:]] = 0  # a threshold cannot separate equal scores
    best = int(f1.argmax())
    return OperatingPoint(
        float(scores[best]), float(f1[best]), float(hits[best] / (best + 1)), float(hits[best] / num_objects)
    )


def image_scores(
    detections: NDArray[np.float64], truth: Objects, matches: NDArray[np.int64], threshold: float
) -> list[tuple[int, float, int]]:
    """(image id, F1, wrong detections + missed objects) of each image, at this score threshold.

    Images without objects and without detections are left out.
    """
    shown = (detections[:, 5] >= threshold) & (matches != IGNORED_MATCH)
    hits = detections[shown & (matches >= 0), 0].astype(np.int64)
    counted = np.concatenate([detections[shown, 0].astype(np.int64), truth.image_ids[~truth.ignored]])
    images, both = np.unique(counted, return_counts=True)
    correct = np.bincount(np.searchsorted(images, hits), minlength=len(images))
    columns = (images.tolist(), (2 * correct / both).tolist(), (both - 2 * correct).tolist())
    return list(zip(*columns, strict=True))
