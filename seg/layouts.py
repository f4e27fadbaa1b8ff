"""The layouts of files in a folder that `task=seg` can train on, in place or after a conversion."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from engine.contracts import Layout
from engine.data.images import list_images, read_labels
from engine.data.survey.kinds import Kind
from engine.data.survey.matching import Content, find_layouts, has_key, in_place
from engine.errors import UserError
from engine.io.files import evenly_spaced
from seg.data.mask_layouts import UNDIVIDED, Folders, find_folders
from seg.data.mask_names import pair

_OFFICIAL, _DATASET, _CONVERTED = 90, 75, 60
_ONLY_OUTLINES = 25  # added to the rank of a conversion: without boxes, the files are not meant for detection
_MASKS_READ = 3
_MOST_VALUES = 256  # in one mask; a photo has thousands


def layouts(root: Path) -> list[Layout]:
    """The layouts that match a folder. Few of its files are read; lists of names are.

    Raises: UserError if none does, but the folder is almost in one, or it cannot be read.
    """
    return find_layouts(root, (_cityscapes, _masks, _coco, _drawn))


_layout = partial(in_place, "seg")


def _cityscapes(content: Content) -> Iterator[Layout]:
    if (content.root / "leftImg8bit").is_dir() and (content.root / "gtFine").is_dir():
        train = (content.root / "leftImg8bit/train").is_dir()
        yield _layout(content, "cityscapes", "Cityscapes", _OFFICIAL, train=train)


def _masks(content: Content) -> Iterator[Layout]:
    try:
        folders = find_folders(content.root)
    except UserError:
        return
    beside = all(each.images == each.masks for each in folders.values())
    if beside and (content.json or content.xml or content.rows):  # the annotations are those
        return
    masks = [path for each in folders.values() for path in _masks_of(each)]
    if not masks:
        return
    _check_masks(masks)
    title, rank = _title(content, next(iter(folders.values())))
    train = "train" in folders or UNDIVIDED in folders
    yield _layout(content, "masks", title, rank, train=train)


def _title(content: Content, folders: Folders) -> tuple[str, int]:
    root = content.root
    if (root / "images/training").is_dir() and (root / "annotations/training").is_dir():
        return "ADE20K", _OFFICIAL
    if folders.masks.name == "SegmentationClass":
        return "Pascal VOC segmentation, masks in SegmentationClass", _OFFICIAL - 1
    where = (
        "next to their images" if folders.images == folders.masks else f"in {folders.masks.relative_to(root)}"
    )
    return f"images with masks {where}", _DATASET


def _masks_of(folders: Folders) -> list[str]:
    """A few masks. If they are next to their images, only if all images have one: photos are not masks.

    Raises: UserError if fewer than half of the images have a mask in the folder of masks.
    """
    try:
        split = pair("", folders, suffix=None, warnings=[])
    except UserError:
        if folders.images == folders.masks:
            return []
        images, masks = ({path.stem for path in list_images(each)} for each in folders[:2])
        if not images or 2 * len(images & masks) < len(images):
            raise
        name = min(images & masks)  # what is missing is reported when the dataset is checked
        return [str(path) for path in list_images(folders.masks) if path.stem == name]
    if split.labels is None:
        return []
    return [os.fsdecode(split.labels[index]) for index in evenly_spaced(len(split), _MASKS_READ)]


def _check_masks(paths: list[str]) -> None:
    """Raise a UserError if all of the masks that can be read have thousands of values, like photos."""
    counts: dict[str, int] = {}
    for path in paths:
        try:
            stored = read_labels(path)
        except UserError:
            continue
        counts[path] = len(np.unique(stored.reshape(-1, *stored.shape[2:]), axis=0))
    if counts and min(counts.values()) > _MOST_VALUES:
        path = min(counts, key=counts.__getitem__)
        raise UserError(f"{path}: {counts[path]} different values, so it is an image and not a mask")


def _coco(content: Content) -> Iterator[Layout]:
    kind = content.json.get("coco")
    if kind is not None and kind.outlines:
        yield _layout(content, "coco", "COCO JSON with outlines", _DATASET, overrides=content.coco())


def _drawn(content: Content) -> Iterator[Layout]:
    """Outlines that `tools/convert.py` draws as masks first."""
    rows = content.rows
    if content.yolo is None or has_key(content.root / "data.yaml", "kpt_shape"):
        rows = None
    formats = (
        ("LabelMe's outlines", "labelme", content.json.get("labelme")),
        ("CVAT's outlines", "cvat", content.xml.get("cvat")),
        ("YOLO's outlines", "yolo", rows),
        ("Label Studio's outlines", "label_studio", content.json.get("label_studio")),
        ("Supervisely's outlines", "supervisely", content.json.get("supervisely")),
    )
    for title, name, kind in formats:
        if kind is not None and kind.outlines:
            content.require_images(title)
            yield _converted(content, title, name, kind)


def _converted(content: Content, title: str, name: str, kind: Kind) -> Layout:
    out = content.converted("masks")
    return Layout(
        task="seg",
        data="masks",
        title=title,
        overrides=(f"data.root={out}",),
        conversion=(f"input={content.root}", f"out={out}", "to=masks", f"format={name}"),
        rank=_CONVERTED + (0 if kind.boxes else _ONLY_OUTLINES),
    )
