"""Images with more objects than can be predicted or counted, which keeps the average precision below 1."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from det.data.dataset import DetectionSplit

SCORED_PER_CLASS = 100
"""COCO's limit on the detections per image and class that count."""


class ObjectLimits(NamedTuple):
    """Limits on the boxes of an image: all that are predicted, those of a class (None: no limit), and those
    of a class that count in the evaluation."""

    predicted: int
    predicted_per_class: int | None
    scored_per_class: int


def scored_limits(largest: int) -> list[int]:
    """The limits on detections per image and class for which recall is reported: 1, 10 and the largest."""
    return sorted({min(limit, largest) for limit in (1, 10, largest)})


def over_limits(
    split: DetectionSplit, limits: ObjectLimits, *, images: Iterable[int] | None = None
) -> list[str]:
    """A line if images have more objects than a limit, with the keys to set; ignored objects do not count.

    Args:
        images: indices of the images to look at (default: all).
    """
    owners = np.repeat(np.arange(len(split)), np.diff(split.offsets))
    counted = ~split.ignored
    if images is not None:
        counted &= np.isin(owners, list(images))
    _, in_image = np.unique(owners[counted], return_counts=True)
    pairs = np.column_stack([owners, split.labels])[counted]
    classes, in_class = np.unique(pairs, axis=0, return_counts=True)
    if not len(in_image):
        return []
    most, most_of_class = int(in_image.max()), int(in_class.max())
    wanted = {
        "task.postprocess.max_detections": (limits.predicted, most),
        "task.postprocess.per_class": (limits.predicted_per_class or most, most_of_class),
        "task.scored_per_class": (limits.scored_per_class, most_of_class),
    }
    keys = [f"{key}={need}" for key, (limit, need) in wanted.items() if limit < need]
    if not keys:
        return []
    per_class = min(limits.predicted_per_class or most, limits.scored_per_class)
    over = np.union1d(
        np.unique(owners[counted])[in_image > limits.predicted], classes[in_class > per_class, 0]
    )
    noun = f"{len(over)} images have" if len(over) > 1 else "1 image has"
    return [
        f"{noun} up to {most} objects, of which at most {min(limits.predicted, most)} can be predicted and "
        f"{min(per_class, most)} of a class count; to predict and count all, set {' '.join(keys)}"
    ]
