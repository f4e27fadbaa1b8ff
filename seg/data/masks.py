"""Your own data: images, masks and `classes.json`."""

import itertools
import os
from pathlib import Path

from engine.data.images import Orientation, image_size
from engine.data.images.messages import DamagedFileError
from engine.data.splits import check_leaks, files_beside, refuse_shared_names, without_repeated
from engine.errors import UserError, counted
from engine.io.files import evenly_spaced, existing_root
from seg.data.dataset import LabelReader, Palette, SegmentationSource, SegmentationSplit
from seg.data.mask_checks import divide_split, gray_meaning, label_shares
from seg.data.mask_classes import find_classes
from seg.data.mask_layouts import UNDIVIDED, find_folders
from seg.data.mask_names import pair

_SIZES_CHECKED = 1000  # per split; two headers take about 0.3 ms


def masks(
    *,
    root: str,
    images: str | None = None,
    masks: str | None = None,
    mask_suffix: str | None = None,
    allow_same_names: bool = False,
    allow_same_files: bool = False,
    on_error: str = "fail",
    palette: Palette = "auto",
    orientation: Orientation = "upright",
    write_classes: bool = True,
) -> SegmentationSource:
    """Folders of images and masks under `root`; folders inside those of a split belong to it.

    A mask contains class ids (8- or 16-bit, one channel, palette or gray RGB) or the RGB colors of
    classes.json, and has the same name (and folder) as its image, or that name plus a suffix. Only the split
    "test" can lack masks; it can then be predicted but not evaluated. Without val, a fifth of train is used
    as val. A split whose images are all in an earlier one is left out. For the layouts see
    `seg.data.mask_layouts`, for classes without classes.json `seg.data.mask_classes`.

    images, masks: names of the folders (None: the usual ones). mask_suffix: what a mask's name adds to its
    image's name (None: detected). allow_same_names: for splits that number their files independently (equal
    content is still an error). allow_same_files: whether splits may share images. on_error: with `skip`,
    damaged files and missing masks are left to `engine.data.unreadable`, which reads all. palette: what
    palette and gray RGB masks contain, as in `LabelReader`. orientation: `stored` compares masks with images
    that are not rotated upright. write_classes: whether a missing classes.json is written.

    Raises: UserError, before training, if a folder is missing or empty, an image has no mask, sizes differ,
    a mask contains values that classes.json does not list (a sample is checked now, every mask when it is
    read), train has a single class, val none, or two splits share an image (unless it has a single color).
    """
    base, skips = existing_root(root), on_error == "skip"
    splits, warnings = _find_splits(base, images, masks, mask_suffix, skips=skips)
    if not allow_same_files:
        splits, lines = without_repeated(base, splits, lambda part: part.images.tolist())
        warnings += lines
        files_of = {split: files.images for split, files in splits.items()}
        leaks = check_leaks(files_of, override="data.source.allow_same_files=true")
        warnings += [f"{base}: {line}" for line in leaks]
        for first, second in itertools.combinations(splits, 2) if not allow_same_names else ():
            refuse_shared_names(base, splits[first].names, splits[second].names, names=(first, second))
    for files in splits.values() if not skips else ():
        _check_sizes(files, upright=orientation != "stored")
    # After the other checks: it may write classes.json, and a run that is refused does not say so.
    classes, lines = find_classes(base, splits, skip_damaged=skips, write=write_classes)
    warnings += lines
    read_label = LabelReader(
        classes=classes,
        palette=palette,
        gray=gray_meaning(classes, splits),
        remedy=f"list it in {base / 'classes.json'} as a class or, if its pixels do not count at all, under "
        "ignore (ignore_colors for a color), or correct the mask",
    )
    warnings += label_shares(base, splits, read_label, classes, skip_damaged=skips)
    counts = ", ".join(f"{split} {len(files)}" for split, files in splits.items())
    return SegmentationSource(
        classes=classes,
        splits=splits,
        read_label=read_label,
        description=f"masks at {base} ({counts}; {counted(len(classes), 'class')})",
        warnings=warnings,
    )


def _find_splits(
    base: Path, images: str | None, masks: str | None, suffix: str | None, *, skips: bool
) -> tuple[dict[str, SegmentationSplit], list[str]]:
    folders = find_folders(base, images=images, masks=masks)
    warnings = []
    if UNDIVIDED not in folders:
        parents = {parent for each in folders.values() for parent in (each.images.parent, each.masks.parent)}
        held = {folder for each in folders.values() for folder in (each.images, each.masks)}
        warnings = [line for parent in sorted(parents - held) for line in files_beside(parent)]
    splits = {
        split: pair(split, each, suffix=suffix, warnings=warnings, skips=skips)
        for split, each in folders.items()
    }
    whole = UNDIVIDED if UNDIVIDED in splits else "train" if "val" not in splits else None
    if whole in splits:
        parts, lines = divide_split(base, splits.pop(whole), what=whole)
        splits, warnings = {**parts, **splits}, [*warnings, *lines]
    return splits, warnings


def _check_sizes(files: SegmentationSplit, *, upright: bool) -> None:
    if files.labels is None:
        return
    for index in evenly_spaced(len(files), _SIZES_CHECKED):
        image, label = os.fsdecode(files.images[index]), os.fsdecode(files.labels[index])
        try:
            image_hw, label_hw = image_size(image, upright=upright), image_size(label, upright=False)
        except DamagedFileError:  # reported later, with all others
            continue
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
