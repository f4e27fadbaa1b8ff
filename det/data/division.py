"""Divides a dataset without splits into train and val."""

import hashlib
import os
from collections.abc import Callable, Mapping

import numpy as np

from det.data.dataset import DetectionSplit
from engine.errors import UserError, some
from engine.io.files import groups_of_same_content

_VAL_SHARE = 0.2


def divide(
    source: object, images: Mapping[str, str], *, remedy: str, name_of: Callable[[str], str] = str
) -> tuple[set[str], list[str]]:
    """The names of a fifth of the images, for val, and lines to show before training.

    They are chosen by a hash of their names, so new images do not move the others. Identical images go to the
    side of the first of them.

    Args:
        source: what the lines begin with.
        images: name -> path, at least one.
        name_of: what of a name is hashed; the images should stay on their sides when the data are moved.
        remedy: how to choose the images oneself.

    Raises:
        UserError: if there are not two different images.
    """
    groups = groups_of_same_content(images.values())
    leader = {path: group[0] for group in groups for path in group}
    first = {path: name for name, path in images.items()}
    ranks = {name: _rank(name_of(first[leader.get(path, path)])) for name, path in images.items()}
    levels = sorted(set(ranks.values()))
    if len(levels) < 2:
        raise UserError(f"{source}: only one image; train and val need at least one each")
    limit = min(max(_VAL_SHARE, levels[1]), levels[-1])  # at least one image on either side
    val = {name for name, rank in ranks.items() if rank < limit}
    lines = [
        f"{source}: no splits; {len(val)} of {len(ranks)} images are used as val, chosen by a hash of their "
        f"names; to choose them yourself, {remedy}"
    ]
    if groups:
        names = some([os.path.basename(path) for group in groups for path in group[1:]], 2)
        count = sum(len(group) - 1 for group in groups)
        noun = "1 image is a copy" if count == 1 else f"{count} images are copies"
        lines.append(f"{source}: {noun} of another and on the same side of the split as it ({names})")
    return val, lines


def divide_split(
    source: object, split: DetectionSplit, *, remedy: str
) -> tuple[dict[str, DetectionSplit], list[str]]:
    """The images of a split as train and val, by `divide`, and lines to show before training."""
    images = [os.fsdecode(path) for path in split.images.tolist()]
    val, lines = divide(source, {path: path for path in images}, remedy=remedy, name_of=os.path.basename)
    chosen = np.array([path in val for path in images])
    parts = {"train": split.without(np.flatnonzero(chosen)), "val": split.without(np.flatnonzero(~chosen))}
    return parts, lines


def _rank(name: str) -> float:
    """0..1, by the hash of the name."""
    digest = hashlib.blake2b(os.fsencode(name), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32
