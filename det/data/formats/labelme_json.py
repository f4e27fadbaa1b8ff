"""Reads a LabelMe file: the shapes drawn on one image, as boxes, and checks every value."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from det.data.cleaning import ROTATED, says_ignored
from det.data.formats.voc_xml import VocFile, VocObject
from engine.errors import UserError

T = TypeVar("T")

ROTATED_SHAPES = ("rotation", "oriented_rectangle")


_ANGLES = ("direction", "rotation", "angle")


FEWEST_POINTS = {"rectangle": 2, "polygon": 3, "circle": 2, "mask": 2, **dict.fromkeys(ROTATED_SHAPES, 4)}
"""The shapes that have an area, and how many points each needs."""


IGNORED = "__ignore__"
"""LabelMe's label for shapes to be ignored."""


class _Shape(msgspec.Struct):
    label: Any = None
    points: Any = None
    shape_type: Any = None
    group_id: Any = None
    flags: Any = None
    difficult: Any = None
    direction: Any = None
    rotation: Any = None
    angle: Any = None


class _File(msgspec.Struct):  # imageData, which may be megabytes, is skipped
    shapes: list[_Shape]
    imageHeight: Any = None
    imageWidth: Any = None


def read(path: str | Path) -> VocFile:
    """Read and check a file. Each shape becomes its bounding box; shapes with the same label and group id
    share one.

    Raises: UserError naming the file and the faulty shape.
    """
    path = Path(path)
    file = decode(path, _File)
    objects: list[VocObject] = []
    findings: list[tuple[str, str]] = []
    groups: dict[tuple[str, int], int] = {}
    for number, shape in enumerate(file.shapes, start=1):
        where = f"{path}: shape {number}"
        if shape.label == IGNORED:
            findings.append(("shape", f"labeled {IGNORED}: left out"))
            continue
        kind = shape.shape_type or "polygon"
        if not isinstance(kind, str) or kind not in FEWEST_POINTS:
            findings.append(("shape", f"without an area ({kind!s:.20}): left out"))
            continue
        if kind in ROTATED_SHAPES:
            findings.append(("box", ROTATED))
        item = _object(shape, kind, where)
        if kind == "rectangle" and len(shape.points) == 2:
            turned = (key for key in _ANGLES if getattr(shape, key))
            findings += [("rectangle", f"of two points with {key}: the angle is ignored") for key in turned]
        key = (item.name, shape.group_id)
        if isinstance(shape.group_id, int) and key in groups:
            objects[groups[key]] = _joined(objects[groups[key]], item)
            findings.append(("shape", "in the same group as another: joined with it"))
        else:
            groups[key] = len(objects)
            objects.append(item)
    return VocFile(stated_size(file, str(path)), objects, findings)


def decode(path: Path, kind: type[T]) -> T:
    """The content of a file as a msgspec structure. Raises: UserError if it is not LabelMe's."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, ValueError):
        pass
    try:  # Python's JSON also has NaN and a byte order mark
        return msgspec.convert(json.loads(data), type=kind)
    except msgspec.ValidationError:
        raise UserError(f"{path}: has no list of shapes, so it is not a LabelMe file; remove it") from None
    except (RecursionError, ValueError) as error:  # json.JSONDecodeError and UnicodeDecodeError
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path}: not valid JSON ({reason!s:.100}); save the annotations again") from None


def _object(shape: _Shape, kind: str, where: str) -> VocObject:
    name = shape.label if isinstance(shape.label, str) else ""
    if not name.strip() or not name.isprintable():
        raise UserError(f"{where}: has no label; add the name of its class")
    points = read_points(shape.points, where)
    if len(points) < FEWEST_POINTS[kind]:
        raise UserError(
            f"{where} ({name!r:.40}): a {kind} needs {FEWEST_POINTS[kind]} points, got {len(points)}; draw "
            "it again"
        )
    if kind == "circle":
        (x, y), edge = points[0], points[1]
        radius = math.dist((x, y), edge)
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    return VocObject(name.strip(), _around(points), is_ignored(shape.difficult, shape.flags))


def is_ignored(difficult: Any, flags: Any) -> bool:
    """Whether a shape is marked difficult, or one of its flags says so."""
    pairs = [("difficult", difficult), *(flags.items() if isinstance(flags, dict) else ())]
    return any(says_ignored(name, value) for name, value in pairs)


def read_points(value: Any, where: str) -> list[tuple[float, float]]:
    """The points of a shape, NaN if not finite. Raises: UserError, starting with `where`."""
    points: list[Any] = value if isinstance(value, list) else [None]
    for point in points:
        numbers = isinstance(point, list) and len(point) == 2 and all(type(n) in (int, float) for n in point)
        if not numbers:
            raise UserError(f"{where}: points must be a list of [x, y] in pixels, got {point!r:.60}")
    return [(_finite(x), _finite(y)) for x, y in points]


def _finite(number: float) -> float:
    return number if abs(number) < 1e300 else math.nan


def _around(points: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    """The box around points; NaN if one of them is not finite."""
    if any(math.isnan(number) for point in points for number in point):
        return (math.nan,) * 4
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _joined(first: VocObject, second: VocObject) -> VocObject:
    corners = [box[start : start + 2] for box in (first.box, second.box) for start in (0, 2)]
    return first._replace(box=_around(corners), difficult=first.difficult and second.difficult)  # type: ignore[arg-type]


def stated_size(file: Any, where: str) -> tuple[int, int] | None:
    """(height, width) of the image as the file states them, None if it does not. Raises: UserError."""
    height, width = file.imageHeight, file.imageWidth
    if not height or not width:
        return None
    if not all(
        type(side) in (int, float) and 0 < side < 2**31 and side == int(side) for side in (height, width)
    ):
        raise UserError(
            f"{where}: imageHeight and imageWidth must be whole numbers of pixels, got {height!r:.20} and "
            f"{width!r:.20}; correct them"
        )
    return int(height), int(width)
