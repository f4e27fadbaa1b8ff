"""Anchors: the boxes that each place of a feature map predicts offsets for.

A generator is called as `generator(maps, input_size)` and returns float32 [A, 4], xyxy as fractions of the
input (x / W, y / H): map by map, row by row, place by place, and at each place in the order of its shapes.
That is the order in which a head puts out its predictions. Boxes may reach over the image's edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Size = tuple[int, int]
"""(height, width)"""


class SSDAnchors:
    """The anchors of the released networks: Table 6, and `ssd_anchor_generator` of the TensorFlow Object
    Detection API, whose settings in the released configuration are the defaults here.

    Scales grow evenly from `min_scale` on the first map to `max_scale` on the last one and are fractions of
    the input's shorter side. Each place has one box per ratio at its map's scale, and a square one at the
    geometric mean of this scale and the next (1.0 after the last).

    Args:
        maps: number of feature maps.
        ratios: width / height. The released configuration writes 0.3333, not a third.
        reduce_lowest: the first map has three boxes only: a square one of 0.1, and the ratios 2 and 1/2.
        interpolated: whether there is the square box between the scales.

    Raises:
        ValueError: scales out of order, or ratios that are not positive.
    """

    def __init__(
        self,
        *,
        maps: int = 6,
        min_scale: float = 0.2,
        max_scale: float = 0.95,
        ratios: Sequence[float] = (1.0, 2.0, 0.5, 3.0, 0.3333),
        reduce_lowest: bool = True,
        interpolated: bool = True,
    ) -> None:
        scales = even_scales(maps, min_scale, max_scale)
        if not ratios or not all(ratio > 0 for ratio in ratios):
            raise ValueError(f"ratios must be positive numbers, got {list(ratios)}")
        shapes = []
        for scale, following in zip(scales, [*scales[1:], 1.0], strict=True):
            boxes = [_box(scale, ratio) for ratio in ratios]
            if interpolated:
                boxes.append(_box(math.sqrt(scale * following), 1.0))
            shapes.append(boxes)
        if reduce_lowest:
            shapes[0] = [_box(0.1, 1.0), _box(min_scale, 2.0), _box(min_scale, 0.5)]
        self._shapes = shapes

    @property
    def per_place(self) -> tuple[int, ...]:
        """Anchors at each place of each map."""
        return tuple(len(shapes) for shapes in self._shapes)

    def __call__(self, maps: Sequence[Size], input_size: Size) -> Tensor:
        """Sizes of the feature maps and of the input, (height, width) -> [A, 4]."""
        shorter = min(input_size) / np.array([input_size[1], input_size[0]])  # of width and height
        return tiled([np.array(shapes) * shorter for shapes in self._shapes], maps)


class DefaultBoxes:
    """The anchors of torchvision's SSDLite (`DefaultBoxGenerator`).

    Unlike `SSDAnchors`, sides are fractions of the width and the height each, all maps have all boxes, a
    ratio r stands for r and 1 / r, the square box between the scales comes second, and no side is longer
    than the image's.

    Raises:
        ValueError: as for `SSDAnchors`.
    """

    def __init__(
        self,
        *,
        maps: int = 6,
        min_scale: float = 0.2,
        max_scale: float = 0.95,
        ratios: Sequence[float] = (2.0, 3.0),
        clip: bool = True,
    ) -> None:
        scales = even_scales(maps, min_scale, max_scale)
        if not all(ratio > 0 for ratio in ratios):
            raise ValueError(f"ratios must be positive numbers, got {list(ratios)}")
        both = [each for ratio in ratios for each in (ratio, 1 / ratio)]
        self._shapes = [
            [_box(scale, 1.0), _box(math.sqrt(scale * following), 1.0), *(_box(scale, each) for each in both)]
            for scale, following in zip(scales, [*scales[1:], 1.0], strict=True)
        ]
        self.clip = clip

    @property
    def per_place(self) -> tuple[int, ...]:
        """Anchors at each place of each map."""
        return tuple(len(shapes) for shapes in self._shapes)

    def __call__(self, maps: Sequence[Size], input_size: Size) -> Tensor:
        """Sizes of the feature maps (height, width) -> [A, 4]; the input's size plays no part."""
        longest = 1.0 if self.clip else math.inf
        return tiled([np.minimum(np.array(shapes), longest) for shapes in self._shapes], maps)


def even_scales(maps: int, min_scale: float, max_scale: float) -> list[float]:
    """Evenly spaced scales, one per map (SSD, equation 4). ValueError where they are out of order."""
    if maps < 1 or not 0 < min_scale <= max_scale:
        raise ValueError(
            f"anchors need at least one map and 0 < min_scale <= max_scale, got {maps} maps, "
            f"{min_scale} and {max_scale}"
        )
    return [min_scale + (max_scale - min_scale) * i / max(maps - 1, 1) for i in range(maps)]


def tiled(shapes: Sequence[np.ndarray], maps: Sequence[Size]) -> Tensor:
    """Boxes of `shapes` (per map [n, 2], width and height) centerd on each place of each map -> [A, 4].

    Raises:
        ValueError: there are not as many maps as lists of shapes.
    """
    if len(shapes) != len(maps):
        raise ValueError(
            f"the anchors are made for {len(shapes)} feature maps and the network has {len(maps)}: "
            f"set the anchors' maps to {len(maps)}"
        )
    found = []
    for half, (rows, columns) in zip((each / 2 for each in shapes), maps, strict=True):
        y, x = np.meshgrid(
            (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij"
        )
        centers = np.stack([x, y], axis=-1)[:, :, None]  # [rows, columns, 1, 2]
        found.append(np.concatenate([centers - half, centers + half], axis=-1).reshape(-1, 4))
    return torch.tensor(np.concatenate(found), dtype=torch.float32)


def _box(scale: float, ratio: float) -> tuple[float, float]:
    """Width and height of a box of area scale² and ratio width / height."""
    return scale * math.sqrt(ratio), scale / math.sqrt(ratio)
