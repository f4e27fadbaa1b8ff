"""Your own data: images in one folder per class, `<root>/<split>/<class>/*`."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cls.data.dataset import (
    ClassificationSource,
    ClassificationSplit,
    check_not_empty,
    class_amounts,
    describe,
)
from engine.data.class_map import ClassMap
from engine.data.images import find_images, left_out
from engine.data.labels.balance import balance_lines
from engine.data.splits import (
    SPLIT_NAMES,
    check_leaks,
    divide,
    files_beside,
    split_folders,
    split_of,
    without_repeated,
)
from engine.errors import UserError, raise_or_collect, some
from engine.io.files import existing_root, groups_of_same_content, is_hidden, pack_paths


def folders(*, root: str, allow_same_files: bool = False) -> ClassificationSource:
    """A folder per split with a folder per class in it, or class folders alone.

    Without val, a fifth of train, or of all images, is used as val. Classes are the folders of train,
    sorted by name, or those listed in `<root>/classes.json`; a split need not have all of them. Folders
    inside a class folder belong to that class.

    Args:
        allow_same_files: whether splits may share images.

    Raises:
        UserError: if there is no split, class or image, a split has an unknown class, or two
            splits share an image (unless it has a single color).
    """
    base = existing_root(root)
    names, unread = _split_folders(base)
    classes = _classes(base, next(iter(names.values()), ""))
    indices = {name: index for index, name in enumerate(classes.names)}
    unread += files_beside(base) if names else []
    splits = {split: read_tree(base / name, indices, unread) for split, name in names.items()}
    if not names:
        splits = {"train": read_tree(base, indices, unread)}
    check_not_empty(splits, base)
    unread += [line for split in splits.values() for line in _in_two_classes(split)]
    has_val = "val" in splits
    if not allow_same_files:
        splits, repeated = without_repeated(base, splits, image_paths)
        unread += repeated
    if "train" in splits and not has_val:
        parts, lines = _divide(base, splits["train"], what="train" if names else "")
        splits, unread = {**parts, **splits, **parts}, [*unread, *lines]
    if "train" in splits and _is_constant(splits["train"].labels) and len(classes) > 1:
        raise UserError(f"{base / 'train'}: all images are of one class; add images of the others")
    counts = {n: class_amounts(s.labels, len(classes)) for n, s in splits.items() if s.labels is not None}
    leaks: list[str] = []
    if not allow_same_files:
        images = {name: list(image_paths(split)) for name, split in splits.items()}
        leaks = check_leaks(images, override="data.source.allow_same_files=true")
    return ClassificationSource(
        classes=classes,
        splits=splits,
        description=describe("images", base, classes, splits),
        warnings=[
            *unread,
            *_absent_classes(classes, splits),
            *(f"{base}: {line}" for line in [*balance_lines(classes, counts, "images"), *leaks]),
        ],
    )


def read_tree(folder: Path, classes: Mapping[str, int], unread: list[str]) -> ClassificationSplit:
    """The split in `folder`, which has a subfolder for each of `classes` (name -> index).

    Args:
        unread: receives lines about the files that are not images of a class.

    Raises:
        UserError: if a subfolder is not one of `classes`, or the folder cannot be read.
    """
    files: list[NDArray[np.bytes_]] = []
    labels: list[NDArray[np.int32]] = []
    others: list[str] = []
    names = class_folders(folder)
    if unknown := [name for name in names if name not in classes]:
        count = f"{len(unknown)} folders of {folder.name} are not; " if len(unknown) > 1 else ""
        raise_or_collect(
            UserError(
                f"{folder / unknown[0]}: not a class of the training images ({some(list(classes))}); "
                f"{count}rename or remove the folder, or list it in classes.json",
                files=[str(folder / name) for name in unknown],
            )
        )
    for name in (name for name in names if name in classes):
        found, ignored = find_images(folder / name)
        others += [os.path.join(name, file) for file in ignored]
        paths = pack_paths([path.relative_to(folder) for path in found])
        files.append(paths)
        labels.append(np.full(len(paths), classes[name], np.int32))
    if not files:
        raise UserError(f"{folder}: no class folders; put the images into {folder.name}/<class>")
    unread += [*files_beside(folder), *left_out(folder, others)]
    return ClassificationSplit(root=str(folder), files=np.concatenate(files), labels=np.concatenate(labels))


def class_folders(folder: Path) -> list[str]:
    """Names of the subfolders, sorted; hidden ones are left out.

    Raises: UserError if the folder cannot be read.
    """
    try:
        return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not is_hidden(e.name))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None


def _split_folders(base: Path) -> tuple[dict[str, str], list[str]]:
    """Split -> folder, empty if the folders in `base` are the classes; and warnings about ambiguous folders,
    such as one for a class named "train"."""
    names = class_folders(base)
    inner = {name: set(class_folders(base / name)) for name in names}
    found = split_folders(base, is_split=lambda folder: bool(inner[folder.name]))
    others = [inner[name] for split, name in found.items() if split not in SPLIT_NAMES]
    shared = set().union(*(inner[name] for split, name in found.items() if split in SPLIT_NAMES))
    if found and not (others and all(shared.isdisjoint(each) for each in others)):
        return found, []
    named = [name for name in names if split_of(name)]
    if not names or len(named) == len(names):
        where = base / named[0] if named else base
        raise UserError(f"{where}: no class folders; put the images in train/<class> and val/<class>")
    if not named:
        return {}, []
    line = f"{base}: each folder is a class, including {some(named)}, which has no class folders inside"
    return {}, [line]


def _divide(
    base: Path, split: ClassificationSplit, *, what: str
) -> tuple[dict[str, ClassificationSplit], list[str]]:
    """The images of a split as train and val (`engine.data.splits.divide`), with every class in train."""
    assert split.labels is not None
    images = {os.fsdecode(file): os.path.join(split.root, os.fsdecode(file)) for file in split.files}
    remedy = "sort the images into train/<class> and val/<class>"
    labels = dict(zip(images, split.labels.tolist(), strict=True))

    def with_images_left(names: set[str]) -> set[str]:
        left = {label for name, label in labels.items() if name not in names}
        return {name for name in names if labels[name] in left}

    val, lines = divide(base, images, remedy=remedy, what=what, narrow=with_images_left)
    chosen = np.array([name in val for name in images])
    return {
        "train": split.without(np.flatnonzero(chosen)),
        "val": split.without(np.flatnonzero(~chosen)),
    }, lines


def _in_two_classes(split: ClassificationSplit) -> list[str]:
    """A line that counts and names images with the same content in the folders of different classes."""
    assert split.labels is not None
    label_of = dict(zip(map(os.fsdecode, image_paths(split)), split.labels.tolist(), strict=True))
    groups = [
        group for group in groups_of_same_content(label_of) if len({label_of[path] for path in group}) > 1
    ]
    if not groups:
        return []
    pairs = [" and ".join(os.path.relpath(path, split.root) for path in group) for group in groups]
    noun = "1 image is" if len(groups) == 1 else f"{len(groups)} images are"
    return [f"{split.root}: {noun} in the folders of several classes ({some(pairs, 2)}); keep one of each"]


def _classes(base: Path, first: str) -> ClassMap:
    """The classes in classes.json, or those of the folder `first` (empty: of `base`)."""
    if (listed := base / "classes.json").exists():
        return ClassMap.read(listed)
    names = class_folders(base / first)
    if not names:
        raise UserError(f"{base / first}: no class folders; put the images into {first}/<class>")
    return ClassMap(names=tuple(names))


def image_paths(split: ClassificationSplit) -> Iterator[bytes]:
    """The paths of its images."""
    root = os.fsencode(split.root)
    return (os.path.join(root, file) for file in split.files)


def _is_constant(labels: NDArray[np.int32] | None) -> bool:
    return labels is not None and bool((labels == labels[0]).all())


def _absent_classes(classes: ClassMap, splits: Mapping[str, ClassificationSplit]) -> list[str]:
    warnings = []
    for name, split in splits.items():
        assert split.labels is not None
        absent = [classes.names[i] for i in np.setdiff1d(np.arange(len(classes)), split.labels)]
        if absent:
            warnings.append(f"{name} has no images of {some(absent)}")
    return warnings
