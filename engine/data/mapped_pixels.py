"""Stores the decoded pixels of many files in one memory-mapped file, with an index of the source files.

<folder>/<kind>-<key>/pixels.bin   uint8, all images concatenated
<folder>/<kind>-<key>/index.npy    one row per file, sorted by path: path, digest, size, mtime, offset, shape
"""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UserError
from engine.io.files import locked
from engine.io.parallel import parallel_map

# Increase this when decoding or the file layout changes; older folders are then ignored.
VERSION = 1


_PROGRESS_MINIMUM = 5000  # number of headers or modified files above which a progress bar is shown


Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PixelKind:
    """How a kind of file (images, masks) is decoded.

    Attributes:
        name: its name in folder names and messages.
        key: digest of everything besides the file that the pixels depend on.
        read: path -> uint8 [H, W] or [H, W, C].
        size: path -> (H, W), from the header alone.
        channels: C, or 0 for [H, W].
    """

    name: str
    read: Callable[[str], Pixels]
    size: Callable[[str], tuple[int, int]]
    channels: int
    key: str = ""


class MappedPixels:
    """`pixels(path)` is a read-only view into the mapped file; a crop of it reads only its own pages."""

    def __init__(self, folder: Path) -> None:
        """Open the folder. Raises: UserError if it is damaged."""
        self.folder = folder
        try:
            self.index: NDArray[Any] = np.load(folder / "index.npy", allow_pickle=False)
            last = self.index[np.argmax(self.index["offset"])]
            total = int(last["offset"]) + _num_bytes(last["shape"])
            if os.path.getsize(folder / "pixels.bin") != total:
                raise ValueError("pixels are missing")
            pixels = np.memmap(folder / "pixels.bin", np.uint8, mode="r")
        except (OSError, ValueError, IndexError) as error:
            raise UserError(
                f"{folder}: damaged ({error}); delete the folder to have it built again"
            ) from None
        # A plain array view: slicing an np.memmap takes several microseconds and returns another np.memmap.
        self._pixels: Pixels = pixels.view(np.ndarray)
        self._paths = np.ascontiguousarray(self.index["path"])

    def __len__(self) -> int:
        return len(self.index)

    def __reduce__(self) -> Any:
        return MappedPixels, (self.folder,)  # spawned workers map the file themselves

    def __call__(self, path: str) -> Pixels:
        """uint8 [H, W] or [H, W, C]. Raises: KeyError if the file is not in the index."""
        name = _encode(path)
        row = int(np.searchsorted(self._paths, np.array(name, self._paths.dtype)))
        if row == len(self) or self._paths[row] != name:
            raise KeyError(f"{path} is not in {self.folder}")
        offset, shape = int(self.index["offset"][row]), self.index["shape"][row]
        flat = self._pixels[offset : offset + _num_bytes(shape)]
        return flat.reshape([side for side in shape.tolist() if side])

    def check(self, *, workers: int = 0) -> None:
        """Compare the index with the files: size and mtime, and the content of files with a new mtime.

        Raises: UserError if a file has changed or is missing.
        """
        stamps = np.array([_stamp(path) for path in self._paths], np.int64).reshape(-1, 2)
        touched = np.flatnonzero(stamps[:, 1] != self.index["mtime"])

        def unchanged(number: int) -> bool:
            row = self.index[touched[number]]
            return bool(stamps[touched[number], 0] == row["size"] and _digest(row["path"]) == row["digest"])

        for row in np.flatnonzero(stamps[:, 0] != self.index["size"]):
            raise UserError(self._stale(row))
        many = len(touched) > _PROGRESS_MINIMUM
        results = parallel_map(unchanged, range(len(touched)), workers=workers if many else 0, quiet=not many)
        for result in results:
            if not result.value:
                raise UserError(self._stale(touched[result.item]))
        if len(touched):
            self.index["mtime"] = stamps[:, 1]
            with contextlib.suppress(OSError):  # if this fails, the next run compares contents again
                _save_index(self.folder, self.index)

    def _stale(self, row: Any) -> str:
        return (
            f"{self.folder}: outdated, {os.fsdecode(self._paths[row])} has changed; delete the folder or "
            "set data.cache to another one"
        )


def open_or_build(folder: Path, paths: Iterable[str], kind: PixelKind, *, workers: int = 0) -> MappedPixels:
    """Open the pixels of these files under `folder`; the first process that opens them decodes the files.

    Args:
        workers: number of processes that decode.

    Raises:
        UserError: if a file cannot be read or has changed, the disk is full, or `folder` cannot be written.
    """
    names = sorted({_encode(path) for path in paths})
    key = hashlib.blake2b(f"{VERSION}\0{kind.name}\0{kind.key}\0".encode(), digest_size=8)
    for name in names:
        key.update(name + b"\0")
    target = folder / f"{kind.name}-{key.hexdigest()}"
    try:
        if not target.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            lock = folder / f".{target.name}.lock"
            with locked(lock, waiting_for=f"another process that is building {target}"):
                if not target.is_dir():
                    _build(target, names, kind, workers)
    except OSError as error:
        raise UserError(_unwritable(folder, error)) from None
    pixels = MappedPixels(target)
    pixels.check(workers=workers)
    return pixels


