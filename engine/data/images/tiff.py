"""Decodes TIFF files as stored: no orientation, no inversion, every depth and both plane layouts.

Pillow turns a TIFF by its orientation, inverts some MinIsWhite files and cannot open files of many depths.
OpenCV misreads separate planes of 16 bits. So the file gets a directory of its own, with only the tags that
describe the pixels (neutral in orientation and color, one directory per plane), before either decodes it.
"""

import os
import struct
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from engine.errors import counted, out_of_memory

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274


_BANDS, _ROWS_PER_STRIP, _PLANAR, _PREDICTOR, _COLOR_MAP, _EXTRA, _FORMAT = 277, 278, 284, 317, 320, 338, 339


_SUBFILE, _REDUCED, _MASK = 254, 1, 4
"""The tag with the type of a page, and two of its bits."""


_MOST_PAGES = 1000


_OFFSETS_AND_SIZES = ((273, 279), (324, 325))
"""Tags of the places and byte counts of strips, and of tiles."""


_COPIED = (
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, 266, _BANDS, _ROWS_PER_STRIP, _PLANAR, 292, 293),
    *(_PREDICTOR, _COLOR_MAP, 322, 323, 332, _EXTRA, _FORMAT, 347, 529, 530, 531, 532),
)


_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6


_COLORS = {8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "color filter array", 34892: "linear raw"}


