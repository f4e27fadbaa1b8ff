"""Splits that are parts of others: val as a part of train, if there is none, and splits that repeat one."""

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from det.data.dataset import DetectionSplit
from engine.data.splits import divide


def part_of(
    images: Sequence[str], splits: Mapping[str, DetectionSplit], *, files_of: Callable[[str], object] = str
) -> DetectionSplit | None:
    """The part of one of `splits` with these images, if it has all of them; else None.

    Their annotations are then not read, and what is wrong in them is not counted, a second time.

    files_of: two images are the same if it returns the same for them; by default, their path.
    """
    names = set(map(os.path.basename, images))
    for split in splits.values():
        present = [os.fsdecode(path) for path in split.images.tolist()]
        if names <= set(map(os.path.basename, present)):
            wanted = set(map(files_of, images))
            keys = list(map(files_of, present))
            if wanted <= set(keys):
                return split.without(index for index, key in enumerate(keys) if key not in wanted)
    return None


def with_val(
    source: object, splits: Mapping[str, DetectionSplit], *, remedy: str, whole: bool = False
) -> tuple[dict[str, DetectionSplit], list[str]]:
    """The splits, with a fifth of train as val (`divide`) if there is none, and lines about it.

    Args:
        source: the start of the lines.
        remedy: how the user can choose the images.
        whole: whether train contains all images, because the dataset has no splits.

    Raises:
        UserError: if train does not have two different images.
    """
    if "val" in splits or "train" not in splits:
        return dict(splits), []
    train = splits["train"]
    images = [os.fsdecode(path) for path in train.images.tolist()]
    what = "" if whole else "train"
    val, lines = divide(
        source, {path: path for path in images}, remedy=remedy, name_of=os.path.basename, what=what
    )
    chosen = np.array([path in val for path in images])
    parts = {"train": train.without(np.flatnonzero(chosen)), "val": train.without(np.flatnonzero(~chosen))}
    return {**parts, **{split: part for split, part in splits.items() if split != "train"}}, lines
