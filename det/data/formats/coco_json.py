"""Reads COCO's instance JSON into arrays, and checks every value.

msgspec decodes and checks types, and skips what is not used (polygons are two thirds of COCO's file).
"""

import json
import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from det.data.cleaning import around_rotated, says_ignored
from det.data.formats.coco_dialects import box_around, is_around_tilted, normalize
from engine.errors import UserError, raise_or_collect, some

_LARGEST_IMAGE_ID = 2**53  # COCO's result arrays store image ids as floats, which are exact up to here


_LARGEST_NUMBER = 1e300


_LARGEST_SIDE = 2**31 - 1


T = TypeVar("T")
_Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Image(msgspec.Struct, gc=False):
    id: _Id
    file_name: str
    height: float | None = None
    width: float | None = None


class _Category(msgspec.Struct, gc=False):
    id: _Id
    name: str


class _Annotation(msgspec.Struct, gc=False):
    image_id: _Id
    category_id: _Id
    bbox: tuple[float, float, float, float] | None = None
    area: float | None = None
    iscrowd: bool | float | None = None
    ignore: bool | float | None = None
    attributes: Any = None
    rotation: Any = None
    angle: Any = None
    theta: Any = None
    bbox_mode: Any = None


class _File(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation] | None = None


class _Outline(msgspec.Struct):
    segmentation: Any = None


class _Outlines(msgspec.Struct):
    annotations: list[_Outline]


_EXPECTED = {
    "images": "a list",
    "categories": "a list",
    "annotations": "a list",
    "id": "a whole number",
    "image_id": "a whole number",
    "category_id": "a whole number",
    "file_name": "text without control characters",
    "name": "text without control characters",
    "height": "a number of pixels",
    "width": "a number of pixels",
    "bbox": "four numbers x, y, width, height",
    "area": "a number",
    "iscrowd": "0 or 1",
    "ignore": "0 or 1",
    "rotation": "a number of degrees",
    "bbox_mode": "0 (corners, in pixels) or 1 (x, y, width, height)",
}
"""The expected value of each key, for messages."""


@dataclass(frozen=True, kw_only=True)
class CocoFile:
    """The content of a file, with its own ids and order.

    Attributes:
        image_ids, file_names, sizes: per image; a size is (height, width), or None if unknown.
        categories: id -> name.
        owners, category_ids: int64 [B]; an owner is an image id.
        boxes: float64 [B, 4], xyxy; around the box if it is rotated.
        rotated: bool [B], whether it is (CVAT's `attributes.rotation`, or `rotation` next to bbox).
        areas: float64 [B], NaN if missing.
        crowd: bool [B].
        ignored: bool [B], mmdetection's `ignore`, or CVAT's attributes `difficult` and `ignore`.
        annotated: whether the file has a list of annotations, even an empty one.
        notes: lines about what had to be decided while reading.
    """

    path: Path
    image_ids: list[int]
    file_names: list[str]
    sizes: list[tuple[int, int] | None]
    categories: dict[int, str]
    owners: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    rotated: NDArray[np.bool_]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    annotated: bool
    notes: list[str]


