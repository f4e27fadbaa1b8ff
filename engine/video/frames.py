"""Reads the frames of a video file, and checks that none are missing."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.data.images import messages, reading
from engine.errors import UserError

Image = NDArray[np.uint8]

DEFAULT_RATE = 25.0

_COUNTING = (".mp4", ".m4v", ".mov", ".avi", ".3gp")
"""Containers that store the number of their frames; for others, it is estimated from the duration."""

_LEAST_SHARE = 0.9
"""Required share of the estimated frames, or of the duration."""


_ASF, _ASF_PROPERTIES = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""The first bytes of an ASF file, and of its file properties: size at byte 40, flags at byte 88."""

_ASF_START, _ASF_NOT_LIVE = 4096, (b"\0", b"\2")
"""How many bytes contain the properties, and the flags of files whose size is valid: none, or only the second
("seekable"); the first flag marks a live broadcast."""


class VideoFile:
    """The frames of a video file, RGB [H, W, 3] uint8, once and in order.

    Args:
        source: the file, or the address of one.
        name: how messages call it.
        capture: the address, already opened.

    Attributes:
        expected: number of frames according to the container; 0 if unknown.
        rate: frames per second.
        decoded: number of frames read so far.
    """

    def __init__(self, source: Path | str, *, name: str = "", capture: Any = None) -> None:
        self.source, self.name = source, name or str(source)
        self._remote = "://" in str(source)
        self._capture = cv2.VideoCapture(str(source)) if capture is None else capture
        self.expected, self.rate = frame_count(self._capture), frame_rate(self._capture)
        self.decoded, self._last_ms = 0, 0.0
        path = str(source).partition("?")[0] if self._remote else str(source)
        self._counts = Path(path).suffix.lower() in _COUNTING

    def __iter__(self) -> Iterator[Image]:
        """Raises: UserError if there is no frame, or the frames are larger than images can be."""
        try:
            check_size(self._capture, self.name)
            ok, frame = next_frame(self._capture)
            if not ok:
                raise UserError(
                    f"{self.name}: cannot be read as a video; restore it if it is incomplete (an .mp4 "
                    "without its end has no index), or convert it, for example to H.264 in .mp4"
                )
            while ok:
                self.decoded += 1
                self._last_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
                yield np.ascontiguousarray(frame[..., ::-1])
                ok, frame = next_frame(self._capture)
        finally:
            self._capture.release()

    def damage(self) -> str | None:
        """After the last frame: what is missing, as the end of a message; None if nothing is missing."""
        if not self.expected and (size := asf_size(self.source)):
            found = f"only {os.path.getsize(self.source)} of {size} bytes, {self.decoded} frames decoded"
            return f"damaged: {found}; the readable part is kept; restore the file or convert it"
        if not self.expected or self.decoded >= self.expected - 1:
            return None
        share = _LEAST_SHARE if not self._counts else 1 - 1 / self.expected
        short = self.decoded < share * self.expected
        seconds = self.expected / self.rate
        early = self.decoded < 0.98 * self.expected and 0 < self._last_ms < 980 * seconds - 1000 / self.rate
        if not short and not early:
            return None
        about = "" if self._counts else "about "
        found = f"{about}{self.expected} frames expected, {self.decoded} decoded; the readable part is kept"
        if self._remote:
            return f"damaged or cut off: {found}; try again, or download the file and restore or convert it"
        return f"damaged: {found}; restore the file or convert it"


def asf_size(source: Path | str) -> int:
    """The size in bytes according to the header of an ASF file (.wmv), if the file is shorter; otherwise 0.

    FFmpeg does not estimate the number of frames of such a file.
    """
    try:
        with open(source, "rb") as file:
            start = file.read(_ASF_START)
    except OSError:  # an address
        return 0
    place = start.find(_ASF_PROPERTIES)
    if not start.startswith(_ASF) or place < 0 or start[place + 88 : place + 89] not in _ASF_NOT_LIVE:
        return 0
    size = int.from_bytes(start[place + 40 : place + 48], "little")
    return size if size > os.path.getsize(source) else 0


def check_size(capture: Any, name: str) -> None:
    """Raises: UserError if frames are larger than images can be."""
    pixels = capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
    if pixels > reading.MAX_PIXELS:
        raise UserError(
            f"{name}: frames of more than {messages.megapixels(reading.MAX_PIXELS)}; "
            f"{messages.raise_limit(pixels)}scale it down"
        )


def next_frame(capture: Any) -> tuple[bool, Any]:
    """(whether there is another frame, the frame as BGR)."""
    try:
        ok, frame = capture.read()
    except cv2.error:  # damage that the decoder cannot conceal
        return False, None
    return ok and frame is not None, frame


def frame_count(capture: Any) -> int:
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if math.isfinite(count) and 0 < count < 2**31 else 0


def frame_rate(capture: Any) -> float:
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if 0 < rate <= 1000 else DEFAULT_RATE  # containers can claim any rate
