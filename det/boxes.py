"""Boxes: overlaps, units, and the encodings that networks predict.

Everywhere `[..., 4]` means (x1, y1, x2, y2): x to the right, y down, continuous coordinates, so a width
is x2 - x1. The unit (pixels, or fractions of the image) is up to the caller, and the same for all arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

MAX_LOG_RATIO = math.log(1000 / 16)
"""torchvision's bound: no box in an image is more than exp(4.135) = 62.5 times as large as its anchor."""


class Detections(NamedTuple):
    """The detections of one image, highest score first.

    Attributes:
        boxes: float32 [D, 4] in pixels of the original image.
        scores: float32 [D].
        labels: int64 [D], contiguous class indices from 0.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Coder(Protocol):
    """How a network's raw output for an anchor means a box."""

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Boxes and anchors [..., 4], broadcast against each other -> the four numbers to predict."""
        ...

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """The raw output [..., B] and anchors [..., 4] -> boxes [..., 4] in the unit of the anchors."""
        ...

    def describe(self) -> dict[str, Any]:
        """Plain values for the metadata of an exported file, from which `det/export/decode.py` decodes."""
        ...


class BoxCoder:
    """Encodes boxes as deltas from anchors, (tx, ty, tw, th) (Faster R-CNN, section 3.1.2).

    tx = scales[0] * (x - xa) / wa, ty likewise with scales[1] and heights; tw = scales[2] * log(w / wa), th
    likewise with scales[3]; x, y are centers.

    Args:
        scales: factors on the four deltas: 10, 10, 5, 5 in SSD, the released configurations and torchvision.
        max_log_ratio: upper limit of log(w / wa) in decoding, so that extreme deltas do not overflow; None:
            no limit, as in the released graph.

    Raises:
        ValueError: if the scales are not four positive numbers.
    """

    def __init__(
        self, *, scales: Sequence[float] = (10, 10, 5, 5), max_log_ratio: float | None = MAX_LOG_RATIO
    ) -> None:
        if len(scales) != 4 or not all(scale > 0 for scale in scales):
            raise ValueError(f"scales must be four positive numbers (x, y, width, height), got {scales}")
        self.scales = tuple(float(scale) for scale in scales)
        self.max_log_ratio = max_log_ratio

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Boxes and anchors [..., 4] of positive area, broadcast against each other -> deltas [..., 4]."""
        centers, sides = _centers_and_sides(boxes)
        anchor_centers, anchor_sides = _centers_and_sides(anchors)
        shift = (centers - anchor_centers) / anchor_sides
        return torch.cat([shift, torch.log(sides / anchor_sides)], dim=-1) * self._scales(shift)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Deltas and anchors [..., 4], broadcast against each other -> boxes [..., 4], not clipped."""
        anchor_centers, anchor_sides = _centers_and_sides(anchors)
        unscaled = deltas / self._scales(deltas)
        log_ratio = unscaled[..., 2:]
        if self.max_log_ratio is not None:
            log_ratio = log_ratio.clamp(max=self.max_log_ratio)
        centers = unscaled[..., :2] * anchor_sides + anchor_centers
        half = torch.exp(log_ratio) * anchor_sides / 2
        return torch.cat([centers - half, centers + half], dim=-1)

    def describe(self) -> dict[str, Any]:
        """Plain values for the metadata of an exported file."""
        return {"scales": list(self.scales), "max_log_ratio": self.max_log_ratio}

    def _scales(self, like: Tensor) -> Tensor:
        return torch.tensor(self.scales, dtype=like.dtype, device=like.device)


class DistanceCoder:
    """Encodes boxes as the distances from an anchor's center to the left, top, right and bottom side of the
    box, in units of the anchor's width and height (FCOS, section 3.1).

    A network predicts each distance as a distribution: the distance is the mean of 0, 1, ..., bins - 1,
    weighted by the softmax of as many logits (Generalized Focal Loss, section 3.2).
    """

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Boxes and anchors [..., 4], broadcast against each other -> distances [..., 4].

        A distance is below 0 if the center is beyond that side.
        """
        centers, sides = _centers_and_sides(anchors)
        return torch.cat([(centers - boxes[..., :2]) / sides, (boxes[..., 2:] - centers) / sides], dim=-1)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Logits [..., 4 * bins], the bins of a side next to each other, and anchors [..., 4], broadcast
        against each other -> boxes [..., 4], not clipped."""
        centers, sides = _centers_and_sides(anchors)
        distances = mean_distances(deltas)
        return torch.cat([centers - distances[..., :2] * sides, centers + distances[..., 2:] * sides], dim=-1)

    def describe(self) -> dict[str, Any]:
        """Plain values for the metadata of an exported file."""
        return {"kind": "distances"}


def mean_distances(logits: Tensor) -> Tensor:
    """Logits [..., 4 * bins] -> the four distances [..., 4] in 0..bins - 1; see `DistanceCoder`."""
    shares = logits.reshape(*logits.shape[:-1], 4, logits.shape[-1] // 4).softmax(dim=-1)
    bins = torch.arange(shares.shape[-1], dtype=shares.dtype, device=shares.device)
    return (shares * bins).sum(dim=-1)  # a matrix product would be computed in half precision by autocast


def areas(boxes: Tensor) -> Tensor:
    """Boxes [..., 4] -> areas [...]; 0 for a box with swapped corners."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each of a [N, 4] with each of b [M, 4] -> [N, M]; 0 if both are empty."""
    # One tensor per coordinate is three times as fast as slices of [..., 4].
    left, top, right, bottom = a.t().contiguous()[:, :, None].unbind(0)
    other_left, other_top, other_right, other_bottom = b.t().contiguous()[:, None].unbind(0)
    widths = (torch.minimum(right, other_right) - torch.maximum(left, other_left)).clamp(min=0)
    heights = (torch.minimum(bottom, other_bottom) - torch.maximum(top, other_top)).clamp(min=0)
    intersections = widths * heights
    unions = areas(a)[:, None] + areas(b)[None] - intersections
    return torch.where(unions > 0, intersections / unions, torch.zeros_like(intersections))


def clip(boxes: Tensor, size: tuple[float, float]) -> Tensor:
    """Boxes [..., 4] clipped to an image of size (height, width)."""
    height, width = size
    return torch.stack(
        [
            boxes[..., 0].clamp(0, width),
            boxes[..., 1].clamp(0, height),
            boxes[..., 2].clamp(0, width),
            boxes[..., 3].clamp(0, height),
        ],
        dim=-1,
    )


def to_fractions(boxes: Tensor, size: tuple[float, float]) -> Tensor:
    """Boxes [..., 4] in pixels of an image of size (height, width) -> fractions of it (x / W, y / H)."""
    return boxes / _xyxy(size, boxes)


def to_pixels(boxes: Tensor, size: tuple[float, float]) -> Tensor:
    """The inverse of `to_fractions`."""
    return boxes * _xyxy(size, boxes)


def _xyxy(size: tuple[float, float], like: Tensor) -> Tensor:
    height, width = size
    return torch.tensor([width, height, width, height], dtype=like.dtype, device=like.device)


def _centers_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
