"""The errors about image files: what is wrong with which file, and the remedy."""

import math
import os
import re

from engine.errors import UserError

PathLike = str | os.PathLike[str]

MOST_MEGAPIXELS = 1073.0
"""OpenCV does not decode larger images."""

_IN_A_DATASET = " (in a dataset, data.on_error=skip leaves out such files)"


def unreadable(path: PathLike, error: OSError) -> UserError:
    """A file that is missing, or that the system does not let us read."""
    return UserError(f"{path}: cannot be read ({error.strerror}); check the path")


def unsupported(path: PathLike, kind: object) -> UserError:
    """A file of a kind that is not read."""
    return UserError(
        f"{path}: a {kind}, which cannot be read; save 1, 3 or 4 bands of 8 or 16 bits, as PNG, or as TIFF "
        "with LZW, Deflate or no compression"
    )


def lossy(path: PathLike, kind: str) -> UserError:
    """A mask in a format that changes values."""
    return UserError(
        f"{path}: {kind} is unsuitable for masks (compression changes label ids); save masks as PNG"
    )


class DamagedFileError(UserError):
    """A file that is incomplete, corrupt, or not an image."""

    @property
    def alone(self) -> str:
        """The message for a file that is not part of a dataset."""
        return str(self).removesuffix(_IN_A_DATASET)


def damaged(path: PathLike, reason: str) -> DamagedFileError:
    """A file that is incomplete, corrupt, or not an image."""
    reason = " ".join(reason.split())[:200] or "decoding failed"
    return DamagedFileError(
        f"{path}: truncated, corrupt or not an image ({reason}); restore or remove the file{_IN_A_DATASET}"
    )


_NOT_READ = {
    rb"....ftyp(hei|hev|mi[fh]|miaf|msf)": "HEIC, which is not supported; convert it to JPEG",
    rb"....ftypcrx": "a CR3 raw image, which is not supported; convert it to JPEG",
    rb"....ftyp(?!avi[fs])": "an MP4 or QuickTime video, not an image; remove it",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "JPEG XL, which is not supported; convert it to PNG or JPEG",
    rb"\xff\xd8.*?\xff[\xc0-\xc3]\0[\x0b\x11]\x0c": "a JPEG with 12 bits per channel, which is not "
    "supported; save it as a 16-bit PNG or TIFF",
    rb"version https://git-lfs": "a Git LFS pointer, not an image; run git lfs pull",
    rb"\s*<(!doctype|html)": "an HTML page, not an image; download it again",
}
"""How files of unsupported kinds begin, and what messages say about them."""

START_BYTES = 1 << 16
"""The number of bytes from the start of a file that `unknown_format` needs."""


def unknown_format(path: PathLike, start: bytes) -> DamagedFileError:
    """A file that no decoder recognizes. start: its first bytes."""
    for pattern, kind in _NOT_READ.items():
        if re.match(pattern, start, re.IGNORECASE | re.DOTALL):
            return DamagedFileError(f"{path}: {kind}{_IN_A_DATASET}")
    return damaged(path, "unknown format")


def too_large(path: PathLike, height: int, width: int, limit: int) -> UserError:
    """An image of more than `limit` pixels."""
    size = f"{path}: {height} x {width} pixels (height x width), more than {megapixels(limit)}"
    return UserError(f"{size}; {raise_limit(height * width)}scale it down or cut it into tiles")


def megapixels(limit: int) -> str:
    """A number of pixels as text."""
    return f"{limit / 1e6:g} megapixels"


def raise_limit(pixels: float) -> str:
    """The remedy for an image with this many pixels, ending in a comma; empty if OpenCV cannot decode it."""
    needed = math.ceil(pixels / 1e5) / 10
    return f"set data.max_megapixels={needed:g}, " if needed <= MOST_MEGAPIXELS else ""
