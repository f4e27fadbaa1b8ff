"""Reads images and label masks as arrays; damaged files are rejected with an error that names the file.

Pillow reads the header (size, mode, EXIF). OpenCV, which is faster, decodes ordinary PNG and JPEG files (from
version 5 on, it rejects damaged PNG files). `engine.data.images.conversion` decodes the others.
"""

import contextlib
import os
import threading
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.data.images import conversion, jpeg, png_parts, tiff
from engine.data.images.conversion import Range
from engine.data.images.messages import (
    MOST_MEGAPIXELS,
    START_BYTES,
    PathLike,
    damaged,
    lossy,
    too_large,
    unknown_format,
    unreadable,
)
from engine.errors import UserError, out_of_memory

DEFAULT_MEGAPIXELS = 89.0
"""Default of data.max_megapixels; about the same as Pillow's own limit."""

_LIMIT_VARIABLE = "MOBILENET_DENSE_MAX_PIXELS"
"""The environment variable that passes the limit on to worker processes."""

MAX_PIXELS = int(os.environ.get(_LIMIT_VARIABLE) or DEFAULT_MEGAPIXELS * 1e6)
"""Larger images are rejected without decoding them; `set_max_megapixels` changes it."""

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_GRAY_ALPHA = 4
_PNG_BANDS = {0: 1, 2: 3, _PNG_GRAY_ALPHA: 4, 6: 4}
"""PNG color type -> number of bands that OpenCV returns with IMREAD_UNCHANGED."""

_LARGE_PIXELS = 1 << 24
_EXIF_ORIENTATION = 0x0112
_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

Orientation = Literal["upright", "stored"]
"""Whether images are rotated by their EXIF or TIFF orientation."""


def set_max_megapixels(megapixels: float) -> None:
    """Set the size of the largest image that is decoded, in this process and its workers.

    A small file can claim a size that fills the memory during decoding.

    Raises: UserError if the size is out of range.
    """
    if not 0 < megapixels <= MOST_MEGAPIXELS:
        raise UserError(
            f"data.max_megapixels must be above 0 and at most {MOST_MEGAPIXELS:g}, got {megapixels:g}"
        )
    global MAX_PIXELS
    MAX_PIXELS = int(megapixels * 1e6)
    os.environ[_LIMIT_VARIABLE] = str(MAX_PIXELS)


class _NoPillowLimit:
    """A context in which Pillow opens images of any size; its own limit can be below data.max_megapixels."""

    def __init__(self) -> None:
        self._lock, self._inside, self._limit = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._limit


_no_pillow_limit = _NoPillowLimit()


def read_image(
    path: PathLike, *, pixel_range: Range | None = None, upright: bool = True
) -> NDArray[np.uint8]:
    """Read an image as upright RGB.

    EXIF and TIFF orientation are applied, alpha (and the fourth band of a TIFF) is dropped, gray becomes
    three equal channels, 12 and 16 bits are scaled to 8, and a TIFF in which white is 0 is inverted.

    upright: False ignores the orientation.
    pixel_range: for images of more than 8 bits per channel, the values that become 0 and 255, with clipping
    (NaN becomes 0); by default 0 and 65535 (for 12 bits, 4095).

    Returns: uint8 [H, W, 3], contiguous and writable.
    Raises: UserError if the file is missing, damaged, of an unsupported kind, or larger than `MAX_PIXELS`.
    """
    if (tags := tiff_header(path)) is not None:
        orientation = tags.orientation
        pixels = _stored_tiff(
            path, tags, partial(conversion.rgb_of_tiff, path, tags, pixel_range=pixel_range)
        )
    else:
        data = _read_bytes(path)
        with open_header(path, data) as header:
            orientation = orientation_of(header)
            pixels = _decode(path, header, data, pixel_range)
    if upright and orientation > 1:
        pixels = conversion.upright(pixels, orientation)
    return np.require(pixels, np.uint8, ["C", "W"])  # what Pillow decodes is read-only


def read_deep(path: PathLike) -> NDArray[Any] | None:
    """The stored values of an image of more than 8 bits per channel; None for 8 bits or less."""
    if (tags := tiff_header(path)) is not None:
        return None if tags.bits[0] in (1, 2, 4, 8, 12) else _stored_tiff(path, tags)
    with open_header(path) as header, open(path, "rb") as file:
        if not _is_sixteen_bit(header, file.read(25)):
            return None
        return _decode_fast(path, header, _read_bytes(path), cv2.IMREAD_UNCHANGED)


