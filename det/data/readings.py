"""Notices boxes in another convention than the format's: corners, not sides, fractions, not pixels."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]


_SUSPICIOUS_SHARE = 0.25  # of boxes that do not fit their image; in a right file, hardly any


_FITTING_SHARE = 0.99


_OUTSIDE_SHARE, _FEWEST_OUTSIDE = 0.1, 3  # boxes entirely to the right of their image, or below it


_SLACK = 1.0  # pixels; annotations are rounded


_SWAPPED = [1, 0, 3, 2]


_FEWEST_PERCENTAGES = 10  # fewer boxes may all be near the corner


class Reading(NamedTuple):
    """Another way to read a format's four numbers: what they would be, what to do then, and the boxes (xyxy)
    that result, from those of the format's own reading."""

    what: str
    remedy: str
    convert: Callable[[Boxes], Boxes]


def _sides(boxes: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _from_corner(boxes: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _around_center(boxes: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


def _center(boxes: Boxes) -> Boxes:
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


_Y_FIRST = Reading("y1, x1, y2, x2", "exchange x and y", lambda boxes: boxes[:, _SWAPPED])


def _of_corners(last_two: str) -> list[Reading]:
    return [
        Reading("x, y, width, height", f"write x + width and y + height into {last_two}", _from_corner),
        Reading(
            "center x, center y, width, height",
            "write center minus and plus half of the width and height",
            _around_center,
        ),
        _Y_FIRST,
    ]


READINGS: Mapping[str, tuple[str, Sequence[Reading]]] = {
    "coco": (
        "x, y, width, height",
        [
            Reading("x1, y1, x2, y2", "write x2 - x1 and y2 - y1 as the last two numbers of bbox", _sides),
            Reading(
                "center x, center y, width, height",
                "subtract half of the width and height from the first two numbers of bbox",
                lambda boxes: _around_center(_sides(boxes)),
            ),
            Reading(
                "y1, x1, y2, x2",
                "write x1, y1, x2 - x1, y2 - y1",
                lambda boxes: _sides(boxes)[:, _SWAPPED],
            ),
        ],
    ),
    "voc": ("xmin, ymin, xmax, ymax", _of_corners("xmax and ymax")),
    "cvat": ("xtl, ytl, xbr, ybr", _of_corners("xbr and ybr")),
    "labelme": ("points of x, y", [_Y_FIRST._replace(what="points of y, x")]),
    "yolo": (
        "center x, center y, width, height",
        [
            Reading("x1, y1, x2, y2", "convert the rows to centers and sides", _center),
            Reading(
                "left, top, width, height",
                "add half of the width and height to left and top",
                lambda boxes: _from_corner(_center(boxes)),
            ),
        ],
    ),
}
"""Format -> what its numbers are, and what else they may be."""


def doubts(boxes: Boxes, sizes: NDArray[np.integer], format_name: str) -> list[str]:
    """A line if many boxes do not fit their images, but all do when they are read in another way, or if many
    are entirely outside.

    Args:
        boxes: [B, 4], xyxy in pixels, as the format says.
        sizes: [B, 2], (height, width) of the image of each; 0 if unknown.
        format_name: a key of `READINGS`; for others there is no other reading.
    """
    usable = np.isfinite(boxes).all(axis=1) & (sizes > 0).all(axis=1)
    boxes, sizes = boxes[usable], sizes[usable]
    if not len(boxes):
        return []
    own, others = READINGS.get(format_name, ("", ()))
    if format_name != "yolo" and ((boxes >= 0) & (boxes <= 2)).all() and (sizes > 4).all():
        return [
            f"all boxes ({len(boxes)}) lie within two pixels of the corner: they may be fractions; if "
            "that is so, multiply them by the width and height of their image"
        ]
    spread = len(boxes) >= _FEWEST_PERCENTAGES and (boxes.max(axis=0)[2:] > 50).all()
    if format_name != "yolo" and spread and ((boxes >= 0) & (boxes <= 100)).all() and (sizes > 200).all():
        return [
            f"all boxes ({len(boxes)}) lie within 100 pixels of the corner: they may be percentages; if "
            "that is so, divide them by 100 and multiply them by the width and height of their image"
        ]
    wrong = int((~_fits(boxes, sizes)).sum())
    if wrong >= _SUSPICIOUS_SHARE * len(boxes):
        for other in others:
            if _fits(other.convert(boxes), sizes).mean() >= _FITTING_SHARE:
                return [
                    f"{wrong} of {len(boxes)} boxes do not fit their images as {own}, but all fit as "
                    f"{other.what}; if that is what they are, {other.remedy}"
                ]
    outside = int((boxes[:, :2] >= sizes[:, ::-1]).any(axis=1).sum())
    if outside < max(_FEWEST_OUTSIDE, _OUTSIDE_SHARE * len(boxes)):
        return []
    return [
        f"{outside} of {len(boxes)} boxes are entirely outside their images: they may be for larger copies "
        "of the images; if that is so, scale the boxes to these images"
    ]


def _fits(boxes: Boxes, sizes: NDArray[np.integer]) -> NDArray[np.bool_]:
    ordered = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    inside = (boxes >= -_SLACK).all(axis=1) & (boxes[:, 2:] <= sizes[:, ::-1] + _SLACK).all(axis=1)
    return np.asarray(ordered & inside)
