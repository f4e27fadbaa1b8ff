"""Transforms of samples: DeepLab's protocol for training, an optional resize for evaluation.

A transform is called as transform(image, label, seed): image uint8 [H, W, 3], label uint8 [H, W] or None. Its
result depends only on the arguments, not on the worker process that runs it.
"""

import copy
from collections.abc import Sequence
from random import Random
from typing import Any

import cv2
import numpy as np

from engine.data.class_map import IGNORE
from engine.data.preprocessing import (
    NUM_MOSAIC_IMAGES,
    Image,
    Size,
    as_size,
    augmented,
    flip_and_jitter,
    import_albumentations,
    resize_image,
    resizing,
    seed_transforms,
)
from engine.errors import UserError, nearest, some
from seg.augment.copy_paste import paste_classes
from seg.augment.mosaic import Sample, mosaic


class TrainTransform:
    """DeepLab's training protocol (random scale, crop, flip) and more, off by default, with albumentations.

    Mosaic and copy-paste need other samples, which only the dataset can read. It calls `partners(seed)` to
    ask how many and, if that is not 0, `combine([sample, *partners], seed)` instead of
    `transform(*sample, seed)`.

    Args:
        crop: side or (height, width) of the result.
        scale: smallest and largest random scale.
        image_scale: factor on these scales, for images that are larger than needed.
        scale_step: distance between possible scales, starting at the smallest (DeepLab: 0.25); 0: uniform.
        flip: probability of a horizontal flip.
        color: strength of the jitter of brightness, contrast and saturation (a fifth of it for hue); 0: none.
        fill: gray value of padded pixels, whose label is 255.
        area: average over pixels when scaling down (slower, no aliasing).
        class_crops: probability that the crop is placed around a random pixel of a class drawn from those in
            the image, each equally likely, so that rare classes are seen more often; 0: anywhere.
        mosaic: probability of a mosaic of four images, each scaled, cropped and flipped as usual.
        copy_paste: probability of pasting half of another image's classes, chosen at random, as in ClassMix.
            Ignored pixels are not pasted.
        copy_paste_classes: names of the classes that can be pasted; None: all.
        gray, blur, noise: probabilities of converting to grayscale, of Gaussian blur (standard deviation 0.5
            to 2 pixels) and of Gaussian noise (standard deviation 1% to 5% of 255).
        extra: more albumentations transforms that keep the size, applied last. Label pixels that they add or
            hide (corners of a rotation, padding, masked objects) become 255, whatever their `fill_mask`, and
            labels are not interpolated, whatever their `mask_interpolation`: class 1 and 3 do not become 2.

    Raises: ValueError naming the argument.
    """

    keeps_labels = False

    def __init__(
        self,
        *,
        crop: int | Sequence[int],
        scale: Sequence[float] = (0.5, 2.0),
        image_scale: float = 1.0,
        scale_step: float = 0.0,
        flip: float = 0.5,
        color: float = 0.0,
        fill: int = 127,
        area: bool = False,
        class_crops: float = 0.0,
        mosaic: float = 0.0,
        copy_paste: float = 0.0,
        copy_paste_classes: Sequence[str] | None = None,
        gray: float = 0.0,
        blur: float = 0.0,
        noise: float = 0.0,
        extra: Sequence[Any] = (),
    ) -> None:
        self.crop = as_size("crop", crop, least=32)  # smaller, the deepest feature map is a single value
        factor = _as_factor(image_scale)
        low, high = _as_scale(scale)
        self.scale = (low * factor, high * factor)
        if not 0 <= fill <= 255:
            raise ValueError(f"fill must be a gray value in 0..255, got {fill}")
        if scale_step < 0:
            raise ValueError(f"scale_step must be >= 0 (0: uniform), got {scale_step}")
        probabilities = {
            "class_crops": class_crops,
            "mosaic": mosaic,
            "copy_paste": copy_paste,
            "gray": gray,
            "blur": blur,
            "noise": noise,
        }
        for name, value in probabilities.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a probability and must be in 0..1, got {value}")
        if copy_paste_classes is not None and not copy_paste:
            raise ValueError("copy_paste_classes needs copy_paste above 0")
        self._mosaic, self._copy_paste, self._flip = mosaic, copy_paste, flip
        self._pasted_names = _as_names(copy_paste_classes)
        self._pasted: list[int] | None = None
        albumentations = import_albumentations()
        from seg.augment.scale_crop import ScaleCrop

        step = scale_step * factor
        self._scale_crop = ScaleCrop(
            crop=self.crop, scale=self.scale, scale_step=step, fill=fill, area=area, class_crops=class_crops
        )
        _keep_classes(extra)
        last, self._has_extra = list(extra), bool(extra)
        if gray or blur or noise:
            from seg.augment.photometric import photometric

            last = [*photometric(gray=gray, blur=blur, noise=noise), *last]
        self._pipeline = albumentations.Compose([self._scale_crop, *flip_and_jitter(flip, color), *last])
        self._pipeline_of_combined = albumentations.Compose([*flip_and_jitter(0, color), *last])

    def __call__(self, image: Image, label: Image | None, seed: int) -> tuple[Image, Image | None]:
        return self._run(self._pipeline, image, label, seed)

    def for_classes(self, classes: Sequence[str]) -> "TrainTransform":
        """The same transform for a dataset with these classes.

        Raises: UserError if one of `copy_paste_classes` is not among them.
        """
        if self._pasted_names is None:
            return self
        unknown = [name for name in self._pasted_names if name not in classes]
        if unknown:
            raise UserError(
                f"augment.copy_paste_classes: unknown class {unknown[0]!r}"
                f"{nearest(unknown[0], classes)}; the classes are {some(list(classes), 20)}"
            )
        result = copy.copy(self)
        result._pasted = [list(classes).index(name) for name in self._pasted_names]
        return result

    def partners(self, seed: int) -> int:
        """How many more samples `combine` needs for this seed: three for a mosaic, one for copy-paste."""
        has_mosaic, pastes = self._drawn(seed)
        return (NUM_MOSAIC_IMAGES - 1) * has_mosaic + pastes

    def combine(self, samples: Sequence[Sample], seed: int) -> Sample:
        """Combine a sample and its partners, as read from the dataset, into one, like the result of a call.

        Raises: ValueError if there are not 1 + `partners(seed)` samples.
        """
        has_mosaic, pastes = self._drawn(seed)
        if len(samples) != 1 + self.partners(seed):
            raise ValueError(f"{1 + self.partners(seed)} samples are needed, got {len(samples)}")
        if self._pasted_names is not None and self._pasted is None:
            raise ValueError("copy_paste_classes needs the classes of the dataset: call for_classes")
        random = Random(int(np.random.default_rng([seed, 2]).integers(2**63)))
        if has_mosaic:
            combined = mosaic(samples[:NUM_MOSAIC_IMAGES], self.crop, self._cropped, random)
        else:
            combined = self._cropped(samples[0], self.crop, random)
        if pastes:
            pasted = self._cropped(samples[-1], self.crop, random)
            combined = paste_classes(combined, pasted, random, classes=self._pasted)
        image, label = self._run(self._pipeline_of_combined, *combined, seed)
        assert label is not None
        return image, label

    def _drawn(self, seed: int) -> tuple[bool, bool]:
        """Whether a sample becomes a mosaic, and whether something is pasted."""
        if not self._mosaic and not self._copy_paste:
            return False, False
        first, second = np.random.default_rng([seed, 1]).random(2)
        return bool(first < self._mosaic), bool(second < self._copy_paste)

    def _cropped(self, sample: Sample, size: Size, random: Random) -> Sample:
        image, label = self._scale_crop.random_crop(sample, size, random)
        if random.random() < self._flip:
            image, label = (np.ascontiguousarray(pixels[:, ::-1]) for pixels in (image, label))
        return image, label

    def _run(self, pipeline: Any, image: Image, label: Image | None, seed: int) -> tuple[Image, Image | None]:
        # Every sample seeds the pipeline: albumentations copies one generator into all workers, which would
        # then draw the same augmentations, and repeat them in every epoch.
        seed_transforms(pipeline, seed)
        mask = {} if label is None else {"mask": label}
        result = augmented(pipeline, has_extra=self._has_extra, image=image, **mask)
        return result["image"], result.get("mask")