def has_more_than_8_bits(path: PathLike) -> bool:
    """Whether an image has more than 8 bits per channel, from its header. Raises: UserError."""
    if (tags := tiff_header(path)) is not None:
        return tags.bits[0] > 8
    with open_header(path) as header:
        return header.format == "PNG" and _start_of(path)[24] == 16


def _decode(path: PathLike, header: Image.Image, data: bytes, pixel_range: Range | None) -> NDArray[np.uint8]:
    if _is_sixteen_bit(header, data):
        convert = partial(conversion.eight_bits, path, pixel_range=pixel_range)
        if header.width * header.height >= _LARGE_PIXELS:
            with contextlib.suppress(ValueError):  # otherwise, OpenCV decodes it or says what is wrong
                return _decode_in_parts(header, data, convert)
        return conversion.to_rgb(convert(_decode_fast(path, header, data, cv2.IMREAD_UNCHANGED)))
    if header.format in ("PNG", "JPEG") and header.mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        return np.asarray(_decode_fast(path, header, data, _RGB), np.uint8)
    if data.startswith(jpeg.START):  # Pillow decodes it (CMYK, MPO), but does not say what is damaged
        with jpeg.decoding(path, data):
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    return conversion.decode_pillow(path, header, pixel_range)


def _decode_in_parts(header: Image.Image, data: bytes, convert: conversion.Convert) -> NDArray[np.uint8]:
    """A large 16-bit PNG file as RGB; its 16-bit pixels would take twice the memory of the result."""
    result = np.empty((header.height, header.width, 3), np.uint8)
    for part in png_parts.parts(data):
        values = part.values if part.values.ndim == 2 else part.values[..., 2::-1]  # BGR(A) -> RGB
        result[part.top : part.top + len(values)] = conversion.to_rgb(convert(values))
    return result


def read_labels(path: PathLike) -> NDArray[Any]:
    """Read the stored values of a mask (ids, not palette colors).

    The values are read as stored: orientation (EXIF, TIFF) is ignored, a TIFF in which white is 0 is not
    inverted, palette images give palette indices, and 1-, 2- and 4-bit images the numbers 0..15. Alpha is
    dropped.

    Returns: uint8, uint16 or int32 [H, W] of ids, or uint8 [H, W, 3] for an RGB mask.
    Raises: UserError like `read_image`, and for JPEG, lossy WebP, AVIF and TIFF with JPEG compression, which
    change ids.
    """
    if (tags := tiff_header(path)) is not None:
        if tags.lossy:
            raise lossy(path, tags.lossy)
        labels = _stored_tiff(path, tags)
    else:
        data = _read_bytes(path)
        with open_header(path, data) as header:
            labels = _stored_labels(path, header, data)
    if labels.ndim == 3:
        labels = labels[..., 0] if labels.shape[2] <= 2 else labels[..., :3]
    if labels.ndim == 3 and labels.dtype != np.uint8:
        depth = "16-bit" if labels.dtype == np.uint16 else labels.dtype
        raise UserError(f"{path}: a mask with {depth} colors; save ids (one channel) or 8-bit RGB colors")
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
    if labels.dtype == np.int16 or (labels.dtype == np.uint32 and labels.max() < 2**31):
        labels = labels.astype(np.int32)
    if labels.dtype not in (np.uint8, np.uint16, np.int32):
        raise UserError(f"{path}: a mask with {labels.dtype} values; save integer ids as an 8- or 16-bit PNG")
    if labels.dtype == np.int32 and labels.min(initial=0) < 0:
        raise UserError(
            f"{path}: a mask with negative values ({labels.min()}); save it as an 8- or 16-bit PNG with "
            "ids from 0 up, such as 255 for pixels to ignore"
        )
    return np.ascontiguousarray(labels)


def read_palette(path: PathLike) -> NDArray[np.uint8] | None:
    """The colors of a palette image, uint8 [256, 3], black after its last entry; None for other images.

    Raises: UserError if the file is missing or not an image.
    """
    if (tags := tiff_header(path)) is not None:
        return tags.palette
    with open_header(path) as header:
        colors = header.getpalette() if header.mode == "P" else None
    return None if colors is None else conversion.palette(colors)


