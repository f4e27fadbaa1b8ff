"""Resizing of label maps, and padding."""

import cv2
import numpy as np

from engine.classes import IGNORE
from engine.geometry import Image, Size


def resize_label(label: Image, size: Size) -> Image:
    """Nearest neighbour between pixel centres.

    cv2.INTER_NEAREST measures from pixel corners instead, which shifts labels against their image by up to
    half a pixel when it is scaled.
    """
    if label.shape == tuple(size):
        return label
    resized = cv2.resize(label, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)


def pad_bottom_right(image: Image, size: Size, value: int) -> Image:
    """Extend to at least `size`, at the bottom and the right like DeepLab."""
    missing_h, missing_w = (max(0, want - have) for want, have in zip(size, image.shape[:2], strict=True))
    if not missing_h and not missing_w:
        return image
    fill = (value,) * 3 if image.ndim == 3 else value
    padded = cv2.copyMakeBorder(image, 0, missing_h, 0, missing_w, cv2.BORDER_CONSTANT, value=fill)
    return np.asarray(padded, np.uint8)


def pad_label(label: Image, size: Size) -> Image:
    return pad_bottom_right(label, size, IGNORE)
