"""Images -> the network's input, using only NumPy and Pillow: the same values as in training.

    about = json.loads(Path("preprocess.json").read_text())
    images = network_input(read("photo.jpg", about["preprocessing"]), about)      # [N, 3, height, width]

Apache-2.0; from mobilenet-dense, deploy/device/image.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
_BITS = 11  # OpenCV's fixed-point weights
_TIFF_BITS, _TIFF_COMPRESSION, _TIFF_COLORS, _ORIENTATION = 258, 259, 262, 274  # EXIF uses the last, too
_TIFF_BANDS, _TIFF_PLANES, _TIFF_PALETTE, _TIFF_EXTRA, _TIFF_KINDS = 277, 284, 320, 338, 339
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR = 0, 1, 2, 6  # colors
_SEPARATE, _SIGNED, _UNCOMPRESSED, _MULTIPLIED, _ALPHA = 2, 2, 1, 1, 2
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the image upright."""
_UNDO = {**_TURN, 6: _TURN[8], 8: _TURN[6]}
"""The inverse of `_TURN`."""


class UnsupportedImageError(Exception):
    """An image of a kind that this program does not read."""


def read(path: str | os.PathLike[str], preprocessing: Mapping[str, Any]) -> Pixels:
    """RGB uint8 [H, W, 3], without alpha; rotated by its EXIF orientation if the model was trained so.

    Raises:
        UnsupportedImageError: for other depths than 8 and 16 bits per channel, for 16-bit colors if OpenCV is
            not installed, and for images that Pillow cannot decode or considers too large.
        OSError: if the file is missing or damaged.
    """
    try:
        return _read(path, preprocessing)
    except (OSError, UnsupportedImageError):
        raise
    except Exception as error:  # for damaged and huge files, Pillow raises many kinds
        raise UnsupportedImageError(f"{path}: cannot be read ({error or type(error).__name__})") from None


def _read(path: str | os.PathLike[str], preprocessing: Mapping[str, Any]) -> Pixels:
    image: Any = Image.open(path)
    if image.format == "TIFF":  # Pillow maps some into memory, with the wrong width if they are rotated
        image = Image.open(BytesIO(Path(path).read_bytes()))
        image.info.pop("xmp", None)  # its orientation does not count
        _check_tiff(image, path)
    deep = _bits(image, path) == 16
    white_is_zero = _tag(image, _TIFF_COLORS, 1) == _WHITE_IS_ZERO
    separate = _tag(image, _TIFF_PLANES, 1) == _SEPARATE
    rotated = _tag(image, _ORIENTATION, 1) != 1
    turn = _TURN.get(_exif_orientation(image)) if preprocessing["upright"] else None
    if image.format == "TIFF" and not preprocessing["upright"]:
        image = _as_stored(image)
    if deep and image.mode.startswith("I"):
        gray = _eight_bits(_not_negative(np.asarray(image), path, preprocessing), preprocessing)
        if white_is_zero:  # Pillow inverts only 8 bits
            gray = 255 - gray
        image = Image.fromarray(np.repeat(gray[..., None], 3, axis=2))
    elif deep and (separate or rotated):  # OpenCV would return what is in memory, or rotate it as it likes
        kind = "in separate planes" if separate else "and an orientation"
        raise UnsupportedImageError(f"{path}: TIFF with 16 bits per channel {kind}; save it as PNG")
    elif deep:
        image = Image.fromarray(_eight_bits(_colors(path), preprocessing))
    elif image.mode.startswith(("I", "F")):
        raise UnsupportedImageError(f"{path}: not an image of 8 or 16 bits per channel")
    return np.asarray((image if turn is None else image.transpose(turn)).convert("RGB"))


def network_input(image: Pixels, about: Mapping[str, Any]) -> NDArray[Any]:
    """An image, RGB [H, W, 3] -> the model's input [N, 3, height, width]: N times the same image.

    Raises: UnsupportedImageError if the model has another input size, or its inputs must be larger.
    """
    preprocessing, (count, _, *fixed) = about["preprocessing"], about["input"]["shape"]
    pixels: NDArray[Any] = resized(image, preprocessing["resize"], tuple(fixed)).transpose(2, 0, 1)
    if any(side is not None and side != own for side, own in zip(fixed, pixels.shape[1:], strict=True)):
        size, taken = ("x".join(map(str, sides)) for sides in (pixels.shape[1:], fixed))
        raise UnsupportedImageError(f"becomes an input of {size}, but the model takes {taken}")
    least = about.get("min_size", (1, 1))
    if any(side < smallest for side, smallest in zip(pixels.shape[1:], least, strict=True)):
        size, smallest = ("x".join(map(str, sides)) for sides in (pixels.shape[1:], least))
        raise UnsupportedImageError(f"becomes an input of {size}, but the model takes at least {smallest}")
    if not preprocessing["in_graph"]:
        mean, std = (np.array(preprocessing[name], np.float32)[:, None, None] for name in ("mean", "std"))
        pixels = (pixels.astype(np.float32) - mean) / std
    return np.repeat(pixels[None].astype(about["input"]["dtype"]), count or 1, axis=0)


