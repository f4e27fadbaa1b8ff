"""COCO instances as masks: polygons and run-length codes, drawn once, into PNG files in the user's cache."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.data.class_map import IGNORE, ClassMap
from engine.data.coco_layout import Given, find_layout, unlisted
from engine.data.images import Orientation, write_png
from engine.data.splits import check_leaks, without_repeated
from engine.errors import UserError, counted, some
from engine.io.files import locked, pack_paths, user_cache
from engine.io.progress import Progress
from seg.data.coco_files import CocoImage, CocoSplit, read_split
from seg.data.dataset import LabelReader, SegmentationSource, SegmentationSplit
from seg.data.mask_checks import divide_split, label_shares

_VERSION = 2  # of the drawing code; masks of another version are not reused


_OWN_SPLITS = "set images and annotations for data.train and data.val"


def coco(
    *,
    root: str | None = None,
    train: Given = None,
    val: Given = None,
    test: Given = None,
    allow_same_files: bool = False,
    orientation: Orientation = "upright",
    on_error: str = "fail",
) -> SegmentationSource:
    """Classes are `background` and the categories, in the order of their ids.

    Where objects overlap, the smaller one is on top. Pixels that only a crowd region covers are ignored. The
    masks are written to the user's cache and redrawn only if the JSON file changes. Without val, a fifth of
    train, or of the images of a single JSON file, is used as val.

    Args:
        root: folder to search for splits that are not set below, by `engine.data.coco_layout.find_layout`.
        train, val, test: {"images": folder, "annotations": JSON file}.
        allow_same_files: whether splits may share images.
        orientation: whether annotations refer to upright or to stored images, as in `data.orientation`.
        on_error: with `skip`, images that do not exist are left out.

    Raises:
        UserError: if a file is wrong, or two files disagree on the categories.
    """
    layout = find_layout(root, {"train": train, "val": val, "test": test})
    files = {
        split: read_split(file, folder, skips=on_error == "skip", upright=orientation != "stored")
        for split, (folder, file) in layout.pairs.items()
        if file is not None
    }
    classes, indices = _classes(list(files.values()))
    splits = {split: _with_masks(file, indices) for split, file in files.items()}
    name = next(iter(files.values())).file if root is None else Path(root).expanduser()
    warnings = [f"{name}: {line}" for line in layout.lines]
    warnings += [line for file in files.values() for line in file.warnings]
    listed = [image.path for file in files.values() for image in file.images]
    if left_out := unlisted({folder for folder, _ in layout.pairs.values()}, listed):
        count = counted(len(left_out), "image")
        names = some([os.path.basename(path) for path in left_out], 2)
        warnings.append(f"{name}: {count} that no annotation file lists: left out ({names})")
    if "train" in splits and "val" not in splits:
        what = "" if layout.whole else "train"
        parts, lines = divide_split(name, splits.pop("train"), what=what, remedy=_OWN_SPLITS)
        splits, warnings = {**parts, **splits}, [*warnings, *lines]
    if not allow_same_files:
        splits, lines = without_repeated(name, splits, lambda part: part.images.tolist())
        warnings += lines
        images = {split: part.images for split, part in splits.items()}
        lines = check_leaks(images, override="data.source.allow_same_files=true")
        warnings += [f"{name}: {line}" for line in lines]
    read_label = LabelReader(classes=classes, remedy="delete the folder of this mask; it is then redrawn")
    known = f"check the annotations{'; '.join(['', *warnings])}"
    warnings += label_shares(name, splits, read_label, classes, remedy=known)
    counts = ", ".join(f"{split} {len(part)}" for split, part in splits.items())
    return SegmentationSource(
        classes=classes,
        splits=splits,
        read_label=read_label,
        description=f"COCO masks at {name} ({counts}; {counted(len(classes), 'class')})",
        warnings=warnings,
    )


def _classes(files: list[CocoSplit]) -> tuple[ClassMap, dict[int, int]]:
    """The classes, and category id -> class index."""
    categories = files[0].categories
    for other in files[1:]:
        if other.categories != categories:
            raise UserError(
                f"{other.file}: other categories than {files[0].file}; export all splits with the same ones"
            )
    used = {int(row["category_id"]) for file in files for image in file.images for row in image.annotations}
    counts = Counter(categories.values())
    # Some exports (Roboflow) list a class a second time, as a parent category without objects.
    kept = {id_: categories[id_] for id_ in sorted(categories) if id_ in used or counts[categories[id_]] == 1}
    background = [id_ for id_, name in kept.items() if name.strip("_ ").lower() == "background"]
    names = ["background", *(name for id_, name in kept.items() if id_ not in background)]
    try:
        classes = ClassMap(names=tuple(names), ignore=(IGNORE,))
        classes.lut()
    except ValueError as error:
        raise UserError(f"{files[0].file}: categories: {error}") from None
    rest = (id_ for id_ in kept if id_ not in background)
    return classes, dict.fromkeys(background, 0) | {id_: at for at, id_ in enumerate(rest, start=1)}


def _with_masks(file: CocoSplit, indices: Mapping[int, int]) -> SegmentationSplit:
    """The split, with its masks drawn unless they are in the cache."""
    digest = hashlib.blake2b(file.file.read_bytes(), digest_size=8)
    sizes = [(image.name, image.height, image.width) for image in file.images]
    digest.update(json.dumps([_VERSION, sorted(indices.items()), sizes]).encode())
    folder = user_cache() / f"coco-masks-{digest.hexdigest()}"
    paths = [folder / f"{number}.png" for number in range(len(file.images))]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{folder}.lock"), waiting_for=f"another process that draws {folder}"):
            if not folder.is_dir():
                _draw_all(file, indices, folder)
    except OSError as error:
        raise UserError(
            f"{folder}: masks cannot be written ({error.strerror}); set XDG_CACHE_HOME to another folder"
        ) from None
    return SegmentationSplit(
        images=pack_paths([image.path for image in file.images]),
        names=pack_paths([image.name for image in file.images]),
        labels=pack_paths(paths),
    )


def _draw_all(file: CocoSplit, indices: Mapping[int, int], folder: Path) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    progress = Progress(len(file.images), unit="mask drawn")
    for number, image in enumerate(file.images):
        write_png(partial / f"{number}.png", draw_mask(file.file, image, indices))
        progress.update(number + 1)
    progress.close()
    os.replace(partial, folder)


def draw_mask(file: Path, image: CocoImage, indices: Mapping[int, int]) -> NDArray[np.uint8]:
    """Class indices [H, W] of an image's annotations: crowds (255) first, then objects, the largest first.

    Raises: UserError if a segmentation is invalid.
    """
    from pycocotools import mask as coco_masks

    mask = np.zeros((image.height, image.width), np.uint8)
    shapes = []
    for row in image.annotations:
        code, value = _run_lengths(file, image, row), indices[int(row["category_id"])]
        crowd = bool(row.get("iscrowd"))
        shapes.append((not crowd, -int(coco_masks.area(code)), IGNORE if crowd else value, code))
    for *_, value, code in sorted(shapes, key=lambda shape: shape[:2]):
        mask[np.asarray(coco_masks.decode([code]), bool)[..., 0]] = value
    return mask


def _polygons(segmentation: list[Any]) -> list[list[float]]:
    """The polygons that have an area; pycocotools would take two points, which have none, for a box.

    Raises: ValueError if a polygon is not a list of coordinates, or none has an area.
    """
    for polygon in segmentation:
        if not (isinstance(polygon, list) and all(isinstance(value, int | float) for value in polygon)):
            raise ValueError("polygons must be lists [x1, y1, x2, y2, ...]")
    found = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not found:
        raise ValueError("no polygon has three points")
    return found


def _run_lengths(file: Path, image: CocoImage, row: Mapping[str, Any]) -> Any:
    from pycocotools import mask as coco_masks

    segmentation = row["segmentation"]
    try:
        if isinstance(segmentation, dict) and list(segmentation["size"]) != [image.height, image.width]:
            raise ValueError(f"size {segmentation['size']}, but the image is {image.height} x {image.width}")
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
            codes = [{"size": segmentation["size"], "counts": segmentation["counts"].encode()}]
        else:
            if isinstance(segmentation, list):
                segmentation = _polygons(segmentation)
            codes = coco_masks.frPyObjects(segmentation, image.height, image.width)
            codes = codes if isinstance(codes, list) else [codes]
        return coco_masks.merge(codes)
    except Exception as error:  # pycocotools raises many exception classes
        raise UserError(
            f"{file}: annotation {row.get('id')} of {image.path.name}: invalid segmentation ({error}); "
            "correct or remove it"
        ) from None
