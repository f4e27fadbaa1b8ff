"""Finds damage in JPEG files: by their markers, without decoding, and by libjpeg's warnings while decoding.

libjpeg decodes damaged data into gray or garbled pixels and only prints a warning, without the file's name.
"""

import contextlib
import mmap
import os
import re
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from engine.data.images.messages import PathLike, damaged

START, END = b"\xff\xd8", b"\xff\xd9"

_MARKER = re.compile(rb"\xff([\x01-\xfe])")
"""A marker; in the data of a scan, FF 00 is a byte of data."""

_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""The markers that start a frame and contain its size."""

_BETWEEN_SCANS = {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}
"""The markers that may follow the data of a scan, besides the end of the image."""

_RESTARTS = range(0xD0, 0xD8)

_ALONE = {0x01, 0xD8, *_RESTARTS}
"""Markers without content."""

_WARNING = re.compile(r"Corrupt JPEG data: |Premature end of JPEG file")
"""Of libjpeg's warnings, those about damage."""

_LEFT_OVER = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")

_TAIL = 64
"""Number of bytes at the end of a file that are searched first for the end marker."""

_PADDING = 4
"""Number of bytes of any value that may follow the pixels of an intact file; some cameras add two."""


class _Frame(NamedTuple):
    """The size of an image, and the sampling factors (horizontal, vertical) of its components by id."""

    height: int
    width: int
    sampling: dict[int, tuple[int, int]]

    def units(self, components: bytes) -> int:
        """The number of coded units (MCUs) in a scan of these components."""
        widest = max(across for across, _ in self.sampling.values())
        tallest = max(down for _, down in self.sampling.values())
        across, down = 8 * widest, 8 * tallest
        if len(components) == 1:  # then a unit is a block of the component itself
            factors = self.sampling[components[0]]
            return -(-self.width * factors[0] // across) * -(-self.height * factors[1] // down)
        return -(-self.width // across) * -(-self.height // down)


def end_of(data: bytes) -> int | None:
    """The position after the end marker of a JPEG file; None if it is missing, if a marker is inside the data
    of a scan that does not belong there, or if restart markers are missing.

    Damage between two markers is not found.
    """
    try:
        return _walk(data)
    except (IndexError, KeyError, ValueError, ZeroDivisionError):  # a damaged header
        return None


def has_end(path: PathLike, data: bytes) -> bool:
    """Whether a JPEG file has its end marker.

    It may be anywhere: some cameras append data to a file. A truncated file can contain that of a thumbnail.

    Raises: UserError if the file ends in zeros instead, as after an interrupted copy; decoders would fill the
    rest of the image with gray.
    """
    if END in data[-_TAIL:] or end_of(data) is not None:
        return True
    if data.endswith(bytes(_TAIL)) and data.rfind(END) < data.rfind(b"\xff\xda"):
        raise damaged(path, "the end is missing")
    return False


def _walk(data: bytes) -> int | None:
    position, interval, in_scans = len(START), 0, False
    frame: _Frame | None = None
    while (marker := _MARKER.search(data, position)) is not None:
        code, position = marker[1][0], marker.end()
        if code == END[1]:
            return position if in_scans else None
        if in_scans and code not in _BETWEEN_SCANS:
            return None
        if code in _ALONE:
            continue
        start, position = position + 2, position + int.from_bytes(data[position : position + 2], "big")
        if position < start or position > len(data):
            return None
        content = data[start:position]
        if code in _FRAMES:
            frame = _frame(content)
        elif code == 0xDD:
            interval = int.from_bytes(content[:2], "big")
        elif code == 0xDA:
            in_scans = True
            components = content[1 : 1 + 2 * content[0] : 2]
            expected = _restarts(frame, components, interval)
            end = _end_of_scan(data, position, expected=expected, restarts=interval > 0)
            if end is None:
                return None
            position = end
    return None


def _frame(content: bytes) -> _Frame:
    size, factors = (int.from_bytes(content[at : at + 2], "big") for at in (1, 3)), content[6:]
    height, width = size
    parts = (factors[at : at + 3] for at in range(0, 3 * content[5], 3))
    return _Frame(height, width, {part[0]: (part[1] >> 4, part[1] & 15) for part in parts})


def _restarts(frame: _Frame | None, components: bytes, interval: int) -> int | None:
    """The number of restart markers in a scan; None if the frame does not say."""
    if frame is None or not interval or not frame.height:
        return None
    return (frame.units(components) - 1) // interval


def _end_of_scan(data: bytes, position: int, *, expected: int | None, restarts: bool) -> int | None:
    """The position of the marker after a scan; None if restart markers are missing or out of order."""
    for count, marker in enumerate(_MARKER.finditer(data, position)):
        code = marker[1][0]
        if code not in _RESTARTS:
            return marker.start() if expected is None or count == expected else None
        if not restarts or code != _RESTARTS[count % len(_RESTARTS)]:
            return None
    return None


@contextlib.contextmanager
def decoding(path: PathLike, data: bytes) -> Iterator[None]:
    """Catch libjpeg's warnings about damage while OpenCV decodes a JPEG file in this context.

    If the file has data left over after its pixels, they may be right: a line names it, once in this process
    and its workers.

    Raises:
        UserError: on leaving the context, if the data is damaged.
    """
    with _caught_warnings() as lines:
        yield
    for line in lines:
        left_over = _LEFT_OVER.match(line)
        if _WARNING.match(line) and left_over is None:
            raise damaged(path, line)
        if left_over is not None:
            _report(path, data, int(left_over[1]))


def _report(path: PathLike, data: bytes, count: int) -> None:
    end = (end_of(data) or data.rfind(END) + len(END)) - len(END)
    rest = data[end - count : end]
    if count <= _PADDING or len(set(rest)) == 1 or not _first_time(os.fspath(path)):
        return
    print(
        f"{path}: at least {count} bytes are left over after its pixels; look at it, and restore or remove "
        "it if parts are shifted or discolored",
        file=sys.stderr,
        flush=True,
    )


_reported = mmap.mmap(-1, 1 << 16)
"""A bit for each reported file, by the hash of its path; forked workers share it."""


def _first_time(path: str) -> bool:
    byte, bit = divmod(zlib.crc32(os.fsencode(path)) % (8 * len(_reported)), 8)
    known = _reported[byte] >> bit & 1
    _reported[byte] |= 1 << bit
    return not known


_one_at_a_time = threading.Lock()
_redirected: tuple[int, IO[bytes]] | None = None
"""The process, and the file that its standard error goes to while libjpeg decodes."""

if hasattr(os, "register_at_fork"):  # a new process must not begin with the other standard error
    os.register_at_fork(
        before=_one_at_a_time.acquire,
        after_in_parent=_one_at_a_time.release,
        after_in_child=_one_at_a_time.release,
    )


@contextlib.contextmanager
def _caught_warnings() -> Iterator[list[str]]:
    """The warnings about damage that libjpeg prints in this context. What else is written to standard error
    is passed on at its end.

    libjpeg prints from C code, so the file descriptor of standard error is redirected. In a process that has
    none, no warnings are caught.
    """
    lines: list[str] = []
    with _one_at_a_time:
        try:
            file, usual = _file(), os.dup(2)
        except OSError:
            yield lines
            return
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(usual, 2)
            os.close(usual)
            lines += _take(file)


def _file() -> IO[bytes]:
    global _redirected
    if _redirected is None or _redirected[0] != os.getpid():
        _redirected = os.getpid(), tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (used until the end)
    return _redirected[1]


def _take(file: IO[bytes]) -> list[str]:
    """Empty the file: return its lines about damage, and print the others."""
    length = file.tell()
    if not length:
        return []
    file.seek(0)
    text = file.read(length)
    file.seek(0)
    file.truncate()
    lines = text.decode(errors="replace").splitlines()
    for line in lines:
        if not _WARNING.match(line):
            os.write(2, line.encode() + b"\n")
    return [line for line in lines if _WARNING.match(line)]
