"""Sizes, and pictures resized to them."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Size = tuple[int, int]
"""(height, width) in pixels."""


def as_size(name: str, value: int | Sequence[int], *, least: int = 1) -> Size:
    """A side or (height, width) -> (height, width).

    Raises: ValueError, naming `name`, for anything else and for a side under `least` pixels.
    """
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or any(int(side) != side or side < least for side in sides):
        limit = f", each at least {least}" if least > 1 else ""
        raise ValueError(f"{name} must be a side or (height, width) in pixels{limit}, got {value!r}")
    return int(sides[0]), int(sides[1])


def resize_image(image: Image, size: Size, *, area: bool = False) -> Image:
    """Bilinear, whatever the aspect ratio; with `area`, the mean over the pixels that fall together when both
    sides shrink."""
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    method = cv2.INTER_AREA if area and shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=method), np.uint8)
