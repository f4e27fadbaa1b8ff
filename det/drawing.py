"""Draws boxes with class names and scores on an image."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from det.boxes import Detections
from engine.contracts import Image
from engine.data.class_map import ClassMap

_Plate = tuple[int, int, int, int]
"""The colored background of a name, (x1, y1, x2, y2) in pixels."""

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)

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
        names: write the class on each box, unless it would cover the name of a box with a higher score.
        scores: write the score after the name.

    Raises:
        ValueError: if a label is out of range.
    """
    labels = np.asarray(detections.labels)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(f"labels must be in 0..{len(classes) - 1}, got {labels.min()}..{labels.max()}")
    values, boxes = np.asarray(detections.scores), np.asarray(detections.boxes, np.float64)
    shown = [row for row in np.argsort(values, kind="stable") if values[row] >= threshold]
    drawn = np.ascontiguousarray(image).copy()
    width = _line_width(image)
    for row in shown:
        _draw_box(drawn, boxes[row], classes.colors[labels[row]], width)
    if not names or not shown:
        return drawn
    canvas = Pillow.fromarray(drawn)
    pen = ImageDraw.Draw(canvas)
    font: Any = ImageFont.load_default(
        size=_letter_size(image)
    )  # with a size, it is a scalable FreeType font
    occupied: list[_Plate] = []
    for row in reversed(shown):  # names of higher scores are placed first
        text = classes.names[labels[row]] + (f" {values[row]:.2f}" if scores else "")
        plate = _place_plate(font, text, boxes[row], image.shape[:2], width, occupied)
        if plate is not None:
            occupied.append(plate)
            _draw_name(pen, font, text, plate, classes.colors[labels[row]], width)
    return np.asarray(canvas)


def _line_width(image: Image) -> int:
    return max(1, round(int(min(image.shape[:2])) / 240))


def _letter_size(image: Image) -> int:
    return int(np.clip(min(image.shape[:2]) / 30, 11, 40))


def _padding(line_width: int) -> int:
    return max(1, line_width)


def _draw_box(image: Image, box: NDArray[np.float64], color: tuple[int, int, int], width: int) -> None:
    # Clipped, so the sides of a box that extends beyond the image are visible.
    limits = np.array(image.shape[1::-1] * 2) - 1
    x1, y1, x2, y2 = (round(side * 2**_SUBPIXEL_BITS) for side in np.clip(box, 0, limits))
    cv2.rectangle(image, (x1, y1), (x2, y2), color, width, cv2.LINE_AA, _SUBPIXEL_BITS)


def _place_plate(
    font: ImageFont.FreeTypeFont,
    text: str,
    box: NDArray[np.float64],
    size: tuple[int, int],
    line_width: int,
    occupied: list[_Plate],
) -> _Plate | None:
    """The first free place above, in or below the box; None if each would cover another plate."""
    pad = _padding(line_width)
    plate_width, plate_height = int(font.getlength(text)) + 2 * pad + 1, round(font.size * 1.2) + pad
    left = int(np.clip(box[0] - line_width / 2, 0, max(0, size[1] - plate_width)))
    lowest = max(0, size[0] - plate_height)
    tops = (box[1] - plate_height, box[1], box[3] - plate_height, box[3], box[1] + plate_height)
    plates = [
        (left, int(top), left + plate_width, int(top) + plate_height) for top in tops if 0 <= top <= lowest
    ]
    plates = plates or [(left, 0, left + plate_width, plate_height)]
    return next((plate for plate in plates if not any(_overlap(plate, other) for other in occupied)), None)


def _draw_name(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    text: str,
    plate: _Plate,
    color: tuple[int, int, int],
    line_width: int,
) -> None:
    pen.rectangle((plate[0], plate[1], plate[2] - 1, plate[3] - 1), fill=color)
    ink = _BLACK if np.dot(color, (0.299, 0.587, 0.114)) > 140 else _WHITE
    middle = (plate[1] + plate[3]) / 2
    pen.text((plate[0] + _padding(line_width), middle), text, fill=ink, font=font, anchor="lm")


def _overlap(a: _Plate, b: _Plate) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
