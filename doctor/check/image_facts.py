"""What the check records of an image: size, orientation, mode, brightness, a perceptual hash, a thumbnail."""

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.data.images import Range, read_image
from engine.data.images.reading import open_header, tiff_header
from engine.data.preprocessing import turn_and_pages

FACTS = np.dtype(
    [
        ("height", "<i4"),
        ("width", "<i4"),
        ("orientation", "u1"),
        ("pages", "<u2"),
        ("deep", "?"),
        ("mode", "S8"),
        ("brightness", "<f4"),
        ("contrast", "<f4"),
        ("hash", "<u8"),
    ]
)
"""height, width: as read. orientation: 1..8. deep: more than 8 bits per channel. brightness, contrast: mean
and standard deviation of the gray values (0..255) of a thumbnail. hash: `perceptual_hash`."""

THUMBNAIL = 16
"""Side of the RGB thumbnail, in pixels."""

_HASHED, _KEPT = 32, 8  # pixels, and rows and columns of frequencies


def facts_key(pixel_range: Range | None, upright: bool) -> str:
    """The key under which facts are stored (`ReadFacts`); the number changes with this module."""
    return f"image 1 {pixel_range} {upright}"


def image_facts(path: str, *, pixel_range: Range | None = None, upright: bool = True) -> bytes:
    """Read an image completely; returns one row of `FACTS`, followed by the thumbnail.

    Raises: UserError, like `read_image`.
    """
    pixels = read_image(path, pixel_range=pixel_range, upright=upright)
    orientation, pages = turn_and_pages(path)
    mode, deep = _mode(path)
    small = cv2.resize(pixels, (_HASHED, _HASHED), interpolation=cv2.INTER_AREA)
    gray = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.float32)
    row = np.zeros(1, FACTS)
    row["height"], row["width"] = pixels.shape[:2]
    row["orientation"], row["pages"] = orientation, min(pages, 65535)
    row["mode"], row["deep"] = mode, deep
    row["brightness"], row["contrast"] = gray.mean(), gray.std()
    row["hash"] = perceptual_hash(gray)
    thumbnail = cv2.resize(small, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return row.tobytes() + np.asarray(thumbnail, np.uint8).tobytes()


def perceptual_hash(gray: NDArray[np.float32]) -> int:
    """63 bits: whether each of the lowest 8 x 8 frequencies (without the mean) of a 32 x 32 image is above
    their median (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010)."""
    frequencies = cv2.dct(gray)[:_KEPT, :_KEPT].ravel()[1:]
    bits = np.append(frequencies > np.median(frequencies), False)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnail_of(value: bytes) -> NDArray[np.uint8]:
    """The thumbnail [16, 16, 3] in the result of `image_facts`."""
    return np.frombuffer(value, np.uint8, offset=FACTS.itemsize).reshape(THUMBNAIL, THUMBNAIL, 3)


def _mode(path: str) -> tuple[str, bool]:
    if (header := tiff_header(path)) is not None:
        bits = max(header.bits)
        return f"tiff{len(header.bits)}x{bits}"[:8], bits > 8
    with open_header(path) as image:
        deep = image.mode.startswith(("I", "F"))
        if image.format == "PNG" and not deep:
            with open(path, "rb") as file:
                deep = file.read(25)[24] == 16
        return image.mode, deep
