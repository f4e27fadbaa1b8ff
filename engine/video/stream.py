"""Live input: cameras and network streams, of which only the newest frame is predicted."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.data.media import is_video
from engine.errors import UserError
from engine.video.frames import VideoFile, check_size, frame_count, frame_rate, next_frame

Image = NDArray[np.uint8]

_ADDRESS = re.compile(r"(rtsps?|rtmps?|https?|udp|tcp|srt|mms)://.+", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
_TIMEOUT_MS = 10_000
_HEADERS_OF_FILES = ("Content-Length", "Last-Modified", "ETag")
_PROBE_S = 1.0
"""How long a server without these headers has to send everything."""

_LAST_READ_S = 2.0
"""How long the end waits for a read of a silent source, which the thread otherwise finishes by itself."""


def is_stream(text: str) -> bool:
    """Whether `input=` is a camera (a number) or an address, and no file has that name."""
    return bool(_ADDRESS.fullmatch(text)) or (text.isascii() and text.isdigit() and not Path(text).exists())


def without_password(text: str) -> str:
    """An address that is safe to print: without user, password and query, which may contain a token."""
    scheme, separator, rest = text.partition("://")
    address, query, _ = rest.partition("?")
    host = address.rpartition("@")[2]  # a password may contain slashes and @
    return f"{scheme}{separator}{host}{'?...' if query else ''}" if separator else text


def source_name(text: str) -> str:
    """How messages call a stream."""
    return f"camera {text}" if text.isdigit() else without_password(text)


def output_name(text: str) -> str:
    """A file name for the results of a stream: `camera_0`, or the address's last part."""
    if text.isdigit():
        return f"camera_{text}"
    path = re.sub(r"^\w+://", "", without_password(text)).split("?")[0].strip("/")
    stem = Path(path.rsplit("/", 1)[-1]).stem if "/" in path else path
    return re.sub(r"[^\w.-]+", "_", stem).strip(".") or "stream"


def patience_s() -> float:
    """Seconds after which a source that sends nothing is given up."""
    return _TIMEOUT_MS / 1000


class Stream:
    """The newest frames of a camera or a network stream, RGB [H, W, 3] uint8.

    A thread reads all frames; those that arrive while another is predicted are dropped and counted. A source
    that sends nothing for 10 s is given up.

    Args:
        text: the number of a camera, or an address.

    Attributes:
        name: how messages call it.
        rate: frames per second, as the source claims.
        dropped: number of frames that were not predicted.
        silent: whether it was given up because it sent nothing.
        file: set if a web address points to a file, which is then read from the first to the last frame. The
            recordings of other servers arrive in real time, like live streams.
        perhaps_file: whether a web address has a video's suffix, but could as well be a live stream.

    Raises:
        UserError: if it cannot be opened.
    """

    file: VideoFile | None = None

    def __init__(self, text: str) -> None:
        self.name = source_name(text)
        started = time.monotonic()
        self._capture = _open(text)
        late = _too_late(started)
        if not self._capture.isOpened():
            raise UserError(f"input={without_password(text)}: {_not_opened(text, late)}")
        self.rate = frame_rate(self._capture)
        self.dropped, self.silent = 0, False
        self._newest: Any = None
        self._ended = False
        self._changed = threading.Condition()
        if late and not self._capture.get(cv2.CAP_PROP_FRAME_WIDTH):
            raise self._without_frames()
        named_as_file = bool(_WEB.match(text)) and is_video(Path(text.partition("?")[0]))
        if _WEB.match(text) and (frame_count(self._capture) or (named_as_file and _is_file(text))):
            self.file = VideoFile(text, name=self.name, capture=self._capture)
        self.perhaps_file = named_as_file and self.file is None

    def frames(self, stop: Callable[[], bool]) -> Iterator[Image]:
        """Frames until the stream ends or `stop()`. Raises: UserError if there is none."""
        check_size(self._capture, self.name)
        reader = threading.Thread(target=self._read, name="reader", daemon=True)
        reader.start()
        first = True
        try:
            while not stop():
                with self._changed:
                    if self._newest is None and not self._ended:
                        self._changed.wait(0.2)
                    frame, self._newest = self._newest, None
                    if frame is None and self._ended:
                        break
                if frame is not None:
                    first = False
                    yield np.ascontiguousarray(frame[..., ::-1])
        finally:
            self._ended = True
            reader.join(_LAST_READ_S)
        if first and not stop():
            raise self._without_frames()

    def _without_frames(self) -> UserError:
        return UserError(f"{self.name}: sends no frames; check that it works in another program")

    def _read(self) -> None:
        while not self._ended:
            started = time.monotonic()
            ok, frame = next_frame(self._capture)
            with self._changed:
                late = _too_late(started) and not self._ended
                self.silent = self.silent or late
                self._ended = self._ended or late or not ok
                self.dropped += self._newest is not None and ok
                self._newest = frame if ok else self._newest
                self._changed.notify()
        self._capture.release()


class RealTime:
    """How often each frame is written, so that the video of a stream plays in real time.

    rate: frames per second of the video.
    """

    def __init__(self, rate: float) -> None:
        self.rate, self._started, self._written = rate, time.monotonic(), 0

    def __call__(self) -> int:
        due = int((time.monotonic() - self._started) * self.rate) + 1
        copies = max(1, due - self._written)
        self._written += copies
        return copies


def _is_file(text: str) -> bool:
    """Whether a server sends a file, which has a length, a date or an end, and not a live stream.

    The number of frames does not tell: some containers (.ts, .mpg) do not store it.
    """
    from urllib import request

    try:
        with request.urlopen(text, timeout=_TIMEOUT_MS / 1000) as answer:
            if any(name in answer.headers for name in _HEADERS_OF_FILES):
                return True
            deadline = time.monotonic() + _PROBE_S
            while time.monotonic() < deadline:
                if not answer.read1(1 << 16):
                    return True
    except (OSError, ValueError, HTTPException):
        pass
    return False


def _not_opened(text: str, late: bool) -> str:
    """Why a camera or an address could not be opened, as far as it is known, and what to do."""
    if text.isdigit():
        return "cannot be opened; check that it is connected, and that no other program uses it"
    if late:
        return f"no answer within {patience_s():g} s; check the address and the network"
    if _WEB.match(text):
        from urllib import error, request

        try:
            with request.urlopen(text, timeout=_TIMEOUT_MS / 1000):
                return (
                    "cannot be opened; the server answers, but its file cannot be read as a video: restore "
                    "it if it is incomplete (an .mp4 without its end has no index), or convert it"
                )
        except error.HTTPError as answer:
            found = f"the server answers {answer.code} ({answer.reason})"
            return f"cannot be opened; {found}; check the address and the password"
        except (OSError, ValueError, HTTPException):
            pass
    return "cannot be opened; check the address, the network and the password"


def _open(text: str) -> Any:
    if text.isdigit():
        return cv2.VideoCapture(int(text))
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
    return cv2.VideoCapture(text, cv2.CAP_FFMPEG, limits)


def _too_late(started: float) -> bool:
    return time.monotonic() - started >= patience_s()
