"""Draws boxes with class names and scores on an image."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from det.boxes import Detections
from engine import fonts
from engine.contracts import Image
from engine.data.class_map import ClassMap

_Plate = tuple[int, int, int, int]
"""The colored background of a name, (x1, y1, x2, y2) in pixels."""

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)

_MOST_HIDDEN = (0.25, 0.5)  # share of a box that a name may hide: preferred, and at most

_DARK, _PALE = 30, 190  # brightness, in 0..255

_SUBPIXEL_BITS = 4  # OpenCV draws to 1/16 pixel


def overlay(
    image: Image,
    detections: Detections,
    classes: ClassMap,
    *,
    threshold: float = 0.0,
    names: bool = True,
    scores: bool = True,
) -> Image:
    """A copy of `image` [H, W, 3] with the boxes that score at least `threshold`, the highest score on top.

    Lines and text scale with the image.

    Args:
        names: write the class on each box, unless it would hide another name or a large part of a box.
        scores: write the score after the name.

    Raises:
        ValueError: if a label is out of range.
    """
    drawn = np.array(image, order="C")
    draw_boxes(drawn, detections, classes, threshold=threshold, names=names, scores=scores)
    return drawn


def draw_boxes(
    image: Image,
    detections: Detections,
    classes: ClassMap,
    *,
    threshold: float = 0.0,
    names: bool = True,
    scores: bool = True,
) -> None:
    """`overlay` on the image itself."""
    labels = np.asarray(detections.labels)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(f"labels must be in 0..{len(classes) - 1}, got {labels.min()}..{labels.max()}")
    values, boxes = np.asarray(detections.scores), np.asarray(detections.boxes, np.float64)
    shown = [row for row in np.argsort(values, kind="stable") if values[row] >= threshold]
    width = _line_width(image)
    for row in shown:
        _draw_box(image, boxes[row], classes.colors[labels[row]], width)
    if not names or not shown:
        return
    texts = fonts.shown_names(classes)
    font = fonts.load(_letter_size(image), texts)
    occupied: list[_Plate] = []
    for row in reversed(shown):  # names of higher scores are placed first
        text = texts[labels[row]] + (f" {values[row]:.2f}" if scores else "")
        plate = _place_plate(font, text, boxes[row], image.shape[:2], width, occupied, boxes[shown])
        if plate is not None:
            occupied.append(plate)
            _draw_name(image, font, text, plate, classes.colors[labels[row]], width)


def _line_width(image: Image) -> int:
    return max(1, round(int(min(image.shape[:2])) / 240))


def _letter_size(image: Image) -> int:
    return max(11, int(min(image.shape[:2])) // 30)


def _padding(line_width: int) -> int:
    return max(1, line_width)


def _draw_box(image: Image, box: NDArray[np.float64], color: tuple[int, int, int], width: int) -> None:
    # Clipped, so the sides of a box that extends beyond the image are visible.
    limits = np.array(image.shape[1::-1] * 2) - 1
    x1, y1, x2, y2 = (round(side * 2**_SUBPIXEL_BITS) for side in np.clip(box, 0, limits))
    if (
        not _DARK < _brightness(color) < _PALE
    ):  # an outline keeps pale colors visible on white, and dark ones on black
        cv2.rectangle(image, (x1, y1), (x2, y2), _ink(color), width + 2, cv2.LINE_AA, _SUBPIXEL_BITS)
    cv2.rectangle(image, (x1, y1), (x2, y2), color, width, cv2.LINE_AA, _SUBPIXEL_BITS)


def _ink(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever is visible on a color."""
    return _BLACK if _brightness(color) > 140 else _WHITE


def _brightness(color: tuple[int, int, int]) -> float:
    return float(np.dot(color, (0.299, 0.587, 0.114)))


def _place_plate(
    font: ImageFont.FreeTypeFont,
    text: str,
    box: NDArray[np.float64],
    size: tuple[int, int],
    line_width: int,
    occupied: list[_Plate],
    boxes: NDArray[np.float64],
) -> _Plate | None:
    """The first free place for a plate around the box or, if it is large, inside it; None if there is none.

    A place is free if it covers no other plate and at most a small part of any of the `boxes`.
    """
    pad = _padding(line_width)
    width, height = int(font.getlength(text)) + 2 * pad + 1, round(font.size * 1.2) + pad
    rim = line_width / 2 + 1
    x1, y1, x2, y2 = box
    above, below = y1 - rim - height, y2 + rim
    places = [
        *((x1 - rim, above), (x2 + rim - width, above), (x1 - rim, below), (x2 + rim - width, below)),
        *((x2 + rim, y1), (x1 - rim - width, y1), (x1 + rim, y1 + rim), (x1 + rim, y2 - rim - height)),
        *((x1 - rim, above - height), (x1 - rim, below + height)),
    ]
    plates = []
    for left, top in places:
        if 0 <= top <= size[0] - height and -rim <= left:
            start = int(np.clip(left, 0, max(0, size[1] - width)))
            plates.append((start, int(top), start + width, int(top) + height))
    free = [plate for plate in plates if not any(_overlap(plate, other) for other in occupied)]
    hidden = [_hidden_share(plate, boxes) for plate in free]
    for limit in _MOST_HIDDEN:
        for plate, share in zip(free, hidden, strict=True):
            if share <= limit:
                return plate
    return None


def _hidden_share(plate: _Plate, boxes: NDArray[np.float64]) -> float:
    """The largest share of a box that a plate hides."""
    sides = np.minimum(boxes[:, 2:], plate[2:]) - np.maximum(boxes[:, :2], plate[:2])
    hidden = np.clip(sides, 0, None).prod(axis=1)
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 1, None).prod(axis=1)
    return float((hidden / areas).max())


def _draw_name(
    image: Image,
    font: ImageFont.FreeTypeFont,
    text: str,
    plate: _Plate,
    color: tuple[int, int, int],
    line_width: int,
) -> None:
    drawn = Pillow.new("RGB", (plate[2] - plate[0], plate[3] - plate[1]), color)
    place = (_padding(line_width), drawn.height / 2)
    ImageDraw.Draw(drawn).text(place, text, fill=_ink(color), font=font, anchor="lm")
    visible = image[plate[1] : plate[3], plate[0] : plate[2]]
    visible[:] = np.asarray(drawn)[: visible.shape[0], : visible.shape[1]]


def _overlap(a: _Plate, b: _Plate) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
