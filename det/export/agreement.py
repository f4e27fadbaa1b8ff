"""How many detections two outputs have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from det.boxes import Detections
from det.postprocess import Postprocess

SAME_IOU, SAME_SCORE = 0.9, 0.01
"""Two boxes of a class are the same detection if their IoU is at least the first number, and their scores
differ by at most the second."""
TIED_SCORE = 1e-4
"""Scores that differ by less, from each other or from the threshold, are decided by rounding."""


def shared(ours: Sequence[Detections], theirs: Sequence[Detections], limits: Postprocess) -> float:
    """Share of the detections of some images that both outputs have in common, in 0..1; 1 if neither has any.

    A detection in only one of them does not count if its score ties with the threshold, or if the other, or
    its class there, is full and the score ties with the last one: rounding then decides which detections are
    kept. (All scores of a network that has hardly been trained are near the threshold.)
    """
    common = total = 0
    for a, b in zip(ours, theirs, strict=True):
        found, taken = _common(a, b)
        threshold = limits.score_threshold + TIED_SCORE
        lost, added = ~found & (a.scores > threshold), ~taken & (b.scores > threshold)
        ties = min(_count_ties(a, lost, b, limits), _count_ties(b, added, a, limits))
        common += int(found.sum())
        total += int(found.sum()) + max(int(lost.sum()), int(added.sum())) - ties
    return common / total if total else 1.0


def _common(ours: Detections, theirs: Detections) -> tuple[Tensor, Tensor]:
    """Which of our detections match theirs, and which of theirs match ours; each matches at most one."""
    same = box_iou(ours.boxes, theirs.boxes) >= SAME_IOU
    same &= ours.labels[:, None] == theirs.labels[None]
    same &= (ours.scores[:, None] - theirs.scores[None]).abs() <= SAME_SCORE
    found, taken = (
        torch.zeros(len(ours.labels), dtype=torch.bool),
        torch.zeros(len(theirs.labels), dtype=torch.bool),
    )
    for place, row in enumerate(same):
        if row.any():
            partner = int(row.float().argmax())
            same[:, partner] = False
            found[place] = taken[partner] = True
    return found, taken


def _count_ties(ours: Detections, missing: Tensor, others: Detections, limits: Postprocess) -> int:
    """How many of our detections that are missing from `others` tie with their last one, if these are full,
    or with the last one of the class, if that is full."""
    count = 0
    for score, label in zip(ours.scores[missing], ours.labels[missing], strict=True):
        of_class = others.scores[others.labels == label]
        parts = ((others.scores, limits.max_detections), (of_class, limits.per_class))
        full = [scores[-1] for scores, most in parts if most is not None and len(scores) >= most]
        count += any(abs(float(score - last)) <= TIED_SCORE for last in full)
    return count
