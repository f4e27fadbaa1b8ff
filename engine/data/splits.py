"""Splits of a data source: their folders on disk, and what train and val must not share."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import UserError
from engine.io.files import find_same_content

_ORDER = {"train": 0, "val": 1, "test": 2}


def split_folders(folder: Path, *, example: str) -> list[str]:
    """Names of the sub-folders, hidden ones left out: train, val, test, then the others by name.

    example: where images belong, such as `train/<class>`, for the message.

    Raises: UserError if there is no sub-folder, or the folder cannot be read.
    """
    try:
        # os.path.isdir is false for a link to itself, where a directory entry would raise.
        names = [name for name in os.listdir(folder) if os.path.isdir(folder / name) and name[0] != "."]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
    if not names:
        raise UserError(f"{folder}: no folders of splits; put the images into {example}")
    return sorted(names, key=lambda name: (_ORDER.get(name, 9), name))


def keep_all_but(count: int, indices: Iterable[int]) -> NDArray[np.bool_]:
    """bool [count]: False at `indices`."""
    keep = np.ones(count, bool)
    keep[list(indices)] = False
    return keep


def refuse_shared_names(source: object, train: NDArray[np.bytes_], val: NDArray[np.bytes_]) -> None:
    """An image in both train and val makes every score of val too good.

    Raises: UserError, beginning with `source`, if two images have one (packed) name.
    """
    shared = sorted(set(train.tolist()) & set(val.tolist()))
    if shared:
        raise UserError(
            f"{source}: {os.fsdecode(shared[0])!r} is an image of both train and val ({len(shared)} names in "
            "both); remove it from one, or, if train and val number their files independently, give "
            "data.source.allow_same_names=true"
        )


def refuse_shared_files(train: Iterable[bytes], val: Iterable[bytes], *, override: str = "") -> None:
    """Raises: UserError if a file of `val` (packed paths) has the content of one of `train`.

    override: how the user can allow it, for the message; empty: it cannot be allowed.
    """
    if (pair := find_same_content(train, val)) is not None:
        remedy = f"remove it from train or from val{f', or give {override}' if override else ''}"
        raise UserError(f"{pair[0]}: the same image as {pair[1]}; {remedy}")
