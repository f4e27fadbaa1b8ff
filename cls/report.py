"""Pictures of classifications: the picture above its most probable classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

Image = NDArray[np.uint8]


Line = tuple[str, float | None, bool | None]
"""A class's name, its probability (None: no bar), and whether it is right (None: not known)."""


_PAPER, _INK = (250, 250, 250), (25, 25, 25)


_BARS = {None: (150, 180, 215), True: (150, 205, 155), False: (235, 170, 160)}


_LEAST_WIDTH = 240


def with_lines(picture: Image, lines: Sequence[Line]) -> Image:
    """`picture` [H, W, 3], enlarged where it is small, above a line with a bar per class."""
    if picture.shape[1] < _LEAST_WIDTH:
        scale = -(-_LEAST_WIDTH // picture.shape[1])
        picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    width = picture.shape[1]
    size = int(np.clip(width / 28, 12, 34))
    font, pitch, gap = ImageFont.load_default(size=size), size + max(6, size // 2), max(4, size // 3)
    strip = Pillow.new("RGB", (width, len(lines) * pitch + gap), _PAPER)
    pen = ImageDraw.Draw(strip)
    for row, (name, probability, right) in enumerate(lines):
        top = row * pitch + gap
        if probability is not None:
            pen.rectangle((0, top, round(probability * (width - 1)), top + pitch - gap), fill=_BARS[right])
        text = name if probability is None else f"{100 * probability:.1f} %  {name}"
        pen.text((gap, top + (pitch - gap) / 2), text, fill=_INK, font=font, anchor="lm")
    return np.concatenate([picture, np.asarray(strip)], axis=0)
