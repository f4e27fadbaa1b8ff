"""Checks a sample of masks before training: the shares of the classes, and what gray masks mean."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.data.class_map import IGNORE, UNKNOWN, ClassMap
from engine.data.images import count_values, read_labels
from engine.data.images.messages import DamagedFileError
from engine.data.labels.balance import RARE
from engine.data.splits import divide
from engine.errors import UserError, raise_or_collect, some
from engine.io.files import evenly_spaced
from seg.data.dataset import LabelReader, Palette, SegmentationSplit, is_gray

_MASKS_SAMPLED = 24  # per split; every pixel is counted


def read_sample(
    split: SegmentationSplit, read_label: LabelReader, *, least: int, skip_damaged: bool = False
) -> tuple[NDArray[np.int64], int]:
    """Read evenly spaced masks of a split: 24, and then the others until `least` classes have occurred.

    Returns:
        (number of pixels [256] per class, ignored ones at 255; number of masks read)
    """
    assert split.labels is not None
    counts, number = np.zeros(256, np.int64), 0
    first = evenly_spaced(len(split), _MASKS_SAMPLED)
    for index in [*first, *(set(range(len(split))) - set(first))]:
        if number >= len(first) and np.count_nonzero(counts[:IGNORE]) >= least:
            break
        try:
            label = read_label(os.fsdecode(split.labels[index]))
        except DamagedFileError:  # reported later, with all others
            continue
        except UserError:
            if not skip_damaged:
                raise
            continue
        counts += count_values(label)
        number += 1
    return counts, number


def label_shares(
    source: object,
    splits: Mapping[str, SegmentationSplit],
    read_label: LabelReader,
    classes: ClassMap,
    *,
    skip_damaged: bool = False,
    remedy: str = "check the ids and `ignore` in classes.json",
) -> list[str]:
    """Lines with the share of each class and of ignored pixels in a sample of the masks, and with the classes
    that do not occur in it.

    Raises:
        UserError: starting with `source` and ending with `remedy`, if no pixel of a split counts, or train
            has a single class.
    """
    lines: list[str] = []
    for name, split in splits.items():
        if split.labels is None:
            continue
        least = 2 if name == "train" else 1
        counts, number = read_sample(split, read_label, least=least, skip_damaged=skip_damaged)
        if not number:
            continue
        shares = _shares(counts, classes)
        what = f"{source}: {name}: {number} of {len(split)} masks read: {shares}"
        if np.count_nonzero(counts[:IGNORE]) < least and name in ("train", "val"):
            least_words = "at least two classes must occur" if least == 2 else "nothing can be scored"
            raise_or_collect(UserError(f"{what}; {least_words}: {remedy}"))
        read = "the mask read" if number == 1 else f"the {number} masks read"
        lines += [what, *_rare(f"{source}: {name}: in {read}, ", counts, classes)]
        absent = [classes.names[index] for index in range(len(classes)) if not counts[index]]
        if absent:
            where = f"none of {read} contains" if number > 1 else f"{read} does not contain"
            where = f"{where} {some(absent)}"
            lines.append(f"{source}: {name}: {where}; {remedy.partition(';')[0]}")
    return lines


def _rare(start: str, counts: NDArray[np.int64], classes: ClassMap) -> list[str]:
    """A line about classes with less than a hundredth of the pixels of the most frequent one."""
    of_classes = counts[: len(classes)]
    order = np.argsort(of_classes, kind="stable")
    names = [classes.names[i] for i in order if 0 < of_classes[i] < RARE * of_classes.max()]
    verb = "has" if len(names) == 1 else "have"
    return (
        [f"{start}{some(names)} {verb} less than 1% as many pixels as the most frequent class"]
        if names
        else []
    )


def _shares(counts: NDArray[np.int64], classes: ClassMap) -> str:
    """'road 61.2%, car 3.1%, ignored 12%' of the pixels, the most frequent classes first."""
    order = np.argsort(-counts[: len(classes)], kind="stable")
    total = max(1, int(counts.sum()))
    parts = [f"{classes.names[index]} {counts[index] / total:.1%}" for index in order if counts[index]]
    return f"{some(parts, 8) or 'no class'}, ignored {counts[IGNORE] / total:.1%}"


def gray_meaning(classes: ClassMap, splits: Mapping[str, SegmentationSplit]) -> Palette:
    """What gray masks mean where both ids and colors fit, as for `LabelReader`.

    If other masks of a sample contain colors, so does a gray one, such as a mask that is all black; if other
    masks of one channel contain ids that are no colors, so do all.
    """
    if not any(len(set(color)) == 1 for color in (*classes.colors, *classes.ignore_colors)):
        return "auto"
    reader, some_are_ids = LabelReader(classes=classes, remedy=""), False
    for split in splits.values():
        labels = [] if split.labels is None else split.labels.tolist()
        for index in evenly_spaced(len(labels), _MASKS_SAMPLED):
            path = os.fsdecode(labels[index])
            try:
                stored = read_labels(path)
                colors, _ = reader.colors_of(path, stored)
            except UserError:
                continue
            if stored.ndim == 3:
                if not is_gray(stored):
                    return "colors"
                continue
            if colors is None:
                continue
            by_id, by_color = reader.fits(np.flatnonzero(count_values(stored)), colors)
            fits_ids, fits_colors = (bool((found != UNKNOWN).all()) for found in (by_id, by_color))
            if fits_colors and not fits_ids:
                return "colors"
            some_are_ids |= fits_ids and not fits_colors
    return "ids" if some_are_ids else "auto"


def divide_split(
    base: Path,
    split: SegmentationSplit,
    *,
    what: str,
    remedy: str = "sort images and masks into folders train and val",
) -> tuple[dict[str, SegmentationSplit], list[str]]:
    """The images of a split as train and val (`engine.data.splits.divide`), and lines about it."""
    images = {
        os.fsdecode(name): os.fsdecode(path) for name, path in zip(split.names, split.images, strict=True)
    }
    val, lines = divide(base, images, remedy=remedy, what=what)
    chosen = np.array([name in val for name in images])
    return {
        "train": split.without(np.flatnonzero(chosen)),
        "val": split.without(np.flatnonzero(~chosen)),
    }, lines