def gray_colors(path: PathLike) -> NDArray[np.uint8] | None:
    """The gray that each stored value of a one-channel image of at most 8 bits is displayed as, uint8
    [256, 3]; black after the last one, None for other images.

    Raises: UserError if the file is missing or not an image.
    """
    white_is_zero = False
    if (tags := tiff_header(path)) is not None:
        depth = tags.bits[0] if tags.palette is None and tags.bands == 1 and tags.kind == 1 else 0
        white_is_zero = tags.white_is_zero
    else:
        with open_header(path) as header, open(path, "rb") as file:
            depth = {"1": 1, "L": 8, "LA": 8}.get(header.mode, 0)
            if depth and header.format == "PNG":
                depth = file.read(25)[24]
    if not 0 < depth <= 8:
        return None
    grays = np.zeros(256, np.uint8)
    grays[: 2**depth] = np.linspace(0, 255, 2**depth)[:: -1 if white_is_zero else 1]
    return np.repeat(grays[:, None], 3, axis=1)


def _stored_labels(path: PathLike, header: Image.Image, data: bytes) -> NDArray[Any]:
    if header.format in ("JPEG", "MPO", "AVIF"):  # lossless AVIF cannot be told apart
        raise lossy(path, "AVIF" if header.format == "AVIF" else "JPEG")
    if header.format == "WEBP" and _is_lossy_webp(data):
        raise lossy(path, "lossy WebP")
    if header.format == "PNG" and (header.mode in ("L", "RGB", "I;16") or _is_sixteen_bit(header, data)):
        rgb = header.mode == "RGB" and data[24] == 8
        labels = _decode_fast(path, header, data, _RGB if rgb else cv2.IMREAD_UNCHANGED)
        depth = data[24]
        if data[25] == _PNG_GRAY_ALPHA and labels.ndim == 3:  # four channels if they have 16 bits
            labels = labels[..., 0]
        return labels // (255 // (2**depth - 1)) if depth < 8 else labels  # decoders scale to 0..255
    return conversion.stored_by_pillow(path, header)


def image_size(path: PathLike, *, upright: bool = True) -> tuple[int, int]:
    """(height, width) from the header alone; `upright` applies the orientation, like `read_image`.

    Raises: UserError if the file is missing, not an image, or larger than `MAX_PIXELS`.
    """
    if (tags := tiff_header(path)) is not None:
        size = (tags.height, tags.width)
        return size[::-1] if upright and tags.orientation >= 5 else size
    with open_header(path) as header:
        width, height = header.size
        transposed = upright and orientation_of(header) >= 5
    return (width, height) if transposed else (height, width)


