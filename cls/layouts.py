"""The layouts of files in a folder that `task=cls` can train on."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from cls.data.folders import class_folders
from cls.data.imagenet import DEVKIT
from engine.contracts import Layout
from engine.data.splits import split_folders, split_of
from engine.data.survey.matching import Content, find_layouts, in_place
from engine.errors import UserError

_OFFICIAL, _FOLDERS = 90, 40  # folders of images are also part of the layouts of other tasks
_SYNSET = re.compile(r"n\d{8}")
_NOT_CLASSES = re.compile(
    r"(?:images?|imgs?|jpegimages|photos|pictures|frames|masks?|labels?|annotations?|annots?|ann|gt|xmls?"
    r"|jsons?|json|img|segmentation(?:class|object)?|imagesets|leftimg8bit|gtfine|instances?)",
    re.IGNORECASE,
)
"""Names of folders that other layouts have."""


def layouts(root: Path) -> list[Layout]:
    """The layouts that match a folder, from its folders alone.

    Raises: UserError if none does, but the folder is almost in one, or it cannot be read.
    """
    return find_layouts(root, (_imagenet, _folders))


_layout = partial(in_place, "cls")


def _imagenet(content: Content) -> Iterator[Layout]:
    splits = [name for name in ("train", "val") if (content.root / name).is_dir()]
    synsets = [bool(names) and all(map(_SYNSET.fullmatch, names)) for names in _inside(content, splits)]
    listed = (content.root / "val.txt").is_file() or (content.root / DEVKIT).is_dir()
    if (synsets and all(synsets)) or (any(synsets) and listed):
        yield _layout(content, "imagenet", "ImageNet, one folder per synset", _OFFICIAL)


def _inside(content: Content, splits: list[str]) -> list[list[str]]:
    return [class_folders(content.root / split) for split in splits]


def _folders(content: Content) -> Iterator[Layout]:
    root = content.root
    splits = split_folders(root, is_split=lambda folder: bool(class_folders(folder)))
    parents = [name for name in (splits.get("train"), splits.get("val")) if name] if splits else [""]
    for parent in parents[:1]:
        classes = class_folders(root / parent)
        with_images = [name for name in classes if _has_images(content, f"{parent}/{name}".lstrip("/"))]
        named = [name for name in with_images if not _NOT_CLASSES.fullmatch(name) and not split_of(name)]
        if len(with_images) != len(named) or len(named) < len(classes) or not named:
            return
        if len(named) == 1:
            raise UserError(f"{root / parent}: only one class folder; classification needs at least two")
        title = "a folder of images per class" + (f", in {parent} and others" if parent else "")
        yield _layout(content, "folders", title, _FOLDERS)


def _has_images(content: Content, folder: str) -> bool:
    """Whether the folder, or one below it, contains images."""
    inner = (name for name in content.survey.folders if name.startswith(f"{folder}/"))
    return any(content.survey.images_in(name) for name in (folder, *inner))
