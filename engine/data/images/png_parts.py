"""Decodes a 16-bit PNG file in parts, so that its 16-bit pixels are never in memory as a whole."""

import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_BANDS = {0: 1, 2: 3, 4: 2, 6: 4}
"""PNG color type -> numbers per pixel in the file."""

_PART_PIXELS = 1 << 20


class Part(NamedTuple):
    """Rows of an image: the first one's number, and uint16 [h, W] or [h, W, C], as BGR(A) from OpenCV."""

    top: int
    values: NDArray[Any]


def parts(data: bytes, *, pixels: int = _PART_PIXELS) -> Iterator[Part]:
    """The rows of a 16-bit PNG file, a part at a time.

    OpenCV decodes each part, as a PNG file that starts with the last row of the part before, because rows can
    be stored as differences to the row above.

    Raises: ValueError if the file is damaged, interlaced or animated; parts may have been yielded by then.
    """
    width, height, depth, color, *_, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if depth != 16 or interlaced or color not in _BANDS:
        raise ValueError("not a plain 16-bit PNG file")
    row = 1 + 2 * _BANDS[color] * width
    rows = max(1, pixels // width)
    stream = _Stream(data)
    above = bytes(row)  # a row of zeros, as a decoder takes above the first one
    for top in range(0, height, rows):
        count = min(rows, height - top)
        content = above + stream.read(count * row)
        header = struct.pack(">IIBBBBB", width, count + 1, 16, color, 0, 0, 0)
        file = [
            _SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(content, 0)),
            _chunk(b"IEND"),
        ]
        try:
            values = cv2.imdecode(np.frombuffer(b"".join(file), np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            values = None
        if values is None or values.shape[:2] != (count + 1, width) or values.dtype != np.uint16:
            raise ValueError("decoding failed")
        yield Part(top, values[1:])
        above = b"\0" + _as_stored(values[-1], color)
    stream.close()


def _as_stored(row: NDArray[np.uint16], color: int) -> bytes:
    """The bytes of a decoded row."""
    if color in (2, 6):
        order = [2, 1, 0, 3][: _BANDS[color]]
        row = row[:, order]
    elif color == 4:  # OpenCV repeats the gray
        row = row[:, [0, 3]]
    return row.astype(">u2").tobytes()


def _chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


class _Stream:
    """The decompressed content of the IDAT chunks."""

    def __init__(self, data: bytes) -> None:
        self._chunks = _compressed(memoryview(data))
        self._inflate = zlib.decompressobj()
        self._rest: Any = b""

    def read(self, count: int) -> bytes:
        """The next `count` bytes. Raises: ValueError if there are fewer."""
        found, missing = [], count
        while missing:
            if not len(self._rest):
                self._rest = next(self._chunks, b"")
                if not len(self._rest):
                    raise ValueError("the end is missing")
            try:
                found.append(self._inflate.decompress(self._rest, missing))
            except zlib.error as error:
                raise ValueError(str(error)) from None
            self._rest = self._inflate.unconsumed_tail
            missing -= len(found[-1])
        return b"".join(found)

    def close(self) -> None:
        """Read to the end. Raises: ValueError if the file is damaged there."""
        for rest in itertools.chain([self._rest], self._chunks):
            try:
                self._inflate.decompress(rest)
            except zlib.error as error:
                raise ValueError(str(error)) from None


def _compressed(data: memoryview) -> Iterator[memoryview]:
    """The contents of the IDAT chunks. Raises: ValueError for a wrong checksum or an animated file."""
    start = len(_SIGNATURE)
    while start + 12 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        kind = bytes(data[start + 4 : start + 8])
        if kind == b"acTL":
            raise ValueError("animated")
        if kind == b"IEND":
            return
        if kind == b"IDAT":
            if zlib.crc32(data[start + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
                raise ValueError("a checksum is wrong")
            yield data[start + 8 : end]
        start = end + 4
