"""How other programs' files differ from COCO's own: numbers as text or decimals, missing boxes."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import UserError

_SLACK = 1  # pixels; annotations are rounded


_NUMBERS = ("area", "iscrowd", "ignore")


_TABLES = (("images", "image_id"), ("categories", "category_id"))


def normalize(content: Any) -> list[str]:
    """Change the JSON `content` in place to what COCO's own files contain, where it is clear what is meant.

    Returns: lines about what had to be decided.
    """
    if not isinstance(content, dict):
        return []
    annotations = _entries(content, "annotations")
    for entry in annotations:
        if entry.get("bbox") == []:
            entry["bbox"] = None
        elif isinstance(entry.get("bbox"), list):
            entry["bbox"] = [_as_number(value) for value in entry["bbox"]]
    for entries, keys in ((annotations, _NUMBERS), (_entries(content, "images"), ("width", "height"))):
        for entry in entries:
            entry |= {key: _as_number(entry[key]) for key in keys if key in entry}
    notes = []
    for table, key in _TABLES:
        owners = _entries(content, table)
        for entries, name in ((owners, "id"), (annotations, key)):
            for entry in entries:
                if name in entry:
                    entry[name] = _whole(entry[name])
        ids = [entry.get("id") for entry in owners]
        texts = any(isinstance(id_, str) and id_ for id_ in ids)
        if texts and all(type(id_) in (int, str) for id_ in ids) and len(set(ids)) == len(ids):
            _number(table, key, owners, annotations)
            notes.append(
                f"the ids of {table} are strings: they are numbered 1..{len(ids)}, as in detections.json"
            )
    return notes


def box_around(polygons: Any, where: str) -> tuple[float, float, float, float]:
    """x, y, width, height around polygons [[x1, y1, x2, y2, ...], ...]."""
    if isinstance(polygons, dict):
        raise UserError(
            f"{where}.bbox: is missing, and the segmentation is run-length encoded; add bbox, for example "
            "with pycocotools.mask.toBbox"
        )
    points: list[Any] = []
    for polygon in polygons if isinstance(polygons, list) else ():
        points += polygon if isinstance(polygon, list) and len(polygon) % 2 == 0 else [None]
    if not points or not all(type(value) in (int, float) and not abs(value) > 1e300 for value in points):
        raise UserError(f"{where}.bbox: is missing, and there are no polygons to compute it from; add bbox")
    left, top, right, bottom = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
    return left, top, right - left, bottom - top


def is_around_tilted(box: Sequence[float], polygons: Any) -> bool:
    """Whether a box [x, y, width, height] exactly encloses polygons, one of which has a tilted side. Such a
    box already is around the rotated object, even if the annotation also states a rotation."""
    try:
        around = box_around(polygons, "")
        shapes = [[(x, y) for x, y in zip(part[::2], part[1::2], strict=True)] for part in polygons]
    except UserError:
        return False
    sides = [(a, b) for shape in shapes for a, b in zip(shape, [*shape[1:], shape[0]], strict=True)]
    tilted = any(min(abs(a[0] - b[0]), abs(a[1] - b[1])) > _SLACK for a, b in sides)
    return tilted and all(abs(a - b) <= _SLACK for a, b in zip(around, box, strict=True))


def _entries(content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _whole(value: Any) -> Any:
    """The whole number that a decimal or a text states, else `value`."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 17:
        return int(value)
    return value


def _as_number(value: Any) -> Any:
    """The number that a text states, else `value`."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _number(table: str, key: str, owners: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
    """Number the ids of a table: images in the order of the file, categories in that of their names, so that
    files with the same categories agree."""
    order = owners if table == "images" else sorted(owners, key=lambda entry: str(entry.get("name")))
    numbers = {entry["id"]: number for number, entry in enumerate(order, start=1)}
    for entry in owners:
        entry["id"] = numbers[entry["id"]]
    for entry in annotations:
        if isinstance(entry.get(key), str | int):
            entry[key] = numbers.get(entry[key], -1)  # -1: unknown
