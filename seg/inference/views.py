"""The scales and mirror images of an image, and the areas in which their scores are summed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from engine.data.preprocessing import Size
from seg.inference.tiles import TILE_BYTES, Area, Grid, Mirrored, Network, Resized, Whole, Windows, whole

_WHOLE_BYTES = 1 << 28
"""Up to this size, an image without windows is scored at once, and its scaled pixels are kept."""


class View(NamedTuple):
    """The scores of one scale, of the image or of its mirror image."""

    scores: Grid
    mirror: bool

    def probabilities(self, area: Area, size: Size, align_corners: bool) -> Tensor:
        """[N, K, height, width] of an area of the image at `size`."""
        resized = Resized(self.scores, size, align_corners=align_corners)
        scores = resized.part(area.mirrored(size[1]) if self.mirror else area).softmax(1)
        return scores.flip(-1) if self.mirror else scores


def views(
    network: Network,
    pixels: Grid,
    *,
    scales: Sequence[float],
    flip: bool,
    window: Size | None,
    overlap: float,
    align_corners: bool,
    on_part: Callable[[int, int], None],
) -> list[View]:
    """A view per scale and mirror image, whose windows are scored when they are needed."""
    result: list[View] = []
    done = 0

    def on_window() -> None:
        nonlocal done
        done += 1
        on_part(done, sum(len(grid.tops) * len(grid.lefts) for grid in windowed))

    for scale in scales:
        scaled = _scaled(pixels, scale)
        for mirror in (False, True) if flip else (False,):
            shown = Mirrored(scaled) if mirror else scaled
            scores: Grid
            if window is None:
                scores = Whole(network(whole(shown)))
            else:
                scores = Windows(
                    network,
                    shown,
                    window=window,
                    overlap=overlap,
                    align_corners=align_corners,
                    on_window=on_window,
                )
            result.append(View(scores, mirror))
    windowed = [view.scores for view in result if isinstance(view.scores, Windows)]
    return result


def areas(first: View, size: Size) -> Iterable[Area]:
    """How to cut the image at `size`: by windows, into strips, or, if it is small, not at all.

    first: one of its views.
    """
    count, classes = first.scores.part(Area(0, 1, 0, 1)).shape[:2]
    row_bytes = 4 * count * classes
    if isinstance(first.scores, Windows):
        grid = first.scores
        tops = [round(top * size[0] / grid.size[0]) for top in grid.tops]
        lefts = [round(left * size[1] / grid.size[1]) for left in grid.lefts]
        return _cut(size, row_bytes, tops, lefts)
    if row_bytes * size[0] * size[1] > _WHOLE_BYTES:
        return _cut(size, row_bytes, [0], [0])
    return [Area(0, size[0], 0, size[1])]


def _scaled(pixels: Grid, scale: float) -> Grid:
    size = (max(1, round(pixels.size[0] * scale)), max(1, round(pixels.size[1] * scale)))
    if size == pixels.size:
        return pixels
    resized = Resized(pixels, size, align_corners=False)
    count, bands = pixels.part(Area(0, 1, 0, 1)).shape[:2]
    return Whole(whole(resized)) if 4 * count * bands * size[0] * size[1] <= _WHOLE_BYTES else resized


def _cut(size: Size, bytes_per_pixel: int, tops: list[int], lefts: list[int]) -> Iterator[Area]:
    """Areas of `size` row by row, between `tops` and between `lefts`; rows that are too high are divided."""
    columns = list(_pairs([*lefts, size[1]]))
    widest = max(right - left for left, right in columns)
    rows = max(1, TILE_BYTES // (bytes_per_pixel * widest))
    for top, bottom in _pairs([*tops, size[0]]):
        for start in range(top, bottom, rows):
            for left, right in columns:
                yield Area(start, min(start + rows, bottom), left, right)


def _pairs(borders: list[int]) -> Iterator[tuple[int, int]]:
    return itertools.pairwise(sorted(set(borders)))
