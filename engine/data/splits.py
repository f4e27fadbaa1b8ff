"""Split folders of a data source, and checks that splits do not share images."""

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.data.images import IMAGE_SUFFIXES, read_image
from engine.errors import UserError, some
from engine.io.files import same_content

T = TypeVar("T", bound=np.generic)


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


def rows_of(array: NDArray[T], rows: NDArray[np.int64]) -> NDArray[T]:
    """The `rows` of `array`, of which there is at least one; for -1, a row of zeros."""
    taken = array[rows]
    taken[rows < 0] = np.zeros((), array.dtype)
    return taken


def refuse_shared_names(
    source: object,
    train: NDArray[np.bytes_],
    val: NDArray[np.bytes_],
    *,
    names: tuple[str, str] = ("train", "val"),
) -> None:
    """Check that no image is in both of two splits, called `names`, which would inflate all metrics.

    Raises: UserError, starting with `source`, if both contain an image with the same (packed) name.
    """
    shared = sorted(set(train.tolist()) & set(val.tolist()))
    both = " and ".join(names)
    if shared:
        raise UserError(
            f"{source}: {os.fsdecode(shared[0])!r} is in both {both} (as are {len(shared)} names "
            f"in total); remove it from one, or, if {both} number their files independently, set "
            "data.source.allow_same_names=true"
        )


def check_leaks(splits: Mapping[str, Sequence[bytes] | NDArray[np.bytes_]], *, override: str) -> list[str]:
    """Compare the image files (packed paths) of every two splits. Returns a line about each two that share
    images of a single color, such as tiles without data, which are allowed.

    Raises: UserError, with the numbers and the `override` that allows it, if two splits share other images.
    """
    lines, shared, example = [], [], ""
    for first, second in itertools.combinations(splits, 2):
        pairs = list(same_content(splits[first], splits[second]))
        leaks = [pair for pair in pairs if not _is_uniform(pair[0])]
        if leaks:
            example = example or "{}: the same image as {}".format(*leaks[0])
            shared.append(f"{first} and {second} share {len(leaks)}")
        if uniform := len(pairs) - len(leaks):
            lines.append(f"{uniform} of the images of {second} have a single color and are also in {first}")
    if shared:
        raise UserError(
            f"{example} ({', '.join(shared)}); remove them from one of the splits, or set {override}"
        )
    return lines


def _is_uniform(path: str) -> bool:
    try:
        pixels = read_image(path)
    except UserError:  # reported or skipped when it is read as a sample
        return False
    return bool((pixels == pixels[0, 0]).all())
