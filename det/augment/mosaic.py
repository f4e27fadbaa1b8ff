"""Mosaic: four pictures in one, so that a batch shows more objects, smaller, among other neighbors.

The idea is YOLOv4's (Bochkovskiy et al. 2020, section 3.4). Here no part of the result stays gray, and each
picture is stretched as it would be alone, only smaller.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from det.augment import windows
from det.augment.windows import Placement
from engine.data.preprocessing import Image, Size

Sample = tuple[Image, NDArray[np.floating], NDArray[np.integer]]
"""(image uint8 [H, W, 3], boxes [M, 4] in its pixels, labels [M])"""


NUM_PICTURES = 4


CENTER = (0.3, 0.7)  # where the four meet, as a fraction of each side


def mosaic(
    samples: Sequence[Sample], size: Size, rng: np.random.Generator, *, min_visible: float, area: bool
) -> Sample:
    """Four samples -> one of `size` (height, width).

    Each picture is resized to between its quarter and the whole of `size`, and its quarter shows a random
    window of that. Boxes of which less than `min_visible` is shown are dropped.

    Raises: ValueError for another number of samples.
    """
    if len(samples) != NUM_PICTURES:
        raise ValueError(f"a mosaic is made of {NUM_PICTURES} samples, got {len(samples)}")
    height, width = size
    canvas = np.empty((height, width, 3), np.uint8)
    x, y = (round(side * rng.uniform(*CENTER)) for side in (width, height))
    quarters = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    all_boxes, all_labels = [], []
    for (image, raw_boxes, raw_labels), quarter in zip(samples, quarters, strict=True):
        boxes, labels = windows.clean(raw_boxes, raw_labels, image.shape[:2])
        placement = _window(image.shape[:2], quarter, size, rng)
        windows.draw_into(canvas, image, placement, area=area)
        shown = windows.coverage(np.array([placement.source], np.float64), boxes)[0]
        kept = shown >= min_visible - 1e-6
        all_boxes.append(windows.move_boxes(boxes[kept], placement))
        all_labels.append(labels[kept])
    return canvas, np.concatenate(all_boxes), np.concatenate(all_labels)


def _window(picture: Size, quarter: windows.Rect, size: Size, rng: np.random.Generator) -> Placement:
    left, top, right, bottom = quarter
    shares = (right - left) / size[1], (bottom - top) / size[0]
    scale = rng.uniform(max(shares), 1)
    spans = []
    for side, share in zip((picture[1], picture[0]), shares, strict=True):
        length = min(side, max(1, round(side * share / scale)))
        start = int(rng.integers(0, side - length, endpoint=True))
        spans.append((start, start + length))
    (x1, x2), (y1, y2) = spans
    return Placement((x1, y1, x2, y2), quarter)
