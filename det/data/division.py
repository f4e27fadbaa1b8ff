"""Divides the training images of a dataset without val."""

import os
from collections.abc import Mapping

import numpy as np

from det.data.dataset import DetectionSplit
from engine.data.splits import divide


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
