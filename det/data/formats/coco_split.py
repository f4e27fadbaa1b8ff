"""One COCO file and its folder of images as a split: ids become indices, file names become paths."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from det.data.cleaning import ROTATED, AnnotationIssues, RawSplit
from det.data.formats.coco_json import CocoFile
from det.data.reader_options import OnError
from engine.data.class_map import ClassMap
from engine.data.coco_layout import image_paths, spelled_differently, unlisted
from engine.data.images import list_images
from engine.errors import UserError


def annotated(
    file: CocoFile, folder: Path, classes: ClassMap, issues: AnnotationIssues, *, missing: OnError = "fail"
) -> RawSplit:
    """The split, without annotations whose image or class does not exist.

    Raises:
        UserError: if image files are missing, or no annotation belongs to a listed image and category.
    """
    for line in file.notes:
        issues.note(f"{file.path.name}: {line}")
    names = file.file_names
    paths = image_paths(file.path, folder, names, skips=missing == "skip")
    issues.add("image", "whose file name is spelled differently: used", spelled_differently(names, paths))
    images = [path or os.path.join(folder, name) for name, path in zip(names, paths, strict=True)]
    owners, known = _positions(np.array(file.image_ids, np.int64), file.owners)
    labels, selected = _positions(np.array(classes.ids, np.int64), file.category_ids)
    listed = np.isin(file.category_ids, list(file.categories))
    if len(known) and not (known & listed).any():
        key, other = ("category_id", "categories") if known.any() else ("image_id", "images")
        raise UserError(f"{file.path}: annotations: no {key} matches an id in {other}; export the file again")
    short_names = np.array([os.path.basename(name) for name in names], object)
    name_of_image = np.where(known, short_names[owners], file.path.name)
    for what, rows in (
        ("of an unknown image: left out", ~known),
        ("of an unknown category: left out", known & ~listed),
        ("of a class that is not selected: left out", known & listed & ~selected),
    ):
        issues.add("annotation", what, name_of_image[rows])
    rows = known & selected
    issues.add("box", ROTATED, name_of_image[rows & file.rotated])
    return RawSplit(
        images=images,
        names=[os.path.splitext(name)[0] for name in names],
        files=short_names.tolist(),
        sizes=file.sizes,
        image_ids=file.image_ids,
        owners=owners[rows],
        boxes=file.boxes[rows],
        labels=labels[rows],
        crowd=file.crowd[rows],
        difficult=file.ignored[rows],
        areas=file.areas[rows],
        has_labels=file.annotated,
        format="coco",
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


def count_unlisted(folders: Iterable[Path], listed: Iterable[str], issues: AnnotationIssues) -> None:
    """Count the images in the folders of a dataset that no annotation file lists."""
    names = map(os.path.basename, unlisted(folders, listed))
    issues.add("image", "that no annotation file lists: left out", names)


def _positions(
    ids: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The index in `ids` of each of `wanted`, and whether it was found (if not, the index is arbitrary)."""
    order = np.argsort(ids)
    positions = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    return positions, ids[positions] == wanted
