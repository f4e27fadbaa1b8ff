"""One COCO file and its folder of pictures as a split: ids become indices, file names become files."""

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


def annotated(file: CocoFile, folder: Path, classes: ClassMap, findings: AnnotationIssues) -> RawSplit:
    """The split, without annotations whose image or class does not exist, and without repetitions.

    Raises: UserError for images without a file, and where no annotation fits.
    """
    images = _find_images(file, folder)
    owners, known = _positions(np.array(file.image_ids, np.int64), file.owners)
    labels, classified = _positions(np.array(classes.ids, np.int64), file.categories_of)
    listed = np.isin(file.categories_of, list(file.categories))
    if len(known) and not (known & listed).any():
        key, other = ("category_id", "categories") if known.any() else ("image_id", "images")
        raise UserError(f"{file.path}: annotations: no {key} is an id of its {other}; export the file again")
    repeated = _repeated(file)
    shown = np.array([os.path.basename(name) for name in file.file_names], object)
    of_image = np.where(known, shown[owners], file.path.name)
    for what, rows in (
        ("of an unknown image: left out", ~known),
        ("of an unknown category: left out", known & ~listed),
        ("of a class that is not asked for: left out", known & listed & ~classified),
        ("with the id and the box of another: left out", known & classified & repeated),
    ):
        findings.note("annotation", what, of_image[rows])
    rows = known & classified & ~repeated
    return RawSplit(
        images=images,
        names=[os.path.splitext(name)[0] for name in file.file_names],
        files=shown.tolist(),
        sizes=file.sizes,
        image_ids=file.image_ids,
        owners=owners[rows],
        boxes=file.boxes[rows],
        labels=labels[rows],
        crowd=file.crowd[rows],
        areas=file.areas[rows],
        has_labels=file.annotated,
    )


def pictures(folder: Path) -> RawSplit:
    """The pictures of a folder, without annotations. Raises: UserError where there is none."""
    images = list_images(folder)
    if not images:
        raise UserError(f"{folder}: no pictures; add some, or leave the split out")
    return RawSplit(
        images=[str(image) for image in images],
        names=[image.stem for image in images],
        files=[image.name for image in images],
        sizes=[None] * len(images),
        has_labels=False,
    )


def _positions(
    ids: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each of `wanted` stands in `ids`, and whether it does (else the position means nothing)."""
    order = np.argsort(ids)
    positions = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    return positions, ids[positions] == wanted


def _repeated(file: CocoFile) -> NDArray[np.bool_]:
    """Rows that say again, under the same id, what an earlier row says."""
    result = np.zeros(len(file.ids), bool)
    first = np.unique(file.ids, return_index=True)[1]
    again = np.ones(len(file.ids), bool)
    again[first] = False
    again &= file.ids != -1
    if not again.any():
        return result
    seen = set()
    for row in np.flatnonzero(np.isin(file.ids, file.ids[again])):
        key = (file.ids[row], file.owners[row], file.categories_of[row], *file.boxes[row])
        result[row] = key in seen
        seen.add(key)
    return result


def _find_images(file: CocoFile, folder: Path) -> list[str]:
    """The file of each entry: its name below `folder`, else the last part of its name there."""
    listed: dict[str, set[str]] = {}  # one listing per folder instead of a look at every file
    found, missing = [], []
    for name in file.file_names:
        slashed = name.replace("\\", "/")
        for candidate in dict.fromkeys((name, slashed, os.path.basename(slashed))):
            path = os.path.join(folder, candidate)
            parent = os.path.dirname(path)
            if parent not in listed:
                listed[parent] = _list(parent)
            if os.path.basename(path) in listed[parent]:
                found.append(path)
                break
        else:
            missing.append(name)
    if missing:
        raise UserError(
            f"{os.path.join(folder, missing[0])}: no such file ({len(missing)} of {len(file.file_names)} "
            f"images of {file.path} lack theirs); check the folder of images, or take them out of the JSON"
        )
    path, count = Counter(found).most_common(1)[0]
    if count > 1:
        raise UserError(f"{file.path}: images: {path} is listed {count} times; merge the entries into one")
    return found


def _list(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
