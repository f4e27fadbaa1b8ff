"""One COCO file and its folder of images as a split: ids become indices, file names become paths."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from det.data.cleaning import ROTATED, AnnotationIssues, RawSplit
from det.data.formats.coco_json import CocoFile
from engine.data.class_map import ClassMap
from engine.data.images import IMAGE_SUFFIXES, list_images
from engine.errors import UserError

Missing = Literal["fail", "skip"]
"""What to do about images that do not exist: an error now, or one when they are read."""


def annotated(
    file: CocoFile, folder: Path, classes: ClassMap, issues: AnnotationIssues, *, missing: Missing = "fail"
) -> RawSplit:
    """The split, without annotations whose image or class does not exist.

    Raises:
        UserError: if image files are missing, or no annotation belongs to a listed image and category.
    """
    for line in file.notes:
        issues.note(f"{file.path.name}: {line}")
    images = _image_paths(file, folder, issues, missing)
    owners, known = _positions(np.array(file.image_ids, np.int64), file.owners)
    labels, selected = _positions(np.array(classes.ids, np.int64), file.category_ids)
    listed = np.isin(file.category_ids, list(file.categories))
    if len(known) and not (known & listed).any():
        key, other = ("category_id", "categories") if known.any() else ("image_id", "images")
        raise UserError(f"{file.path}: annotations: no {key} matches an id in {other}; export the file again")
    names = np.array([os.path.basename(name) for name in file.file_names], object)
    name_of_image = np.where(known, names[owners], file.path.name)
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
        names=[os.path.splitext(name)[0] for name in file.file_names],
        files=names.tolist(),
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
    used = set(map(os.path.abspath, listed))
    found = {os.path.abspath(path) for folder in folders for path in list_images(folder)}
    names = map(os.path.basename, sorted(found - used))
    issues.add("image", "that no annotation file lists: left out", names)


def _positions(
    ids: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The index in `ids` of each of `wanted`, and whether it was found (if not, the index is arbitrary)."""
    order = np.argsort(ids)
    positions = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    return positions, ids[positions] == wanted


def _image_paths(file: CocoFile, folder: Path, issues: AnnotationIssues, missing: Missing) -> list[str]:
    """The path of each image: its file name below `folder`, else only the last part of the name.

    Names with another case or suffix than the file's, without one, or with %20 for a space are accepted.
    """
    found = find_paths(folder, file.file_names)
    absent = [name for name, path in zip(file.file_names, found, strict=True) if path is None]
    if absent and (missing == "fail" or len(absent) == len(found)):
        raise UserError(
            f"{os.path.join(folder, absent[0])}: no such file ({len(absent)} of {len(found)} images of "
            f"{file.path} are missing); check the image folder, remove them from the JSON, or set "
            "data.on_error=skip"
        )
    paths = [path or os.path.join(folder, name) for name, path in zip(file.file_names, found, strict=True)]
    renamed = [
        name
        for name, path in zip(file.file_names, paths, strict=True)
        if os.path.basename(path) != os.path.basename(name.replace("\\", "/"))
    ]
    issues.add("image", "whose file name is spelled differently: used", map(os.path.basename, renamed))
    path, count = Counter(paths).most_common(1)[0]
    if count > 1:
        raise UserError(f"{file.path}: images: {path} is listed {count} times; merge the entries into one")
    return paths


def find_paths(folder: Path, names: Sequence[str]) -> list[str | None]:
    """The path of each name; None for a missing file."""
    listed: dict[str, _Folder] = {}  # one listing per folder instead of a check per file
    paths = []
    for name in names:
        slashed = name.replace("\\", "/")
        places = [os.path.join(folder, each) for each in (name, slashed, os.path.basename(slashed))]
        for parent in map(os.path.dirname, places):
            if parent not in listed:
                listed[parent] = _Folder(parent)
        exact = (place for place in places if os.path.basename(place) in listed[os.path.dirname(place)].names)
        path = next(exact, None)
        for place in places if path is None else ():
            parent, last = os.path.split(place)
            path = path or listed[parent].similar(last)
        paths.append(path)
    return paths


class _Folder:
    """The files of a folder, by their names and, if it is needed, by their names in lower case."""

    def __init__(self, path: str) -> None:
        self.path, self.names = path, _list(path)
        self._simplified: dict[str, list[str]] | None = None

    def similar(self, name: str) -> str | None:
        """The only image whose name is `name` but for case, suffix and percent signs."""
        if self._simplified is None:
            self._simplified = defaultdict(list)
            for other in self.names:
                if other.lower().endswith(IMAGE_SUFFIXES):
                    for key in {other.lower(), os.path.splitext(other.lower())[0]}:
                        self._simplified[key].append(other)
        plain = unquote(name).lower()
        stem, suffix = os.path.splitext(plain)
        for key in (plain, stem if suffix in IMAGE_SUFFIXES else plain):
            if len(matches := self._simplified.get(key, [])) == 1:
                return os.path.join(self.path, matches[0])
        return None


def _list(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
