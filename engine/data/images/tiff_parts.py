"""Cuts a large TIFF into small ones, so decoding it needs little memory besides the result.

A part holds the strips or tiles of a few rows (with tiles, sometimes of a few columns), copied unchanged, so
any library that decodes the whole file also decodes the part. A single large compressed strip cannot be cut.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any, NamedTuple

from engine.data.images.tiff import Tiff

WHOLE_BYTES = 1 << 25
"""Files whose values take no more memory than this are decoded in one piece."""

PART_BYTES = 1 << 24

_WIDTH, _HEIGHT, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 278, 322, 323
_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES = 273, 279, 324, 325
_NO_COMPRESSION, _OLD_JPEG, _YCBCR = 1, 6, 6
_LONG = 4
"""The type of 32-bit numbers."""


class Part(NamedTuple):
    """A small file with a part of the values, and their position in the image."""

    top: int
    left: int
    header: Tiff
    data: bytes


class _Blocks(NamedTuple):
    """The strips or tiles of each plane, row by row.

    Attributes:
        height, width: size of one, in pixels.
        columns: number of them in a row.
        starts, sizes: their offsets in the file and their lengths, in bytes.
        places, counts: the numbers of the tags that hold `starts` and `sizes`.
    """

    height: int
    width: int
    columns: int
    starts: list[int]
    sizes: list[int]
    places: int
    counts: int


class _Tags:
    """The tags of a TIFF directory, with some values replaced."""

    def __init__(self, tags: Any, changes: dict[int, Any]) -> None:
        self._tags, self._changes = tags, changes
        self.tagtype = {**tags.tagtype, **dict.fromkeys(changes, _LONG)}

    def __contains__(self, tag: int) -> bool:
        return tag in self._changes or tag in self._tags

    def __getitem__(self, tag: int) -> Any:
        return self._changes[tag] if tag in self._changes else self._tags[tag]

    def get(self, tag: int, default: Any = None) -> Any:
        return self._changes[tag] if tag in self._changes else self._tags.get(tag, default)


def cut(header: Tiff, file: IO[bytes]) -> Iterator[Part]:
    """The parts of a TIFF file, top to bottom; a small file, or one that cannot be cut, is a single part."""
    blocks = None
    if header.height * _row_bytes(header, header.width) * _planes(header) > WHOLE_BYTES:
        blocks = _blocks(header)
    if blocks is None:
        file.seek(0)
        yield Part(0, 0, header, file.read())
        return
    rows = range(-(-header.height // blocks.height))
    block_bytes = _row_bytes(header, blocks.width) * blocks.height * _planes(header)
    across = min(max(PART_BYTES // block_bytes, 1), blocks.columns)
    down = max(PART_BYTES // (block_bytes * blocks.columns), 1)
    for first in rows[::down]:
        for column in range(0, blocks.columns, across):
            yield _part(header, file, blocks, (first, first + down), (column, column + across))


def _part(
    header: Tiff, file: IO[bytes], blocks: _Blocks, rows: tuple[int, int], columns: tuple[int, int]
) -> Part:
    """The blocks in these rows and columns; the ends are exclusive and may lie beyond the image."""
    top, left = rows[0] * blocks.height, columns[0] * blocks.width
    bottom = min(rows[1] * blocks.height, header.height)
    right = min(columns[1] * blocks.width, header.width)
    per_plane = len(blocks.starts) // _planes(header)
    file.seek(0)
    pieces, places, sizes = [file.read(8)], [], []
    position = 8
    for plane in range(_planes(header)):
        for row in range(rows[0], -(-bottom // blocks.height)):
            for column in range(columns[0], min(columns[1], blocks.columns)):
                index = plane * per_plane + row * blocks.columns + column
                file.seek(blocks.starts[index], os.SEEK_SET)
                pieces.append(file.read(blocks.sizes[index]))
                places.append(position)
                sizes.append(len(pieces[-1]))
                position += sizes[-1]
    changes = {
        _WIDTH: right - left,
        _HEIGHT: bottom - top,
        blocks.places: tuple(places),
        blocks.counts: tuple(sizes),
    }
    if blocks.places == _STRIP_OFFSETS:
        changes[_ROWS_PER_STRIP] = blocks.height
    part = replace(header, height=bottom - top, width=right - left, tags=_Tags(header.tags, changes))
    return Part(top, left, part, b"".join(pieces))


def _planes(header: Tiff) -> int:
    return header.bands if header.separate else 1


def _row_bytes(header: Tiff, width: int) -> int:
    """Bytes of a row of one plane, uncompressed."""
    return -(-width * header.bits[0] * (header.bands // _planes(header)) // 8)


def _blocks(header: Tiff) -> _Blocks | None:
    """None for a file that cannot be cut, or that is damaged."""
    tags, planes = header.tags, _planes(header)
    if header.compression == _OLD_JPEG or (planes > 1 and header.photometric == _YCBCR):
        return None
    if (_TILE_WIDTH in tags) != (_TILE_OFFSETS in tags):  # libtiff also reads tiles at the places of strips
        return None
    if _TILE_OFFSETS in tags:
        places, counts = _TILE_OFFSETS, _TILE_SIZES
        height, width = tags.get(_TILE_HEIGHT, 0), tags.get(_TILE_WIDTH, 0)
    else:
        places, counts = _STRIP_OFFSETS, _STRIP_SIZES
        height, width = min(tags.get(_ROWS_PER_STRIP, header.height), header.height), header.width
    starts, sizes = list(tags.get(places, ())), list(tags.get(counts, ()))
    if height < 1 or width < 1:
        return None
    columns = -(-header.width // width)
    if not len(starts) == len(sizes) == columns * -(-header.height // height) * planes:
        return None
    blocks = _Blocks(height, width, columns, starts, sizes, places, counts)
    if _row_bytes(header, width) * height <= WHOLE_BYTES:
        return blocks
    return _thinner(header, blocks) if places == _STRIP_OFFSETS else None


def _thinner(header: Tiff, blocks: _Blocks) -> _Blocks | None:
    """Uncompressed strips, divided into more strips of fewer rows; None if that is not possible."""
    row = _row_bytes(header, header.width)
    rows = max(1, PART_BYTES // row)
    if header.compression != _NO_COMPRESSION or header.photometric == _YCBCR or row > WHOLE_BYTES:
        return None
    strips = -(-header.height // blocks.height)
    if strips > 1 and blocks.height % rows:
        rows = next(count for count in range(rows, 0, -1) if blocks.height % count == 0)
    starts, sizes = [], []
    for index, (start, size) in enumerate(zip(blocks.starts, blocks.sizes, strict=True)):
        height = min(blocks.height, header.height - index % strips * blocks.height)
        if size < height * row:
            return None
        for top in range(0, height, rows):
            starts.append(start + top * row)
            sizes.append(min(rows, height - top) * row)
    return blocks._replace(height=rows, starts=starts, sizes=sizes)