def resized(image: Pixels, how: Mapping[str, Any], fixed: tuple[int | None, ...]) -> Pixels:
    """Resize (and crop) as `preprocessing.resize` says; `fixed`: the size that the model takes, or None."""
    height, width = image.shape[:2]
    if how["mode"] == "shorter_side":
        shorter = min(height, width)
        size = (how["side"] * height // shorter, how["side"] * width // shorter)
    elif how["mode"] == "scale":
        size = (max(1, round(height * how["factor"])), max(1, round(width * how["factor"])))
    elif fixed[0] is not None and fixed[1] is not None:
        size = (fixed[0], fixed[1])
    else:
        size = tuple(how.get("size", (height, width)))
    if size != (height, width):
        image = _resize(image, size, how)
    if how.get("center_crop"):
        rows, columns = how["center_crop"]
        top, left = round((image.shape[0] - rows) / 2), round((image.shape[1] - columns) / 2)
        image = image[top : top + rows, left : left + columns]
    return image


def _resize(image: Pixels, size: Size, how: Mapping[str, Any]) -> Pixels:
    if how.get("antialias"):
        return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    smaller = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    return (
        resize_area(image, size)
        if smaller and how.get("when_smaller") == "area"
        else resize_linear(image, size)
    )


def resize_linear(image: Pixels, size: Size) -> Pixels:
    """The values of OpenCV's `INTER_LINEAR`: integers, with weights of 11 bits, rounded in two steps."""
    height, width = image.shape[:2]
    top, down = _positions(height, size[0])
    left, across = _positions(width, size[1])
    across = np.where((left < 0) | (left >= width - 1), np.float32(0), across)
    left = left.clip(0, width - 1)
    first, second = _weights(across)
    values = image.astype(np.int32)
    rows = values[:, left] * first[:, None] + values[:, np.minimum(left + 1, width - 1)] * second[:, None]
    rows >>= 4
    first, second = (weights[:, None, None] for weights in _weights(down))
    upper, lower = rows[top.clip(0, height - 1)], rows[(top + 1).clip(0, height - 1)]
    result: Pixels = (((first * upper >> 16) + (second * lower >> 16) + 2) >> 2).astype(np.uint8)
    return result


def _positions(length: int, new_length: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each new pixel: the pixel before its center (-1 at the border), and the distance from it."""
    exact = ((np.arange(new_length) + 0.5) * (length / new_length) - 0.5).astype(np.float32)
    before = np.floor(exact).astype(np.int64)
    return before, (exact - before).astype(np.float32)


def _weights(distance: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The weights of the pixels before and after."""
    scale = np.float32(1 << _BITS)
    return np.rint((1 - distance) * scale).astype(np.int32), np.rint(distance * scale).astype(np.int32)


def resize_area(image: Pixels, size: Size) -> Pixels:
    """The mean over the area that each new pixel covers; may differ by 1 from OpenCV's `INTER_AREA`."""
    rows, columns = (_covered(*sides) for sides in zip(image.shape[:2], size, strict=True))
    across = np.einsum("cw,hwk->hck", columns, image.astype(np.float32))
    halves = tuple(2 * side for side in size) == image.shape[:2]  # OpenCV rounds these up, others to even
    means = np.einsum("rh,hck->rck", rows, across)
    result: Pixels = (np.floor(means + 0.5) if halves else np.rint(means)).astype(np.uint8)
    return result


def _covered(length: int, new_length: int) -> NDArray[np.float32]:
    """[new_length, length]: the share of each new pixel that each old one covers."""
    edges = np.arange(new_length + 1) * (length / new_length)
    places = np.arange(length)
    shares = np.minimum(places + 1, edges[1:, None]) - np.maximum(places, edges[:-1, None])
    shares = shares.clip(0)
    result: NDArray[np.float32] = (shares / shares.sum(1, keepdims=True)).astype(np.float32)
    return result


def _check_tiff(image: Any, path: str | os.PathLike[str]) -> None:
    """Refuse what training does not read, and what Pillow would misread."""
    if kind := _unread_tiff(image, _bits(image, path)):
        raise UnsupportedImageError(f"{path}: TIFF with {kind}; save it as PNG")


def _unread_tiff(image: Any, bits: int) -> str:
    """What a TIFF has that is not read; empty if it can be read."""
    tags, colors = image.tag_v2, _tag(image, _TIFF_COLORS, _BLACK_IS_ZERO)
    bands, extra = _tag(image, _TIFF_BANDS, 1), tags.get(_TIFF_EXTRA, ())
    gray = colors in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    first_only, white = gray and bands > 1, bands > 3 and _TIFF_EXTRA not in tags  # what Pillow returns
    if (first_only or white) and _tag(image, _TIFF_PLANES, 1) == _SEPARATE:
        return f"{bands} bands in separate planes"
    if bands > 4 or (bands == 2 and extra[:1] not in ((_MULTIPLIED,), (_ALPHA,))):
        return f"{bands} bands"
    if colors > _YCBCR:
        return "colors that are neither gray, RGB, CMYK nor YCbCr"
    if colors == _RGB and bits == 8 and _MULTIPLIED in extra:  # Pillow divides them
        return "colors multiplied by alpha"
    if 0 < max(tags.get(_TIFF_PALETTE, (0,))) < 256:  # Pillow drops their lower 8 bits
        return "a palette of 8-bit colors"
    swapped = tags.prefix == b"MM" and _tag(image, _TIFF_COMPRESSION, 1) != _UNCOMPRESSED
    if _SIGNED in tags.get(_TIFF_KINDS, ()) and (swapped or bits == 8):
        return "signed values"
    return ""


def _exif_orientation(image: Any) -> int:
    """1..8; 1 for TIFF, which Pillow turns when it loads the pixels. Unlike Pillow's, without that of XMP."""
    if image.format == "TIFF":
        return 1
    image.load()  # PNG files can have EXIF data after the pixels
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return int(exif.get(_ORIENTATION, 1))
    except Exception:  # of damaged metadata; the pixels can be read
        return 1


def _as_stored(image: Any) -> Any:
    """A TIFF image without the rotation that Pillow applies when it loads the pixels."""
    orientation = image.tag_v2.get(_ORIENTATION, 1)
    image.load()
    undo = _UNDO.get(orientation)
    return image if undo is None else image.transpose(undo)


def _bits(image: Any, path: str | os.PathLike[str]) -> int:
    """Bits per channel as stored; Pillow reads 16-bit colors as 8 bits."""
    if image.format == "PNG":
        with open(path, "rb") as file:
            return file.read(25)[24]
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(_TIFF_BITS, (8,))))
    return 8


