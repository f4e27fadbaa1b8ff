"""Whether the anchors can learn the objects of a data set at an input size, known before training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from det.anchors.matcher import Matcher
from det.boxes import areas, pairwise_iou
from engine.io.files import spread

if TYPE_CHECKING:
    from det.data.dataset import Annotations


TINY = 8.0
"""Pixels: an object with a smaller side (root of its area) is less than a place of the finest feature map."""


_SAMPLE = 10_000  # objects; shares are then good to a percent


_BATCH = 8  # images


class Coverage(NamedTuple):
    """How the anchors cover the objects that are not ignored; shares in 0..1.

    num_objects: objects looked at. overlapping: overlap some anchor from the matcher's threshold on. reached:
    have an anchor that answers for them, if only their nearest one: the best possible recall. too_small: so
    much smaller than every anchor that they overlap none that far, wherever they lie. tiny: under `TINY`
    pixels after resizing.
    """

    num_objects: int
    overlapping: float
    reached: float
    too_small: float
    tiny: float


def anchor_coverage(
    annotations: "Annotations", anchors: Tensor, input_size: Sequence[int], matcher: Matcher
) -> Coverage | None:
    """The coverage of the objects of evenly spread images; None: there are no objects.

    Args:
        anchors: [A, 4] xyxy, as fractions of the image.
        input_size: (height, width) that images are resized to, in pixels.
        matcher: the one of the training.
    """
    anchors = anchors.detach().cpu().float()
    images = _objects(annotations)
    if not images:
        return None
    reached, best = 0, []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        labels = [torch.zeros(len(boxes), dtype=torch.int64) for boxes in batch]
        reached += sum(map(len, batch)) - int(matcher(anchors, batch, labels).unmatched_objects)
        best += [pairwise_iou(boxes, anchors).amax(dim=1) for boxes in batch]
    shares, overlap = areas(torch.cat(images)), torch.cat(best)
    height, width = input_size
    return Coverage(
        num_objects=len(shares),
        overlapping=_share(overlap >= matcher.matched),
        reached=reached / len(shares),
        # An IoU is at most the ratio of the areas.
        too_small=_share(shares < matcher.matched * areas(anchors).min()),
        tiny=_share((shares * height * width).sqrt() < TINY),
    )


def anchor_report(
    annotations: "Annotations", anchors: Tensor, input_size: Sequence[int], matcher: Matcher
) -> list[str]:
    """One line with the coverage, and one with the remedy where many objects can hardly be learnt."""
    coverage = anchor_coverage(annotations, anchors, input_size, matcher)
    if coverage is None:
        return ["anchors: this split has no objects to learn"]
    size = "x".join(map(str, input_size))
    lines = [
        f"anchors at {size}: {coverage.overlapping:.1%} of {coverage.num_objects} objects overlap one by IoU "
        f"{matcher.matched:g}, {coverage.reached:.1%} have one to learn from (best possible recall), "
        f"{coverage.tiny:.1%} are under {TINY:g} pixels"
    ]
    remedies = []
    if coverage.tiny > 0.05:
        remedies.append(f"a data.size above {size}, or cut the images into tiles")
    if coverage.too_small > 0.1:
        remedies.append(
            f"smaller anchors, or tiles ({coverage.too_small:.0%} of the objects are too small for any)"
        )
    elif coverage.overlapping < 0.8:
        remedies.append("anchors of other scales and ratios")
    if remedies:
        lines.append(f"many objects can hardly be learnt; consider {'; '.join(remedies)}")
    return lines


def _objects(annotations: "Annotations") -> list[Tensor]:
    """Boxes [M, 4] as fractions of the image, of evenly spread images with objects."""
    counts = np.diff(annotations.first)
    owners = np.repeat(np.arange(len(counts)), counts)
    boxes = annotations.boxes / np.tile(annotations.sizes[owners][:, ::-1], 2)
    kept = ~annotations.ignored & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes, owners = boxes[kept].astype(np.float32), owners[kept]
    filled, first = np.unique(owners, return_index=True)
    if not len(filled):
        return []
    parts = torch.from_numpy(boxes).tensor_split(torch.from_numpy(first[1:]))
    return [parts[number] for number in spread(len(filled), max(1, _SAMPLE * len(filled) // len(boxes)))]


def _share(chosen: Tensor) -> float:
    return float(chosen.float().mean())
