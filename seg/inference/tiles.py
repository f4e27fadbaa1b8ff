"""Class scores of large images, tile by tile, so scores and normalized pixels never exist in full.

A window's scores are kept at the network's own resolution (1/8) until no tile needs them. A tile sums the
scores of its windows, scales and mirror images in the same order as for the whole image.
"""

from __future__ import annotations

import bisect
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.data.preprocessing import Size

TILE_BYTES = 1 << 25
"""Number of scores computed at a time."""

_ENLARGED_BYTES = 72 << 20
"""Number of full-resolution window scores that are kept for the next tile."""

Network = Callable[[Tensor], Tensor]
"""Images [N, 3, h, w] -> class scores [N, K, h/s, w/s]."""


class Area(NamedTuple):
    """A rectangle of pixels; the ends are exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> Size:
        return self.bottom - self.top, self.right - self.left

    def of(self, values: Tensor) -> Tensor:
        """The part of [..., H, W] inside the rectangle."""
        return values[..., self.top : self.bottom, self.left : self.right]

    def mirrored(self, width: int) -> Area:
        return Area(self.top, self.bottom, width - self.right, width - self.left)


class Grid(Protocol):
    """Values [N, C, H, W] of which any part can be computed."""

    size: Size

    def part(self, area: Area) -> Tensor: ...


class Whole:
    """Values that are all in memory."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.size: Size = (values.shape[-2], values.shape[-1])

    def part(self, area: Area) -> Tensor:
        return area.of(self.values)


class Pixels:
    """An image [N, 3, H, W] uint8, normalized where it is needed."""

    def __init__(self, images: Tensor, normalize: Callable[[Tensor], Tensor]) -> None:
        self.images, self.normalize = images, normalize
        self.size: Size = (images.shape[-2], images.shape[-1])

    def part(self, area: Area) -> Tensor:
        return self.normalize(area.of(self.images).contiguous())


