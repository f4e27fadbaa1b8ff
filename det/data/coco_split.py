"""One COCO file and its folder of images as a split: ids become indices, file names become paths."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from det.data.cleaning import AnnotationIssues, RawSplit
from det.data.coco_json import CocoFile
from engine.data.class_map import ClassMap
from engine.data.images import list_images
from engine.errors import UserError


def annotated(file: CocoFile, folder: Path, classes: ClassMap, issues: AnnotationIssues) -> RawSplit:
    """The split, without duplicates and annotations whose image or class does not exist.

    Raises:
        UserError: if image files are missing, or no annotation belongs to a listed image and category.
    """
    images = _image_paths(file, folder)
    owners, known = _positions(np.array(file.image_ids, np.int64), file.owners)
    labels, selected = _positions(np.array(classes.ids, np.int64), file.category_ids)
    listed = np.isin(file.category_ids, list(file.categories))
    if len(known) and not (known & listed).any():
        key, other = ("category_id", "categories") if known.any() else ("image_id", "images")
        raise UserError(f"{file.path}: annotations: no {key} matches an id in {other}; export the file again")
    duplicate = _duplicates(file)
    names = np.array([os.path.basename(name) for name in file.file_names], object)
    name_of_image = np.where(known, names[owners], file.path.name)
    for what, rows in (
        ("of an unknown image: left out", ~known),
        ("of an unknown category: left out", known & ~listed),
        ("of a class that is not selected: left out", known & listed & ~selected),
        ("with the same id and box as another: left out", known & selected & duplicate),
    ):
        issues.add("annotation", what, name_of_image[rows])
    rows = known & selected & ~duplicate
    return RawSplit(
        images=images,
        names=[os.path.splitext(name)[0] for name in file.file_names],
        files=names.tolist(),
        sizes=file.sizes,
        image_ids=file.image_ids,
        owners=owners[rows],
        boxes=file.boxes[rows],
        labels=labels[rows],
        crowd=file.crowd[rows],
        areas=file.areas[rows],
        has_labels=file.annotated,
    )


def unannotated(folder: Path) -> RawSplit:
    """The images of a folder. Raises: UserError if there are none."""
    images = list_images(folder)
    if not images:
        raise UserError(f"{folder}: no images; add some, or remove the split")
    return RawSplit(
        images=[str(image) for image in images],
        names=[image.relative_to(folder).with_suffix("").as_posix() for image in images],
        files=[image.name for image in images],
        sizes=[None] * len(images),
        has_labels=False,
    )


def _positions(
    ids: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The index in `ids` of each of `wanted`, and whether it was found (if not, the index is arbitrary)."""
    order = np.argsort(ids)
    positions = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    return positions, ids[positions] == wanted


def _duplicates(file: CocoFile) -> NDArray[np.bool_]:
    """Rows with the same id and content as an earlier row."""
    result = np.zeros(len(file.ids), bool)
    first = np.unique(file.ids, return_index=True)[1]
    again = np.ones(len(file.ids), bool)
    again[first] = False
    again &= file.ids != -1
    if not again.any():
        return result
    seen = set()
    for row in np.flatnonzero(np.isin(file.ids, file.ids[again])):
        key = (file.ids[row], file.owners[row], file.category_ids[row], *file.boxes[row])
        result[row] = key in seen
        seen.add(key)
    return result


def _image_paths(file: CocoFile, folder: Path) -> list[str]:
    """The path of each image: its file name below `folder`, else only the last part of the name."""
    listed: dict[str, set[str]] = {}  # one listing per folder instead of a check per file
    paths, missing = [], []
    for name in file.file_names:
        slashed = name.replace("\\", "/")
        for candidate in dict.fromkeys((name, slashed, os.path.basename(slashed))):
            path = os.path.join(folder, candidate)
            parent = os.path.dirname(path)
            if parent not in listed:
                listed[parent] = _list(parent)
            if os.path.basename(path) in listed[parent]:
                paths.append(path)
                break
        else:
            missing.append(name)
    if missing:
        raise UserError(
            f"{os.path.join(folder, missing[0])}: no such file ({len(missing)} of {len(file.file_names)} "
            f"images of {file.path} are missing); check the image folder, or remove them from the JSON"
        )
    path, count = Counter(paths).most_common(1)[0]
    if count > 1:
        raise UserError(f"{file.path}: images: {path} is listed {count} times; merge the entries into one")
    return paths


def _list(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