class EvalTransform:
    """The image as stored, or resized; the label keeps its full resolution for scoring.

    Args:
        size: None (as stored), a factor (0.5 halves both sides) or (height, width).
        image_scale: an additional factor, unused if `size` is (height, width).
        area: average over pixels when scaling down.

    Raises: ValueError naming the argument.
    """

    keeps_labels = True

    def __init__(
        self, *, size: float | Sequence[int] | None = None, image_scale: float = 1.0, area: bool = False
    ) -> None:
        self._factor: float | None = None
        self._size: Size | None = None
        self._area = area
        if isinstance(size, int | float):
            if not 0 < size <= 8:
                raise ValueError(f"size must be None, (height, width) or a factor up to 8, got {size}")
            self._factor = float(size)
        elif size is not None:
            self._size = as_size("size", size)
        if (scale := _as_factor(image_scale)) != 1 and self._size is None:
            self._factor = scale * (self._factor or 1)

    def __str__(self) -> str:
        if self._factor is not None:
            return f"input scaled by {self._factor:g}"
        return f"input {self._size[0]}x{self._size[1]}" if self._size else "input as stored"

    @property
    def resizing(self) -> dict[str, Any]:
        """See `engine.data.preprocessing.resizing`."""
        if self._factor is not None:
            return resizing("scale", area=self._area, factor=self._factor)
        if self._size is not None:
            return resizing("to_size", area=self._area, size=list(self._size))
        return resizing("none")

    def __call__(self, image: Image, label: Image | None, seed: int) -> tuple[Image, Image | None]:
        height, width = self._size or image.shape[:2]
        if self._factor is not None:
            height, width = (max(1, round(side * self._factor)) for side in (height, width))
        return resize_image(image, (height, width), area=self._area), label


def _keep_classes(transforms: Sequence[Any]) -> None:
    """Set what albumentations writes into new label pixels, by default class 0, to 255, and the interpolation
    of labels to the nearest one, in nested transforms as well. A `fill_mask` of None stays: such a transform
    leaves labels as they are.
    """
    for transform in transforms:
        for name in ("fill_mask", "mask_drop_value"):
            if getattr(transform, name, None) is not None:
                setattr(transform, name, IGNORE)
        if hasattr(transform, "mask_interpolation"):
            transform.mask_interpolation = cv2.INTER_NEAREST
        _keep_classes(getattr(transform, "transforms", ()))


def _as_names(value: Any) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise ValueError(f"copy_paste_classes must be null or a list of class names, got {value!r}")
    return [str(name) for name in value]


def _as_factor(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 8:
        raise ValueError(f"image_scale must be a factor up to 8, got {value!r}")
    return float(value)


def _as_scale(value: Sequence[float]) -> tuple[float, float]:
    if len(value) != 2 or not 0 < value[0] <= value[1] <= 16:
        raise ValueError(
            f"scale must be (smallest, largest) with 0 < smallest <= largest <= 16, got {value!r}"
        )
    return float(value[0]), float(value[1])
