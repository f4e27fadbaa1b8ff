"""Your own data: `images/<split>/*`, `masks/<split>/*.png` and `classes.json`."""

import os
from pathlib import Path

from engine.data.class_map import ClassMap
from engine.data.images import find_images, image_size, left_out
from engine.data.splits import files_beside, refuse_shared_files, refuse_shared_names, split_folders
from engine.errors import UserError
from engine.io.files import evenly_spaced, pack_paths
from seg.data.dataset import LabelReader, SegmentationSource, SegmentationSplit

_SIZES_CHECKED = 1000  # per split; two headers take about 0.3 ms


_MASKS_CHECKED = 24  # per split, every pixel


def masks(*, root: str, allow_same_names: bool = False, on_error: str = "fail") -> SegmentationSource:
    """Folders of images and masks under `root`; folders inside those of a split belong to it.

    A mask contains class ids (8- or 16-bit, one channel or palette) or the RGB colors of classes.json, and
    has the same name (and folder) as its image. Only the split "test" can do without masks; it can then be
    predicted but not evaluated. allow_same_names: for train and val that number their files independently
    (equal content is still an error). on_error: with `skip`, damaged files are left to
    `engine.data.unreadable`, which reads every file.

    Raises: UserError, before training, if a folder is missing or empty, an image has no mask, sizes differ,
    a mask contains values that classes.json does not list (a sample is checked now, every mask when it is
    read), or train and val share an image.
    """
    base = Path(root).expanduser()
    classes = ClassMap.read(base / "classes.json")
    read_label = LabelReader(
        classes=classes,
        remedy=f"list it in {base / 'classes.json'} as a class or under ignore (ignore_colors for a color), "
        "or correct the mask",
    )
    warnings = [line for kind in ("images", "masks") for line in files_beside(base / kind)]
    splits = {split: _find_split(base, split, warnings) for split in _split_names(base)}
    if "train" in splits and "val" in splits:
        train, val = splits["train"], splits["val"]
        if not allow_same_names:
            refuse_shared_names(base, train.names, val.names)
        refuse_shared_files(train.images, val.images)
    for files in splits.values() if on_error == "fail" else ():
        _check_masks(files, read_label)
    counts = ", ".join(f"{split} {len(files)}" for split, files in splits.items())
    return SegmentationSource(
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
            f"{folder}: no such folder; put the images into images/train, images/val (and images/test)"
        )
    return split_folders(folder, example="images/train and images/val")


def _find_split(base: Path, split: str, warnings: list[str]) -> SegmentationSplit:
    images, unread = _by_name(base / "images" / split)
    if not images:
        reason = "; ".join(["no images", *unread])
        raise UserError(f"{base / 'images' / split}: {reason}; add some or remove the folder")
    folder = base / "masks" / split
    masks, unread_masks = _by_name(folder) if folder.is_dir() else ({}, [])
    warnings += [*unread, *unread_masks]
    if not masks and split == "test":
        return SegmentationSplit(images=pack_paths(list(images.values())), names=pack_paths(list(images)))
    missing = [stem for stem in images if stem not in masks]
    if missing:
        raise UserError(
            f"{images[missing[0]]}: no mask {folder / missing[0]}.png ({len(missing)} of {len(images)} "
            f"images of {split} have none); add the masks or remove the images"
        )
    if len(masks) > len(images):
        orphan = next(stem for stem in masks if stem not in images)
        warnings.append(
            f"{masks[orphan]}: no image of that name ({len(masks) - len(images)} masks of {split} are unused)"
        )
    return SegmentationSplit(
        images=pack_paths(list(images.values())),
        names=pack_paths(list(images)),
        labels=pack_paths([masks[stem] for stem in images]),
    )


def _by_name(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The images below a folder by name (the path below it, without suffix), and a line about other files."""
    found, others = find_images(folder)
    names: dict[str, Path] = {}
    for path in found:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in names:
            raise UserError(f"{path}: has the same name as {names[name].name}; rename one (and its mask)")
        names[name] = path
    return names, left_out(folder, others)


def _check_masks(files: SegmentationSplit, read_label: LabelReader) -> None:
    if files.labels is None:
        return
    for index in evenly_spaced(len(files), _SIZES_CHECKED):
        image, label = os.fsdecode(files.images[index]), os.fsdecode(files.labels[index])
        image_hw, label_hw = image_size(image), image_size(label, upright=False)
        if image_hw != label_hw:
            rotated = " (the image is rotated by its EXIF orientation)" if image_hw == label_hw[::-1] else ""
            raise UserError(
                f"{label}: the mask is {label_hw[0]} x {label_hw[1]} but {image} is {image_hw[0]} x "
                f"{image_hw[1]} (height x width){rotated}; export both at the same size"
            )
    for index in evenly_spaced(len(files), _MASKS_CHECKED):
        read_label(os.fsdecode(files.labels[index]))
