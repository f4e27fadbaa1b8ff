"""Finds the mask of each image by its name."""

import difflib
import re
import string
from collections.abc import Collection
from pathlib import Path

from engine.data.images import find_images, left_out
from engine.data.splits import as_listed
from engine.errors import UserError, raise_or_collect, some
from engine.io.files import pack_paths
from seg.data.dataset import SegmentationSplit
from seg.data.mask_layouts import Folders, without_mask_folder

_SUFFIXES = ("_mask", "_label", "_gt", "_masks", "_labels", "_seg", "-mask", "-label", "_segmentation")
"""Suffixes of masks that are next to their images."""


Names = dict[str, Path]
"""Name (the path below a folder, without suffix) -> file."""


def pair(
    split: str, folders: Folders, *, suffix: str | None, warnings: list[str], skips: bool = False
) -> SegmentationSplit:
    """The images of a split with their masks; a split "test" may have none.

    Args:
        suffix: what a mask's name adds to its image's name (None: nothing or, if it is the same for all
            images, any suffix).
        warnings: receives lines about the files that are left out.
        skips: whether a missing mask is an error only when it is read (if not all are missing).

    Raises:
        UserError: if there are no images, one has no mask, or several suffixes are possible.
    """
    images, unread = _by_name(folders.images)
    masks, unread_masks = _masks(folders, images)
    given, (images, suffix) = suffix, _without_masks(folders, images, suffix)
    if folders.names is not None:
        images = _listed(split, folders, images)
    if not images:
        reason = "; ".join(["no images", *unread])
        raise UserError(f"{folders.images}: {reason}; add some or remove the folder")
    warnings += [*unread, *unread_masks]
    if suffix is None:
        suffix = _common_suffix(folders, images, masks)
    masks_of = {name: name + suffix for name in images}
    if given is None and any(mask not in masks for mask in masks_of.values()):
        found = _with_other_words(folders, images, masks, warnings)
        masks_of = found or _with_word_replaced(folders, images, masks, warnings) or masks_of
    missing = [name for name in images if masks_of[name] not in masks]
    if split == "test" and len(missing) == len(images):
        return SegmentationSplit(images=pack_paths(list(images.values())), names=pack_paths(list(images)))
    if skips and len(missing) < len(images):
        masks = masks | {masks_of[name]: folders.masks / f"{masks_of[name]}.png" for name in missing}
    elif missing:
        message = _no_mask(split, folders, images, missing, masks, suffix, unread_masks)
        raise_or_collect(UserError(message, files=[str(images[name]) for name in missing]))
        return SegmentationSplit(images=pack_paths(list(images.values())), names=pack_paths(list(images)))
    if folders.names is None and folders.images != folders.masks and len(masks) > len(images):
        used = set(masks_of.values())
        orphans = [name for name in masks if name not in used]
        of_split = f" of {split}" if split else ""
        warnings.append(
            f"{masks[orphans[0]]}: no image of this name (unused masks{of_split}: {len(orphans)})"
        )
    return SegmentationSplit(
        images=pack_paths(list(images.values())),
        names=pack_paths(list(images)),
        labels=pack_paths([masks[masks_of[name]] for name in images]),
    )


def _masks(folders: Folders, images: Names) -> tuple[Names, list[str]]:
    if folders.images == folders.masks:
        return images, []
    return _by_name(folders.masks) if folders.masks.is_dir() else ({}, [])


def _without_masks(folders: Folders, images: Names, suffix: str | None) -> tuple[Names, str | None]:
    """The images without the masks next to them, and the suffix of the masks."""
    if folders.images != folders.masks:
        return images, suffix
    for end in _SUFFIXES if suffix is None else (suffix,):
        masks = {name for name in images if end and name.endswith(end)}
        if masks:
            return {name: path for name, path in images.items() if name not in masks}, end
    return images, suffix or _SUFFIXES[0]


def _listed(split: str, folders: Folders, images: Names) -> Names:
    """The images that the list names, by their path or its last part."""
    names = as_listed(folders.names or (), images)
    absent = [name for name in names if name not in images]
    if absent:
        raise UserError(
            f"{folders.images}: no image {some(absent, 2)}, listed in {split} ({len(absent)} of "
            f"{len(folders.names or ())} are missing); add them, or remove the lines from the list"
        )
    return {name: images[name] for name in names}


def _common_suffix(folders: Folders, images: Names, masks: Names) -> str:
    """The suffix that all masks add to their images' names; empty if unknown."""
    first = next(iter(images))
    ends = [name.removeprefix(first) for name in masks if name.startswith(first)]
    fitting = [end for end in ends if all(name + end in masks for name in images)]
    if "" in fitting or not fitting:
        return ""
    if len(fitting) > 1:
        raise UserError(
            f"{folders.masks}: each image has masks ending in {' and '.join(sorted(fitting)[:3])}; set "
            f"data.source.mask_suffix={min(fitting)}, for example"
        )
    return fitting[0]


