"""Saves drawings of samples: some samples of a split, or the worst ones of an evaluation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw

from engine import fonts
from engine.contracts import Image
from engine.data.images import write_png
from engine.data.preprocessing import Size
from engine.io.files import evenly_spaced, flat_name, flat_names
from engine.io.progress import counted_off

T = TypeVar("T")

DrawSample = Callable[[Any, int], Image]
"""(dataset, index) -> drawing [H, W, 3]."""

_LONGEST, _SHORTEST = 800, 480
"""Limits on the longer side of a panel, in pixels."""

_BACKGROUND, _TEXT, _FRAME = (250, 250, 250), (25, 25, 25), (255, 0, 200)


def save_samples(draw: DrawSample, dataset: Any, folder: Path, *, count: int) -> None:
    """Draw `count` evenly spaced samples of `dataset`, as `<name>.png`."""
    chosen = evenly_spaced(len(dataset), count) if count else []
    names = flat_names(map(dataset.name, chosen))
    for index, name in zip(drawn(chosen), names, strict=True):
        write_png(folder / f"{name}.png", draw(dataset, index))


def save_worst(draw: DrawSample, dataset: Any, folder: Path, worst: Iterable[tuple[str, int, float]]) -> None:
    """Draw the samples (name, index, score) in an evaluator's `worst`, as `<rank>_<score>_<name>.png`.

    Drawings of an earlier evaluation are removed.
    """
    for old in folder.glob("[0-9][0-9]_[0-9].[0-9][0-9][0-9]_*.png"):
        old.unlink(missing_ok=True)
    for rank, (name, index, score) in enumerate(drawn(worst), start=1):
        write_png(folder / f"{rank:02d}_{score:.3f}_{flat_name(name)}.png", draw(dataset, index))


def drawn(samples: Iterable[T]) -> Iterator[T]:
    """The samples, with progress if drawing them takes long: each may need a prediction."""
    return counted_off(list(samples), what="drawing samples", unit="sample drawn")


def panel_size(image: Image) -> Size:
    """(height, width) at which an image is shown: large images are reduced, small ones enlarged."""
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer < _SHORTEST:
        factor = -(-_SHORTEST // longer)
        return height * factor, width * factor
    factor = min(1.0, _LONGEST / longer)
    return max(1, round(height * factor)), max(1, round(width * factor))


def resize_panel(values: Image, size: Size, *, exact: bool = False) -> Image:
    """An image [H, W, 3] or, with `exact`, a label map [H, W] at the size of its panel."""
    if values.shape[:2] == size:
        return values
    shrinks = size[0] < values.shape[0]
    method = cv2.INTER_NEAREST_EXACT if exact or not shrinks else cv2.INTER_AREA
    return np.asarray(cv2.resize(values, size[::-1], interpolation=method), np.uint8)


def side_by_side(panels: Sequence[tuple[str, Image]]) -> Image:
    """Images of equal height next to each other, each below its caption."""
    return np.concatenate([_with_caption(caption, image) for caption, image in panels], axis=1)


def _with_caption(caption: str, image: Image) -> Image:
    size = max(12, image.shape[1] // 32)
    strip = Pillow.new("RGB", (image.shape[1], size + size // 2), _BACKGROUND)
    font = fonts.load(size, [caption])
    ImageDraw.Draw(strip).text((size // 3, strip.height / 2), caption, fill=_TEXT, font=font, anchor="lm")
    return np.concatenate([np.asarray(strip), image], axis=0)


def draw_frames(image: Image, boxes: Iterable[Sequence[float] | NDArray[Any]]) -> Image:
    """A copy of an image with frames around boxes (left, top, right, bottom in pixels)."""
    drawn = np.array(image, order="C")
    thickness = max(2, max(image.shape[:2]) // 250)
    for box in boxes:
        left, top, right, bottom = (round(float(side)) for side in box)
        margin = thickness + 1
        corners = (left - margin, top - margin), (right + margin, bottom + margin)
        cv2.rectangle(drawn, *corners, _FRAME, thickness)
    return drawn
