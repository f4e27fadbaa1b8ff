"""Geometry of SSD's random crops: which window of an image is used, and where pixels and boxes end up.

Rectangles and boxes are (x1, y1, x2, y2) in pixels, continuous coordinates. A window can extend beyond the
image (zoom out). The visible part always covers whole pixels and is resized to whole pixels, so an image and
its boxes are mapped in exactly the same way.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.contracts import Image
from engine.data.preprocessing import Size, resize_image

Floats = NDArray[np.floating[Any]]


Rect = tuple[int, int, int, int]


GRAY = 127
"""The color outside the image: 0 after `inception` normalization."""


THRESHOLDS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


ASPECT_RATIOS = (0.5, 2.0)


WHOLE_CANVAS_PROBABILITY = 0.15  # `random_coef` of the released configuration


TRIALS = 100


LARGEST_CANVAS = 4.0


MIN_VISIBLE_SIDE = 0.1
"""Pixels; boxes with a shorter side are dropped."""


class Placement(NamedTuple):
    """Maps the rectangle `source` of an image to the rectangle `target` of the result."""

    source: Rect
    target: Rect


def clip_to_image(
    boxes: Floats, labels: NDArray[np.integer], size: Size
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Clip boxes [M, 4] to an image of `size`, and drop those that are outside or not finite.

    Returns: copies, float32 [M', 4] and int64 [M'].
    """
    boxes, labels = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(labels, np.int64).reshape(-1)
    if len(boxes) != len(labels):
        raise ValueError(f"{len(boxes)} boxes but {len(labels)} labels; each box needs one label")
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(boxes).all(axis=1))
    height, width = size
    clipped = np.clip(np.where(finite[:, None], boxes, 0), 0, [width, height] * 2).astype(np.float32)
    visible = (clipped[:, 2:] - clipped[:, :2]).min(axis=1) >= MIN_VISIBLE_SIDE
    return clipped[visible], labels[visible]


def zoom_out(rng: np.random.Generator, size: Size) -> Rect:
    """A canvas of up to 16 times the area with the image somewhere in it (SSD, section 3.6)."""
    height, width = size
    ratio = rng.uniform(1, LARGEST_CANVAS)
    canvas_width, canvas_height = round(width * ratio), round(height * ratio)
    left, top = (
        int(rng.integers(0, free, endpoint=True)) for free in (canvas_width - width, canvas_height - height)
    )
    return -left, -top, canvas_width - left, canvas_height - top


def covering_crop(
    rng: np.random.Generator, boxes: Floats, size: Size, canvas: Rect, area_range: tuple[float, float]
) -> tuple[Rect, NDArray[np.bool_]]:
    """`ssd_random_crop` of the released configuration: a window that covers an object well enough.

    Draws a threshold from `THRESHOLDS`. The window covers at least this fraction of at least one box, and
    boxes that it covers less are dropped. The whole canvas is used if no window does, and in 15 of 100 draws.

    Args:
        boxes: [M, 4]; if there are none, the window must cover that fraction of the canvas.
        size: (height, width) of the image.
        canvas: the image's own rectangle, or the larger one after zooming out.
        area_range: of the window, as a fraction of the canvas.

    Returns: the window, and bool [M]: the boxes to keep.
    """
    all_boxes = np.ones(len(boxes), bool)
    if rng.random() < WHOLE_CANVAS_PROBABILITY:
        return canvas, all_boxes
    threshold = rng.choice(THRESHOLDS) - 1e-6  # a fully covered box has a fraction of 1 up to rounding
    windows = _draw_windows(rng, size, canvas, area_range)
    covered = visible_fractions(windows, boxes if len(boxes) else np.array([canvas], np.float64))
    fit = np.flatnonzero(covered.max(axis=1) >= threshold)
    if not len(fit):
        return canvas, all_boxes
    return _rect(windows[fit[0]]), covered[fit[0], : len(boxes)] >= threshold


