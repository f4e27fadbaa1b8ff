"""Says whether images of more than 8 bits use the range of values that becomes 0..255."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.data.images import reading
from engine.data.images.conversion import Range
from engine.data.images.messages import PathLike
from engine.errors import UserError
from engine.io.files import evenly_spaced

_SMALL_RANGE = 16383  # a quarter of 16 bits
_FEW_LEVELS = 16  # of 256
_VALUES_CHECKED = 1_000_000  # of an image
_RANGES_CHECKED = 8  # images; those of 8 bits cost the reading of a header


def range_notes(paths: Sequence[str], pixel_range: Range | None) -> list[str]:
    """A line if `pixel_range` (None: 0..65535) does not fit a sample of the images at `paths`."""
    return unused_range(paths) if pixel_range is None else _misfit(paths, pixel_range)


def _misfit(paths: Sequence[str], pixel_range: Range) -> list[str]:
    """A line if most values are above white, or none is a sixteenth of the way from black to white.

    Values below black do not count: a window of CT values is above those of air.
    """
    black, white = pixel_range
    deep = list(_deep(paths))
    if not deep:
        return []
    above = [float((_sample(stored) > white).mean()) for _, stored in deep]
    largest = max(_used_range(stored)[1] for _, stored in deep)
    path = deep[int(np.argmax(above))][0]
    key = f"data.pixel_range=[{black:g},{white:g}]"
    checked = f"(images of more than 8 bits checked: {len(deep)})"
    if np.mean(above) > 0.5:
        return [
            f"{path}: {max(above):.0%} of the values are above {white:g} {checked}, so they are read as "
            f"white ({key})"
        ]
    if largest < black + (white - black) / _FEW_LEVELS:
        return [
            f"{path}: the largest value is {_rounded(largest)} {checked}, so they are read nearly "
            f"black ({key})"
        ]
    return []


def _deep(paths: Sequence[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The images of more than 8 bits in a sample of `paths`, with their stored values."""
    for index in evenly_spaced(len(paths), _RANGES_CHECKED):
        try:
            stored = reading.read_deep(paths[index])
        except (UserError, OSError):  # reported when the image is read
            continue
        if stored is not None:
            yield paths[index], stored


def _sample(stored: NDArray[Any]) -> NDArray[Any]:
    values = stored.reshape(-1)
    return values[:: 1 + len(values) // _VALUES_CHECKED]


def unused_range(paths: Sequence[str]) -> list[str]:
    """A line if images of more than 8 bits (a sample of `paths`) are negative or use a quarter of 0..65535.

    Scaled by that range, little would be left of them: 12-bit values in 16 bits become 17 levels of gray, and
    so do those of a thermal camera around 29000. Values of 0 and 65535 (no data, saturation) do not count,
    nor does the half percent of the values at either end.
    """
    images = list(_deep(paths))
    deep = [(*_used_range(stored), path) for path, stored in images]
    if not deep:
        return []
    low = min(used[0] for used in deep)
    largest, path = max(used[1:] for used in deep)
    checked = f"(images of more than 8 bits checked: {len(deep)})"
    if low < 0 or any(
        stored.dtype.kind == "f" for _, stored in images
    ):  # no suggestion: the smallest value may stand for no data
        return [
            f"{path}: values lie between {_rounded(low)} and {_rounded(largest)} {checked}; set "
            "data.pixel_range=[<value of black>,<value of white>], outside of which values become "
            "black or white"
        ]
    if 1 <= largest <= _SMALL_RANGE:
        white = 2 ** int(largest).bit_length() - 1
        return [
            f"{path}: the largest value is {largest:.0f} of 65535 {checked}, so "
            f"they are read nearly black; if {white} is white, set data.pixel_range=[0,{white}]"
        ]
    if 0 < largest - low <= _SMALL_RANGE and largest <= 65535:
        return [
            f"{path}: values lie between {low:.0f} and {largest:.0f} of 0..65535 {checked}, so they are read "
            "with little contrast; to use all 256 levels of gray, set "
            f"data.pixel_range=[{low:.0f},{largest:.0f}]"
        ]
    return []


def _rounded(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _used_range(stored: NDArray[Any]) -> Range:
    """The smallest and largest of the values that count in `unused_range`."""
    values = _sample(stored)
    inside = values[(values != 0) & (values != 65535)]
    if not len(inside):
        return float(values.min()), float(values.max())
    low, high = np.nanquantile(inside, 0.005, method="lower"), np.nanquantile(inside, 0.995, method="higher")
    largest = np.nanmax(inside)
    return float(low), float(largest if largest <= _SMALL_RANGE else high)


def stored_range(path: PathLike) -> Range | None:
    """The smallest and largest value in an image of more than 8 bits per channel; None for 8 bits or less.

    Raises: UserError like `engine.data.images.read_image`.
    """
    stored = reading.read_deep(path)
    return None if stored is None else (float(stored.min()), float(stored.max()))
