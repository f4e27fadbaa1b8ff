"""Finds the image files of a folder, and writes images."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.data.images.messages import PathLike
from engine.errors import UserError, counted, some
from engine.io.files import walk_files

IMAGE_SUFFIXES = (".avif", ".bmp", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_NOT_DATA = ("desktop.ini", "thumbs.db", "_classes.csv")
"""Files that a system or an export puts beside the images."""


def list_images(folder: PathLike) -> list[Path]:
    """The image files below `folder`, sorted by path; hidden files and folders are left out.

    Raises: UserError if the folder is missing or cannot be read.
    """
    return find_images(folder)[0]


def find_images(folder: PathLike, *, known: tuple[str, ...] = ()) -> tuple[list[Path], list[str]]:
    """The image files below `folder`, sorted by path, and the relative paths of all files of other kinds.

    known: suffixes of files that are read otherwise, which count as neither.

    Raises: UserError if the folder is missing or cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check the path")
    broken: list[str] = []
    names = walk_files(folder, broken=broken)
    others = [n for n in names if not n.lower().endswith((*IMAGE_SUFFIXES, *known, *_NOT_DATA))]
    others += [f"{name} (a broken link)" for name in sorted(broken)]
    return [folder / name for name in names if name.lower().endswith(IMAGE_SUFFIXES)], others


def left_out(folder: PathLike, others: Sequence[str]) -> list[str]:
    """A line that counts and names the files below a folder that are not read; none if there are none."""
    if not others:
        return []
    kinds = " ".join(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES)
    return [f"{folder}: {counted(len(others), 'file')} left out: {some(others)}; images must be {kinds}"]


def write_png(path: PathLike, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Write uint8/uint16 [H, W] or RGB [H, W, 3] losslessly; creates parent folders.

    Raises: ValueError for any other shape or type, UserError if the file cannot be written.
    """
    if pixels.dtype not in (np.uint8, np.uint16) or not (pixels.ndim == 2 or pixels.shape[2:] == (3,)):
        raise ValueError(
            f"pixels must be uint8 or uint16, [H, W] or [H, W, 3], got {pixels.dtype} {pixels.shape}"
        )
    encoded = cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., ::-1])[1]
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(encoded.tobytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