def overlapping_crop(
    rng: np.random.Generator, boxes: Floats, size: Size, canvas: Rect, area_range: tuple[float, float]
) -> tuple[Rect, NDArray[np.bool_]]:
    """The SSD paper's crop (section 2.2): a window with a minimum IoU with an object centered in it.

    The threshold is drawn from `THRESHOLDS` (1 means the whole canvas), and drawn again if no window reaches
    it. Boxes whose center is outside the window are dropped. Without boxes, the whole canvas is used.

    Arguments and result: as for `covering_crop`.
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    for threshold in rng.permutation(THRESHOLDS) if len(boxes) else ():
        if threshold == 1:
            break
        windows = _draw_windows(rng, size, canvas, area_range)[:, None]
        inside = np.all((windows[..., :2] < centers) & (centers < windows[..., 2:]), axis=2)
        intersections = _intersections(windows[:, 0], boxes)
        unions = _areas(windows) + _areas(boxes) - intersections
        fit = np.flatnonzero((inside & (intersections >= threshold * unions)).any(axis=1))
        if len(fit):
            return _rect(windows[fit[0], 0]), inside[fit[0]]
    return canvas, np.ones(len(boxes), bool)


def visible_fractions(windows: Floats, boxes: Floats) -> Floats:
    """The fraction of each box [M, 4] that is in each window [T, 4] -> [T, M]."""
    return _intersections(windows, boxes) / np.maximum(_areas(boxes), 1e-12)


def place(window: Rect, size: Size, result_size: Size) -> Placement:
    """Map a window of an image of `size` to a result of `result_size`; it must overlap the image."""
    source, target = [], []
    for axis, (side, result_side) in enumerate(((size[1], result_size[1]), (size[0], result_size[0]))):
        low, high = window[axis], window[axis + 2]
        start, stop = max(low, 0), min(high, side)
        scale = result_side / (high - low)
        first = min(round((start - low) * scale), result_side - 1)
        last = max(round((stop - low) * scale), first + 1)
        source.append((start, stop))
        target.append((first, last))
    (left, right), (top, bottom) = source
    (target_left, target_right), (target_top, target_bottom) = target
    return Placement((left, top, right, bottom), (target_left, target_top, target_right, target_bottom))


def draw_into(canvas: Image, image: Image, placement: Placement, *, area: bool) -> None:
    """Write the part of `image` into `canvas`; `area`: see `resize_image`."""
    (left, top, right, bottom), (x1, y1, x2, y2) = placement
    canvas[y1:y2, x1:x2] = resize_image(image[top:bottom, left:right], (y2 - y1, x2 - x1), area=area)


def move_boxes(boxes: Floats, placement: Placement) -> Floats:
    """Map boxes [M, 4] of the image to the result, clipped to the part that shows the image."""
    source, target = (np.array(rect, np.float64) for rect in placement)
    ratio = (target[2:] - target[:2]) / (source[2:] - source[:2])
    moved = (boxes.reshape(-1, 2, 2) - source[:2]) * ratio + target[:2]
    return np.clip(moved, target[:2], target[2:]).reshape(-1, 4)


def _draw_windows(
    rng: np.random.Generator, size: Size, canvas: Rect, area_range: tuple[float, float]
) -> NDArray[np.float64]:
    """Up to `TRIALS` windows [T, 4] in the canvas that overlap the image.

    As in TensorFlow's `sample_distorted_bounding_box`, the aspect ratio is drawn first, then a height that
    fits, then the position.
    """
    left, top, right, bottom = canvas
    width, height = limits = np.array([right - left, bottom - top])
    aspect = rng.uniform(*ASPECT_RATIOS, TRIALS)
    lowest, highest = (np.sqrt(share * width * height / aspect) for share in area_range)
    highest = np.minimum(highest, np.minimum(height, width / aspect))
    heights = lowest + (highest - lowest) * rng.random(TRIALS)
    sides = np.clip(np.rint(np.stack([heights * aspect, heights], axis=1)), 1, limits)
    corners = np.floor(rng.random((TRIALS, 2)) * (limits - sides + 1)) + np.array([left, top])
    touches = (corners < np.array(size[::-1])).all(axis=1) & (corners + sides > 0).all(axis=1)
    windows = np.concatenate([corners, corners + sides], axis=1)
    return np.asarray(windows[touches & (lowest <= highest)], np.float64)


def _intersections(windows: Floats, boxes: Floats) -> Floats:
    top_left = np.maximum(windows[:, None, :2], boxes[None, :, :2])
    bottom_right = np.minimum(windows[:, None, 2:], boxes[None, :, 2:])
    return np.asarray(np.clip(bottom_right - top_left, 0, None).prod(axis=2))


def _areas(boxes: Floats) -> Floats:
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).prod(axis=-1))


def _rect(window: Floats) -> Rect:
    left, top, right, bottom = (int(side) for side in window)
    return left, top, right, bottom
