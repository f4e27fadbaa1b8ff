"""Transforms of samples: Inception's crops for training, a resize and a central crop for evaluation.

A transform is called as transform(image, seed): image uint8 [H, W, 3] -> uint8 [h, w, 3]. Its result depends
only on the arguments, not on the worker process that runs it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow

from engine.data.preprocessing import (
    Image,
    Size,
    as_size,
    flip_and_jitter,
    import_albumentations,
    seed_transforms,
)


class TrainTransform:
    """A random part of the image, resized (Szegedy et al., 2015), flipped, with random colors.

    Args:
        size: side or (height, width) of the result.
        area: smallest and largest area of the crop, as a share of the image's. Inception has (0.08, 1); the
            Inception preprocessing of TensorFlow slim, which the paper cites, starts at 0.05.
        aspect: smallest and largest aspect ratio (width over height) of the crop.
        flip: probability of a horizontal flip.
        color: strength of the jitter of brightness, contrast and saturation (a fifth of it for hue); 0: none.
        rand_augment: magnitude of RandAugment (Cubuk et al., 2020) in 0..30, two operations per image; None:
            no RandAugment.

    Raises: ValueError naming the argument.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int],
        area: Sequence[float] = (0.08, 1.0),
        aspect: Sequence[float] = (0.75, 4 / 3),
        flip: float = 0.5,
        color: float = 0.0,
        rand_augment: int | None = None,
    ) -> None:
        size = as_size("size", size, least=32)
        area, aspect = _span("area", area, most=1), _span("aspect", aspect, most=16)
        if rand_augment is not None and not 0 <= rand_augment <= 30:
            raise ValueError(f"rand_augment is a magnitude in 0..30, got {rand_augment}")
        albumentations = import_albumentations()
        crop = albumentations.RandomResizedCrop(
            size=size,
            scale=area,
            ratio=aspect,
            area_for_downscale="image",  # no aliasing
        )
        self._pipeline = albumentations.Compose([crop, *flip_and_jitter(flip, color)])
        self._magnitude = rand_augment
        self._rand_augment: Callable[[Pillow.Image], Pillow.Image] | None = None

    def __call__(self, image: Image, seed: int) -> Image:
        # Every sample seeds the pipeline: albumentations copies one generator into all workers.
        seed_transforms(self._pipeline, seed)
        result: Image = self._pipeline(image=np.ascontiguousarray(image))["image"]
        return result if self._magnitude is None else self._augmented(result, seed)

    def _augmented(self, image: Image, seed: int) -> Image:
        if self._rand_augment is None:  # imported late: torchvision's transforms take a second
            from torchvision.transforms import v2

            self._rand_augment = v2.RandAugment(num_ops=2, magnitude=self._magnitude, fill=127)
        with torch.random.fork_rng(devices=[]):  # it draws from torch's own generator
            torch.manual_seed(seed)
            return np.asarray(self._rand_augment(Pillow.fromarray(image)))


class EvalTransform:
    """Resizes the shorter side, then crops the center: how published accuracies are measured.

    Uses Pillow's bilinear filter, and equals torchvision's presets pixel for pixel.

    Args:
        resize: shorter side in pixels; None: 8/7 of the crop's longer side (256 for 224), so that the crop is
            Inception's central 87.5 %.
        crop: side or (height, width) of the result.
        square: resize to the crop's size without keeping the aspect ratio or cropping.

    Raises: ValueError if the crop is larger than the resized image.
    """

    def __init__(self, *, crop: int | Sequence[int], resize: int | None = None, square: bool = False) -> None:
        self.crop = as_size("crop", crop, least=8)
        self.resize = round(max(self.crop) / 0.875) if resize is None else resize
        self.square = square
        if self.resize < max(self.crop):
            raise ValueError(f"resize ({resize}) must be at least the crop's longer side ({max(self.crop)})")

    def __str__(self) -> str:
        height, width = self.crop
        if self.square:
            return f"resized to {height}x{width}"
        return f"shorter side resized to {self.resize}, central {height}x{width}"

    @property
    def resizing(self) -> dict[str, Any]:
        """How images are resized, for the metadata of an exported file."""
        method = {
            "interpolation": "bilinear",
            "when_smaller": "bilinear",
            "antialias": True,
            "keep_aspect": not self.square,
            "center_crop": None if self.square else list(self.crop),
            "same_as": "Pillow: Image.resize with Image.Resampling.BILINEAR",
        }
        if self.square:
            return {"mode": "to_size", "size": list(self.crop), **method}
        return {"mode": "shorter_side", "side": self.resize, **method}

    def __call__(self, image: Image, seed: int) -> Image:
        height, width = self._resized(image.shape[0], image.shape[1])
        if (height, width) != image.shape[:2]:
            resized = Pillow.fromarray(image).resize((width, height), Pillow.Resampling.BILINEAR)
            image = np.asarray(resized)
        top, left = round((height - self.crop[0]) / 2), round((width - self.crop[1]) / 2)
        return image[top : top + self.crop[0], left : left + self.crop[1]]

    def _resized(self, height: int, width: int) -> Size:
        if self.square:
            return self.crop
        if height <= width:  # the longer side is rounded down, as torchvision does
            return self.resize, self.resize * width // height
        return self.resize * height // width, self.resize


def _span(name: str, value: Sequence[float], *, most: float) -> tuple[float, float]:
    if len(value) != 2 or not 0 < value[0] <= value[1] <= most:
        raise ValueError(f"{name} must be (smallest, largest) in 0..{most:g}, got {list(value)}")
    return float(value[0]), float(value[1])