def _build(target: Path, names: list[bytes], kind: PixelKind, workers: int) -> None:
    # This process holds the lock, so an existing draft was left behind by a killed process.
    draft = target.with_name(f".{target.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        index = _layout(names, kind, workers)
        _fill(draft, index, kind, workers)
        _save_index(draft, index)
        for path in (draft / "pixels.bin", draft):
            _sync(path)
        os.rename(draft, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _layout(names: list[bytes], kind: PixelKind, workers: int) -> NDArray[Any]:
    """Index rows with path, shape and offset, from the file headers; needed for parallel writes."""
    width = max(map(len, names), default=1)
    row = [("path", f"S{width}"), ("digest", "S32"), ("size", "<i8"), ("mtime", "<i8"), ("offset", "<i8")]
    index = np.zeros(len(names), np.dtype([*row, ("shape", "<i4", (3,))]))
    index["path"] = names

    def header(row: int) -> tuple[int, int]:
        return kind.size(os.fsdecode(names[row]))

    quiet = len(names) < _PROGRESS_MINIMUM
    offset = 0
    results = parallel_map(
        header, range(len(names)), workers=0 if quiet else workers, unit="header", quiet=quiet
    )
    for result in results:
        if result.error:
            raise UserError(result.error)
        index[result.item]["shape"] = (*result.value, kind.channels)
        index[result.item]["offset"] = offset
        offset += _num_bytes(index[result.item]["shape"])
    return index


def _fill(draft: Path, index: NDArray[Any], kind: PixelKind, workers: int) -> None:
    """Decode every file into its place and complete the index."""
    total = int(sum(_num_bytes(shape) for shape in index["shape"]))
    free = shutil.disk_usage(draft).free
    if total > free:
        raise UserError(
            f"{draft.parent}: {len(index)} {kind.name} need {total / 1e9:.2f} GB, {free / 1e9:.2f} GB are "
            "free; free some space or set data.cache to another folder"
        )
    with open(draft / "pixels.bin", "wb") as file:
        file.truncate(total)

    def write(row: int) -> tuple[bytes, int, int]:
        path, shape = os.fsdecode(index["path"][row]), index["shape"][row]
        before = _stamp(index["path"][row])
        digest, pixels = _digest(index["path"][row]), kind.read(path)
        if list(pixels.shape) != [side for side in shape.tolist() if side] or pixels.dtype != np.uint8:
            raise UserError(f"{path}: its decoded size differs from its header; restore or remove the file")
        _write(draft, int(index["offset"][row]), pixels)
        if _stamp(index["path"][row]) != before:
            raise UserError(
                f"{path}: changed while it was being read; try again when no other program is writing to it"
            )
        return digest, *before

    for result in parallel_map(write, range(len(index)), workers=workers, unit=f"{kind.name} to cache"):
        if result.error:
            raise UserError(result.error)
        row = index[result.item]
        row["digest"], row["size"], row["mtime"] = result.value


def _write(draft: Path, offset: int, pixels: Pixels) -> None:
    # Written with file.write, because a full disk would cause a SIGBUS in a memory map.
    try:
        with open(draft / "pixels.bin", "r+b") as file:
            file.seek(offset)
            file.write(np.ascontiguousarray(pixels).data)
    except OSError as error:
        raise UserError(_unwritable(draft.parent, error)) from None


def _unwritable(folder: Path, error: OSError) -> str:
    remedy = "free some space or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{folder}: cannot be written ({error.strerror}); {remedy}set data.cache to another folder"


def _save_index(folder: Path, index: NDArray[Any]) -> None:
    partial = folder / f"index.{os.getpid()}.partial"
    with open(partial, "wb") as file:
        np.save(file, index, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / "index.npy")


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode(path: str) -> bytes:
    return os.fsencode(os.path.abspath(path))


def _stamp(name: bytes) -> tuple[int, int]:
    """(size, modification time in ns) of a file."""
    try:
        status = os.stat(name)
    except OSError as error:
        raise UserError(f"{os.fsdecode(name)}: cannot be read ({error.strerror}); check the path") from None
    return status.st_size, status.st_mtime_ns


def _digest(name: bytes) -> bytes:
    try:
        with open(name, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    except OSError as error:
        raise UserError(f"{os.fsdecode(name)}: cannot be read ({error.strerror}); check the path") from None
    return digest.hexdigest().encode()


def _num_bytes(shape: NDArray[np.integer]) -> int:
    height, width, channels = shape.tolist()
    return int(height * width * max(channels, 1))
