"""From the painted canvas to a photograph: textures, lens, sensor."""

from random import Random

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import name2label

from streets.canvas import Canvas

# How rough a surface is: (grain of a pixel, blotches of several pixels), shares of its brightness.
_ROUGHNESS = {
    "road": (0.035, 0.05), "sidewalk": (0.03, 0.05), "parking": (0.03, 0.05), "terrain": (0.09, 0.13),
    "vegetation": (0.13, 0.16), "building": (0.02, 0.04), "wall": (0.05, 0.08),
}  # fmt: skip

_BLOTCHES = 42


def photograph(canvas: Canvas, rng: Random) -> np.ndarray:
    """The canvas as a camera with some noise and blur would see it: uint8 [H, W, 3] RGB."""
    height, width = canvas.size
    numbers = np.random.default_rng(rng.getrandbits(64))
    small = cv2.resize(canvas.pixels, (width, height), interpolation=cv2.INTER_AREA)
    picture: np.ndarray = small.astype(np.float32)
    picture *= _texture(canvas, numbers)[..., None]
    gain = rng.uniform(0.88, 1.12)
    picture *= np.array(canvas.light.cast, np.float32) * gain
    if rng.random() < 0.6:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.0022, 0.0048) * height)
    picture += numbers.standard_normal(picture.shape, np.float32) * rng.uniform(1.0, 4.5)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def _texture(canvas: Canvas, numbers: np.random.Generator) -> np.ndarray:
    """float32 [H, W] around 1: grain and blotches, as rough as the class of each pixel."""
    height, width = canvas.size
    grain_of = np.full(256, 0.01, np.float32)
    blotch_of = np.full(256, 0.015, np.float32)
    for name, (grain, blotch) in _ROUGHNESS.items():
        grain_of[name2label[name].id], blotch_of[name2label[name].id] = grain, blotch
    labels = canvas.label_ids()
    fine = numbers.standard_normal((height, width), np.float32)
    # blotches have the same size in a scene of any resolution
    coarse = numbers.standard_normal((_BLOTCHES, _BLOTCHES * width // height + 1), np.float32)
    blotches = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return 1 + (grain_of[labels] * fine + blotch_of[labels] * blotches)
