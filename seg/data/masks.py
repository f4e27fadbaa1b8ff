"""Data of one's own: `images/<split>/*`, `masks/<split>/*.png` and `classes.json`."""

import os
from pathlib import Path

from engine.data.class_map import ClassMap
from engine.data.images import image_size, list_images
from engine.errors import UserError
from engine.io.files import pack, same_content, spread
from seg.data.dataset import SegmentationData, SegmentationSplit
from seg.data.labels import LabelReader

_SIZES_CHECKED = 1000  # per split; two headers take about 0.3 ms


_MASKS_CHECKED = 24  # per split, every pixel


_SPLIT_ORDER = {"train": 0, "val": 1, "test": 2}


def masks(*, root: str, allow_same_names: bool = False, on_error: str = "fail") -> SegmentationData:
    """Folders of images and masks under `root`.

    A mask holds class ids (8- or 16-bit, one channel or palette) or the RGB colors of classes.json, and is
    named like its image. Only the split "test" may lack masks; it then serves to predict. allow_same_names:
    train and val number their files independently (equal content is refused all the same). on_error: `skip`
    leaves single files to `engine.data.unreadable`, which reads them all.

    Raises: UserError, before training, for missing or empty folders, missing masks, differing sizes, values
    that classes.json does not list (in a sample; in every mask when it is read), and images that train and
    val share.
    """
    base = Path(root).expanduser()
    classes = ClassMap.read(base / "classes.json")
    read_label = LabelReader(
        classes=classes,
        remedy=f"list it in {base / 'classes.json'} as a class or under ignore (ignore_colors for a color), "
        "or correct the mask",
    )
    warnings: list[str] = []
    splits = {split: _find_split(base, split, warnings) for split in _split_names(base)}
    _refuse_leaks(base, splits, allow_same_names)
    for files in splits.values() if on_error == "fail" else ():
        _check_masks(files, read_label)
    counts = ", ".join(f"{split} {len(files)}" for split, files in splits.items())
    return SegmentationData(
        classes=classes,
        splits=splits,
        read_label=read_label,
        description=f"masks at {base} ({counts}; {len(classes)} classes)",
        warnings=warnings,
    )


def _split_names(base: Path) -> list[str]:
    folder = base / "images"
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; put the pictures into images/train, images/val (and images/test)"
        )
    names = [name for name in os.listdir(folder) if (folder / name).is_dir() and not name.startswith(".")]
    if not names:
        raise UserError(f"{folder}: no folders of splits; put the pictures into images/train and images/val")
    return sorted(names, key=lambda name: (_SPLIT_ORDER.get(name, 9), name))


def _find_split(base: Path, split: str, warnings: list[str]) -> SegmentationSplit:
    images = _by_stem(base / "images" / split)
    if not images:
        raise UserError(f"{base / 'images' / split}: no pictures; add some or remove the folder")
    folder = base / "masks" / split
    found = _by_stem(folder) if folder.is_dir() else {}
    if not found and split == "test":
        return SegmentationSplit(images=pack(list(images.values())), names=pack(list(images)))
    missing = [stem for stem in images if stem not in found]
    if missing:
        raise UserError(
            f"{images[missing[0]]}: no mask {folder / missing[0]}.png ({len(missing)} of {len(images)} "
            f"images of {split} lack one); add the masks or remove the images"
        )
    if len(found) > len(images):
        orphan = next(stem for stem in found if stem not in images)
        warnings.append(
            f"{found[orphan]}: no such image ({len(found) - len(images)} masks of {split} are not used)"
        )
    return SegmentationSplit(
        images=pack(list(images.values())),
        names=pack(list(images)),
        labels=pack([found[stem] for stem in images]),
    )


def _by_stem(folder: Path) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in list_images(folder):
        if path.stem in stems:
            raise UserError(
                f"{path}: shares its name with {stems[path.stem].name}; rename one (and its mask)"
            )
        stems[path.stem] = path
    return stems


def _refuse_leaks(base: Path, splits: dict[str, SegmentationSplit], allow_same_names: bool) -> None:
    """An image in both train and val makes every score of val too good."""
    if "train" not in splits or "val" not in splits:
        return
    shared = sorted(set(splits["train"].names.tolist()) & set(splits["val"].names.tolist()))
    if shared and not allow_same_names:
        raise UserError(
            f"{base}: {os.fsdecode(shared[0])!r} is an image of both train and val ({len(shared)} such "
            "names); remove it from one, or, if both just number their files, give "
            "data.source.allow_same_names=true"
        )
    twins = same_content(splits["train"].images, splits["val"].images)
    if twins is not None:
        raise UserError(f"{twins[0]}: the same picture as {twins[1]}; remove it from train or from val")


def _check_masks(files: SegmentationSplit, read_label: LabelReader) -> None:
    if files.labels is None:
        return
    for index in spread(len(files), _SIZES_CHECKED):
        image, label = os.fsdecode(files.images[index]), os.fsdecode(files.labels[index])
        image_hw, label_hw = image_size(image), image_size(label, upright=False)
        if image_hw != label_hw:
            turned = " (the image is turned by its EXIF orientation)" if image_hw == label_hw[::-1] else ""
            raise UserError(
                f"{label}: the mask is {label_hw[0]} x {label_hw[1]} but {image} {image_hw[0]} x "
                f"{image_hw[1]} (height x width){turned}; export both at the same size"
            )
    for index in spread(len(files), _MASKS_CHECKED):
        read_label(os.fsdecode(files.labels[index]))
