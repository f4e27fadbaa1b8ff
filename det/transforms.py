"""Transforms of samples: SSD's augmentation for training, only resizing for evaluation.

A training transform is called as transform(image, boxes, labels, seed): image uint8 [H, W, 3], boxes [M, 4]
xyxy in its pixels, labels [M]. The result depends only on the arguments, not on the worker that computes it.
Invalid boxes never stop a run: before they reach albumentations, boxes are clipped to the image, and those
that are not finite, inverted, empty or outside are dropped.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from det.augment import crop_geometry
from det.augment.crop_geometry import Floats
from det.augment.mixup import mixup
from det.augment.mosaic import Sample, mosaic
from engine.contracts import Image
from engine.data.preprocessing import (
    NUM_MOSAIC_IMAGES,
    as_size,
    augmented,
    flip_and_jitter,
    import_albumentations,
    resize_image,
    resizing,
    seed_transforms,
)
from engine.errors import UserError

MIN_SIDE = 32
"""Pixels: in smaller inputs, the backbone's deepest feature map would have less than one cell."""

# Random streams of a sample's seed. The loader uses stream 3 to draw partners.
_MOSAIC, _MOSAIC_LAYOUT, _MIXUP, _MIXED_IN = 1, 2, 4, 5

Augmented = tuple[Image, NDArray[np.float32], NDArray[np.int64]]


