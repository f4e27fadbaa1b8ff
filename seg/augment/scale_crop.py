"""Random scale and crop in one albumentations transform: crop first, then resize only the crop.

Scaling by s and then cropping c pixels gives the same result as cropping c/s pixels and resizing them to c,
but the latter processes only the pixels that remain: several times less work for a 769 crop of 1024 x 2048.
"""

from random import Random
from typing import Any, NamedTuple

import albumentations
import cv2
import numpy as np
from numpy.typing import NDArray

from engine.data.class_map import IGNORE
from engine.data.images import count_values
from engine.data.preprocessing import Image, Size, resize_image
from seg.augment.mosaic import Sample


class Window(NamedTuple):
    """A part of an image, from start to stop in each axis, and its (height, width) in the result."""

    rows: Size
    columns: Size
    scaled: Size


class ScaleCrop(albumentations.DualTransform):  # type: ignore[misc]  # albumentations has no types
    """A window of about crop / s pixels with a random s, resized to `crop`; padded if the image is smaller.

    Arguments as in `seg.transforms.TrainTransform`.
    """

    class InitSchema(albumentations.DualTransform.InitSchema):  # type: ignore[misc]
        crop: Size
        scale: tuple[float, float]
        scale_step: float
        fill: int
        area: bool
        class_crops: float

    def __init__(
        self,
        crop: Size,
        scale: tuple[float, float],
        scale_step: float,
        fill: int,
        area: bool,
        class_crops: float = 0.0,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.crop = crop
        self.scale = scale
        self.scale_step = scale_step
        self.fill = fill
        self.area = area
        self.class_crops = class_crops

    def random_crop(self, sample: Sample, size: Size, random: Random) -> Sample:
        """A random window of a sample, at this size instead of `crop`; draws from `random`."""
        image, label = sample
        window = self._draw_window(random, image.shape[:2], size, label)
        return self._cut_image(image, window, size), _cut_label(label, window, size)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        window = self._draw_window(self.py_random, params["shape"][:2], self.crop, data.get("mask"))
        return window._asdict()

    def _draw_window(
        self, random: Random, image_size: Size, size: Size, mask: NDArray[np.uint8] | None
    ) -> Window:
        scale = self._draw_scale(random)
        center = self._draw_pixel(random, mask)
        spans = []
        sizes = []
        for axis, (side, crop) in enumerate(zip(image_size, size, strict=True)):
            window = max(1, round(crop / scale))
            low, high = 0, max(0, side - window)
            if center is not None:  # all windows that contain the pixel
                low, high = max(0, center[axis] - window + 1), min(high, center[axis])
            start = random.randint(low, high)
            used = min(window, side)
            spans.append((start, start + used))
            sizes.append(crop if used == window else max(1, round(crop * used / window)))
        return Window(rows=spans[0], columns=spans[1], scaled=(sizes[0], sizes[1]))

    def _draw_scale(self, random: Random) -> float:
        low, high = self.scale
        if not self.scale_step:
            return random.uniform(low, high)
        return low + self.scale_step * random.randint(0, int((high - low) / self.scale_step + 1e-6))

    def _draw_pixel(self, random: Random, mask: NDArray[np.uint8] | None) -> tuple[int, int] | None:
        """(row, column) of a random pixel of a random class in the mask, with probability `class_crops`."""
        if not self.class_crops or mask is None or random.random() >= self.class_crops:
            return None
        present = np.flatnonzero(count_values(mask)[:IGNORE])
        if not len(present):
            return None
        pixels = np.flatnonzero(mask == present[random.randrange(len(present))])
        row, column = divmod(int(pixels[random.randrange(len(pixels))]), mask.shape[1])
        return row, column

    def apply(
        self, img: NDArray[np.uint8], rows: Size, columns: Size, scaled: Size, **params: Any
    ) -> NDArray[np.uint8]:
        return self._cut_image(img, Window(rows, columns, scaled), self.crop)

    def apply_to_mask(
        self, mask: NDArray[np.uint8], rows: Size, columns: Size, scaled: Size, **params: Any
    ) -> NDArray[np.uint8]:
        return _cut_label(mask, Window(rows, columns, scaled), self.crop)

    def _cut_image(self, image: Image, window: Window, size: Size) -> Image:
        part = resize_image(_inside(image, window), window.scaled, area=self.area)
        return _writable(pad_bottom_right(part, size, self.fill))


def _cut_label(label: Image, window: Window, size: Size) -> Image:
    return _writable(pad_label(resize_label(_inside(label, window), window.scaled), size))


def _inside(pixels: Image, window: Window) -> Image:
    return pixels[slice(*window.rows), slice(*window.columns)]


def _writable(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # A window that was not resized can be a view of a cached image, and later transforms can write into it.
    return pixels if pixels.flags.writeable else pixels.copy()


def resize_label(label: Image, size: Size) -> Image:
    """Resize a label map by nearest neighbor, measured between pixel centers.

    cv2.INTER_NEAREST measures from pixel corners, which shifts labels relative to their image by up to half a
    pixel.
    """
    if label.shape == tuple(size):
        return label
    resized = cv2.resize(label, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)


def pad_bottom_right(image: Image, size: Size, value: int) -> Image:
    """Extend to at least `size`, at the bottom and the right, as DeepLab does."""
    missing_h, missing_w = (max(0, want - have) for want, have in zip(size, image.shape[:2], strict=True))
    if not missing_h and not missing_w:
        return image
    fill = (value,) * 3 if image.ndim == 3 else value
    padded = cv2.copyMakeBorder(image, 0, missing_h, 0, missing_w, cv2.BORDER_CONSTANT, value=fill)
    return np.asarray(padded, np.uint8)


def pad_label(label: Image, size: Size) -> Image:
    return pad_bottom_right(label, size, IGNORE)