_BY_OPENCV = {1: "no", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate"}


_BY_PILLOW = {
    **_BY_OPENCV,
    2: "CCITT RLE",
    3: "CCITT Group 3",
    4: "CCITT Group 4",
    32771: "CCITT RLEW",
    32809: "ThunderScan",
    6: "JPEG",
    7: "JPEG",
    34925: "LZMA",
    50000: "Zstandard",
}


_COMPRESSIONS = {
    **_BY_PILLOW,
    34712: "JPEG 2000",
    34887: "LERC",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}


_PACK_BITS, _NO_PREDICTOR = 32773, 1


_KINDS = {1: "unsigned integers", 2: "signed integers", 3: "floating point numbers", 4: "untyped data"}


class UnsupportedError(ValueError):
    """A valid TIFF of a kind that is not read; the message describes it."""


@dataclass(frozen=True)
class Tiff:
    """What the first page's directory says.

    Attributes: height, width (as stored), orientation (1..8), bits (per band), kind (`_KINDS`), bands,
    photometric, separate (whether each band is stored as a plane of its own),
    palette (RGB colors [256, 3], or None), compression (the tag).
    """

    tags: Any
    height: int
    width: int
    orientation: int
    bits: tuple[int, ...]
    kind: int
    bands: int
    photometric: int
    separate: bool
    palette: NDArray[np.uint8] | None
    compression: int

    @property
    def lossy(self) -> str:
        """What messages call it if its compression, JPEG, changes values; else empty."""
        return "TIFF with JPEG compression" if self.compression in (6, 7) else ""

    @property
    def white_is_zero(self) -> bool:
        return self.photometric == _WHITE_IS_ZERO

    def __str__(self) -> str:
        bits = str(self.bits[0]) if len(set(self.bits)) == 1 else ", ".join(map(str, self.bits))
        color = f", {_COLORS[self.photometric]}" if self.photometric in _COLORS else ""
        planes = ", separate planes" if self.separate else ""
        values = f"{bits}-bit {_KINDS.get(self.kind, 'complex numbers')}"
        return f"TIFF with {counted(self.bands, 'band')} of {values}{color}{planes}"


def read_header(file: IO[bytes]) -> Tiff:
    """Read the directory of the first page. Raises: ValueError if it is damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags = _read_tags(file)
        bands = int(tags.get(_BANDS, 1))
        bits = tuple(int(value) for value in tags.get(_BITS, (1,)))
        return Tiff(
            tags=tags,
            height=_positive(tags[_HEIGHT]),
            width=_positive(tags[_WIDTH]),
            orientation=_orientation(tags),
            bits=bits * bands if len(bits) == 1 else bits,
            kind=int(tags.get(_FORMAT, (1,))[0]),
            bands=_positive(bands),
            photometric=int(tags.get(_PHOTOMETRIC, _BLACK_IS_ZERO)),
            separate=bands > 1 and int(tags.get(_PLANAR, 1)) == 2,
            palette=_palette(tags[_COLOR_MAP]) if tags.get(_PHOTOMETRIC) == _PALETTE else None,
            compression=int(tags.get(_COMPRESSION, 1)),
        )
    except Exception as error:  # Pillow raises many exception classes for damaged files
        raise ValueError("the TIFF directory is damaged") from error


def count_pages(file: IO[bytes]) -> int:
    """The number of pages before any damaged directory, at most `_MOST_PAGES`; masks and smaller copies of
    other pages do not count."""
    count, seen = 1, set[int]()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags = _read_tags(file)
            while tags.next and tags.next not in seen and len(seen) < _MOST_PAGES:
                seen.add(tags.next)
                file.seek(tags.next)
                tags.load(file)
                count += int(tags.get(_SUBFILE, 0)) & (_REDUCED | _MASK) == 0
    except Exception:  # Pillow raises many exception classes for damaged files
        pass
    return count


def decode(header: Tiff, data: bytes) -> NDArray[Any]:
    """The stored values, [H, W] or [H, W, C] (RGB first), in native byte order.

    Palette images give indices; CMYK and YCbCr are converted to RGB. Bits 2 and 4 are not scaled.

    Raises: UnsupportedError for a kind that neither library decodes, ValueError if the file is damaged.
    """
    check_kind(header)
    try:
        check_places(header, len(data))
        pixels = _decode_bands(header, data)
    except (TypeError, struct.error) as error:
        raise ValueError("the TIFF directory is damaged") from error
    if pixels.shape[:2] != (header.height, header.width):
        raise ValueError("decoding failed")
    return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))


def _decode_bands(header: Tiff, data: bytes) -> NDArray[Any]:
    if header.separate and header.photometric != _YCBCR:
        planes = [_decode_one(header, _with_plane(header, data, plane)) for plane in range(header.bands)]
        return np.stack(planes, axis=-1)
    return _decode_one(header, _with_tags(header, data, {}))


def check_kind(header: Tiff) -> None:
    """Raises: UnsupportedError for a kind that neither library decodes."""
    simple = header.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
    by_pillow = header.photometric in (_PALETTE, _CMYK, _YCBCR) and set(header.bits) <= {1, 2, 4, 8}
    depths = {8, 16, 32, 64} if header.bands > 1 else {1, 2, 4, 8, 12, 16, 32, 64}
    if (
        len(set(header.bits)) > 1
        or header.bits[0] not in depths
        or header.kind not in (1, 2, 3)
        or header.bits[0] < {1: 1, 2: 16, 3: 32}[header.kind]
        or header.bands > 4
        or (header.bands == 2 and not _has_alpha(header))
        or not (simple or by_pillow)
        or (header.separate and header.photometric == _CMYK)
    ):
        raise UnsupportedError(str(header))
    if header.compression not in (_BY_OPENCV if _is_for_opencv(header) else _BY_PILLOW):
        name = _COMPRESSIONS.get(header.compression, f"unknown ({header.compression})")
        raise UnsupportedError(f"{header}, {name} compression")
    if header.compression == _PACK_BITS and header.tags.get(_PREDICTOR, 1) != _NO_PREDICTOR:
        raise UnsupportedError(f"{header}, PackBits compression with a predictor")
    if any(0 in header.tags.get(places, ()) for places, _ in _OFFSETS_AND_SIZES):
        # Decoders would read the start of the file as pixels.
        raise UnsupportedError(f"{header}, some parts of which are not stored (written with SPARSE_OK)")


def _is_for_opencv(header: Tiff) -> bool:
    gray_or_rgb = header.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
    return gray_or_rgb and (header.bits[0] > 12 or header.kind != 1)


def _has_alpha(header: Tiff) -> bool:
    """Whether the second of two bands is transparency, in a depth that Pillow decodes."""
    return header.tags.get(_EXTRA, (0,))[0] in (1, 2) and (header.separate or set(header.bits) == {8})


def check_places(header: Tiff, size: int) -> None:
    """Reject a file of `size` bytes if its directory needs more; decoders would fill the rest with black.

    Raises: ValueError.
    """
    for places, sizes in _OFFSETS_AND_SIZES:
        if places not in header.tags:
            continue
        starts, counts = header.tags[places], header.tags.get(sizes)
        if counts is not None and any(a + b > size for a, b in zip(starts, counts, strict=False)):
            raise ValueError("pixels are missing")
        return
    raise ValueError("pixels are missing")


def _decode_one(header: Tiff, data: bytes) -> NDArray[Any]:
    """Decode a file in chunky layout."""
    if _is_for_opencv(header):
        return _with_opencv(data)
    pixels = _with_pillow(data, rgb=header.photometric in (_CMYK, _YCBCR))
    if header.bits[0] in (2, 4) and header.photometric != _PALETTE:
        pixels = pixels // (255 // (2 ** header.bits[0] - 1))  # Pillow scales to 0..255
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def _with_opencv(data: bytes) -> NDArray[Any]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if out_of_memory(error):
            raise
        pixels = None
    if pixels is None:
        raise ValueError("decoding failed")
    if pixels.ndim == 3:
        pixels = np.concatenate([pixels[..., 2::-1], pixels[..., 3:]], axis=2)  # BGR -> RGB
    return np.asarray(pixels)


def _with_pillow(data: bytes, *, rgb: bool) -> NDArray[Any]:
    try:
        with Image.open(BytesIO(data)) as image:
            _check_tiles(image)
            return np.asarray(image.convert("RGB") if rgb else image)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # its text is that of a Python object in memory
        raise ValueError("decoding failed") from error
    except Exception as error:
        raise ValueError(str(error)) from error


def _check_tiles(image: Image.Image) -> None:
    """Reject missing rows, which Pillow would fill with black."""
    boxes = [box for _, box, *_ in getattr(image, "tile", ())]
    covered = sum((right - left) * (low - top) for left, top, right, low in boxes)
    if covered < image.width * image.height:
        raise ValueError("pixels are missing")


def _with_plane(header: Tiff, data: bytes, plane: int) -> bytes:
    """The file with a directory for one of its planes."""
    changes: dict[int, Any] = {
        _BITS: header.bits[plane],
        _BANDS: 1,
        _PLANAR: 1,
        _PHOTOMETRIC: _BLACK_IS_ZERO,
        _FORMAT: header.kind,
        _EXTRA: None,
    }
    for tag in (tag for pair in _OFFSETS_AND_SIZES for tag in pair if tag in header.tags):
        values = header.tags[tag]
        count = len(values) // header.bands
        changes[tag] = values[plane * count : (plane + 1) * count]
    return _with_tags(header, data, changes)


def _with_tags(header: Tiff, data: bytes, changes: dict[int, Any]) -> bytes:
    """The file with a new directory at its end: the tags of pixels only, upright, and black at 0."""
    # Packed values of 12 bits are the same in both byte orders, but Pillow knows them in one.
    order = "<" if data[:2] == b"II" or header.bits[0] == 12 else ">"
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", len(data) + len(data) % 2)
    if header.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        changes = {_PHOTOMETRIC: _BLACK_IS_ZERO if header.bands < 3 else _RGB, **changes}
    if header.bands == 2 and not header.separate:
        changes = {_EXTRA: 2, **changes}
    if header.bands > 2 and header.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        # Some programs list bands 2 and 3 as extra, and Pillow would divide colors by an alpha that is
        # multiplied into them, or by the infrared band that a program calls so.
        changes = {_EXTRA: 0 if header.bands == 4 else None, **changes}
    placed = [tag for pair in _OFFSETS_AND_SIZES for tag in pair]
    entries = []
    for tag in sorted((*_COPIED, *placed)):
        value = changes.get(tag, header.tags.get(tag))
        if value is not None:
            entries.append(_entry(tag, value, 4 if tag in placed else header.tags.tagtype.get(tag, 3), order))
    padding = b"\0" * (len(data) % 2)
    return start + data[8:] + padding + _directory(entries, len(data) + len(padding), order)


def _entry(tag: int, value: Any, kind: int, order: str) -> tuple[int, int, int, bytes]:
    """A tag as (tag, type, count, bytes); types are 3 (16 bits), 4 (32 bits), 5 (fraction) and 7 (bytes)."""
    if isinstance(value, bytes):
        return tag, 7, len(value), value
    values = value if isinstance(value, tuple) else (value,)
    if kind == 5:
        pairs = [part for number in values for part in (number.numerator, number.denominator)]
        return tag, 5, len(values), struct.pack(f"{order}{len(pairs)}L", *pairs)
    kind = 3 if kind == 3 else 4
    return tag, kind, len(values), struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'L'}", *values)


def _directory(entries: list[tuple[int, int, int, bytes]], place: int, order: str) -> bytes:
    """The bytes of a directory that starts at `place`, and of the values that do not fit into it."""
    rows, values = struct.pack(order + "H", len(entries)), b""
    after = place + 2 + 12 * len(entries) + 4
    for tag, kind, count, content in entries:
        inline = (
            content.ljust(4, b"\0") if len(content) <= 4 else struct.pack(order + "L", after + len(values))
        )
        rows += struct.pack(order + "HHL", tag, kind, count) + inline
        values += b"" if len(content) <= 4 else content + b"\0" * (len(content) % 2)
    return rows + struct.pack(order + "L", 0) + values


def _read_tags(file: IO[bytes]) -> Any:
    start = file.read(8)
    if start[2] == 43:
        start += file.read(8)
    tags: Any = TiffImagePlugin.ImageFileDirectory_v2(start)
    if start[3] == 43:  # a big-endian BigTIFF, which Pillow does not recognize
        tags._bigtiff, tags.next = True, int.from_bytes(file.read(8), "big")
    file.seek(tags.next, os.SEEK_SET)
    tags.load(file)
    return tags


def _orientation(tags: Any) -> int:
    value = tags.get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _palette(values: tuple[int, ...]) -> NDArray[np.uint8]:
    """The map's reds, greens and blues in 16 bits (some programs write 8) -> RGB colors [256, 3]."""
    stored = np.array(values, np.uint32).reshape(3, -1).T[:256]
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(stored)] = stored if stored.max() < 256 else stored >> 8
    return colors


def _positive(value: Any) -> int:
    if int(value) < 1:
        raise ValueError("not positive")
    return int(value)