class TrainTransform:
    """SSD's random crop, resized to `size`, horizontal flip and color jitter, by albumentations.

    Mosaics and mixup need more samples, which only the dataset can read. The dataset calls `partners(seed)`
    to ask how many and, if that is not 0, `combine([this sample, *partners], seed)` instead of
    `transform(*sample, seed)`.

    Args:
        size: side or (height, width) of the result; the aspect ratio is not kept, as in the released SSD.
        crop: "ssd", the `ssd_random_crop` of the released configuration; "iou", the crop of the SSD paper
            (section 2.2) and of torchvision; None, the whole image.
        scale: range of the crop's area, as a fraction of the image's.
        min_visible: boxes are dropped if a crop shows less than this fraction of them.
        zoom_out: probability of placing the image on a gray canvas of up to 16 times its area before the
            crop, for small objects (SSD, section 3.6).
        flip: probability of a horizontal flip.
        color: strength of the jitter of brightness, contrast and saturation (a fifth of it for hue); 0: none.
        mosaic: probability of a mosaic of four images instead of zoom-out and crop.
        mixup: probability of averaging the result with another augmented image.
        area: average over pixels when scaling down (slower, without aliasing).
        extra: more albumentations transforms that keep the size, applied last.

    Raises:
        ValueError: naming the argument that is out of range.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int],
        crop: str | None = "ssd",
        scale: Sequence[float] = (0.1, 1.0),
        min_visible: float = 0.0,
        zoom_out: float = 0.0,
        flip: float = 0.5,
        color: float = 0.0,
        mosaic: float = 0.0,
        mixup: float = 0.0,
        area: bool = False,
        extra: Sequence[Any] = (),
    ) -> None:
        self.size = as_size("size", size, least=MIN_SIDE)
        self.mosaic, self.mixup, self._min_visible, self._area = mosaic, mixup, min_visible, area
        if crop not in ("ssd", "iou", None):
            raise ValueError(f"crop must be ssd, iou or null (the whole image), got {crop!r}")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale must be (smallest, largest) area in 0..1, got {scale!r}")
        for name, probability in (("zoom_out", zoom_out), ("mosaic", mosaic), ("mixup", mixup)):
            if not 0 <= probability <= 1:
                raise ValueError(f"{name} must be a probability in 0..1, got {probability}")
        if not 0 <= min_visible <= 1:
            raise ValueError(f"min_visible must be a fraction in 0..1, got {min_visible}")
        albumentations = import_albumentations()
        from det.augment.ssd_crop import SSDCrop

        random_crop = SSDCrop(
            size=self.size,
            crop=crop,
            scale=(float(scale[0]), float(scale[1])),
            zoom_out=zoom_out,
            min_visible=min_visible,
            area=area,
        )
        steps, self._has_extra = [*flip_and_jitter(flip, color), *extra], bool(extra)
        min_side = crop_geometry.MIN_VISIBLE_SIDE
        params = albumentations.BboxParams(format="pascal_voc", min_width=min_side, min_height=min_side)
        self._pipeline = albumentations.Compose([random_crop, *steps], bbox_params=params)
        self._pipeline_of_mosaics = albumentations.Compose(steps, bbox_params=params)

    def __call__(self, image: Image, boxes: Floats, labels: NDArray[np.integer], seed: int) -> Augmented:
        """-> image [h, w, 3], boxes float32 [M', 4] in its pixels and inside it, labels int64 [M']."""
        return self._run(self._pipeline, (image, boxes, labels), seed)

    def partners(self, seed: int) -> int:
        """How many more samples `combine` needs for this seed: 3 for a mosaic plus 1 for mixup."""
        others = NUM_MOSAIC_IMAGES - 1 if _drawn(self.mosaic, seed, _MOSAIC) else 0
        return others + _drawn(self.mixup, seed, _MIXUP)

    def combine(self, samples: Sequence[Sample], seed: int) -> Augmented:
        """A sample and its partners, each (image, boxes, labels) as read -> one, like the result of a call.

        Raises:
            ValueError: if the number of samples is not 1 + `partners(seed)`.
        """
        needed = 1 + self.partners(seed)
        if len(samples) != needed:
            raise ValueError(f"{needed} samples are needed, got {len(samples)}")
        if not _drawn(self.mixup, seed, _MIXUP):
            return self._mosaic_or_one(samples, seed)
        *others, last = samples
        seed_of_last = int(np.random.default_rng([seed, _MIXED_IN]).integers(2**32))
        image, boxes, labels = mixup(
            self._mosaic_or_one(others, seed), self._run(self._pipeline, last, seed_of_last)
        )
        return image, boxes.astype(np.float32), labels.astype(np.int64)

    def _mosaic_or_one(self, samples: Sequence[Sample], seed: int) -> Augmented:
        if len(samples) == 1:
            return self._run(self._pipeline, samples[0], seed)
        rng = np.random.default_rng([seed, _MOSAIC_LAYOUT])
        combined = mosaic(samples, self.size, rng, min_visible=self._min_visible, area=self._area)
        return self._run(self._pipeline_of_mosaics, combined, seed)

    def _run(self, pipeline: Any, sample: Sample, seed: int) -> Augmented:
        image, raw_boxes, raw_labels = sample
        boxes, labels = crop_geometry.clip_to_image(raw_boxes, raw_labels, image.shape[:2])
        # Seeded for every sample: albumentations copies one generator into all workers, which would then
        # draw the same augmentations, and again in every epoch.
        seed_transforms(pipeline, seed)
        # The label is passed as a fifth column (exact in float32 up to 2^24).
        rows = np.column_stack([boxes, labels]).astype(np.float32)
        result = augmented(pipeline, has_extra=self._has_extra, image=image, bboxes=rows)
        rows = np.asarray(result["bboxes"], np.float32)
        rows = rows if rows.size else np.empty((0, 5), np.float32)
        boxes, labels = crop_geometry.clip_to_image(rows[:, :4], rows[:, 4].astype(np.int64), self.size)
        if result["image"].shape[:2] != self.size:
            shapes = [f"{height}x{width}" for height, width in (self.size, result["image"].shape[:2])]
            raise UserError(
                f"augment.extra: its transforms change images from {shapes[0]} to {shapes[1]} (height x "
                "width), which the anchors do not fit; use transforms that keep the size"
            )
        return result["image"], boxes, labels


def _drawn(probability: float, seed: int, stream: int) -> bool:
    return probability > 0 and np.random.default_rng([seed, stream]).random() < probability


class EvalTransform:
    """The image, resized to `size` without keeping its aspect ratio (bilinear, as in the released SSD).

    Args:
        size: side or (height, width).
        area: average over pixels when scaling down.
    """

    def __init__(self, *, size: int | Sequence[int], area: bool = False) -> None:
        self.size = as_size("size", size, least=MIN_SIDE)
        self._area = area

    def __str__(self) -> str:
        return f"input {self.size[0]}x{self.size[1]}"

    @property
    def resizing(self) -> dict[str, Any]:
        """See `engine.data.preprocessing.resizing`."""
        return resizing("to_size", area=self._area, size=list(self.size))

    def __call__(self, image: Image) -> Image:
        """uint8 [H, W, 3] -> [h, w, 3]."""
        return resize_image(image, self.size, area=self._area)
