"""How well the anchors cover the objects of a split at an input size, reported before training."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from det.boxes import areas, pairwise_iou
from det.data.dataset import DetectionSplit
from engine.io.files import evenly_spaced

TINY = 8.0
"""Pixels. An object whose side (the square root of its area) is shorter than this is smaller than a cell of
the finest feature map."""


_SAMPLED_OBJECTS = 10_000  # enough for shares that are accurate to one percent


_BATCH = 8  # images


class OverlapMatcher(Protocol):
    """What a `det.anchors.matcher.Matcher` is here."""

    matched: float

    def __call__(self, anchors: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Any: ...


class Coverage(NamedTuple):
    """How well the anchors cover the objects that are not ignored. Shares are in 0..1.

    Attributes:
        num_objects: objects in the sample.
        overlapping: share whose IoU with an anchor reaches the matcher's threshold.
        reached: share that at least one anchor is trained on: the best possible recall.
        too_small: share that is so much smaller than every anchor that its IoU is below the threshold at any
            position.
        tiny: share smaller than `TINY` pixels after resizing.
    """

    num_objects: int
    overlapping: float
    reached: float
    too_small: float
    tiny: float


def anchor_coverage(
    split: DetectionSplit, anchors: Tensor, input_size: Sequence[int], matcher: OverlapMatcher
) -> Coverage | None:
    """The coverage of the objects in evenly spaced images of a split; None if it has no objects.

    Args:
        anchors: [A, 4] xyxy, as fractions of the image.
        input_size: (height, width) that images are resized to, in pixels.
        matcher: the one used in training.
    """
    anchors = anchors.detach().cpu().float()
    images = _sample_objects(split)
    if not images:
        return None
    reached, best = 0, []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        labels = [torch.zeros(len(boxes), dtype=torch.int64) for boxes in batch]
        reached += sum(map(len, batch)) - int(matcher(anchors, batch, labels).unmatched_objects)
        best += [pairwise_iou(boxes, anchors).amax(dim=1) for boxes in batch]
    object_areas, best_iou = areas(torch.cat(images)), torch.cat(best)
    height, width = input_size
    return Coverage(
        num_objects=len(object_areas),
        overlapping=_share(best_iou >= matcher.matched),
        reached=reached / len(object_areas),
        # An IoU is at most the ratio of the areas.
        too_small=_share(object_areas < matcher.matched * areas(anchors).min()),
        tiny=_share((object_areas * height * width).sqrt() < TINY),
    )


def anchor_report(
    split: DetectionSplit, anchors: Tensor, input_size: Sequence[int], matcher: OverlapMatcher
) -> list[str]:
    """One line with the coverage and, if many objects are hard to learn, one with a remedy."""
    coverage = anchor_coverage(split, anchors, input_size, matcher)
    if coverage is None:
        return ["anchors: this split has no objects to train on"]
    size = "x".join(map(str, input_size))
    lines = [
        f"anchors at {size}: {coverage.overlapping:.1%} of {coverage.num_objects} objects overlap an anchor "
        f"with IoU >= {matcher.matched:g}, {coverage.reached:.1%} are matched to an anchor (best possible "
        f"recall), {coverage.tiny:.1%} are smaller than {TINY:g} pixels"
    ]
    remedies = []
    if coverage.tiny > 0.05:
        remedies.append(f"a data.size above {size}, or cutting the images into tiles")
    if coverage.too_small > 0.1:
        remedies.append(
            f"smaller anchors, or tiles ({coverage.too_small:.0%} of the objects are too small for all)"
        )
    elif coverage.overlapping < 0.8:
        remedies.append("anchors with other scales and aspect ratios")
    if remedies:
        lines.append(f"many objects are hard to learn; consider {'; '.join(remedies)}")
    return lines


def cell_report(split: DetectionSplit, anchors: Tensor, input_size: Sequence[int]) -> list[str]:
    """For a detector whose anchors are the cells of its maps: one line about the objects of evenly spaced
    images and, if many are tiny, one with a remedy; the arguments are those of `anchor_coverage`."""
    images = _sample_objects(split)
    if not images:
        return ["cells: this split has no objects to train on"]
    boxes, tiny = torch.cat(images), tiny_share(split, input_size)
    anchors = anchors.detach().cpu().float()
    places = (anchors[:, :2] + anchors[:, 2:]) / 2
    hit = [
        ((places > each[:, None, :2]) & (places < each[:, None, 2:])).all(-1).any(1)
        for each in torch.split(boxes, _BATCH)
    ]
    size = "x".join(map(str, input_size))
    lines = [
        f"cells at {size}: {_share(torch.cat(hit)):.1%} of {len(boxes)} objects contain the center of a "
        f"cell, {tiny:.1%} are smaller than {TINY:g} pixels"
    ]
    if tiny > 0.05:
        lines.append(
            f"many objects are hard to learn; consider a data.size above {size}, or cutting the images into "
            "tiles"
        )
    return lines


def tiny_share(split: DetectionSplit, input_size: Sequence[int]) -> float:
    """The share of the objects of evenly spaced images that are smaller than `TINY` pixels; 0 if there are
    none."""
    images, (height, width) = _sample_objects(split), input_size
    return _share((areas(torch.cat(images)) * height * width).sqrt() < TINY) if images else 0.0


def _sample_objects(split: DetectionSplit) -> list[Tensor]:
    """Boxes [M, 4] of evenly spaced images that have objects, as fractions of the image."""
    counts = np.diff(split.offsets)
    owners = np.repeat(np.arange(len(counts)), counts)
    boxes = split.boxes / np.tile(split.sizes[owners][:, ::-1], 2)
    used = ~split.ignored & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes, owners = boxes[used].astype(np.float32), owners[used]
    images, first = np.unique(owners, return_index=True)
    if not len(images):
        return []
    parts = torch.from_numpy(boxes).tensor_split(torch.from_numpy(first[1:]))
    limit = max(1, _SAMPLED_OBJECTS * len(images) // len(boxes))
    return [parts[position] for position in evenly_spaced(len(images), limit)]


def _share(chosen: Tensor) -> float:
    return float(chosen.float().mean())