def _tag(image: Any, number: int, default: int) -> int:
    """A TIFF tag; the default for other formats."""
    return int(image.tag_v2.get(number, default)) if image.format == "TIFF" else default


def _not_negative(values: NDArray[Any], path: object, preprocessing: Mapping[str, Any]) -> NDArray[Any]:
    if preprocessing["pixel_range"] is None and values.min(initial=0) < 0:
        raise UnsupportedImageError(f"{path}: has negative values, for which the model has no pixel_range")
    return values


def _colors(path: str | os.PathLike[str]) -> NDArray[np.uint16]:
    """RGB of 16 bits per channel, by OpenCV if it is installed."""
    try:
        import cv2
    except ImportError:
        message = f"{path}: has 16 bits per channel; pip install opencv-python-headless, which reads them"
        raise UnsupportedImageError(message) from None
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    stored = cv2.imread(str(path), flags)
    if stored is None or stored.dtype != np.uint16:
        raise UnsupportedImageError(f"{path}: not an image of 8 or 16 bits per channel")
    return np.asarray(stored[..., ::-1], np.uint16)


def _eight_bits(values: NDArray[Any], preprocessing: Mapping[str, Any]) -> Pixels:
    black, white = preprocessing["pixel_range"] or (0, 65535)
    inside = values.astype(np.float64).clip(black, white) - black
    return np.floor(inside * (255 / (white - black)) + 0.5).astype(np.uint8)
