"""Which window of a picture is shown where: the random crops of SSD, and pictures and boxes moved alike.

Rectangles and boxes are (x1, y1, x2, y2) in pixels, continuous coordinates. A window may reach over the edge
of the picture (zoomed out); what is shown is always a whole number of pixels, stretched over a whole number
of pixels, so that a picture and its boxes move by exactly the same map.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.data.preprocessing import Image, Size, resize_image

Floats = NDArray[np.floating[Any]]


Rect = tuple[int, int, int, int]
"""(height, width)"""


GRAY = 127
"""Where there is no picture: 0 after the normalization `inception`."""


THRESHOLDS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


ASPECT = (0.5, 2.0)


UNTOUCHED = 0.15  # `random_coef` of the released configuration


TRIALS = 100


LARGEST_CANVAS = 4.0


MIN_VISIBLE_SIDE = 0.1
"""Boxes of a shorter side, in pixels, are no boxes."""


class Placement(NamedTuple):
    """The part `source` of a picture is stretched over `target` of the result."""

    source: Rect
    target: Rect


def clean(
    boxes: Floats, labels: NDArray[np.integer], size: Size
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes [M, 4] cut to a picture of `size`, without those that are not finite or have nothing in it.

    Returns: copies, float32 [M', 4] and int64 [M'].
    """
    boxes, labels = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(labels, np.int64).reshape(-1)
    if len(boxes) != len(labels):
        raise ValueError(f"{len(boxes)} boxes with {len(labels)} labels; each box needs one")
    finite = np.isfinite(boxes).all(axis=1)
    height, width = size
    inside = np.clip(np.where(finite[:, None], boxes, 0), 0, [width, height] * 2).astype(np.float32)
    kept = (inside[:, 2:] - inside[:, :2] >= MIN_VISIBLE_SIDE).all(axis=1)
    return inside[kept], labels[kept]


def zoomed_out(rng: np.random.Generator, size: Size) -> Rect:
    """A canvas of up to 16 times the area with the picture somewhere in it (SSD, section 3.6)."""
    height, width = size
    ratio = rng.uniform(1, LARGEST_CANVAS)
    wide, high = round(width * ratio), round(height * ratio)
    left, top = (int(rng.integers(0, room, endpoint=True)) for room in (wide - width, high - height))
    return -left, -top, wide - left, high - top


def covering_crop(
    rng: np.random.Generator, boxes: Floats, picture: Size, canvas: Rect, scale: tuple[float, float]
) -> tuple[Rect, NDArray[np.bool_]]:
    """`ssd_random_crop` of the released configuration: a window that covers an object well enough.

    One threshold of `THRESHOLDS` is drawn. The window covers at least this fraction of some box, and boxes of
    which it covers less are dropped. Where no window does, and in 15 of 100 draws, it is the whole canvas.

    Args:
        boxes: [M, 4]; without any, the window must cover that fraction of the canvas.
        picture: (height, width). canvas: the picture, or what it was zoomed out to.
        scale: the range of the window's area, as a fraction of the canvas.

    Returns: the window, and which boxes remain [M].
    """
    everything = np.ones(len(boxes), bool)
    if rng.random() < UNTOUCHED:
        return canvas, everything
    threshold = rng.choice(THRESHOLDS) - 1e-6  # a whole box is covered to 1, give or take the rounding
    windows = _windows(rng, picture, canvas, scale)
    covered = coverage(windows, boxes if len(boxes) else np.array([canvas], np.float64))
    fit = np.flatnonzero(covered.max(axis=1) >= threshold)
    if not len(fit):
        return canvas, everything
    return _rect(windows[fit[0]]), covered[fit[0], : len(boxes)] >= threshold


