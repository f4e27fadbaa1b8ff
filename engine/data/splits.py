"""Split folders of a data source, and checks that train and val do not share images."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.data.images import IMAGE_SUFFIXES
from engine.errors import UserError, some
from engine.io.files import find_same_content

_ORDER = {"train": 0, "val": 1, "test": 2}


def split_folders(folder: Path, *, example: str) -> list[str]:
    """Names of the subfolders, except hidden ones: train, val, test, then the others by name.

    example: where images belong, such as `train/<class>`, for the message.

    Raises: UserError if there are no subfolders, or the folder cannot be read.
    """
    try:
        # For a symlink to itself, os.path.isdir returns False, and DirEntry.is_dir would raise.
        names = [name for name in os.listdir(folder) if os.path.isdir(folder / name) and name[0] != "."]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
    if not names:
        raise UserError(f"{folder}: no split folders; put the images into {example}")
    return sorted(names, key=lambda name: (_ORDER.get(name, 9), name))


def files_beside(folder: Path) -> list[str]:
    """A line that counts and names image files next to subfolders, where none are read; hidden ones aside."""
    if not folder.is_dir():
        return []
    files = [name for name in sorted(os.listdir(folder)) if name.lower().endswith(IMAGE_SUFFIXES)]
    files = [name for name in files if not name.startswith(".") and os.path.isfile(folder / name)]
    if not files:
        return []
    noun = "image" if len(files) == 1 else "images"
    return [f"{folder}: {len(files)} {noun} beside its folders left out: {some(files)}; move them into one"]


def keep_all_but(count: int, indices: Iterable[int]) -> NDArray[np.bool_]:
    """Mask bool [count]: False at `indices`, True elsewhere."""
    keep = np.ones(count, bool)
    keep[list(indices)] = False
    return keep


def refuse_shared_names(source: object, train: NDArray[np.bytes_], val: NDArray[np.bytes_]) -> None:
    """Check that no image is in both train and val, which would inflate all validation metrics.

    Raises: UserError, starting with `source`, if both contain an image with the same (packed) name.
    """
    shared = sorted(set(train.tolist()) & set(val.tolist()))
    if shared:
        raise UserError(
            f"{source}: {os.fsdecode(shared[0])!r} is in both train and val (as are {len(shared)} names "
            "in total); remove it from one, or, if train and val number their files independently, set "
            "data.source.allow_same_names=true"
        )


def refuse_shared_files(train: Iterable[bytes], val: Iterable[bytes], *, override: str = "") -> None:
    """Raise a UserError if a file of `val` (packed paths) has the same content as a file of `train`.

    override: the override that allows it, for the message; empty if there is none.
    """
    if (pair := find_same_content(train, val)) is not None:
        remedy = f"remove it from train or val{f', or set {override}' if override else ''}"
        raise UserError(f"{pair[0]}: the same image as {pair[1]}; {remedy}")
