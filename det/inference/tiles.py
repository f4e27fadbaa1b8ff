"""Detection in overlapping tiles: small objects in large images would vanish at the network's input size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from det.boxes import Detections, areas
from det.postprocess import Postprocess
from det.transforms import EvalTransform
from engine.contracts import Image
from engine.data.preprocessing import Size, as_size

_EDGE = 0.01
"""Share of a tile's side; a box that ends this close to an inner edge has been cut off by it."""

_COVERED = 0.7
"""A box that has been cut off is dropped if a complete box of its class covers this share of it."""


class Part(NamedTuple):
    """A part of an image, in its pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> Size:
        return self.bottom - self.top, self.right - self.left


class Tiling:
    """How an image is divided.

    Args:
        tiles: side or (height, width) of a tile in pixels of the image, before it is resized to the network's
            input; None: images are not divided.
        overlap: least overlap of neighboring tiles, as a share of a tile. An object up to this size is
            complete in at least one tile.
        with_whole: also predict the whole image, for larger objects. A box that is cut off by an inner edge
            of a tile is then dropped if a complete one covers it.

    Raises:
        ValueError: if a tile is smaller than 32 pixels, the overlap is outside [0, 1), or another option is
            set without tiles.
    """

    def __init__(
        self, *, tiles: int | Sequence[int] | None = None, overlap: float = 0.25, with_whole: bool = True
    ) -> None:
        self.tiles = None if tiles is None else as_size("tiles", tiles, least=32)
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap must be in [0, 1), got {overlap}")
        if self.tiles is None and (overlap, with_whole) != (0.25, True):
            name = "overlap" if overlap != 0.25 else "with_whole"
            raise ValueError(f"{name} has no effect without tiles; set inference.tiles too, or leave it out")
        self.overlap, self.with_whole = overlap, with_whole

    @property
    def is_single_pass(self) -> bool:
        """Whether the network sees each image once, as a whole."""
        return self.tiles is None

    def __str__(self) -> str:
        if self.tiles is None:
            return "whole image"
        also = " and the whole image" if self.with_whole else ""
        return f"tiles of {self.tiles[0]}x{self.tiles[1]} overlapping by {self.overlap:.0%}{also}"

    def parts(self, size: Size) -> list[Part]:
        """The parts of an image of (height, width): the whole image, if it is one, then rows of tiles."""
        height, width = size
        everything = Part(0, 0, width, height)
        if self.tiles is None:
            return [everything]
        rows = _starts(height, self.tiles[0], self.overlap)
        columns = _starts(width, self.tiles[1], self.overlap)
        if len(rows) == len(columns) == 1:
            return [everything]
        tiles = [
            Part(left, top, min(left + self.tiles[1], width), min(top + self.tiles[0], height))
            for top in rows
            for left in columns
        ]
        return [everything, *tiles] if self.with_whole else tiles

    def merge(self, found: Sequence[Detections], size: Size, postprocess: Postprocess) -> Detections:
        """The detections in each of `parts(size)`, in their own pixels -> those of the image."""
        moved, cut = [], []
        for part, detections in zip(self.parts(size), found, strict=True):
            offset = detections.boxes.new_tensor([part.left, part.top] * 2)
            moved.append(detections._replace(boxes=detections.boxes + offset))
            cut.append(_cut(detections.boxes, part, size, min(_EDGE, self.overlap / 4)) & self.with_whole)
        boxes, scores, labels = (torch.cat(values) for values in zip(*moved, strict=True))
        order = scores.argsort(descending=True, stable=True)
        together, is_cut = Detections(boxes[order], scores[order], labels[order]), torch.cat(cut)[order]
        whole_objects = _at(together, ~is_cut)
        complete = _at(whole_objects, postprocess.survivors(*whole_objects))
        repeated = torch.zeros_like(is_cut)
        repeated[is_cut] = _covered(_at(together, is_cut), complete)
        remaining = _at(together, ~repeated)
        return _at(remaining, postprocess.survivors(*remaining)[: postprocess.max_detections])


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Evenly spaced starts of the fewest tiles that cover the length and overlap by at least this share."""
    if tile >= length:
        return [0]
    step = tile * (1 - overlap)
    count = math.ceil((length - tile) / step) + 1
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def _cut(boxes: Tensor, part: Part, size: Size, edge: float) -> Tensor:
    """bool [n]: which boxes [n, 4], in pixels of a part, end at an edge that is not an edge of the image."""
    height, width = part.size
    near = (edge * width, edge * height)
    left, top, right, bottom = boxes.unbind(1)
    cut = torch.zeros_like(left, dtype=torch.bool)
    if part.left > 0:
        cut |= left <= near[0]
    if part.top > 0:
        cut |= top <= near[1]
    if part.right < size[1]:
        cut |= right >= width - near[0]
    if part.bottom < size[0]:
        cut |= bottom >= height - near[1]
    return cut


def _covered(boxes: Detections, by: Detections) -> Tensor:
    """bool [n]: which boxes repeat a part of one of the others of the same class."""
    if not len(by.boxes):
        return torch.zeros(len(boxes.boxes), dtype=torch.bool, device=boxes.boxes.device)
    first, second = boxes.boxes[:, None], by.boxes[None]
    corners = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    common = areas(torch.cat(corners, dim=-1))
    share = common / areas(boxes.boxes)[:, None].clamp(min=1e-9)
    return ((share > _COVERED) & (boxes.labels[:, None] == by.labels[None])).any(1)


def _at(detections: Detections, rows: Tensor) -> Detections:
    return Detections(*(values[rows] for values in detections))


class TiledTransform(EvalTransform):
    """The parts of an image, each resized to the network's input.

    plain: resizes one part.
    """

    def __init__(self, plain: EvalTransform, tiling: Tiling) -> None:
        self.plain, self.size, self.tiling = plain, plain.size, tiling

    def __str__(self) -> str:
        return f"{self.tiling}, each {self.plain}"

    def __call__(self, image: Image) -> Image:
        """uint8 [H, W, 3] -> [T, h, w, 3]."""
        return np.stack(
            [
                self.plain(image[part.top : part.bottom, part.left : part.right])
                for part in self.tiling.parts((image.shape[0], image.shape[1]))
            ]
        )
