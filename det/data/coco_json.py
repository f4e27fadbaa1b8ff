"""COCO's JSON of instances as arrays, every value checked: a wrong file ends in one line."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from engine.errors import UserError

_NUMBERS = (int, float)


_LARGEST_ID = 2**63 - 1


_LARGEST_IMAGE_ID = 2**53  # COCO's results as arrays hold image ids as floats, which are exact up to here


_LARGEST_SIDE = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class CocoFile:
    """What a file says, in its own ids and order.

    image_ids, file_names, sizes ((height, width) or None): per image. categories: id -> name.
    ids (-1: none), owners (image id), categories_of (category id): int64 [B]; boxes: float64 [B, 4], xyxy;
    areas: float64 [B], NaN where not given; crowd: bool [B]. annotated: whether the file has a list of
    annotations at all.
    """

    path: Path
    image_ids: list[int]
    file_names: list[str]
    sizes: list[tuple[int, int] | None]
    categories: dict[int, str]
    ids: NDArray[np.int64]
    owners: NDArray[np.int64]
    categories_of: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    annotated: bool


def read(path: str | Path) -> CocoFile:
    """Raises: UserError naming the file and the key that is missing or of the wrong type."""
    path = Path(path)
    content = _load(path)
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: holds a {_kind(content)}, not COCO's lists of images, annotations, categories"
        )
    annotated = content.get("annotations") is not None
    entries = {key: _entries(path, content, key) for key in ("images", "categories")}
    annotations = _entries(path, content, "annotations") if annotated else []
    if not entries["images"]:
        raise UserError(f"{path}: images: is empty; a split needs at least one")
    categories = _categories(path, entries["categories"])
    content.clear()  # each list goes as soon as its arrays are there
    return CocoFile(
        path=path,
        **_images(path, entries["images"]),
        categories=categories,
        **_annotations(path, annotations),
        annotated=annotated,
    )


def _load(path: Path) -> Any:
    try:
        # utf-8-sig: some editors on Windows put a mark in front.
        with path.open(encoding="utf-8-sig") as file:
            return json.load(file, object_hook=_slim)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be COCO annotations") from None
    except ValueError as error:  # json.JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise UserError(f"{path}: not valid JSON ({error}); export or download it again") from None


def _slim(entry: dict[str, Any]) -> dict[str, Any]:
    # Outlines are two thirds of COCO's file and several times that in memory; boxes make them superfluous.
    if entry.get("bbox") is not None:
        entry.pop("segmentation", None)
    return entry


def _entries(path: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = content.get(key)
    if not isinstance(found, list):
        raise UserError(f"{path}: {key}: must be a list, got {_kind(found)}")
    for number, entry in enumerate(found):
        if type(entry) is not dict:
            raise UserError(f"{path}: {key}[{number}]: must be an object with keys, got {_kind(entry)}")
    return found


def _images(path: Path, entries: list[dict[str, Any]]) -> dict[str, Any]:
    ids: dict[int, str] = {}
    sizes: list[tuple[int, int] | None] = []
    for number, entry in enumerate(entries):
        where = f"{path}: images[{number}]"
        image_id, name = _id(entry, "id", where), _text(entry, "file_name", where)
        if abs(image_id) > _LARGEST_IMAGE_ID:
            raise UserError(f"{where}.id: must be at most 2^53, got {image_id}; number the images anew")
        if image_id in ids:
            raise UserError(
                f"{where}.id: {image_id} is also the id of {ids[image_id]!r}; each must be unique"
            )
        ids[image_id] = name
        sizes.append(_size(entry, where))
    return {"image_ids": list(ids), "file_names": list(ids.values()), "sizes": sizes}


def _categories(path: Path, entries: list[dict[str, Any]]) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, entry in enumerate(entries):
        where = f"{path}: categories[{number}]"
        number_of, name = _id(entry, "id", where), _text(entry, "name", where).strip()
        if number_of in names:
            raise UserError(f"{where}.id: {number_of} is also {names[number_of]!r}; each must be unique")
        names[number_of] = name
    return names


def _annotations(path: Path, entries: list[dict[str, Any]]) -> dict[str, Any]:
    count = len(entries)
    ids, owners, categories = (np.full(count, -1, np.int64) for _ in range(3))
    boxes, areas, crowd = np.empty((count, 4)), np.full(count, np.nan), np.zeros(count, bool)
    for number, entry in enumerate(entries):  # COCO's training split has 860,000: text is made where it fails
        box = entry.get("bbox")
        if not (type(box) is list and len(box) == 4 and all(type(side) in _NUMBERS for side in box)):
            box = _box_of(entry, f"{path}: annotations[{number}]")
        try:
            boxes[number] = box
            owners[number], categories[number] = entry["image_id"], entry["category_id"]
            ids[number] = entry.get("id", -1)
        except (KeyError, TypeError, ValueError, OverflowError):
            _explain(entry, f"{path}: annotations[{number}]")
        if type(entry["image_id"]) is not int or type(entry["category_id"]) is not int:
            _explain(entry, f"{path}: annotations[{number}]")
        if entry.get("iscrowd"):
            crowd[number] = _flag(entry, "iscrowd", f"{path}: annotations[{number}]")
        area = entry.get("area")
        if area is not None:
            areas[number] = _number(entry, "area", f"{path}: annotations[{number}]")
    with np.errstate(over="ignore"):  # an infinite side is left out later
        boxes[:, 2:] += boxes[:, :2]  # COCO's own form is x, y, width, height
    return {
        "ids": ids,
        "owners": owners,
        "categories_of": categories,
        "boxes": boxes,
        "areas": areas,
        "crowd": crowd,
    }


def _explain(entry: dict[str, Any], where: str) -> NoReturn:
    """Find the key of an annotation that is wrong. Raises: UserError."""
    for key in ("image_id", "category_id", "id"):
        if key != "id" or key in entry:
            _id(entry, key, where)
    raise UserError(f"{where}.bbox: a number is too large, got {entry.get('bbox')!r:.60}")


def _box_of(entry: dict[str, Any], where: str) -> list[float]:
    """x, y, width, height around the polygons of an annotation that has no box."""
    if entry.get("bbox") is not None:
        raise UserError(f"{where}.bbox: must be four numbers x, y, width, height, got {entry['bbox']!r:.60}")
    polygons = entry.get("segmentation")
    if isinstance(polygons, dict):
        raise UserError(
            f"{where}.bbox: is missing, and the segmentation is run-length encoded; add bbox, for instance "
            "by pycocotools.mask.toBbox"
        )
    points: list[Any] = []
    for polygon in polygons if isinstance(polygons, list) else ():
        points += polygon if isinstance(polygon, list) and len(polygon) % 2 == 0 else [None]
    if not points or not all(type(value) in _NUMBERS and not abs(value) > 1e300 for value in points):
        raise UserError(f"{where}.bbox: is missing, and no polygons under segmentation take its place")
    left, top, right, bottom = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
    return [left, top, right - left, bottom - top]


def _id(entry: dict[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if type(value) is not int or abs(value) > _LARGEST_ID:
        raise UserError(f"{where}.{key}: must be a whole number, got {_shown(entry, key)}")
    return value


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    # isprintable: no control characters, no lone surrogates
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise UserError(f"{where}.{key}: must be a text without control characters, got {_shown(entry, key)}")
    return value


def _number(entry: dict[str, Any], key: str, where: str) -> float:
    value = entry.get(key)
    if type(value) not in _NUMBERS or abs(value) > 1e300:  # type: ignore[arg-type]
        raise UserError(f"{where}.{key}: must be a number, got {_shown(entry, key)}")
    return float(value)  # type: ignore[arg-type]


def _flag(entry: dict[str, Any], key: str, where: str) -> bool:
    if entry[key] not in (0, 1):  # also true and false
        raise UserError(f"{where}.{key}: must be 0 or 1, got {_shown(entry, key)}")
    return bool(entry[key])


def _size(entry: dict[str, Any], where: str) -> tuple[int, int] | None:
    """(height, width); None where either is missing, null or 0."""
    sides = []
    for key in ("height", "width"):
        value = entry.get(key)
        if value is None or value == 0:
            return None
        number = _number(entry, key, where)
        if not (0 < number <= _LARGEST_SIDE and number == int(number)):
            raise UserError(f"{where}.{key}: must be a number of pixels, got {_shown(entry, key)}")
        sides.append(int(number))
    return sides[0], sides[1]


def _shown(entry: dict[str, Any], key: str) -> str:
    return f"{entry[key]!r:.60}" if key in entry else "nothing"


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
