"""Reads COCO's JSON files, for masks."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from engine.data.coco_layout import image_paths, spelled_differently
from engine.data.images import image_size
from engine.data.images.messages import DamagedFileError
from engine.errors import UserError, counted, some


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """An image with its annotations as in the file; `iscrowd` is 1 also for those that mmdetection marks
    with `ignore`."""

    path: Path
    name: str
    height: int
    width: int
    annotations: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class CocoSplit:
    """A JSON file: its images in the order of their names, and category id -> name."""

    file: Path
    images: list[CocoImage]
    categories: dict[int, str]
    warnings: list[str]


def read_split(file: Path, folder: Path, *, skips: bool = False, upright: bool = True) -> CocoSplit:
    """Read a JSON file.

    Args:
        skips: accept images that do not exist; like unreadable ones, they are an error when they are read.
        upright: whether the annotations refer to the upright images (EXIF).

    Raises:
        UserError: if the file is not COCO's format, images are missing or listed twice, or their size
            differs.
    """
    content = _content(file)
    try:
        for table in ("images", "categories"):
            _check_ids(file, table, content[table])
        numbers = _category_numbers(content["categories"])
        categories = {numbers[_id(entry["id"])]: str(entry["name"]) for entry in content["categories"]}
        by_image: dict[str, list[dict[str, Any]]] = {_id(entry["id"]): [] for entry in content["images"]}
        left_out: Counter[str] = Counter()
        for entry in content["annotations"]:
            reason = _reason_to_leave_out(entry, by_image, numbers)
            if reason:
                left_out[reason] += 1
            else:
                ignored = [_flag(entry, key) for key in ("iscrowd", "ignore")]
                kept = {"iscrowd": int(any(ignored)), "category_id": numbers[_id(entry["category_id"])]}
                by_image[_id(entry["image_id"])].append({**entry, **kept})
        listed = [(str(entry["file_name"]), by_image[_id(entry["id"])], entry) for entry in content["images"]]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{file}: not COCO's format ({what}); export it again as COCO instances") from None
    warnings = [
        f"{file}: {counted(number, 'annotation')} left out: {why}" for why, number in left_out.items()
    ]
    unturned = sum(map(_is_unturned, chain.from_iterable(by_image.values())))
    if unturned:
        warnings.append(
            f"{file}: {counted(unturned, 'annotation')} with a rotation, but an upright rectangle as outline"
            ": drawn without the rotation; export rotated boxes as polygons"
        )
    if not listed:
        raise UserError(f"{file}: images: is empty; a split needs at least one")
    names = [name for name, _, _ in listed]
    paths = image_paths(file, folder, names, skips=skips)
    if other := spelled_differently(names, paths):
        warnings.append(
            f"{file}: images whose file name is spelled differently, used: {len(other)} ({some(other)})"
        )
    images = [
        _image(Path(path or folder / name), name, rows, entry, skips=skips, upright=upright)
        for path, (name, rows, entry) in sorted(zip(paths, listed, strict=True), key=lambda row: row[1][0])
    ]
    return CocoSplit(file=file, images=images, categories=categories, warnings=warnings)


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error}); export or download it again") from None
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= set(content):
        raise UserError(f"{file}: not COCO's format: it needs images, annotations and categories")
    for table in ("images", "annotations", "categories"):
        if not isinstance(content[table], list):
            raise UserError(f"{file}: {table}: must be a list, got {content[table]!r:.40}; export it again")
    return content


def _reason_to_leave_out(
    entry: Mapping[str, Any], images: Mapping[str, Any], numbers: Mapping[str, int]
) -> str:
    if _id(entry["image_id"]) not in images:
        return "of an unknown image"
    id_ = _id(entry["category_id"])
    if id_ not in numbers:
        if not _is_number(id_) and all(map(_is_number, numbers)):
            raise ValueError(f"category_id must be a whole number, got {entry['category_id']!r:.40}")
        return "of an unknown category"
    return "" if entry.get("segmentation") else "without a segmentation (a box alone has no outline)"


def _check_ids(file: Path, table: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Raises: UserError if two entries share an id: annotations would go to the wrong one."""
    owners: dict[str, int] = {}
    for position, entry in enumerate(entries):
        first = owners.setdefault(_id(entry["id"]), position)
        if first != position:
            name = entries[first].get("file_name" if table == "images" else "name")
            place = f"{file}: {table}[{position}].id"
            raise UserError(f"{place}: {entry['id']!r:.40} is also the id of {name!r}; give each its own id")


def _category_numbers(entries: list[dict[str, Any]]) -> dict[str, int]:
    """Category id -> number. If an id is not a whole number, they are numbered by name, as for boxes."""
    ids = [_id(entry["id"]) for entry in entries]
    if all(map(_is_number, ids)):
        return {id_: int(id_) for id_ in ids}
    ordered = sorted(entries, key=lambda entry: str(entry["name"]))
    return {_id(entry["id"]): number for number, entry in enumerate(ordered, start=1)}


def _is_number(id_: str) -> bool:
    return id_.removeprefix("-").isdecimal()


def _is_unturned(entry: Mapping[str, Any]) -> bool:
    """Whether an annotation states a rotation (CVAT's `attributes.rotation`, in degrees), and its outline is
    a single upright rectangle."""
    attributes, outline = entry.get("attributes"), entry["segmentation"]
    angle = attributes.get("rotation") if isinstance(attributes, dict) else None
    if not isinstance(angle, int | float) or not angle % 180 or not isinstance(outline, list):
        return False
    points = outline[0] if len(outline) == 1 else None
    return isinstance(points, list) and len(points) == 8 and all(len({*points[at::2]}) == 2 for at in (0, 1))


def _image(
    path: Path,
    name: str,
    rows: list[dict[str, Any]],
    entry: Mapping[str, Any],
    *,
    skips: bool,
    upright: bool,
) -> CocoImage:
    sides: tuple[Any, Any] = (entry.get("height"), entry.get("width"))
    stated = all(isinstance(side, int) and side > 0 for side in sides)
    try:
        height, width = image_size(path, upright=upright)
    except UserError as error:
        if not (skips or isinstance(error, DamagedFileError)):
            raise
        height, width = sides if stated else (1, 1)  # the image is refused or left out later
    if stated and sides != (height, width):
        other = "stored" if upright else "upright"
        turned = image_size(path, upright=not upright) == sides
        remedy = (
            f"; the annotations fit the {other} image (EXIF): set data.orientation={other}" if turned else ""
        )
        raise UserError(
            f"{path}: the image is {height} x {width}, but its JSON says {sides[0]} x {sides[1]} (height x "
            f"width){remedy}"
        )
    stem = str(Path(name.replace("\\", "/")).with_suffix(""))
    return CocoImage(path=path, name=stem, height=height, width=width, annotations=rows)


def _id(value: object) -> str:
    """An id of an image, which may be text or, in some exports, a number such as 7.0 or "007"."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 17:
        return str(int(value))
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _flag(entry: Mapping[str, Any], key: str) -> bool:
    """Whether a flag is set, which may be text. Raises: ValueError for other numbers than 0 and 1."""
    value = entry.get(key) or 0
    if float(value) not in (0, 1):
        raise ValueError(f"{key} must be 0 or 1, got {value!r:.40}")
    return float(value) == 1