def _read_bytes(path: PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def open_header(path: PathLike, data: bytes | None = None) -> Image.Image:
    """Read the header only; Pillow decodes the pixels in `load`."""
    try:
        with _no_pillow_limit:
            image = Image.open(path if data is None else BytesIO(data))
    except Exception as error:  # for damaged files, Pillow raises many classes, including TypeError
        if isinstance(error, OSError) and error.strerror:
            raise unreadable(path, error) from error
        raise unknown_format(path, _start_of(path) if data is None else data[:START_BYTES]) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise too_large(path, image.height, image.width, MAX_PIXELS)
    return image


def _start_of(path: PathLike) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(START_BYTES)
    except OSError as error:
        raise unreadable(path, error) from error


def tiff_header(path: PathLike) -> tiff.Tiff | None:
    """The header if the file is a TIFF, otherwise None. Raises: UserError."""
    try:
        with open(path, "rb") as file:
            if file.read(4) not in TIFF_STARTS:
                return None
            file.seek(0)
            return conversion.tiff_header(path, file, limit=MAX_PIXELS)
    except OSError as error:
        raise unreadable(path, error) from error


def orientation_of(header: Image.Image) -> int:
    """The EXIF orientation, as browsers and OpenCV apply it; Pillow also reads orientations in XMP."""
    try:
        exif = _png_exif(header) if header.format == "PNG" else Image.Exif()
        if header.format != "PNG":
            exif.load(header.info.get("exif", b""))
        value = exif.get(_EXIF_ORIENTATION, 1)
    except Exception:
        return 1  # the pixels can be read even if the metadata is damaged
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _png_exif(header: Image.Image) -> Image.Exif:
    """The eXIf chunk, wherever it is in the file; Pillow would decode the whole image to find it."""
    exif, stream = Image.Exif(), getattr(header, "fp", None)
    if stream is None:
        return exif
    position = stream.tell()
    stream.seek(len(PNG_SIGNATURE))
    while len(start := stream.read(8)) == 8 and start[4:] != b"IEND":
        length = int.from_bytes(start[:4], "big")
        if start[4:] == b"eXIf":
            exif.load(stream.read(length))
            break
        stream.seek(length + 4, os.SEEK_CUR)
    stream.seek(position)
    return exif


def _is_lossy_webp(data: bytes) -> bool:
    """Whether the first frame is a chunk `VP8 `, not `VP8L`; it may be in the chunk of a frame."""
    start = 12
    while start + 8 <= len(data):
        kind, size = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        start += 8 + (16 if kind == b"ANMF" else size + size % 2)
    return False


def _is_sixteen_bit(header: Image.Image, data: bytes) -> bool:
    return header.format == "PNG" and data[24] == 16


def _decode_fast(path: PathLike, header: Image.Image, data: bytes, flags: int) -> NDArray[Any]:
    if header.format == "JPEG":
        if not jpeg.has_end(path, data):
            conversion.decode_pillow(path, header, None)  # raises an error if the file is incomplete
            with jpeg.decoding(path, data + jpeg.END):
                return _decode_opencv(path, header, data + jpeg.END, flags, complete=False)
        with jpeg.decoding(path, data):
            return _decode_opencv(path, header, data, flags)
    if header.format == "PNG":
        _check_png_end(path, data)
    return _decode_opencv(path, header, data, flags)


def _decode_opencv(
    path: PathLike, header: Image.Image, data: bytes, flags: int, *, complete: bool = True
) -> NDArray[Any]:
    """Decode `data`. complete: whether these are exactly the bytes of the file."""
    pixels = _decode_large(path, header, data, flags) if complete else None
    try:
        if pixels is None:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if out_of_memory(error):
            raise
        raise damaged(path, "decoding failed") from error
    if pixels is None or pixels.shape[:2] != (header.height, header.width):
        raise damaged(path, "decoding failed")
    if pixels.ndim == 3 and flags == cv2.IMREAD_UNCHANGED:
        pixels = pixels[..., 2::-1]  # BGR(A) -> RGB
    return pixels


def _decode_large(path: PathLike, header: Image.Image, data: bytes, flags: int) -> NDArray[Any] | None:
    """Decode a large file into a preallocated array; `cv2.imdecode` would need a second one.

    Returns: None if the file is small or cannot be read this way.
    """
    name = os.fspath(path)
    if header.width * header.height < _LARGE_PIXELS or not _is_unicode(name):
        return None
    deep = header.format == "PNG" and data[24] == 16 and flags == cv2.IMREAD_UNCHANGED
    bands = 3 if flags == _RGB else _PNG_BANDS.get(data[25]) if header.format == "PNG" else None
    if bands is None:
        return None
    size = (header.height, header.width, bands) if bands > 1 else (header.height, header.width)
    try:
        return cv2.imread(name, np.empty(size, np.uint16 if deep else np.uint8), flags)
    except cv2.error:  # other bands than the header says, e.g. a PNG with a transparent color
        return None


def _is_unicode(name: str) -> bool:
    """Whether a path is valid Unicode; OpenCV cannot open other paths."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _stored_tiff(path: PathLike, header: tiff.Tiff, convert: conversion.Convert = np.asarray) -> NDArray[Any]:
    try:
        with _no_pillow_limit, open(path, "rb") as file:
            return conversion.stored_tiff(path, header, file, convert)
    except OSError as error:
        raise unreadable(path, error) from error


def _check_png_end(path: PathLike, data: bytes) -> None:
    """OpenCV rejects a PNG file that ends early, but takes seconds for it."""
    start = len(PNG_SIGNATURE)
    while start + 12 <= len(data):
        if data[start + 4 : start + 8] == b"IEND":
            return
        start += 12 + int.from_bytes(data[start : start + 4], "big")
    raise damaged(path, "the end is missing")
