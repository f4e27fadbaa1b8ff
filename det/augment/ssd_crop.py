"""SSD's zoom-out, random crop and resizing in one step of an albumentations pipeline.

Cropping first and resizing only the crop gives the same result as resizing the whole image, with less work.
"""

from typing import Any

import albumentations
import numpy as np
from numpy.typing import NDArray

from det.augment import crop_geometry
from det.augment.crop_geometry import GRAY, Floats, Placement, Rect
from engine.contracts import Image
from engine.data.preprocessing import Size, resize_image

CROPS = {"ssd": crop_geometry.covering_crop, "iou": crop_geometry.overlapping_crop}


class SSDCrop(albumentations.DualTransform):  # type: ignore[misc]  # untyped
    """A random window, resized to `size`. Arguments as in `det.transforms.TrainTransform`."""

    class InitSchema(albumentations.DualTransform.InitSchema):  # type: ignore[misc]
        size: Size
        crop: str | None
        scale: tuple[float, float]
        zoom_out: float
        min_visible: float
        area: bool

    def __init__(
        self,
        size: Size,
        crop: str | None,
        scale: tuple[float, float],
        zoom_out: float,
        min_visible: float,
        area: bool,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.size, self.crop, self.scale = size, crop, scale
        self.zoom_out, self.min_visible, self.area = zoom_out, min_visible, area

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = size = params["shape"][:2]
        boxes = _in_pixels(data.get("bboxes", np.empty((0, 4), np.float32)), size)
        rng = self.random_generator
        window: Rect = (0, 0, width, height)
        if rng.random() < self.zoom_out:
            window = crop_geometry.zoom_out(rng, size)
        kept = np.ones(len(boxes), bool)
        if self.crop is not None:
            window, kept = CROPS[self.crop](rng, boxes, size, window, self.scale)
        visible = np.empty(0)
        if len(boxes):
            visible = crop_geometry.visible_fractions(np.array([window], np.float64), boxes)[0]
        return {
            "placement": crop_geometry.place(window, size, self.size),
            "kept": kept & (visible >= self.min_visible - 1e-6),
        }

    def apply(self, img: Image, placement: Placement, **params: Any) -> Image:
        height, width = self.size
        if placement.target == (0, 0, width, height):
            left, top, right, bottom = placement.source
            return resize_image(img[top:bottom, left:right], self.size, area=self.area)
        canvas = np.full((*self.size, img.shape[2]), GRAY, np.uint8)
        crop_geometry.draw_into(canvas, img, placement, area=self.area)
        return canvas

    def apply_to_bboxes(
        self, bboxes: Floats, placement: Placement, kept: NDArray[np.bool_], **params: Any
    ) -> Floats:
        rows = bboxes[kept] if len(bboxes) else bboxes
        moved = crop_geometry.move_boxes(_in_pixels(rows, params["shape"][:2]), placement)
        visible = (moved[:, 2:] - moved[:, :2] >= crop_geometry.MIN_VISIBLE_SIDE).all(axis=1)
        height, width = self.size
        fractions = moved / ([width, height] * 2)
        return np.concatenate([fractions, rows[:, 4:]], axis=1, dtype=np.float32)[visible]


def _in_pixels(bboxes: Floats, size: Size) -> Floats:
    height, width = size
    return bboxes[:, :4].astype(np.float64) * [width, height, width, height]
