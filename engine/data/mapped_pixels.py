"""Decoded pixels of a list of files in one memory-mapped file, with an index of what they were decoded from.

<folder>/<kind>-<key>/pixels.bin   uint8, one image after the other
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

# Increase it when images decode to other pixels or the layout changes: older folders are then not used.
VERSION = 1


_MANY = 5000  # headers, or files with a new date: reading them takes long enough to show a progress bar


Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PixelKind:
    """How a kind of file (images, masks) is decoded.

    Attributes:
        name: of the kind, in names of folders and in messages.
        key: digest of what the pixels depend on, other than the file.
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
        """Raises: UserError if the folder is damaged."""
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
                f"{folder}: damaged ({error}); delete the folder, and it is built again"
            ) from None
        # A plain view: slices of np.memmap itself cost several microseconds each, and keep its type.
        self._pixels: Pixels = pixels.view(np.ndarray)
        self._paths = np.ascontiguousarray(self.index["path"])

    def __len__(self) -> int:
        return len(self.index)

    def __reduce__(self) -> Any:
        return MappedPixels, (self.folder,)  # a worker that is not forked maps the file itself

    def __call__(self, path: str) -> Pixels:
        """uint8 [H, W] or [H, W, C]. Raises: KeyError if the file is not one of those decoded here."""
        name = _encode(path)
        row = int(np.searchsorted(self._paths, np.array(name, self._paths.dtype)))
        if row == len(self) or self._paths[row] != name:
            raise KeyError(f"{path} is not in {self.folder}")
        offset, shape = int(self.index["offset"][row]), self.index["shape"][row]
        flat = self._pixels[offset : offset + _num_bytes(shape)]
        return flat.reshape([side for side in shape.tolist() if side])

    def check(self, *, workers: int = 0) -> None:
        """Compare with the files: size and date, and the content of those with another date.

        Raises: UserError if a file has changed or is gone.
        """
        stamps = np.array([_stamp(path) for path in self._paths], np.int64).reshape(-1, 2)
        dated = np.flatnonzero(stamps[:, 1] != self.index["mtime"])

        def unchanged(number: int) -> bool:
            row = self.index[dated[number]]
            return bool(stamps[dated[number], 0] == row["size"] and _digest(row["path"]) == row["digest"])

        for row in np.flatnonzero(stamps[:, 0] != self.index["size"]):
            raise UserError(self._stale(row))
        many = len(dated) > _MANY
        results = parallel_map(unchanged, range(len(dated)), workers=workers if many else 0, quiet=not many)
        for result in results:
            if not result.value:
                raise UserError(self._stale(dated[result.item]))
        if len(dated):
            self.index["mtime"] = stamps[:, 1]
            with contextlib.suppress(OSError):  # the next run then compares contents again
                _save_index(self.folder, self.index)

    def _stale(self, row: Any) -> str:
        return (
            f"stale: {os.fsdecode(self._paths[row])} changed since {self.folder} was built; delete the "
            "folder or give data.cache another one"
        )


def open_or_build(folder: Path, paths: Iterable[str], kind: PixelKind, *, workers: int = 0) -> MappedPixels:
    """The pixels of these files under `folder`, decoded by the first process that asks for them.

    Args:
        workers: processes that decode.

    Raises:
        UserError: if a file cannot be read or has changed since, the disk is full, or `folder` cannot be
            written.
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
            with locked(lock, waiting_for=f"{target}, which another process builds"):
                if not target.is_dir():
                    _build(target, names, kind, workers)
    except OSError as error:
        raise UserError(_unwritable(folder, error)) from None
    pixels = MappedPixels(target)
    pixels.check(workers=workers)
    return pixels


def _build(target: Path, names: list[bytes], kind: PixelKind, workers: int) -> None:
    # This process holds the lock: an existing draft was left by a killed one.
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
    """Rows with path, shape and offset, from the headers, so that each process knows where to write."""
    width = max(map(len, names), default=1)
    row = [("path", f"S{width}"), ("digest", "S32"), ("size", "<i8"), ("mtime", "<i8"), ("offset", "<i8")]
    index = np.zeros(len(names), np.dtype([*row, ("shape", "<i4", (3,))]))
    index["path"] = names

    def header(row: int) -> tuple[int, int]:
        return kind.size(os.fsdecode(names[row]))

    quiet = len(names) < _MANY
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
    """Decode every file into its place, and complete its row of the index."""
    total = int(sum(_num_bytes(shape) for shape in index["shape"]))
    free = shutil.disk_usage(draft).free
    if total > free:
        raise UserError(
            f"{draft.parent}: {len(index)} {kind.name} take {total / 1e9:.2f} GB and {free / 1e9:.2f} GB are "
            "free; free some space, or give data.cache another folder"
        )
    with open(draft / "pixels.bin", "wb") as file:
        file.truncate(total)

    def write(row: int) -> tuple[bytes, int, int]:
        path, shape = os.fsdecode(index["path"][row]), index["shape"][row]
        before = _stamp(index["path"][row])
        digest, pixels = _digest(index["path"][row]), kind.read(path)
        if list(pixels.shape) != [side for side in shape.tolist() if side] or pixels.dtype != np.uint8:
            raise UserError(
                f"{path}: decodes to another size than its header says; restore or remove the file"
            )
        _write(draft, int(index["offset"][row]), pixels)
        if _stamp(index["path"][row]) != before:
            raise UserError(f"{path}: changed while it was read; start again when nothing writes to it")
        return digest, *before

    for result in parallel_map(write, range(len(index)), workers=workers, unit=f"{kind.name} to cache"):
        if result.error:
            raise UserError(result.error)
        row = index[result.item]
        row["digest"], row["size"], row["mtime"] = result.value


def _write(draft: Path, offset: int, pixels: Pixels) -> None:
    # Written, not stored through a map: on a full disk that would be a SIGBUS instead of an error.
    try:
        with open(draft / "pixels.bin", "r+b") as file:
            file.seek(offset)
            file.write(np.ascontiguousarray(pixels).data)
    except OSError as error:
        raise UserError(_unwritable(draft.parent, error)) from None


def _unwritable(folder: Path, error: OSError) -> str:
    remedy = "free some space, or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{folder}: cannot be written ({error.strerror}); {remedy}give data.cache another folder"


def _save_index(folder: Path, index: NDArray[Any]) -> None:
    partial = folder / f"index.{os.getpid()}.partial"
    with open(partial, "wb") as file:
        np.save(file, index, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / "index.npy")


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # which cannot open a folder
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode(path: str) -> bytes:
    return os.fsencode(os.path.abspath(path))


def _stamp(name: bytes) -> tuple[int, int]:
    """(size, time of the last change in ns) of a file."""
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
