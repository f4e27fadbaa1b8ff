"""Writes PNG files row by row, so an image of any size needs little memory besides its pixels."""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UserError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB, _PALETTE = 0, 2, 3
_BYTES_AT_A_TIME = 1 << 22
_NO_FILTER, _DIFFERENCE_TO_THE_LEFT = 0, 1

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def write_rows(
    path: Path,
    parts: Sequence[Pixels],
    *,
    lookup: Pixels | None = None,
    palette: NDArray[np.uint8] | None = None,
) -> None:
    """Write arrays of equal width below each other, losslessly; creates parent folders.

    Args:
        parts: uint8 or uint16 [H, W], or RGB uint8 [H, W, 3], all of the same type.
        lookup: what to store for each value of `parts`.
        palette: the colors [n, 3] of the stored values 0..n - 1.

    Raises:
        UserError: if the file cannot be written.
    """
    stored = parts[0][:1] if lookup is None else lookup[:1, None]
    color = _PALETTE if palette is not None else _RGB if stored.ndim == 3 else _GRAY
    size = (parts[0].shape[1], sum(len(part) for part in parts))
    header = struct.pack(">IIBBBBB", *size, 8 * stored.itemsize, color, 0, 0, 0)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(_SIGNATURE + _chunk(b"IHDR", header))
            if palette is not None:
                file.write(_chunk(b"PLTE", palette.astype(np.uint8).tobytes()))
            compressor = zlib.compressobj(1 if color == _RGB else 6)
            for rows in _in_strips(parts):
                rows = rows if lookup is None else lookup[rows]
                if data := compressor.compress(_filtered(rows)):
                    file.write(_chunk(b"IDAT", data))
            file.write(_chunk(b"IDAT", compressor.flush()) + _chunk(b"IEND", b""))
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _in_strips(parts: Sequence[Pixels]) -> Iterator[NDArray[Any]]:
    for part in parts:
        rows = max(1, _BYTES_AT_A_TIME // max(1, part[:1].nbytes))
        for start in range(0, len(part), rows):
            yield part[start : start + rows]


def _filtered(rows: NDArray[Any]) -> bytes:
    """Rows as bytes, each preceded by its filter number; colors compress better as differences."""
    if rows.ndim == 2:
        pixels = np.ascontiguousarray(rows.astype(rows.dtype.newbyteorder(">"))).view(np.uint8)
        kind = _NO_FILTER
    else:
        pixels = np.concatenate([rows[:, :1], np.diff(rows, axis=1)], axis=1).reshape(len(rows), -1)
        kind = _DIFFERENCE_TO_THE_LEFT
    return np.concatenate([np.full((len(rows), 1), kind, np.uint8), pixels], axis=1).tobytes()


def _chunk(name: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)
