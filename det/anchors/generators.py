"""Anchors: the reference boxes of a detector's deltas, at each cell of each feature map.

A generator is called as `generator(maps, input_size)` and returns float32 [A, 4], xyxy as fractions of the
input (x / W, y / H). Anchors are ordered by map, row, column and shape, like the predictions of a head, and
can extend beyond the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.data.preprocessing import Size


class SSDAnchors:
    """The anchors of the released networks: Table 6, and `ssd_anchor_generator` of the TensorFlow Object
    Detection API with the settings of the released configuration.

    Scales grow evenly from `min_scale` on the first map to `max_scale` on the last and are fractions of the
    input's shorter side. Each cell has one box per ratio at its map's scale, and a square one at the
    geometric mean of this scale and the next (1.0 after the last).

    Args:
        maps: number of feature maps.
        ratios: width / height. The released configuration has 0.3333, not a third.
        reduce_lowest: give the first map only three boxes per cell: a square of scale 0.1, and the ratios 2
            and 1/2.
        interpolated: add the square box between two scales.

    Raises:
        ValueError: if scales are out of order or ratios are not positive.
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
        for scale, next_scale in zip(scales, [*scales[1:], 1.0], strict=True):
            boxes = [_shape(scale, ratio) for ratio in ratios]
            if interpolated:
                boxes.append(_shape(math.sqrt(scale * next_scale), 1.0))
            shapes.append(boxes)
        if reduce_lowest:
            shapes[0] = [_shape(0.1, 1.0), _shape(min_scale, 2.0), _shape(min_scale, 0.5)]
        self._shapes = shapes

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Anchors in each cell of each map."""
        return tuple(len(shapes) for shapes in self._shapes)

    def __call__(self, maps: Sequence[Size], input_size: Size) -> Tensor:
        """Sizes of the feature maps and of the input, (height, width) -> [A, 4]."""
        shorter = min(input_size) / np.array([input_size[1], input_size[0]])  # of width and height
        return place_in_cells([np.array(shapes) * shorter for shapes in self._shapes], maps)


class DefaultBoxes:
    """The anchors of torchvision's SSDLite (`DefaultBoxGenerator`).

    Unlike in `SSDAnchors`, sides are fractions of the width and of the height, all maps have all boxes, a
    ratio r means r and 1 / r, the square box between the scales comes second, and no side is longer than the
    image's.

    Raises:
        ValueError: as in `SSDAnchors`.
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
        self._shapes = []
        for scale, next_scale in zip(scales, [*scales[1:], 1.0], strict=True):
            squares = [_shape(scale, 1.0), _shape(math.sqrt(scale * next_scale), 1.0)]
            self._shapes.append([*squares, *(_shape(scale, ratio) for ratio in both)])
        self.clip = clip

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Anchors in each cell of each map."""
        return tuple(len(shapes) for shapes in self._shapes)

    def __call__(self, maps: Sequence[Size], input_size: Size) -> Tensor:
        """Sizes of the feature maps (height, width) -> [A, 4]; the input's size has no effect."""
        longest = 1.0 if self.clip else math.inf
        return place_in_cells([np.minimum(np.array(shapes), longest) for shapes in self._shapes], maps)


class Cells:
    """The anchors of an anchor-free detector: each cell of each map is one, with its own width and height.

    Args:
        maps: number of feature maps.

    Raises:
        ValueError: if there are none.
    """

    def __init__(self, *, maps: int = 3) -> None:
        if maps < 1:
            raise ValueError(f"maps must be at least 1, got {maps}")
        self._maps = maps

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Anchors in each cell of each map."""
        return (1,) * self._maps

    def __call__(self, maps: Sequence[Size], input_size: Size) -> Tensor:
        """Sizes of the feature maps (height, width) -> [A, 4]; the input's size has no effect.

        Raises:
            ValueError: if the number of maps is another.
        """
        if len(maps) != self._maps:
            raise ValueError(
                f"the anchors cover {self._maps} feature maps, but the network has {len(maps)}; set the "
                f"anchors' maps to {len(maps)}"
            )
        return place_in_cells([np.array([[1 / columns, 1 / rows]]) for rows, columns in maps], maps)


def even_scales(maps: int, min_scale: float, max_scale: float) -> list[float]:
    """Evenly spaced scales, one per map (SSD, equation 4). Raises: ValueError if they are out of order."""
    if maps < 1 or not 0 < min_scale <= max_scale:
        raise ValueError(
            f"anchors need at least one map and 0 < min_scale <= max_scale, got {maps} maps, "
            f"{min_scale} and {max_scale}"
        )
    return [min_scale + (max_scale - min_scale) * i / max(maps - 1, 1) for i in range(maps)]


def place_in_cells(shapes: Sequence[NDArray[np.float64]], maps: Sequence[Size]) -> Tensor:
    """Boxes of `shapes` (per map [n, 2], width and height) centered on each cell of each map -> [A, 4].

    Raises:
        ValueError: if the number of maps is not the number of shape arrays.
    """
    if len(shapes) != len(maps):
        raise ValueError(
            f"the anchors cover {len(shapes)} feature maps, but the network has {len(maps)}; set the "
            f"anchors' maps to {len(maps)}"
        )
    anchors = []
    for half, (rows, columns) in zip((each / 2 for each in shapes), maps, strict=True):
        y, x = np.meshgrid(
            (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij"
        )
        centers = np.stack([x, y], axis=-1)[:, :, None]  # [rows, columns, 1, 2]
        anchors.append(np.concatenate([centers - half, centers + half], axis=-1).reshape(-1, 4))
    return torch.tensor(np.concatenate(anchors), dtype=torch.float32)


def _shape(scale: float, ratio: float) -> tuple[float, float]:
    """Width and height of a box of area scale² and ratio width / height."""
    return scale * math.sqrt(ratio), scale / math.sqrt(ratio)
