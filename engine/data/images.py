"""Reads images and label masks as arrays; damaged files are rejected with an error that names the file.

Pillow reads the header (size, mode, EXIF). OpenCV, which is faster, decodes ordinary PNG and JPEG files (from
version 5 on, it rejects damaged PNG files). Pillow, which is stricter, decodes all others, including JPEG
files without an end marker. `engine.data.tiff` decodes TIFF files.
"""

import math
import os
import threading
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.errors import UserError, out_of_memory, some
from engine.io.files import walk_files

if TYPE_CHECKING:
    from engine.data.tiff import Tiff

DEFAULT_MEGAPIXELS = 89.0
"""Default of data.max_megapixels; about the same as Pillow's own limit."""

MOST_MEGAPIXELS = 1073.0
"""OpenCV does not decode larger images."""

_LIMIT_VARIABLE = "MOBILENET_DENSE_MAX_PIXELS"
"""The environment variable that passes the limit on to worker processes."""

MAX_PIXELS = int(os.environ.get(_LIMIT_VARIABLE) or DEFAULT_MEGAPIXELS * 1e6)
"""Larger images are rejected without decoding them; `set_max_megapixels` changes it."""


IMAGE_SUFFIXES = (".avif", ".bmp", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


_NOT_DATA = ("desktop.ini", "thumbs.db")
"""Files that a system puts into any folder."""


_EXIF_ORIENTATION = 0x0112


_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


_PNG_SIGNATURE_BYTES = len(_PNG_SIGNATURE)


_JPEG_START, _JPEG_PIXELS, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


_TAIL = 64
"""Number of bytes at the end of a JPEG file that are searched first for the end marker."""


_COUNTED_AT_ONCE = 1 << 20


PathLike = str | os.PathLike[str]


Orientation = Literal["upright", "stored"]
"""Whether images are rotated by their EXIF or TIFF orientation."""


Range = tuple[float, float]
"""The stored values that become 0 and 255."""


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

    Returns: uint8 [H, W, 3], contiguous. Raises: UserError if the file is missing, truncated, corrupt, not an
    image, of an unsupported kind, or larger than `MAX_PIXELS`.
    """
    data = _read_bytes(path)
    if data[:4] in _TIFF_STARTS:
        pixels, orientation = _decode_tiff(path, data, pixel_range)
    else:
        with _open(path, data) as header:
            orientation = _orientation(header)
            pixels = _decode(path, header, data, pixel_range)
    return np.ascontiguousarray(_upright(pixels, orientation if upright else 1), dtype=np.uint8)


def stored_range(path: PathLike) -> Range | None:
    """The smallest and largest value in an image of more than 8 bits per channel; None for 8 bits or less.

    Raises: UserError like `read_image`.
    """
    if (tiff := _tiff_header(path)) is not None:
        if tiff.bits[0] in (1, 2, 4, 8, 12):
            return None
        stored = _stored_tiff(path, _read_bytes(path))[1]
    else:
        with _open(path) as header, open(path, "rb") as file:
            if not _is_sixteen_bit(header, file.read(25)):
                return None
            data = _read_bytes(path)
            stored = _decode_fast(path, header, data, cv2.IMREAD_UNCHANGED)
    return float(stored.min()), float(stored.max())


def _decode(path: PathLike, header: Image.Image, data: bytes, pixel_range: Range | None) -> NDArray[np.uint8]:
    if _is_sixteen_bit(header, data):
        stored = _decode_fast(path, header, data, cv2.IMREAD_UNCHANGED)
        return _to_rgb(_eight_bits(path, stored, pixel_range))
    if header.format in ("PNG", "JPEG") and header.mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        return np.asarray(_decode_fast(path, header, data, flags), np.uint8)
    return _decode_pillow(path, header, pixel_range)


def read_labels(path: PathLike) -> NDArray[Any]:
    """Read the stored values of a mask (ids, not palette colors).

    The values are read as stored: orientation (EXIF, TIFF) is ignored, a TIFF in which white is 0 is not
    inverted, palette images give palette indices, and 1-, 2- and 4-bit images the numbers 0..15. Alpha is
    dropped.

    Returns: uint8, uint16 or int32 [H, W] of ids, or uint8 [H, W, 3] for an RGB mask.
    Raises: UserError like `read_image`, and for JPEG, whose compression changes ids.
    """
    data = _read_bytes(path)
    if data[:4] in _TIFF_STARTS:
        labels = _stored_tiff(path, data)[1]
    else:
        with _open(path, data) as header:
            labels = _stored_labels(path, header, data)
    if labels.ndim == 3:
        labels = labels[..., 0] if labels.shape[2] <= 2 else labels[..., :3]
    if labels.ndim == 3 and labels.dtype != np.uint8:
        depth = "16-bit" if labels.dtype == np.uint16 else labels.dtype
        raise UserError(f"{path}: a mask with {depth} colors; save ids (one channel) or 8-bit RGB colors")
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
    if labels.dtype == np.int16:
        labels = labels.astype(np.int32)
    if labels.dtype == np.uint32 and labels.max() < 2**31:
        labels = labels.astype(np.int32)
    if labels.dtype not in (np.uint8, np.uint16, np.int32):
        raise UserError(f"{path}: a mask with {labels.dtype} values; save integer ids as an 8- or 16-bit PNG")
    return np.ascontiguousarray(labels)


def read_palette(path: PathLike) -> NDArray[np.uint8] | None:
    """The colors of a palette image, uint8 [256, 3], black after its last entry; None for other images.

    Raises: UserError if the file is missing or not an image.
    """
    with _open(path) as header:
        colors = header.getpalette() if header.mode == "P" else None
    if colors is None:
        return None
    palette = np.zeros(256 * 3, np.uint8)
    palette[: len(colors)] = colors[: len(palette)]
    return palette.reshape(256, 3)


def _stored_labels(path: PathLike, header: Image.Image, data: bytes) -> NDArray[Any]:
    if header.format == "JPEG":
        raise UserError(
            f"{path}: JPEG is unsuitable for masks (compression changes label ids); save masks as PNG"
        )
    if header.format == "PNG" and (header.mode in ("L", "RGB", "I;16") or _is_sixteen_bit(header, data)):
        rgb = header.mode == "RGB" and data[24] == 8
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION if rgb else cv2.IMREAD_UNCHANGED
        labels = _decode_fast(path, header, data, flags)
        depth = data[24]
        return labels // (255 // (2**depth - 1)) if depth < 8 else labels  # decoders scale to 0..255
    try:
        header.load()
        return np.asarray(header)
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(_damaged(path, str(error))) from error


def count_values(values: NDArray[np.unsignedinteger[Any]], size: int = 256) -> NDArray[np.int64]:
    """How often each value below `size` occurs: `np.bincount` without a copy of 8 bytes per value.

    values: unsigned integers below `size`, of any shape.
    """
    counts = np.zeros(size, np.int64)
    flat = values.reshape(-1)
    for start in range(0, len(flat), _COUNTED_AT_ONCE):
        counts += np.bincount(flat[start : start + _COUNTED_AT_ONCE], minlength=size)
    return counts


def image_size(path: PathLike, *, upright: bool = True) -> tuple[int, int]:
    """(height, width) from the header alone; `upright` applies the orientation, like `read_image`.

    Raises: UserError if the file is missing, not an image, or larger than `MAX_PIXELS`.
    """
    if (tiff := _tiff_header(path)) is not None:
        size = (tiff.height, tiff.width)
        return size[::-1] if upright and tiff.orientation >= 5 else size
    with _open(path) as header:
        width, height = header.size
        transposed = upright and _orientation(header) >= 5
    return (width, height) if transposed else (height, width)


def turn_and_pages(path: PathLike) -> tuple[int, int]:
    """The orientation (1..8; 1: upright as stored) and the number of pages or frames, from the header alone.

    Raises: UserError like `image_size`.
    """
    if (header := _tiff_header(path)) is not None:
        from engine.data import tiff

        with open(path, "rb") as file:
            return header.orientation, tiff.count_pages(file)
    with _open(path) as image:
        frames = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP", "GIF", "AVIF") else 1
        return _orientation(image), frames


def check_complete(path: PathLike) -> None:
    """Check that an image or mask is complete: JPEG by its end marker, PNG by its checksums, TIFF by the
    offsets of its pixel data, other formats by decoding them.

    Raises: UserError like `read_image`.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(_PNG_SIGNATURE_BYTES)
            size = file.seek(0, os.SEEK_END)
            if start.startswith(_JPEG_START) and size > 2 * _TAIL:
                file.seek(size - _TAIL)
                if _JPEG_END in file.read():
                    return
            elif start == _PNG_SIGNATURE:
                file.seek(0)
                _check_png(path, memoryview(file.read()))
                return
            elif start[:4] in _TIFF_STARTS:
                file.seek(0)
                _check_tiff(path, file, size)
                return
    except OSError as error:
        raise UserError(_unreadable(path, error)) from error
    read_image(path)


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
    return [
        f"{folder}: {len(others)} file{'s' if len(others) > 1 else ''} left out: {some(others)}; "
        f"images must be {kinds}"
    ]


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


def _read_bytes(path: PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(_unreadable(path, error)) from error


def _open(path: PathLike, data: bytes | None = None) -> Image.Image:
    """Read the header only; Pillow decodes the pixels in `load`."""
    try:
        with _no_pillow_limit:
            image = Image.open(path if data is None else BytesIO(data))
    except Exception as error:  # for damaged files, Pillow raises many classes, including TypeError
        if isinstance(error, OSError) and error.strerror:
            raise UserError(_unreadable(path, error)) from error
        raise UserError(_damaged(path, "unknown format")) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise UserError(_too_large(path, image.height, image.width))
    return image


def _tiff_header(path: PathLike) -> "Tiff | None":
    """The header if the file is a TIFF, otherwise None. Raises: UserError."""
    try:
        with open(path, "rb") as file:
            if file.read(4) not in _TIFF_STARTS:
                return None
            file.seek(0)
            return _checked_header(path, file)
    except OSError as error:
        raise UserError(_unreadable(path, error)) from error


def _checked_header(path: PathLike, file: IO[bytes]) -> "Tiff":
    from engine.data import tiff

    try:
        header = tiff.read_header(file)
    except ValueError as error:
        raise UserError(_damaged(path, str(error))) from error
    if header.width * header.height > MAX_PIXELS:
        raise UserError(_too_large(path, header.height, header.width))
    return header


def _check_tiff(path: PathLike, file: IO[bytes], size: int) -> None:
    from engine.data import tiff

    header = _checked_header(path, file)
    try:
        tiff.check_kind(header)
        tiff.check_places(header, size)
    except tiff.UnsupportedError as error:
        raise UserError(_unsupported(path, error)) from None
    except (ValueError, TypeError) as error:
        raise UserError(_damaged(path, str(error))) from error


def _stored_tiff(path: PathLike, data: bytes) -> "tuple[Tiff, NDArray[Any]]":
    """Header and stored values, as `engine.data.tiff.decode` returns them."""
    from engine.data import tiff

    header = _checked_header(path, BytesIO(data))
    try:
        with _no_pillow_limit:
            return header, tiff.decode(header, data)
    except tiff.UnsupportedError as error:
        raise UserError(_unsupported(path, error)) from None
    except ValueError as error:
        raise UserError(_damaged(path, str(error))) from error


def _decode_tiff(path: PathLike, data: bytes, pixel_range: Range | None) -> tuple[NDArray[np.uint8], int]:
    """RGB pixels as stored, and their orientation."""
    header, stored = _stored_tiff(path, data)
    if header.palette is not None:
        return header.palette[stored], header.orientation
    if header.bits[0] < 8:
        stored = stored * np.uint8(255 // (2 ** header.bits[0] - 1))
    if header.bits[0] == 12:
        pixel_range = pixel_range or (0, 4095)
    pixels = _eight_bits(path, stored, pixel_range)
    return _to_rgb(255 - pixels if header.white_is_zero else pixels), header.orientation


def _unreadable(path: PathLike, error: OSError) -> str:
    return f"{path}: cannot be read ({error.strerror}); check the path"


def _too_large(path: PathLike, height: int, width: int) -> str:
    size = f"{path}: {height} x {width} pixels (height x width), more than {largest()}"
    return f"{size}; {raise_limit(height * width)}scale it down or cut it into tiles"


def largest() -> str:
    """The size limit as text."""
    return f"{MAX_PIXELS / 1e6:g} megapixels"


def raise_limit(pixels: float) -> str:
    """The remedy for an image with this many pixels, ending in a comma; empty if OpenCV cannot decode it."""
    needed = math.ceil(pixels / 1e5) / 10
    return f"set data.max_megapixels={needed:g}, " if needed <= MOST_MEGAPIXELS else ""


def _unsupported(path: PathLike, kind: object) -> str:
    return f"{path}: a {kind}, which cannot be read; save 1, 3 or 4 bands of 8 or 16 bits, as TIFF or PNG"


def _damaged(path: PathLike, reason: str) -> str:
    reason = " ".join(reason.split())[:200] or "decoding failed"
    return (
        f"{path}: truncated, corrupt or not an image ({reason}); restore or remove the file "
        "(in a dataset, data.on_error=skip leaves out such files)"
    )


def _orientation(header: Image.Image) -> int:
    try:
        exif = _png_exif(header) if header.format == "PNG" else header.getexif()
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
    stream.seek(_PNG_SIGNATURE_BYTES)
    while len(start := stream.read(8)) == 8 and start[4:] != b"IEND":
        length = int.from_bytes(start[:4], "big")
        if start[4:] == b"eXIf":
            exif.load(stream.read(length))
            break
        stream.seek(length + 4, os.SEEK_CUR)
    stream.seek(position)
    return exif


def _is_sixteen_bit(header: Image.Image, data: bytes) -> bool:
    return header.format == "PNG" and data[24] == 16


def _decode_fast(path: PathLike, header: Image.Image, data: bytes, flags: int) -> NDArray[Any]:
    # Without an end marker in the last bytes, let Pillow decide whether the file is complete: some cameras
    # append data after the marker, and a truncated file can contain the marker of its thumbnail.
    if header.format == "JPEG" and _JPEG_END not in data[-_TAIL:]:
        if data.endswith(bytes(_TAIL)) and data.rfind(_JPEG_END) < data.rfind(_JPEG_PIXELS):
            raise UserError(_damaged(path, "the end is missing"))  # decoders fill the rest with gray
        return _decode_pillow(path, header, None)
    if header.format == "PNG":
        _check_png_end(path, data)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if out_of_memory(error):
            raise
        raise UserError(_damaged(path, "decoding failed")) from error
    if pixels is None or pixels.shape[:2] != (header.height, header.width):
        raise UserError(_damaged(path, "decoding failed"))
    if pixels.ndim == 3 and flags == cv2.IMREAD_UNCHANGED:
        pixels = pixels[..., 2::-1]  # BGR(A) -> RGB
    return pixels


def _check_png_end(path: PathLike, data: bytes) -> None:
    """OpenCV rejects a PNG file that ends early, but takes seconds for it."""
    start = _PNG_SIGNATURE_BYTES
    while start + 12 <= len(data):
        if data[start + 4 : start + 8] == b"IEND":
            return
        start += 12 + int.from_bytes(data[start : start + 4], "big")
    raise UserError(_damaged(path, "the end is missing"))


def _check_png(path: PathLike, data: memoryview) -> None:
    """Check that all chunks exist, and the checksums of those that are needed for decoding."""
    start = _PNG_SIGNATURE_BYTES
    while start + 12 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        kind, checksum = bytes(data[start + 4 : start + 8]), data[end : end + 4]
        if len(checksum) < 4:
            break
        if kind[:1].isupper() and zlib.crc32(data[start + 4 : end]) != int.from_bytes(checksum, "big"):
            raise UserError(_damaged(path, "a checksum is wrong"))
        if kind == b"IEND":
            return
        start = end + 4
    raise UserError(_damaged(path, "the end is missing"))


def _decode_pillow(path: PathLike, header: Image.Image, pixel_range: Range | None) -> NDArray[np.uint8]:
    high_depth = header.mode in ("I", "I;16", "I;16B", "F")
    try:
        pixels = np.asarray(header if high_depth else header.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(_damaged(path, str(error))) from error
    return _to_rgb(_eight_bits(path, pixels, pixel_range))


def _eight_bits(path: PathLike, pixels: NDArray[Any], pixel_range: Range | None) -> NDArray[np.uint8]:
    """Scale to 0..255, rounded to nearest; by default from 0..65535, so white stays white."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixel_range is not None:
        low, high = pixel_range
        inside = np.clip(np.nan_to_num(pixels.astype(np.float64), nan=low), low, high)
        return np.floor((inside - low) * (255 / (high - low)) + 0.5).astype(np.uint8)
    if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() > 65535:
        raise UserError(
            f"{path}: {pixels.dtype} values that are not integers in 0..65535; set data.pixel_range="
            "[<value of black>,<value of white>], or save 8 or 16 bits per channel"
        )
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return np.repeat(pixels[..., :1], 3, axis=2) if pixels.shape[2] < 3 else pixels[..., :3]


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo the EXIF orientation: 5..8 exchange rows and columns, the rest are flips."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
