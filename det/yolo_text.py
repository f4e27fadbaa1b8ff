"""YOLO's label files: a row per object, as fractions of the picture."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import UserError

_FURTHEST = 2.0
"""A fraction beyond this, or below -1, is no rounding at the border: the numbers are pixels."""


def read(path: str | Path, num_classes: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Classes [M], and boxes [M, 4] xyxy as fractions of width and height.

    A row is `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`, a polygon, of which the box around it is
    taken.

    Raises: UserError naming the file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file; export the labels again") from None
    labels, boxes = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if values := line.split():
            label, box = _row(values, num_classes, f"{path}: line {number}")
            labels.append(label)
            boxes.append(box)
    return np.array(labels, np.int64), np.array(boxes, np.float64).reshape(-1, 4)


def _row(values: list[str], num_classes: int, where: str) -> tuple[int, list[float]]:
    try:
        label, *numbers = map(float, values)
    except ValueError:
        raise UserError(f"{where}: must be numbers, got {' '.join(values)!r:.60}") from None
    if not (0 <= label < num_classes and label == int(label)):
        raise UserError(
            f"{where}: class {values[0]:.20} is not one of 0..{num_classes - 1}; correct it, or add its name "
            "to data.yaml"
        )
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise UserError(
            f"{where}: must be class cx cy w h, or a class and a polygon's points, got {len(values)} values"
        )
    if any(number > _FURTHEST or number < -1 for number in numbers):
        raise UserError(
            f"{where}: must be fractions of the picture in 0..1, got {' '.join(values[1:5])!r:.60}; divide "
            "by its width and height"
        )
    if len(numbers) == 4:
        x, y, width, height = numbers
        return int(label), [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    xs, ys = numbers[::2], numbers[1::2]
    return int(label), [min(xs), min(ys), max(xs), max(ys)]
