"""Reads COCO's JSON files and finds their image folders, for masks."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.data.images import image_size
from engine.data.splits import SPLIT_NAMES
from engine.errors import UserError, some

_LAYOUT = (
    "expected train2017/ and annotations/instances_train2017.json below data.root (and the same for val), "
    "train/_annotations.coco.json, or data.train.images=<folder> data.train.annotations=<file>"
)


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """An image with its annotations: (category, segmentation, area, whether it is a crowd)."""

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


def find_pairs(
    base: Path | None, given: Mapping[str, Mapping[str, str | None]]
) -> dict[str, tuple[Path, Path]]:
    """Split -> (folder of images, JSON file); the split "" has to be divided.

    Raises: UserError if there are none, or one of a pair is missing.
    """
    pairs = {}
    for split, paths in given.items():
        images, file = (paths.get(key) for key in ("images", "annotations"))
        if images and file:
            pairs[split] = (Path(images).expanduser(), Path(file).expanduser())
        elif images or file:
            missing = "annotations=<file>" if images else "images=<folder>"
            raise UserError(
                f"data.{split}: needs both images and annotations; set data.{split}.{missing} too"
            )
        elif base is not None and (found := _usual_pair(base, split)) is not None:
            pairs[split] = found
    if not pairs and base is not None:
        files = [*base.glob("*.json"), *base.glob("annotations/*.json")]
        if len(files) == 1:
            pairs = {"": (base, files[0])}
    if not pairs:
        raise UserError(f"{base or 'data'}: no COCO annotations; {_LAYOUT}")
    return pairs


def _usual_pair(base: Path, split: str) -> tuple[Path, Path] | None:
    for name in SPLIT_NAMES[split]:
        if (file := base / name / "_annotations.coco.json").is_file():
            return file.parent, file
        for file in sorted(base.glob(f"annotations/instances_{name}*.json"), reverse=True):
            tag = file.stem.removeprefix("instances_")
            folders = (base / tag, base / "images" / tag, base / name, base / "images" / name, base)
            return next(folder for folder in folders if folder.is_dir()), file
    return None


def read_split(file: Path, folder: Path, *, skips: bool = False, upright: bool = True) -> CocoSplit:
    """Read a JSON file.

    Args:
        skips: leave out images that do not exist; unreadable ones are an error when they are read.
        upright: whether the annotations are those of the images as EXIF turns them.

    Raises:
        UserError: if the file is not COCO's format, images are missing or listed twice, or their size
            differs.
    """
    content = _content(file)
    try:
        categories = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        by_image: dict[str, list[dict[str, Any]]] = {_id(entry["id"]): [] for entry in content["images"]}
        left_out: Counter[str] = Counter()
        for entry in content["annotations"]:
            reason = _reason_to_leave_out(entry, by_image, categories)
            if reason:
                left_out[reason] += 1
            else:
                by_image[_id(entry["image_id"])].append(entry)
        listed = [(str(entry["file_name"]), by_image[_id(entry["id"])], entry) for entry in content["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not COCO's format ({error!r}); export it again as COCO instances") from None
    warnings = [f"{file}: {number} annotations left out: {why}" for why, number in left_out.items()]
    paths = {name: path for name, _, _ in listed if (path := _find(folder, name)) is not None}
    missing = [name for name, _, _ in listed if name not in paths]
    if missing and (not skips or len(missing) == len(listed)):
        raise UserError(
            f"{folder / missing[0]}: no such file ({len(missing)} of {len(listed)} images of {file} are "
            "missing); check the image folder, remove them from the JSON, or set data.on_error=skip"
        )
    if missing:
        warnings.append(f"{file}: missing images left out: {len(missing)} ({some(missing)})")
    path, count = Counter(paths[name] for name, _, _ in listed if name in paths).most_common(1)[0]
    if count > 1:
        raise UserError(f"{file}: images: {path} is listed {count} times; merge the entries into one")
    images = [
        _image(paths[name], name, rows, entry, skips=skips, upright=upright)
        for name, rows, entry in sorted(listed, key=lambda row: row[0])
        if name in paths
    ]
    return CocoSplit(file=file, images=images, categories=categories, warnings=warnings)


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error})") from None
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= set(content):
        raise UserError(f"{file}: not COCO's format: it needs images, annotations and categories")
    return content


def _reason_to_leave_out(
    entry: Mapping[str, Any], images: Mapping[str, Any], categories: Mapping[int, str]
) -> str:
    if _id(entry["image_id"]) not in images:
        return "of an unknown image"
    if int(entry["category_id"]) not in categories:
        return "of an unknown category"
    return "" if entry.get("segmentation") else "without a segmentation (a box alone has no outline)"


def _find(folder: Path, name: str) -> Path | None:
    slashed = name.replace("\\", "/")
    names = (slashed, slashed.rpartition("/")[2])
    places = [folder / inner / each for each in names for inner in (".", "images", "images/default")]
    return next((place for place in places if place.is_file()), None)


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
    except UserError:
        if not skips:
            raise
        height, width = sides if stated else (1, 1)  # the image is left out when its pixels are read
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
    """An id of an image, which may be text or, in some exports, a number such as 7.0."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)
