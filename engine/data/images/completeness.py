"""Checks that image files are complete, without decoding most of them."""

import os
import zlib
from typing import IO

import cv2
import numpy as np

from engine.data.images import conversion, jpeg, reading, tiff
from engine.data.images.messages import PathLike, damaged, unreadable, unsupported
from engine.data.images.reading import PNG_SIGNATURE, TIFF_STARTS, read_image


def check_complete(path: PathLike, *, decode_jpeg: bool = False) -> None:
    """Check that an image or mask is complete: JPEG by its markers, PNG by its checksums, TIFF by the offsets
    of its pixel data, other formats by decoding them.

    decode_jpeg: also decode JPEG files, into an eighth of their size.

    Raises: UserError like `read_image`.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(PNG_SIGNATURE))
            if start[:4] in TIFF_STARTS:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                _check_tiff(path, file, size)
                return
            if start == PNG_SIGNATURE:
                _check_png(path, memoryview(start + file.read()))
                return
            data = start + file.read() if start.startswith(jpeg.START) else b""
            if jpeg.end_of(data) is not None and (not decode_jpeg or _decodes(path, data)):
                return
    except OSError as error:
        raise unreadable(path, error) from error
    read_image(path)


def _decodes(path: PathLike, data: bytes) -> bool:
    with reading.open_header(path, data), jpeg.decoding(path, data):  # refuses huge sizes
        try:
            return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8) is not None
        except cv2.error:
            return False


def _check_png(path: PathLike, data: memoryview) -> None:
    """Check that all chunks exist, and the checksums of those that are needed for decoding."""
    start = len(PNG_SIGNATURE)
    while start + 12 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        kind, checksum = bytes(data[start + 4 : start + 8]), data[end : end + 4]
        if len(checksum) < 4:
            break
        if kind[:1].isupper() and zlib.crc32(data[start + 4 : end]) != int.from_bytes(checksum, "big"):
            raise damaged(path, "a checksum is wrong")
        if kind == b"IEND":
            return
        start = end + 4
    raise damaged(path, "the end is missing")


def _check_tiff(path: PathLike, file: IO[bytes], size: int) -> None:
    header = conversion.tiff_header(path, file, limit=reading.MAX_PIXELS)
    try:
        tiff.check_kind(header)
        tiff.check_places(header, size)
    except tiff.UnsupportedError as error:
        raise unsupported(path, error) from None
    except (ValueError, TypeError) as error:
        raise damaged(path, str(error)) from error
