"""Draws classifications: the image above its most probable classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw

from engine import fonts

Image = NDArray[np.uint8]


Line = tuple[str, float | None, bool | None]
"""A class's name, its probability (None: no bar), and whether it is correct (None: unknown)."""


_BACKGROUND, _TEXT = (250, 250, 250), (25, 25, 25)


_BAR_COLORS = {None: (150, 180, 215), True: (150, 205, 155), False: (235, 170, 160)}
"""Key: whether the class is correct."""


_MIN_WIDTH = 240


def with_lines(image: Image, lines: Sequence[Line]) -> Image:
    """`image` [H, W, 3], enlarged if it is small, above a line with a bar per class."""
    return np.concatenate(with_lines_below(image, lines), axis=0)


def with_lines_below(image: Image, lines: Sequence[Line]) -> list[Image]:
    """The image and the lines of `with_lines`."""
    if image.shape[1] < _MIN_WIDTH:
        scale = -(-_MIN_WIDTH // image.shape[1])
        image = image.repeat(scale, axis=0).repeat(scale, axis=1)
    width = image.shape[1]
    size = max(12, width // 28)
    font = fonts.load(size, [name for name, _, _ in lines])
    pitch, gap = size + max(6, size // 2), max(4, size // 3)
    strip = Pillow.new("RGB", (width, len(lines) * pitch + gap), _BACKGROUND)
    pen = ImageDraw.Draw(strip)
    for row, (name, probability, correct) in enumerate(lines):
        top = row * pitch + gap
        if probability is not None:
            pen.rectangle(
                (0, top, round(probability * (width - 1)), top + pitch - gap), fill=_BAR_COLORS[correct]
            )
        text = name if probability is None else f"{100 * probability:.1f} %  {name}"
        pen.text((gap, top + (pitch - gap) / 2), text, fill=_TEXT, font=font, anchor="lm")
    return [image, np.asarray(strip)]