def overlapping_crop(
    rng: np.random.Generator, boxes: Floats, picture: Size, canvas: Rect, scale: tuple[float, float]
) -> tuple[Rect, NDArray[np.bool_]]:
    """The SSD paper's crop (section 2.2): a window of some least IoU with an object whose center it holds.

    The threshold is drawn from `THRESHOLDS`, 1 for the whole canvas, and drawn again where no window reaches
    it. Boxes whose center lies outside of the window are dropped. Without boxes it is the whole canvas.

    Arguments and result as in `covering_crop`.
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    for threshold in rng.permutation(THRESHOLDS) if len(boxes) else ():
        if threshold == 1:
            break
        windows = _windows(rng, picture, canvas, scale)[:, None]
        inside = ((windows[..., :2] < centers) & (centers < windows[..., 2:])).all(axis=2)
        shared = _shared(windows[:, 0], boxes)
        union = _areas(windows) + _areas(boxes) - shared
        fit = np.flatnonzero((inside & (shared >= threshold * union)).any(axis=1))
        if len(fit):
            return _rect(windows[fit[0], 0]), inside[fit[0]]
    return canvas, np.ones(len(boxes), bool)


def coverage(windows: Floats, boxes: Floats) -> Floats:
    """How much of each of the boxes [M, 4] lies in each of the windows [T, 4], 0..1 -> [T, M]."""
    return _shared(windows, boxes) / np.maximum(_areas(boxes), 1e-12)


def place(window: Rect, picture: Size, size: Size) -> Placement:
    """Where a window of a picture lands in a result of `size`; the window must touch the picture."""
    source, target = [], []
    for axis, (have, want) in enumerate(((picture[1], size[1]), (picture[0], size[0]))):
        low, high = window[axis], window[axis + 2]
        start, stop = max(low, 0), min(high, have)
        scale = want / (high - low)
        first = min(round((start - low) * scale), want - 1)
        last = max(round((stop - low) * scale), first + 1)
        source.append((start, stop))
        target.append((first, last))
    (left, right), (top, bottom) = source
    (to_left, to_right), (to_top, to_bottom) = target
    return Placement((left, top, right, bottom), (to_left, to_top, to_right, to_bottom))


def draw_into(canvas: Image, image: Image, placement: Placement, *, area: bool) -> None:
    """Write the part of `image` into `canvas`."""
    (left, top, right, bottom), (x1, y1, x2, y2) = placement
    canvas[y1:y2, x1:x2] = resize_image(image[top:bottom, left:right], (y2 - y1, x2 - x1), area=area)


def move_boxes(boxes: Floats, placement: Placement) -> Floats:
    """Boxes [M, 4] of the picture in the result, cut to where the picture is shown."""
    source, target = (np.array(rect, np.float64) for rect in placement)
    ratio = (target[2:] - target[:2]) / (source[2:] - source[:2])
    moved = (boxes.reshape(-1, 2, 2) - source[:2]) * ratio + target[:2]
    return np.clip(moved, target[:2], target[2:]).reshape(-1, 4)


def _windows(
    rng: np.random.Generator, picture: Size, canvas: Rect, scale: tuple[float, float]
) -> NDArray[np.float64]:
    """Up to `TRIALS` windows in the canvas that show some of the picture, each a row.

    As in TensorFlow's `sample_distorted_bounding_box`: the aspect ratio is drawn first, then the height among
    those that fit, then the place.
    """
    left, top, right, bottom = canvas
    width, height = room = np.array([right - left, bottom - top])
    aspect = rng.uniform(*ASPECT, TRIALS)
    lowest, highest = (np.sqrt(share * width * height / aspect) for share in scale)
    highest = np.minimum(highest, np.minimum(height, width / aspect))
    heights = lowest + (highest - lowest) * rng.random(TRIALS)
    sides = np.clip(np.rint(np.stack([heights * aspect, heights], axis=1)), 1, room)
    corners = np.floor(rng.random((TRIALS, 2)) * (room - sides + 1)) + np.array([left, top])
    shows = (corners < np.array(picture[::-1])).all(axis=1) & (corners + sides > 0).all(axis=1)
    return np.concatenate([corners, corners + sides], axis=1)[shows & (lowest <= highest)]


def _shared(windows: Floats, boxes: Floats) -> Floats:
    top_left = np.maximum(windows[:, None, :2], boxes[None, :, :2])
    bottom_right = np.minimum(windows[:, None, 2:], boxes[None, :, 2:])
    return np.clip(bottom_right - top_left, 0, None).prod(axis=2)


def _areas(boxes: Floats) -> Floats:
    return (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)


def _rect(window: Floats) -> Rect:
    left, top, right, bottom = (int(side) for side in window)
    return left, top, right, bottom
