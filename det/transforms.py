"""Between the file and the batch: SSD's protocol for training, a plain resize for evaluation.

A transform for training is called as transform(image, boxes, labels, seed): image uint8 [H, W, 3], boxes
[M, 4] xyxy in its pixels, labels [M]; the seed decides everything, so that a sample does not depend on the
worker that made it. Nothing in the boxes can stop a run: they are cut to the picture and those that are not
finite, inside out, empty or outside are dropped, before albumentations sees them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from det.augment import windows
from det.augment.mosaic import NUM_PICTURES, Sample, mosaic
from det.augment.windows import Floats
from engine.data.preprocessing import Image, as_size, flip_and_jitter, import_albumentations, resize_image

SMALLEST = 32
"""Pixels: below, the deepest feature map of the backbone is a single value."""

Transformed = tuple[Image, NDArray[np.float32], NDArray[np.int64]]


class TrainTransform:
    """SSD's random crop, horizontal mirror and color jitter, by albumentations; resized to `size`.

    Mosaics need further samples, which only the data set can read. It asks `partners(seed)` how many; where
    that is 3 it calls `combine([this, and three more], seed)` in place of `transform(*this, seed)`.

    Args:
        size: side or (height, width) of the result; the aspect ratio is not kept, as in the released SSD.
        crop: "ssd", the `ssd_random_crop` of the released configuration; "iou", the crop of the SSD paper
            (section 2.2) and of torchvision; None, the whole picture.
        scale: range of the crop's area, as a fraction of the picture's.
        min_visible: boxes of which a crop shows less than this fraction are dropped.
        zoom_out: probability of the picture on a gray canvas of up to 16 times its area, before the crop, for
            small objects (SSD, section 3.6).
        flip: probability of a horizontal mirror.
        color: strength of the jitter of brightness, contrast and saturation (a fifth of it for hue); 0: none.
        mosaic: probability of a mosaic of four pictures in place of zoom-out and crop.
        area: average over pixels when scaling down (slower, without aliasing).
        extra: further albumentations transforms that keep the size, applied last.

    Raises: ValueError naming the argument.
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
        area: bool = False,
        extra: Sequence[Any] = (),
    ) -> None:
        self.size = as_size("size", size, least=SMALLEST)
        self.mosaic, self._min_visible, self._area = mosaic, min_visible, area
        if crop not in ("ssd", "iou", None):
            raise ValueError(f"crop must be ssd, iou or null (the whole picture), got {crop!r}")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale must be (smallest, largest) area in 0..1, got {scale!r}")
        for name, chance in (("zoom_out", zoom_out), ("mosaic", mosaic)):
            if not 0 <= chance <= 1:
                raise ValueError(f"{name} must be a probability in 0..1, got {chance}")
        if not 0 <= min_visible <= 1:
            raise ValueError(f"min_visible must be a fraction in 0..1, got {min_visible}")
        albumentations = import_albumentations()
        from det.augment.ssd_crop import SSDCrop

        cut = SSDCrop(
            size=self.size,
            crop=crop,
            scale=(float(scale[0]), float(scale[1])),
            zoom_out=zoom_out,
            min_visible=min_visible,
            area=area,
        )
        steps = [*flip_and_jitter(flip, color), *extra]
        rule = albumentations.BboxParams(
            format="pascal_voc", min_width=windows.MIN_VISIBLE_SIDE, min_height=windows.MIN_VISIBLE_SIDE
        )
        self._alone = albumentations.Compose([cut, *steps], bbox_params=rule)
        self._combined = albumentations.Compose(steps, bbox_params=rule)

    def __call__(self, image: Image, boxes: Floats, labels: NDArray[np.integer], seed: int) -> Transformed:
        """-> image [h, w, 3], boxes float32 [M', 4] in its pixels and inside of it, labels int64 [M']."""
        return self._run(self._alone, (image, boxes, labels), seed)

    def partners(self, seed: int) -> int:
        """How many further samples `combine` wants for this draw: 3, or 0 where there is no mosaic."""
        drawn = self.mosaic > 0 and np.random.default_rng([seed, 1]).random() < self.mosaic
        return NUM_PICTURES - 1 if drawn else 0

    def combine(self, samples: Sequence[Sample], seed: int) -> Transformed:
        """Four samples (image, boxes, labels) as read -> one, finished like the result of a call.

        Raises: ValueError for another number of samples.
        """
        rng = np.random.default_rng([seed, 2])
        combined = mosaic(samples, self.size, rng, min_visible=self._min_visible, area=self._area)
        return self._run(self._combined, combined, seed)

    def _run(self, pipeline: Any, sample: Sample, seed: int) -> Transformed:
        image, raw_boxes, raw_labels = sample
        boxes, labels = windows.clean(raw_boxes, raw_labels, image.shape[:2])
        # Every sample seeds the pipeline anew: albumentations copies one generator into all workers, which
        # then draw the same augmentations, in every epoch again.
        pipeline.set_random_seed(seed)
        # The label travels as a fifth column (exact in float32 up to 2^24).
        made = pipeline(image=image, bboxes=np.column_stack([boxes, labels]).astype(np.float32))
        rows = np.asarray(made["bboxes"], np.float32)
        rows = rows if rows.size else np.empty((0, 5), np.float32)
        return made["image"], *windows.clean(rows[:, :4], rows[:, 4].astype(np.int64), self.size)


class EvalTransform:
    """The picture, resized to `size` without keeping its aspect ratio (bilinear, as in the released SSD).

    size: side or (height, width). area: average over pixels when scaling down.
    """

    def __init__(self, *, size: int | Sequence[int], area: bool = False) -> None:
        self.size = as_size("size", size, least=SMALLEST)
        self._area = area

    def __str__(self) -> str:
        return f"input {self.size[0]}x{self.size[1]}"

    def __call__(self, image: Image) -> Image:
        """uint8 [H, W, 3] -> [h, w, 3]."""
        return resize_image(image, self.size, area=self._area)
