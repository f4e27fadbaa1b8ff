"""Your own data: `images/<split>/*`, `masks/<split>/*.png` and `classes.json`."""

import itertools
import os
from pathlib import Path

from engine.data.class_map import ClassMap
from engine.data.images import Orientation, find_images, image_size, left_out
from engine.data.splits import check_leaks, files_beside, refuse_shared_names, split_folders
from engine.errors import UserError
from engine.io.files import evenly_spaced, pack_paths
from seg.data.dataset import LabelReader, Palette, SegmentationSource, SegmentationSplit, label_shares

_SIZES_CHECKED = 1000  # per split; two headers take about 0.3 ms


def masks(
    *,
    root: str,
    allow_same_names: bool = False,
    allow_same_files: bool = False,
    on_error: str = "fail",
    palette: Palette = "auto",
    orientation: Orientation = "upright",
) -> SegmentationSource:
    """Folders of images and masks under `root`; folders inside those of a split belong to it.

    A mask contains class ids (8- or 16-bit, one channel or palette) or the RGB colors of classes.json, and
    has the same name (and folder) as its image. Only the split "test" can do without masks; it can then be
    predicted but not evaluated.

    allow_same_names: for splits that number their files independently (equal content is still an error).
    allow_same_files: whether splits may share images. on_error: with `skip`, damaged files are left to
    `engine.data.unreadable`, which reads every file. palette: what palette masks contain, as in
    `LabelReader`. orientation: `stored` compares masks with images that are not turned upright.

    Raises: UserError, before training, if a folder is missing or empty, an image has no mask, sizes differ,
    a mask contains values that classes.json does not list (a sample is checked now, every mask when it is
    read), train has a single class, val none, or two splits share an image (unless it has a single color).
    """
    base = Path(root).expanduser()
    classes = ClassMap.read(base / "classes.json")
    read_label = LabelReader(
        classes=classes,
        palette=palette,
        remedy=f"list it in {base / 'classes.json'} as a class or, if its pixels do not count at all, under "
        "ignore (ignore_colors for a color), or correct the mask",
    )
    warnings = [line for kind in ("images", "masks") for line in files_beside(base / kind)]
    splits = {split: _find_split(base, split, warnings) for split in _split_names(base)}
    for first, second in itertools.combinations(splits, 2) if not allow_same_names else ():
        refuse_shared_names(base, splits[first].names, splits[second].names, names=(first, second))
    if not allow_same_files:
        images = {split: files.images for split, files in splits.items()}
        lines = check_leaks(images, override="data.source.allow_same_files=true")
        warnings += [f"{base}: {line}" for line in lines]
    skips = on_error == "skip"
    warnings += label_shares(base, splits, read_label, classes, skip_damaged=skips)
    for files in splits.values() if not skips else ():
        _check_sizes(files, upright=orientation != "stored")
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


def _check_sizes(files: SegmentationSplit, *, upright: bool) -> None:
    if files.labels is None:
        return
    for index in evenly_spaced(len(files), _SIZES_CHECKED):
        image, label = os.fsdecode(files.images[index]), os.fsdecode(files.labels[index])
        image_hw, label_hw = image_size(image, upright=upright), image_size(label, upright=False)
        if image_hw != label_hw:
            other = "stored" if upright else "upright"
            turned = image_size(image, upright=not upright) == label_hw
            remedy = (
                f", or set data.orientation={other}: the mask fits the {other} image (EXIF)" if turned else ""
            )
            raise UserError(
                f"{label}: the mask is {label_hw[0]} x {label_hw[1]} but {image} is {image_hw[0]} x "
                f"{image_hw[1]} (height x width); export both at the same size{remedy}"
            )
