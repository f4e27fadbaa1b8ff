"""Decodes the kinds of images that OpenCV is not used for, and scales more than 8 bits to 8."""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.data.images import tiff, tiff_parts
from engine.data.images.messages import PathLike, damaged, too_large, unsupported
from engine.data.images.tiff import Tiff
from engine.errors import UserError

Range = tuple[float, float]
"""The stored values that become 0 and 255."""

Convert = Callable[[NDArray[Any]], NDArray[Any]]

_COUNTED_AT_ONCE = 1 << 20

_SCALED_AT_ONCE = 1 << 20


def decode_pillow(path: PathLike, header: Image.Image, pixel_range: Range | None) -> NDArray[np.uint8]:
    high_depth = header.mode in ("I", "I;16", "I;16B", "F")
    try:
        pixels = np.asarray(header if high_depth else header.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:
        raise damaged(path, str(error)) from error
    return to_rgb(eight_bits(path, pixels, pixel_range))


def eight_bits(path: PathLike, pixels: NDArray[Any], pixel_range: Range | None) -> NDArray[np.uint8]:
    """Scale [H, W] or [H, W, C] to 0..255, rounded to nearest; by default from 0..65535."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixel_range is None and (pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() > 65535):
        raise UserError(
            f"{path}: {pixels.dtype} values that are not integers in 0..65535; set data.pixel_range="
            "[<value of black>,<value of white>], or save 8 or 16 bits per channel"
        )
    result = np.empty(pixels.shape, np.uint8)
    rows = max(1, _SCALED_AT_ONCE // max(1, pixels[:1].size))
    for top in range(0, len(pixels), rows):
        result[top : top + rows] = _scaled(pixels[top : top + rows], pixel_range)
    return result


def _scaled(pixels: NDArray[Any], pixel_range: Range | None) -> NDArray[Any]:
    if pixel_range is None:
        return (pixels.astype(np.uint32) + 128) // 257
    low, high = pixel_range
    inside = np.clip(np.nan_to_num(pixels.astype(np.float64), nan=low), low, high)
    return np.floor((inside - low) * (255 / (high - low)) + 0.5)


def to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return np.repeat(pixels[..., :1], 3, axis=2) if pixels.shape[2] < 3 else pixels[..., :3]


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo the EXIF orientation: 5..8 exchange rows and columns, the rest are flips."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def stored_by_pillow(path: PathLike, header: Image.Image) -> NDArray[Any]:
    """The stored values, of the kinds that Pillow decodes. Raises: UserError."""
    try:
        header.load()
        return np.asarray(header)
    except MemoryError:
        raise
    except Exception as error:
        raise damaged(path, str(error)) from error


def palette(colors: Sequence[int]) -> NDArray[np.uint8]:
    """The colors of a palette, given as one row of numbers, as [256, 3]; black after the last one."""
    rows = np.zeros(256 * 3, np.uint8)
    rows[: len(colors)] = colors[: len(rows)]
    return rows.reshape(256, 3)


def tiff_header(path: PathLike, file: IO[bytes], *, limit: int) -> Tiff:
    """The header of a TIFF file. Raises: UserError, also for more than `limit` pixels."""
    try:
        header = tiff.read_header(file)
    except ValueError as error:
        raise damaged(path, str(error)) from error
    if header.width * header.height > limit:
        raise too_large(path, header.height, header.width, limit)
    return header


def stored_tiff(path: PathLike, header: Tiff, file: IO[bytes], convert: Convert = np.asarray) -> NDArray[Any]:
    """The stored values, as `engine.data.images.tiff.decode` returns them, after `convert`.

    A large file is decoded and converted in parts, so `convert` must treat each pixel separately.

    Raises: UserError.
    """
    result: NDArray[Any] | None = None
    for top, left, values in _decoded_parts(path, header, file):
        part = convert(values)
        height, width = part.shape[:2]
        if (height, width) == (header.height, header.width):
            return part
        if result is None:
            result = np.empty((header.height, header.width, *part.shape[2:]), part.dtype)
        result[top : top + height, left : left + width] = part
    assert result is not None
    return result


def _decoded_parts(path: PathLike, header: Tiff, file: IO[bytes]) -> Iterator[tuple[int, int, NDArray[Any]]]:
    try:
        tiff.check_kind(header)
        tiff.check_places(header, file.seek(0, os.SEEK_END))
        for part in tiff_parts.cut(header, file):
            yield part.top, part.left, tiff.decode(part.header, part.data)
    except tiff.UnsupportedError as error:
        raise unsupported(path, error) from None
    except ValueError as error:
        raise damaged(path, str(error)) from error
    except (TypeError, struct.error) as error:
        raise damaged(path, "the TIFF directory is damaged") from error


def rgb_of_tiff(
    path: PathLike, header: Tiff, stored: NDArray[Any], pixel_range: Range | None
) -> NDArray[np.uint8]:
    """RGB pixels from the stored values."""
    if header.palette is not None:
        indices = stored if stored.ndim == 2 else stored[..., 0]  # the second band is alpha
        return np.asarray(header.palette[indices], np.uint8)
    if header.bits[0] < 8:
        stored = stored * np.uint8(255 // (2 ** header.bits[0] - 1))
    if header.bits[0] == 12:
        pixel_range = pixel_range or (0, 4095)
    pixels = eight_bits(path, stored, pixel_range)
    return to_rgb(255 - pixels if header.white_is_zero else pixels)


def count_values(values: NDArray[np.unsignedinteger[Any]], size: int = 256) -> NDArray[np.int64]:
    """How often each value below `size` occurs: `np.bincount` without a copy of 8 bytes per value.

    values: unsigned integers below `size`, of any shape.
    """
    counts = np.zeros(size, np.int64)
    flat = values.reshape(-1)
    for start in range(0, len(flat), _COUNTED_AT_ONCE):
        counts += np.bincount(flat[start : start + _COUNTED_AT_ONCE], minlength=size)
    return counts
