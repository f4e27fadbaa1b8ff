"""Mosaic: four images in one, so a batch shows more and smaller objects in other surroundings.

The idea is from YOLOv4 (Bochkovskiy et al. 2020, section 3.4). Here no part of the result stays gray, and
each image has the same aspect ratio as without a mosaic, only smaller.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from det.augment import crop_geometry
from det.augment.crop_geometry import Placement, Rect
from engine.contracts import Image
from engine.data.preprocessing import MOSAIC_CENTER, NUM_MOSAIC_IMAGES, Size

Sample = tuple[Image, NDArray[np.floating], NDArray[np.integer]]
"""(image uint8 [H, W, 3], boxes [M, 4] in its pixels, labels [M])"""


def mosaic(
    samples: Sequence[Sample], size: Size, rng: np.random.Generator, *, min_visible: float, area: bool
) -> Sample:
    """Four samples -> one of `size` (height, width).

    Each image is resized to between a quarter of `size` and all of it, and a random window of it fills its
    quarter. Boxes are dropped if less than `min_visible` of them is visible.

    Raises:
        ValueError: if there are not four samples.
    """
    if len(samples) != NUM_MOSAIC_IMAGES:
        raise ValueError(f"a mosaic is made of {NUM_MOSAIC_IMAGES} samples, got {len(samples)}")
    height, width = size
    canvas = np.empty((height, width, 3), np.uint8)
    x, y = (round(side * rng.uniform(*MOSAIC_CENTER)) for side in (width, height))
    quarters = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    all_boxes, all_labels = [], []
    for (image, raw_boxes, raw_labels), quarter in zip(samples, quarters, strict=True):
        image_size = image.shape[:2]
        boxes, labels = crop_geometry.clip_to_image(raw_boxes, raw_labels, image_size)
        placement = _fill_quarter(image_size, quarter, size, rng)
        crop_geometry.draw_into(canvas, image, placement, area=area)
        visible = crop_geometry.visible_fractions(np.array([placement.source], np.float64), boxes)[0]
        kept = visible >= min_visible - 1e-6
        all_boxes.append(crop_geometry.move_boxes(boxes[kept], placement))
        all_labels.append(labels[kept])
    return canvas, np.concatenate(all_boxes), np.concatenate(all_labels)


def _fill_quarter(image_size: Size, quarter: Rect, size: Size, rng: np.random.Generator) -> Placement:
    left, top, right, bottom = quarter
    shares = (right - left) / size[1], (bottom - top) / size[0]
    scale = rng.uniform(max(shares), 1)
    spans = []
    for side, share in zip((image_size[1], image_size[0]), shares, strict=True):
        length = min(side, max(1, round(side * share / scale)))
        start = int(rng.integers(0, side - length, endpoint=True))
        spans.append((start, start + length))
    (x1, x2), (y1, y2) = spans
    return Placement((x1, y1, x2, y2), quarter)
