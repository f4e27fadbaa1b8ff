"""From a mask file to contiguous labels: one table look-up; values that the table lacks are refused."""

import hashlib
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.data.class_map import IGNORE, UNKNOWN, ClassMap
from engine.data.images import read_labels
from engine.errors import UserError

Labels = NDArray[np.uint8]


class LabelReader:
    """Reads a mask of ids [H, W] or of RGB colors [H, W, 3] as contiguous indices.

    table: uint8 [65536], stored value -> contiguous index, 255 (ignore) or 254 (unknown); default
    `classes.lut()`. remedy: what the user should do about an unknown value; it ends the error message.
    """

    def __init__(self, *, classes: ClassMap, remedy: str, table: NDArray[np.uint8] | None = None) -> None:
        self._classes = classes
        self._remedy = remedy
        self._table = classes.lut() if table is None else table

    @property
    def key(self) -> str:
        """A digest of the mapping: readers with the same key read any file alike."""
        colors = repr((self._classes.ignore_colors, self._classes.colors))
        return hashlib.blake2b(self._table.tobytes() + colors.encode(), digest_size=16).hexdigest()

    def __call__(self, path: str) -> Labels:
        """Returns: uint8 [H, W]. Raises: UserError naming file, unknown values and their counts of pixels."""
        stored = read_labels(path)
        labels = self._from_colors(stored) if stored.ndim == 3 else self._from_ids(stored)
        unknown = labels == UNKNOWN
        if unknown.any():
            raise UserError(f"{path}: {_count(stored[unknown])}; {self._remedy}")
        return labels

    def _from_ids(self, stored: NDArray[Any]) -> Labels:
        if stored.dtype == np.uint8:
            return np.asarray(cv2.LUT(stored, self._table[:256]), np.uint8)
        inside = (stored >= 0) & (stored < len(self._table))
        return np.where(inside, self._table[np.where(inside, stored, 0)], np.uint8(UNKNOWN))

    def _from_colors(self, stored: NDArray[np.uint8]) -> Labels:
        return _color_table(self._classes)[_color_codes(stored)]


def _color_codes(colors: NDArray[np.uint8]) -> NDArray[np.int32]:
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


@lru_cache(maxsize=2)
def _color_table(classes: ClassMap) -> NDArray[np.uint8]:
    """uint8 [2^24]: one entry per color (16 MB, made on first use; ten times faster than a search)."""
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    for colors, values in ((classes.ignore_colors, IGNORE), (classes.colors, range(classes.num_classes))):
        if colors:
            table[_color_codes(np.array(colors, np.uint8))] = values
    return table


def _count(values: NDArray[np.integer]) -> str:
    """'unknown values 7 (120 pixels), 9 (3 pixels)', the most frequent first, five at most."""
    # Colors as one number each: NumPy needs a second per megapixel for rows.
    colors = values.ndim == 2
    found, counts = np.unique(_color_codes(values) if colors else values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:5]
    parts = []
    for row in order:
        value = int(found[row])
        shown = [value >> 16, value >> 8 & 255, value & 255] if colors else value
        parts.append(f"{shown} ({counts[row]} pixels)")
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"unknown value{'s' if len(found) > 1 else ''} {', '.join(parts)}{more}"
