"""ImageNet (ILSVRC 2012) as unpacked: synset folders, lists, or validation files with the devkit.

Classes are in the order of the sorted synset ids, like in all published weights (TensorFlow's have a
background class before the first).
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from cls.data.dataset import ClassificationSource, ClassificationSplit, check_not_empty, describe
from cls.data.folders import class_folders, image_paths, read_tree
from engine.data.class_map import ClassMap
from engine.data.images import list_images
from engine.data.splits import check_leaks
from engine.errors import UserError
from engine.io.files import existing_root, pack_paths
from engine.io.text import read_text

DEVKIT = Path("ILSVRC2012_devkit_t12/data")


_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


_COUNTS = {"train": 1281167, "val": 50000}


def imagenet(*, root: str, allow_same_files: bool = False) -> ClassificationSource:
    """ImageNet's train and val, either of which may be missing.

    Each contains synset folders (`val/n01440764/*.JPEG`), or images whose classes are listed in
    `<root>/<split>.txt` (one line "<file> <class index>" per image). val can also contain the files of the
    archive directly, if the devkit, which lists their classes, is unpacked in `<root>`. If there are not 1000
    synsets, classes are named by their synset ids.

    Args:
        allow_same_files: whether splits may share images; those of the complete ImageNet are not compared.

    Raises:
        UserError: if there is neither train nor val, the images' classes are unknown, or train and val share
            an image (unless it has a single color).
    """
    base = existing_root(root)
    present = [name for name in ("train", "val") if (base / name).is_dir()]
    if not present:
        raise UserError(
            f"{base}: neither train nor val; unpack ILSVRC2012_img_train.tar into train/<synset>/ and "
            "ILSVRC2012_img_val.tar into val/ (from image-net.org), with ILSVRC2012_devkit_t12 next to them"
        )
    synsets = _synsets(base, present)
    unread: list[str] = []
    splits = {name: _split(base, name, synsets, unread) for name in present}
    check_not_empty(splits, base)
    classes = ClassMap(names=class_names() if len(synsets) in (0, 1000) else tuple(synsets))
    warnings = unread + [
        f"{base / name}: {len(split)} images, ImageNet has {_COUNTS[name]}"
        for name, split in splits.items()
        if len(classes) == 1000 and len(split) != _COUNTS[name]
    ]
    complete = all(len(split) == _COUNTS[name] for name, split in splits.items())
    if not allow_same_files and not complete:
        images = {name: list(image_paths(split)) for name, split in splits.items()}
        lines = check_leaks(images, override="data.source.allow_same_files=true")
        warnings += [f"{base}: {line}" for line in lines]
    for name, split in splits.items():
        assert split.labels is not None
        if split.labels.max() >= len(classes):
            raise UserError(
                f"{base / name}.txt: class index {split.labels.max()}, but there are {len(classes)} classes "
                "(numbered from 0)"
            )
    description = describe("ImageNet", base, classes, splits)
    return ClassificationSource(classes=classes, splits=splits, description=description, warnings=warnings)


def class_names() -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes, as torchvision's weights list them."""
    from torchvision.models import (
        MobileNet_V3_Large_Weights,
    )  # imported late: it imports all of torchvision's models

    return tuple(MobileNet_V3_Large_Weights.IMAGENET1K_V1.meta["categories"])


def _synsets(base: Path, splits: list[str]) -> list[str]:
    """Sorted ids of the synset folders of the first split that has any; empty if there are none."""
    for name in splits:
        if synsets := class_folders(base / name):
            return synsets
    return []


def _split(base: Path, name: str, synsets: list[str], unread: list[str]) -> ClassificationSplit:
    folder, listed = base / name, base / f"{name}.txt"
    if class_folders(folder):
        return read_tree(folder, {synset: index for index, synset in enumerate(synsets)}, unread)
    if listed.is_file():
        return _listed(folder, listed)
    if name == "val":
        return _with_devkit(base)
    raise UserError(f"{folder}: no synset folders and no list {listed.name}, so the classes are unknown")


def _listed(folder: Path, listed: Path) -> ClassificationSplit:
    """Images of `folder`, from the lines "<file> <class index>" of `listed`."""
    try:
        lines = read_text(listed).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{listed}: cannot be read ({error})") from None
    files, labels = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        file, _, label = line.strip().rpartition(" ")
        if not file or not label.isascii() or not label.isdigit() or len(label) > 5:
            raise UserError(f'{listed}: line {number} is not "<file> <class index>": {line[:80]!r}')
        files.append(file)
        labels.append(int(label))
    if not files:
        raise UserError(f'{listed}: lists no images; write a line "<file> <class index>" for each image')
    return ClassificationSplit(root=str(folder), files=pack_paths(files), labels=np.array(labels, np.int32))


def _with_devkit(base: Path) -> ClassificationSplit:
    truth, meta, files = base / DEVKIT / _TRUTH, base / DEVKIT / "meta.mat", list_images(base / "val")
    if not truth.is_file() or not meta.is_file():
        raise UserError(
            f"{base / 'val'}: no synset folders, so the devkit is needed to find the classes; unpack "
            f"ILSVRC2012_devkit_t12.tar.gz in {base}, or sort the files into synset folders"
        )
    wnids = _devkit_synsets(meta)
    indices = {number: index for index, number in enumerate(sorted(wnids, key=wnids.__getitem__))}
    try:
        numbers = [int(line) for line in truth.read_text(encoding="ascii").split()]
        labels = np.array([indices[number] for number in numbers], np.int32)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{truth}: not the devkit's list of classes ({error})") from None
    positions = [_position(file, len(labels)) for file in files]
    return ClassificationSplit(
        root=str(base / "val"), files=pack_paths([file.name for file in files]), labels=labels[positions]
    )


def _position(file: Path, count: int) -> int:
    digits = file.stem.rpartition("_")[2]
    if not digits.isascii() or not digits.isdigit() or not 1 <= int(digits) <= count:
        raise UserError(f"{file}: not a validation file (ILSVRC2012_val_00000001.JPEG to {count:08d})")
    return int(digits) - 1


def _devkit_synsets(meta: Path) -> dict[int, str]:
    """ILSVRC2012_ID -> synset id, of the 1000 leaves (the other rows are their ancestors)."""
    from scipy.io import loadmat

    try:
        rows: Any = loadmat(os.fspath(meta), squeeze_me=True)["synsets"]
        leaves = [row for row in rows if int(row["num_children"]) == 0]
        synsets = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{meta}: not the devkit's meta.mat ({type(error).__name__})") from None
    if not synsets:
        raise UserError(f"{meta}: lists no synsets")
    return synsets
