"""Pictures in one folder per class: <root>/<split>/<class>/*."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cls.data.dataset import ClassificationData, ClassificationSplit, describe, refuse_empty
from engine.data.class_map import ClassMap
from engine.data.images import IMAGE_SUFFIXES
from engine.errors import UserError, some
from engine.io.files import pack, same_content

_ORDER = {"train": 0, "val": 1, "test": 2}


def folders(*, root: str, allow_same_files: bool = False) -> ClassificationData:
    """Any tree of pictures with a folder per class, below a folder per split.

    Classes are the folders of train, sorted by name, or what `<root>/classes.json` lists; a split may lack
    some. Folders inside of a class belong to it. A picture that is in train and val is refused, unless
    `allow_same_files`.

    Raises:
        UserError: no split, class or picture, a class that train lacks, the same picture in train and val.
    """
    base = _existing(root)
    names = [entry.name for entry in os.scandir(base) if entry.is_dir() and not entry.name.startswith(".")]
    if not names:
        raise UserError(f"{base}: no folders of splits; put the pictures into train/<class> and val/<class>")
    order = sorted(names, key=lambda name: (_ORDER.get(name, 9), name))
    classes = _classes(base, order)
    folder_names = dict(zip(classes.names, range(len(classes)), strict=True))
    splits = {name: read_tree(base / name, folder_names) for name in order}
    refuse_empty(splits, base)
    if not allow_same_files:
        _refuse_leaks(base, splits)
    return ClassificationData(
        classes=classes,
        splits=splits,
        description=describe("pictures", base, classes, splits),
        warnings=_absent(classes, splits),
    )


def read_tree(folder: Path, classes: Mapping[str, int]) -> ClassificationSplit:
    """The split in `folder`, whose sub-folders are `classes` (name -> index).

    Raises:
        UserError: a sub-folder that is none of them, or the folder cannot be read.
    """
    files: list[NDArray[np.bytes_]] = []
    labels: list[NDArray[np.int32]] = []
    for name in class_folders(folder):
        if name not in classes:
            raise UserError(
                f"{folder / name}: no such class in the training pictures ({some(list(classes))}); "
                "rename or remove the folder, or list it in classes.json"
            )
        found = pack(sorted(_images(folder, name)))
        files.append(found)
        labels.append(np.full(len(found), classes[name], np.int32))
    if not files:
        raise UserError(f"{folder}: no folders of classes; put the pictures into {folder.name}/<class>")
    return ClassificationSplit(root=str(folder), files=np.concatenate(files), labels=np.concatenate(labels))


def class_folders(folder: Path) -> list[str]:
    """Names of the sub-folders, sorted; hidden ones are left out.

    Raises: UserError when the folder cannot be read.
    """
    try:
        return sorted(
            entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")
        )
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None


def _existing(root: str) -> Path:
    base = Path(root).expanduser()
    if not base.is_dir():
        raise UserError(f"data.root={root}: no such folder")
    return base


def _classes(base: Path, splits: list[str]) -> ClassMap:
    if (listed := base / "classes.json").exists():
        return ClassMap.read(listed)
    first = splits[0]
    names = class_folders(base / first)
    if not names:
        raise UserError(f"{base / first}: no folders of classes; put the pictures into {first}/<class>")
    return ClassMap(names=tuple(names))


def _images(folder: Path, name: str) -> Iterator[str]:
    """Pictures below folder/name, relative to `folder`."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})")

    for path, inner, names in os.walk(folder / name, onerror=refuse, followlinks=False):
        inner[:] = [child for child in inner if not child.startswith(".")]
        below = os.path.relpath(path, folder)
        for file in names:
            if file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith("."):
                yield os.path.join(below, file)


def _refuse_leaks(base: Path, splits: Mapping[str, ClassificationSplit]) -> None:
    if "train" not in splits or "val" not in splits:
        return
    if (twins := same_content(_paths(splits["train"]), _paths(splits["val"]))) is not None:
        raise UserError(
            f"{twins[0]}: the same picture as {twins[1]}; remove it from train or from val, or give "
            "data.source.allow_same_files=true"
        )


def _paths(split: ClassificationSplit) -> Iterator[bytes]:
    root = os.fsencode(split.root)
    return (os.path.join(root, file) for file in split.files)


def _absent(classes: ClassMap, splits: Mapping[str, ClassificationSplit]) -> list[str]:
    warnings = []
    for name, split in splits.items():
        assert split.labels is not None
        absent = [classes.names[i] for i in np.setdiff1d(np.arange(len(classes)), split.labels)]
        if absent:
            warnings.append(f"{name} has no picture of {some(absent)}")
    return warnings
