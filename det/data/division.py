"""Divides a dataset without splits into train and val."""

import os

import numpy as np

from det.data.dataset import DetectionSplit
from engine.data.splits import divide


def divide_split(
    source: object, split: DetectionSplit, *, remedy: str
) -> tuple[dict[str, DetectionSplit], list[str]]:
    """The images of a split as train and val, by `divide`, and lines to show before training."""
    images = [os.fsdecode(path) for path in split.images.tolist()]
    val, lines = divide(source, {path: path for path in images}, remedy=remedy, name_of=os.path.basename)
    chosen = np.array([path in val for path in images])
    parts = {"train": split.without(np.flatnonzero(chosen)), "val": split.without(np.flatnonzero(~chosen))}
    return parts, lines
