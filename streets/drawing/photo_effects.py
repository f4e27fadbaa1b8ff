"""Effects that turn the painted canvas into something like a photograph: texture, color cast, blur, noise."""

from random import Random

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import name2label

from streets.drawing.canvas import Canvas

# Roughness of a surface: (grain of single pixels, blotches of several pixels), as shares of its brightness.
_ROUGHNESS = {
    "road": (0.035, 0.05), "sidewalk": (0.03, 0.05), "parking": (0.03, 0.05), "terrain": (0.09, 0.13),
    "vegetation": (0.13, 0.16), "building": (0.02, 0.04), "wall": (0.05, 0.08),
}  # fmt: skip

_BLOTCHES = 42  # down the height of the image, at any resolution


def photograph(canvas: Canvas, rng: Random) -> np.ndarray:
    """The canvas as a camera with some noise and blur would record it: uint8 [H, W, 3] RGB."""
    height, width = canvas.size
    numbers = np.random.default_rng(rng.getrandbits(64))
    small = cv2.resize(canvas.pixels, (width, height), interpolation=cv2.INTER_AREA)
    image: np.ndarray = small.astype(np.float32)
    image *= _texture(canvas, numbers)[..., None]
    gain = rng.uniform(0.88, 1.12)
    image *= np.array(canvas.light.cast, np.float32) * gain
    if rng.random() < 0.6:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.0022, 0.0048) * height)
    image += numbers.standard_normal(image.shape, np.float32) * rng.uniform(1.0, 4.5)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def _texture(canvas: Canvas, numbers: np.random.Generator) -> np.ndarray:
    """float32 [H, W] around 1: grain and blotches, with the roughness of each pixel's class."""
    height, width = canvas.size
    grain_of = np.full(256, 0.01, np.float32)
    blotch_of = np.full(256, 0.015, np.float32)
    for name, (grain, blotch) in _ROUGHNESS.items():
        grain_of[name2label[name].id], blotch_of[name2label[name].id] = grain, blotch
    labels = canvas.label_ids()
    fine = numbers.standard_normal((height, width), np.float32)
    coarse = numbers.standard_normal((_BLOTCHES, _BLOTCHES * width // height + 1), np.float32)
    blotches = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    texture: np.ndarray = 1 + (grain_of[labels] * fine + blotch_of[labels] * blotches)
    return texture