def _with_other_words(folders: Folders, images: Names, masks: Names, warnings: list[str]) -> dict[str, str]:
    """Image -> mask, if all images share a word around the differing part and all masks share another one, as
    in image_7 and mask_7, or image_7 and mask_007; otherwise empty."""
    others = [name for name in masks if name not in images]
    ours, theirs = _differing(list(images)), _differing(others)
    if not ours.keys() <= theirs.keys():
        ours, theirs = _without_zeros(ours), _without_zeros(theirs)
        if len(theirs) < len(others):  # two masks have the same number
            return {}
    if len(images) < 2 or len(ours) < len(images) or not ours.keys() <= theirs.keys():
        return {}
    found = {name: theirs[middle] for middle, name in ours.items()}
    first = next(iter(images))
    warnings.append(
        f"{folders.masks}: masks paired by the differing part of their names, such as "
        f"{first} and {found[first]}"
    )
    return found


def _with_word_replaced(folders: Folders, images: Names, masks: Names, warnings: list[str]) -> dict[str, str]:
    """Image -> mask, if replacing one word turns every image's name into its mask's, as in seq1_frame_7 and
    seq1_label_7; empty if no pair of words fits, or several do."""
    first, fitting = next(iter(images)), []
    for old, new in dict.fromkeys(_replaced(first, mask) for mask in masks if mask not in images):
        if old and all(name.count(old) == 1 and name.replace(old, new) in masks for name in images):
            fitting.append((old, new))
    if len(images) < 2 or len(fitting) != 1:
        return {}
    found = {name: name.replace(*fitting[0]) for name in images}
    warnings.append(
        f"{folders.masks}: masks paired by replacing {fitting[0][0]} with {fitting[0][1]} in the images' "
        f"names, such as {first} and {found[first]}"
    )
    return found


def _replaced(name: str, other: str) -> tuple[str, str]:
    """The parts in which two names differ; both empty if either is empty or contains digits."""
    start = _shared(name, other)
    end = _shared(name[start:][::-1], other[start:][::-1])
    old, new = name[start : len(name) - end], other[start : len(other) - end]
    is_word = old and new and not any(letter.isdigit() for letter in old + new)
    return (old, new) if is_word else ("", "")


def _differing(names: list[str]) -> dict[str, str]:
    """The differing part of each name -> name; the shared start and end, except digits, are removed."""
    start, end = _common_start(names), _common_start([name[::-1] for name in names])
    if any(len(name) <= start + end for name in names):
        return {}
    return {name[start : len(name) - end]: name for name in names}


def _without_zeros(names: dict[str, str]) -> dict[str, str]:
    """Differing part -> name, without zeros at the start of the numbers in that part."""
    return {re.sub(r"(?<!\d)0+(?=\d)", "", part): name for part, name in names.items()}


def _common_start(names: list[str]) -> int:
    """The number of characters at the start that all names share, without digits at its end."""
    lowest, highest = min(names, default=""), max(names, default="")
    return len(lowest[: _shared(lowest, highest)].rstrip(string.digits))


def _shared(name: str, other: str) -> int:
    """The number of characters at the start that two names share."""
    same = [one == another for one, another in zip(name, other, strict=False)]
    return same.index(False) if False in same else len(same)


def _no_mask(
    split: str,
    folders: Folders,
    images: Names,
    missing: list[str],
    masks: Collection[str],
    suffix: str,
    unread: list[str],
) -> str:
    first = missing[0]
    if folders.images == folders.masks:
        masks = [name for name in masks if name not in images]
    longer = sorted(name for name in masks if name.startswith(first) and name != first)
    lower = {name.lower(): name for name in masks}
    near = difflib.get_close_matches((first + suffix).lower(), lower, n=1, cutoff=0.6)
    remedy = "add the masks or remove the images"
    if longer:
        remedy = f"there is {longer[0]}: set data.source.mask_suffix={longer[0].removeprefix(first)}?"
    elif near:
        remedy = f"the nearest name is {lower[near[0]]}: rename one of the two"
    elif (alone := first.rpartition("/")[2] + suffix) in masks:
        remedy = f"there is {alone}: put masks into the same subfolders as their images"
    elif same := _of_same_number(first, masks):
        remedy = f"there is {same}, with the same number: rename one of the two"
    layers = sorted(name.rpartition("/")[0] for name in masks if name.endswith(f"/{first}{suffix}"))
    if folders.images != folders.masks and len(layers) > 1:
        remedy = f"one mask per class ({some(layers)}) is not read: merge those of each image into one mask"
    counts = f"{len(missing)} of {len(images)} images{f' of {split}' if split else ''} have none"
    reasons = "".join(f"{line}; " for line in unread)
    if folders.images == folders.masks:
        found, instead = without_mask_folder(folders)
        reasons, remedy = reasons + found, remedy if longer or near else instead or remedy
    return f"{images[first]}: no mask {folders.masks / first}{suffix}.png ({counts}); {reasons}{remedy}"


def _of_same_number(name: str, masks: Collection[str]) -> str:
    """The only mask with the number in `name`, apart from zeros in front; empty if there is none."""
    number = re.fullmatch(r"\D*?0*([1-9]\d*|0)\D*", name)
    same = [other for other in masks if number and re.fullmatch(rf"\D*0*{number[1]}\D*", other)]
    return same[0] if len(same) == 1 else ""


def _by_name(folder: Path) -> tuple[Names, list[str]]:
    """The images below a folder, and a line about other files."""
    found, others = find_images(folder)
    names: Names = {}
    for path in found:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in names:
            raise UserError(f"{path}: has the same name as {names[name].name}; rename one (and its mask)")
        names[name] = path
    return names, left_out(folder, others)
