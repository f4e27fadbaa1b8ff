"""Boxes: what they are, how they overlap, and the code in which a network predicts them.

Everywhere `[..., 4]` means (x1, y1, x2, y2): x to the right, y down, continuous coordinates, so that a width
is x2 - x1. The unit (pixels, or fractions of the image) is the caller's, and the same for all arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# No box of a picture needs a larger factor: torchvision's bound, exp(4.135) = 62.5 times the anchor.
MAX_LOG_RATIO = math.log(1000 / 16)


class Detections(NamedTuple):
    """What was found in one image, by falling score.

    boxes: float32 [D, 4] in pixels of the original image. scores: float32 [D]. labels: int64 [D], the
    contiguous class index from 0.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class BoxCoder:
    """Boxes relative to anchors, in the order (tx, ty, tw, th) (Faster R-CNN, section 3.1.2; SSD's weights).

    tx = scales[0] * (x - xa) / wa, ty likewise with scales[1] and heights; tw = scales[2] * log(w / wa), th
    likewise with scales[3]; x, y are centers.

    Args:
        scales: weights of the four numbers: 10, 10, 5, 5 in the released configurations and in torchvision.
        max_log_ratio: log(w / wa) is cut at this when decoding, so that no wild prediction overflows; None
            for no cut, as in the released graph.

    Raises:
        ValueError: the scales are not four positive numbers.
    """

    def __init__(
        self, *, scales: Sequence[float] = (10, 10, 5, 5), max_log_ratio: float | None = MAX_LOG_RATIO
    ) -> None:
        if len(scales) != 4 or not all(scale > 0 for scale in scales):
            raise ValueError(f"scales must be four positive numbers (x, y, width, height), got {scales}")
        self.scales = tuple(float(scale) for scale in scales)
        self.max_log_ratio = max_log_ratio

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """boxes, anchors [..., 4] that broadcast, with a positive area -> deltas [..., 4]."""
        centers, sides = _centers_and_sides(boxes)
        anchor_centers, anchor_sides = _centers_and_sides(anchors)
        shift = (centers - anchor_centers) / anchor_sides
        return torch.cat([shift, torch.log(sides / anchor_sides)], dim=-1) * self._scales(shift)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """deltas [..., 4] and anchors that broadcast -> boxes [..., 4], not clipped to any image."""
        anchor_centers, anchor_sides = _centers_and_sides(anchors)
        plain = deltas / self._scales(deltas)
        log_ratio = plain[..., 2:]
        if self.max_log_ratio is not None:
            log_ratio = log_ratio.clamp(max=self.max_log_ratio)
        centers = plain[..., :2] * anchor_sides + anchor_centers
        half = torch.exp(log_ratio) * anchor_sides / 2
        return torch.cat([centers - half, centers + half], dim=-1)

    def _scales(self, like: Tensor) -> Tensor:
        return torch.tensor(self.scales, dtype=like.dtype, device=like.device)


def areas(boxes: Tensor) -> Tensor:
    """[..., 4] -> [...]; 0 for a box that is turned inside out."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each of a [N, 4] with each of b [M, 4] -> [N, M]; 0 where both are empty."""
    left, top, right, bottom = a.t().contiguous()[:, :, None].unbind(0)  # side by side: 3x faster
    other_left, other_top, other_right, other_bottom = b.t().contiguous()[:, None].unbind(0)
    widths = (torch.minimum(right, other_right) - torch.maximum(left, other_left)).clamp(min=0)
    heights = (torch.minimum(bottom, other_bottom) - torch.maximum(top, other_top)).clamp(min=0)
    shared = widths * heights
    union = areas(a)[:, None] + areas(b)[None] - shared
    return torch.where(union > 0, shared / union, torch.zeros_like(shared))


def clip(boxes: Tensor, size: tuple[float, float]) -> Tensor:
    """Boxes [..., 4] cut to an image of size (height, width)."""
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