class Mirrored:
    """The mirror image of another grid."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.size = grid, grid.size

    def part(self, area: Area) -> Tensor:
        return self.grid.part(area.mirrored(self.size[1])).flip(-1)


class Resized:
    """Another grid, enlarged or reduced (bilinear)."""

    def __init__(self, grid: Grid, size: Size, *, align_corners: bool) -> None:
        self.grid, self.size, self.align_corners = grid, size, align_corners

    def part(self, area: Area) -> Tensor:
        """Equal to the same part of the resized whole, except for rounding."""
        if self.grid.size == self.size:
            return self.grid.part(area)
        if area.size == self.size:
            values = whole(self.grid)
            return F.interpolate(values, self.size, mode="bilinear", align_corners=self.align_corners)
        rows = _taps(self.grid.size[0], self.size[0], area.top, area.bottom, self.align_corners)
        columns = _taps(self.grid.size[1], self.size[1], area.left, area.right, self.align_corners)
        needed = Area(int(rows[0][0]), int(rows[1][-1]) + 1, int(columns[0][0]), int(columns[1][-1]) + 1)
        values = _interpolate(self.grid.part(needed), -1, needed.left, columns)
        return _interpolate(values, -2, needed.top, rows)


class Windows:
    """Scores averaged over a sliding window of a grid of pixels.

    Args:
        network: images [N, 3, h, w] -> scores [N, K, h/s, w/s].
        pixels: the normalized image.
        window: (height, width), and overlap: share of a window that overlaps its neighbor.
        align_corners: how scores are enlarged to the window.
        on_window: called after each window.
    """

    def __init__(
        self,
        network: Network,
        pixels: Grid,
        *,
        window: Size,
        overlap: float,
        align_corners: bool,
        on_window: Callable[[], None],
    ) -> None:
        self.network, self.pixels, self.size, self.on_window = network, pixels, pixels.size, on_window
        self.window = (min(window[0], self.size[0]), min(window[1], self.size[1]))
        self.tops = starts(self.size[0], self.window[0], overlap)
        self.lefts = starts(self.size[1], self.window[1], overlap)
        self.align_corners = align_corners
        self._scores: dict[tuple[int, int], Resized] = {}
        self._enlarged: OrderedDict[tuple[int, int], Tensor] = OrderedDict()

    def part(self, area: Area) -> Tensor:
        self._forget_above(area.top)
        total = count = None
        for top in _overlapping(self.tops, self.window[0], area.top, area.bottom):
            for left in _overlapping(self.lefts, self.window[1], area.left, area.right):
                inside = Area(
                    max(area.top, top),
                    min(area.bottom, top + self.window[0]),
                    max(area.left, left),
                    min(area.right, left + self.window[1]),
                )
                scores = self._part_of_window(top, left, inside)
                if total is None or count is None:
                    total = scores.new_zeros(*scores.shape[:2], *area.size)
                    count = total.new_zeros(1, 1, *area.size, dtype=torch.float32)
                place = _relative(inside, area.top, area.left)
                place.of(total).add_(scores)
                place.of(count).add_(1)
        assert total is not None
        assert count is not None
        return total / count

    def _part_of_window(self, top: int, left: int, inside: Area) -> Tensor:
        key, area = (top, left), _relative(inside, top, left)
        if key in self._enlarged:
            self._enlarged.move_to_end(key)
            return area.of(self._enlarged[key])
        scores = self._scores.get(key)
        if scores is None:
            pixels = self.pixels.part(Area(top, top + self.window[0], left, left + self.window[1]))
            small = Whole(self.network(pixels))
            scores = self._scores[key] = Resized(small, self.window, align_corners=self.align_corners)
            self.on_window()
        count, classes = scores.grid.part(Area(0, 1, 0, 1)).shape[:2]
        if (size := 4 * count * classes * self.window[0] * self.window[1]) > TILE_BYTES:
            return scores.part(area)
        self._enlarged[key] = whole(scores)
        while len(self._enlarged) * size > _ENLARGED_BYTES:
            self._enlarged.popitem(last=False)
        return area.of(self._enlarged[key])

    def _forget_above(self, top: int) -> None:
        kept = {key: scores for key, scores in self._scores.items() if key[0] + self.window[0] > top}
        self._scores = kept


def whole(grid: Grid) -> Tensor:
    """All values of a grid."""
    return grid.part(Area(0, grid.size[0], 0, grid.size[1]))


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows start: evenly spaced, so the last one ends at the border and none is padded."""
    number = 1 if length == window else math.ceil((length - window) / max(window * (1 - overlap), 1)) + 1
    return [round(start) for start in torch.linspace(0, length - window, number).tolist()]


def _overlapping(starts: list[int], length: int, first: int, end: int) -> list[int]:
    """The windows of `length` that overlap first..end."""
    return starts[bisect.bisect_right(starts, first - length) : bisect.bisect_left(starts, end)]


def _relative(area: Area, top: int, left: int) -> Area:
    return Area(area.top - top, area.bottom - top, area.left - left, area.right - left)


def _taps(
    length: int, new_length: int, first: int, end: int, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """For output positions first..end: the two input positions, and the weight of the second, as in torch."""
    place = torch.arange(first, end, dtype=torch.float32)
    if align_corners:
        place = place * ((length - 1) / (new_length - 1) if new_length > 1 else 0.0)
    else:
        place = ((place + 0.5) * (length / new_length) - 0.5).clamp(min=0)
    low = place.long().clamp(max=length - 1)
    return low, (low + 1).clamp(max=length - 1), (place - low).clamp(0, 1)


def _interpolate(values: Tensor, axis: int, offset: int, taps: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    low, high, weight = (part.to(values.device) for part in taps)
    weight = weight.to(values.dtype)
    weight = weight if axis == -1 else weight[:, None]
    result = values.index_select(axis, low - offset).mul_(1 - weight)
    return result.add_(values.index_select(axis, high - offset).mul_(weight))
