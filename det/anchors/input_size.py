"""`data.size=auto`: the input size of a detector, from the sizes of the training objects."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from det.anchors.coverage import TINY
from det.data.dataset import DetectionSplit
from engine.contracts import Choice
from engine.errors import UserError

STEP = 32
"""Sides are multiples of the deepest feature map's stride."""

SMALLEST, LARGEST = 320, 640
"""Bounds of the square root of the input's area. The networks were designed for 320."""

LARGE_ENOUGH = 0.95
"""Share of the objects that must not be tiny."""


def input_size(source: Any, config: Mapping[str, Any]) -> Choice:
    """The smallest input at which at least 95% of the training objects are not tiny (8 pixels or more).

    The input has about the median aspect ratio of the images. Anchors are fractions of the input, so their
    overlap with the objects hardly depends on its size; what a larger input gains is pixels on small objects.

    Args:
        source: a `det.data.dataset.DetectionSource`.

    Raises:
        UserError: if the training split has no objects.
    """
    split: DetectionSplit = source.dataset("train", None).split
    sides = relative_sides(split)
    if not len(sides):
        raise UserError("data.size=auto: the training split has no objects; set data.size=[320,320]")
    height, width, share = choose_size(sides, aspect=median_aspect(split))
    allowed = f"at most {1 - LARGE_ENOUGH:.0%} are allowed"
    if share < LARGE_ENOUGH:
        allowed = "even at the largest size that auto chooses; consider cutting the images into tiles"
    tiny = f"{1 - share:.1%} of {len(sides)} training objects are smaller than {TINY:g} pixels"
    return Choice(value=[height, width], reason=f"{tiny}, {allowed}")


def choose_size(sides: NDArray[np.float64], *, aspect: float) -> tuple[int, int, float]:
    """(height, width, share of the objects that are not tiny at this size).

    Args:
        sides: square roots of the objects' areas as fractions of their image [M].
        aspect: height / width of the images.
    """
    share = 0.0
    for side in range(SMALLEST, LARGEST + 1, STEP):
        height, width = (_multiple(side * factor) for factor in (aspect**0.5, aspect**-0.5))
        share = float((sides * (height * width) ** 0.5 >= TINY).mean())
        if share >= LARGE_ENOUGH:
            break
    return height, width, share


def relative_sides(split: DetectionSplit) -> NDArray[np.float64]:
    """The square root of each object's area as a fraction of its image's, for objects that are trained on."""
    owners = np.repeat(np.arange(len(split)), np.diff(split.offsets))
    corners = split.boxes.astype(np.float64)
    areas = np.prod(np.clip(corners[:, 2:] - corners[:, :2], 0, None), axis=1)
    of_images = np.prod(split.sizes[owners].astype(np.float64), axis=1)
    used = ~split.ignored & (areas > 0)
    return np.asarray(np.sqrt(areas[used] / of_images[used]), np.float64)


def median_aspect(split: DetectionSplit) -> float:
    """The median of height / width, between 1/2 and 2."""
    present = split.sizes[(split.sizes > 0).all(axis=1)]
    return float(np.clip(np.median(present[:, 0] / present[:, 1]), 0.5, 2.0))


def _multiple(side: float) -> int:
    return max(STEP, round(side / STEP) * STEP)