def read(path: str | Path) -> CocoFile:
    """Read and check a file. Raises: UserError naming the file and the key that is missing or wrong."""
    path = Path(path)
    data = _read_bytes(path)
    file, notes, left_out = _decode(path, data, _File)
    if not file.images:
        raise UserError(f"{path}: images: is empty; a split needs at least one")
    annotations = file.annotations or []
    angles = _angles(path, annotations)
    if any(entry.bbox is None for entry in annotations) or (angles % 180).any():
        outlines = _decode(path, data, _Outlines)[0].annotations
        outlines = [outline for row, outline in enumerate(outlines) if row not in left_out]
        for row, entry in enumerate(annotations):
            outline = outlines[row].segmentation
            if entry.bbox is None:
                entry.bbox = box_around(outline, f"{path}: annotations[{row}]")
                angles[row] = 0  # the outline is that of the turned box
            elif angles[row] and is_around_tilted(entry.bbox, outline):
                angles[row] = 0
    return CocoFile(
        path=path,
        **_images(path, file.images),
        categories=_categories(path, file.categories),
        **_annotations(path, annotations, angles),
        annotated=file.annotations is not None,
        notes=[*notes, *_notes_on_angles(annotations)],
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _decode(path: Path, data: bytes, kind: type[T]) -> tuple[T, list[str], set[int]]:
    """The content, the notes of `normalize`, and the annotations that were left out (`collected_errors`)."""
    try:
        return msgspec.json.decode(data, type=kind), [], set()
    except (msgspec.DecodeError, RecursionError):
        pass
    # Python's JSON also has NaN and Infinity, as exported for broken boxes, and a byte order mark.
    content = _parse(path, data)
    notes = normalize(content)
    try:
        return msgspec.convert(content, type=kind), notes, set()
    except msgspec.ValidationError as error:
        first = _explained(path, content, str(error))
    rows, rest = _invalid_annotations(content)
    if not rows or not _fits(rest, kind):
        raise first
    places = [f"annotations[{row}]" for row in rows]
    more = f"; {len(rows)} annotations have errors, including {some(places[1:])}" if rows[1:] else ""
    raise_or_collect(UserError(f"{first}{more}", files=[f"{path}: {place}" for place in places]))
    return msgspec.convert(rest, type=kind), notes, set(rows)


def _invalid_annotations(content: Any) -> tuple[list[int], Any]:
    """The annotations with a value of a wrong type, and the content without them."""
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        return [], content
    valid = [_fits(entry, _Annotation) for entry in entries]
    kept = [entry for entry, fits in zip(entries, valid, strict=True) if fits]
    return [row for row, fits in enumerate(valid) if not fits], {**content, "annotations": kept}


def _fits(value: Any, kind: type[Any]) -> bool:
    try:
        msgspec.convert(value, type=kind)
    except msgspec.ValidationError:
        return False
    return True


def _parse(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be COCO annotations") from None
    except ValueError as error:  # json.JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise UserError(f"{path}: not valid JSON ({error}); export or download it again") from None


def _explained(path: Path, content: Any, reason: str) -> UserError:
    """msgspec's "Expected `int`, got `str` - at `$.annotations[17].image_id`" as a UserError that shows the
    value."""
    if not isinstance(content, dict):
        return UserError(
            f"{path}: contains {content!r:.40}, not COCO's lists of images, annotations, categories"
        )
    place = re.search(r"at `\$\.?(.*)`$", reason)
    where = place[1] if place else ""
    if missing := re.match(r"Object missing required field `(\w+)`", reason):
        where = f"{where}.{missing[1]}".lstrip(".")
    # For a box, show all four numbers: annotations[17].bbox instead of annotations[17].bbox[2].
    where = re.sub(r"(\.\w+)\[\d+\]$", r"\1", where)
    keys = re.findall(r"\w+", where)
    value = content
    for key in keys[:-1]:
        value = value[int(key) if key.isdigit() else key]
    shown = _shown(value, int(keys[-1]) if keys[-1].isdigit() else keys[-1])
    return _wrong(path, where, shown)


def _wrong(path: Path, where: str, shown: str) -> UserError:
    key = re.findall(r"\w+", where)[-1]
    return UserError(
        f"{path}: {where}: must be {_EXPECTED.get(key, 'an object with keys')}, got {shown}; export the "
        "annotations again, or correct the file"
    )


def _shown(parent: Any, key: int | str) -> str:
    return f"{parent[key]!r:.60}" if isinstance(key, int) or key in parent else "nothing"


def _images(path: Path, entries: list[_Image]) -> dict[str, Any]:
    ids: dict[int, str] = {}
    sizes: list[tuple[int, int] | None] = []
    for number, entry in enumerate(entries):
        where = f"images[{number}]"
        _check_text(path, f"{where}.file_name", entry.file_name)
        if abs(entry.id) > _LARGEST_IMAGE_ID:
            raise UserError(f"{path}: {where}.id: must be at most 2^53, got {entry.id}; renumber the images")
        if entry.id in ids:
            raise UserError(
                f"{path}: {where}.id: {entry.id} is also the id of {ids[entry.id]!r}; give each image its own"
            )
        ids[entry.id] = entry.file_name
        sizes.append(_size(path, where, entry))
    return {"image_ids": list(ids), "file_names": list(ids.values()), "sizes": sizes}


def _categories(path: Path, entries: list[_Category]) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, entry in enumerate(entries):
        where = f"categories[{number}]"
        _check_text(path, f"{where}.name", entry.name)
        if entry.id in names:
            raise UserError(
                f"{path}: {where}.id: {entry.id} is also {names[entry.id]!r}; give each category its own"
            )
        names[entry.id] = entry.name.strip()
    return names


def _annotations(path: Path, entries: list[_Annotation], angles: NDArray[np.float64]) -> dict[str, Any]:
    count = len(entries)
    boxes = np.fromiter(chain.from_iterable(entry.bbox or () for entry in entries), np.float64, 4 * count)
    boxes = boxes.reshape(-1, 4)
    with np.errstate(over="ignore"):  # a box with an infinite side is left out later
        # in the file: x, y, width, height, except with detectron2's bbox_mode 0
        boxes[:, 2:] += np.where(_are_corners(path, entries)[:, None], 0, boxes[:, :2])
    rotated = angles % 180 != 0
    boxes[rotated] = around_rotated(boxes[rotated], np.deg2rad(angles[rotated]))
    areas = np.array([entry.area for entry in entries], np.float64)  # None becomes NaN
    if len(too_large := np.flatnonzero(np.abs(areas) > _LARGEST_NUMBER)):
        raise _wrong(path, f"annotations[{too_large[0]}].area", f"{areas[too_large[0]]:g}")
    return {
        "owners": np.fromiter((entry.image_id for entry in entries), np.int64, count),
        "category_ids": np.fromiter((entry.category_id for entry in entries), np.int64, count),
        "boxes": boxes,
        "rotated": rotated,
        "areas": areas,
        "crowd": _flags(path, entries, "iscrowd"),
        "ignored": _flags(path, entries, "ignore") | np.fromiter(map(_is_ignored, entries), bool, count),
    }


def _flags(path: Path, entries: list[_Annotation], key: str) -> NDArray[np.bool_]:
    flags = np.zeros(len(entries), bool)
    for row, entry in enumerate(entries):
        if value := getattr(entry, key):
            if value != 1:
                raise _wrong(path, f"annotations[{row}].{key}", repr(value))
            flags[row] = True
    return flags


def _are_corners(path: Path, entries: list[_Annotation]) -> NDArray[np.bool_]:
    """[B]: whether the bbox of an annotation holds its corners."""
    for row, entry in enumerate(entries):
        if entry.bbox_mode not in (None, 0, 1):
            raise _wrong(path, f"annotations[{row}].bbox_mode", f"{entry.bbox_mode!r:.60}")
    return np.fromiter((entry.bbox_mode == 0 for entry in entries), bool, len(entries))


def _is_ignored(entry: _Annotation) -> bool:
    """Whether an attribute in CVAT or Label Studio says so."""
    return isinstance(entry.attributes, dict) and any(
        says_ignored(name, value) for name, value in entry.attributes.items()
    )


def _angles(path: Path, entries: list[_Annotation]) -> NDArray[np.float64]:
    """[B]: the rotation of each box in degrees."""
    angles = np.zeros(len(entries))
    for row, entry in enumerate(entries):
        attributes = entry.attributes if isinstance(entry.attributes, dict) else {}
        if angle := attributes.get("rotation") or entry.rotation:
            try:
                angles[row] = float(angle)
            except (TypeError, ValueError, OverflowError):
                angles[row] = np.nan
            if not np.isfinite(angles[row]):
                where = "attributes.rotation" if attributes.get("rotation") else "rotation"
                raise _wrong(path, f"annotations[{row}].{where}", f"{angle!r:.60}")
    return angles


def _notes_on_angles(entries: list[_Annotation]) -> list[str]:
    """A line about boxes with an angle under a key whose unit and meaning are not known."""
    attributes = (entry.attributes if isinstance(entry.attributes, dict) else {} for entry in entries)
    count = sum(
        bool(entry.angle or entry.theta or more.get("angle") or more.get("theta"))
        for entry, more in zip(entries, attributes, strict=True)
    )
    if not count:
        return []
    noun = "1 annotation" if count == 1 else f"{count} annotations"
    return [f"{noun} with an angle, which is not read; write it in degrees as `rotation` next to bbox"]


def _check_text(path: Path, where: str, text: str) -> None:
    # isprintable: no control characters, no lone surrogates
    if not text.strip() or not text.isprintable():
        raise _wrong(path, where, f"{text!r:.60}")


def _size(path: Path, where: str, entry: _Image) -> tuple[int, int] | None:
    """(height, width); None if either is missing, null, 0 or, as the VGG Image Annotator writes, -1."""
    if not entry.height or not entry.width or -1 in (entry.height, entry.width):
        return None
    for key, side in (("height", entry.height), ("width", entry.width)):
        if not (0 < side <= _LARGEST_SIDE and side == int(side)):
            raise _wrong(path, f"{where}.{key}", f"{side:g}")
    return int(entry.height), int(entry.width)
