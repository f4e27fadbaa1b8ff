"""File utilities: atomic writes, locks, path arrays for workers, duplicate search."""

import contextlib
import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from engine.errors import UserError


def write_json(path: Path, content: Mapping[str, Any] | list[Any]) -> None:
    """Write a JSON file atomically; NaN and infinity become null.

    Raises:
        UserError: if the file cannot be written; an existing file is then unchanged.
    """
    try:
        write_text(path, json.dumps(_nulls(content), indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: no reader sees a partial file.

    Characters that UTF-8 cannot encode (from file names in other encodings) are written as escapes such as
    `\\udce9`, which JSON and YAML can read.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def user_cache() -> Path:
    """The folder for files that can be made again, below `$XDG_CACHE_HOME` or `~/.cache`.

    Raises: UserError if the user has no home folder (`engine.environment` then sets the variable).
    """
    chosen = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(chosen) if chosen else Path.home() / ".cache") / "mobilenet-dense"
    except RuntimeError:
        raise UserError("there is no home folder for the cache; set XDG_CACHE_HOME=<folder>") from None


def sync_folder(folder: Path) -> None:
    """Flush renames inside `folder` to disk, if the system supports it."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def hold(path: Path) -> FileLock | None:
    """Lock `path` if no other process holds it; None if one does. `FileLock.release` gives it back.

    The operating system releases the lock if the process dies.

    Raises:
        OSError: if the file cannot be written.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


@contextlib.contextmanager
def locked(path: Path, *, waiting_for: str) -> Iterator[None]:
    """Hold an exclusive lock on `path`; prints a line if another process holds it. Raises: like `hold`."""
    lock = hold(path)
    if lock is None:
        print(f"waiting for {waiting_for}", flush=True)
        lock = FileLock(path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _nulls(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nulls(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def pack_paths(paths: Sequence[str | os.PathLike[str]]) -> NDArray[np.bytes_]:
    """Pack paths into a fixed-width array, whose memory forked workers share (it has no reference counts)."""
    return np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)


def evenly_spaced(count: int, limit: int) -> list[int]:
    """At most `limit` indices, evenly spread over `range(count)`."""
    return sorted({round(step) for step in np.linspace(0, count - 1, min(count, limit))})


def walk_files(folder: str | os.PathLike[str], *, broken: list[str] | None = None) -> list[str]:
    """Paths of all files below a folder, relative to it, sorted; hidden files and folders are left out.

    Linked folders are followed, but no folder is visited twice. A link to a missing file is a file: reading
    it gives an error.

    Args:
        broken: receives the paths of links to themselves, which are not files.

    Raises:
        UserError: if a folder cannot be read.
    """
    found: list[str] = []
    visited: set[str] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        place = os.path.join(folder, below)
        if (real := os.path.realpath(place)) in visited:
            continue
        visited.add(real)
        try:
            entries = [entry for entry in os.scandir(place) if not entry.name.startswith(".")]
        except OSError as error:
            raise UserError(f"{place}: cannot be read ({error.strerror}); check the path") from None
        for entry in entries:
            name = os.path.join(below, entry.name)
            if entry.is_symlink() and _is_loop(entry.path):
                if broken is not None:
                    broken.append(name)
            else:
                (waiting if entry.is_dir() else found).append(name)
    return sorted(found)


def _is_loop(link: str) -> bool:
    try:
        os.stat(link)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def flat_name(name: str) -> str:
    """Convert an image's name, which can contain folders, to a file name."""
    return name.replace("/", "_")


def find_same_content(first: Iterable[bytes], second: Iterable[bytes]) -> tuple[str, str] | None:
    """Find a file of `second` (packed paths) that equals a file of `first`; returns (second, first) or None.

    Unreadable files are ignored here; they are reported or skipped when the samples are read.
    """
    return next(same_content(first, second), None)


def same_content(first: Iterable[bytes], second: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Yield (second, first) for each file of `second` that equals one of `first`; as `find_same_content`."""
    known = _by_size(first)
    for size, paths in _by_size(second).items():
        seen = {digest: path for path in known.get(size, ()) if (digest := _digest(path)) is not None}
        for path in paths if seen else ():
            digest = _digest(path)
            if digest is not None and (twin := seen.get(digest)) is not None:
                yield path, twin


def groups_of_same_content(paths: Iterable[str]) -> list[list[str]]:
    """Groups of two or more files with the same content, each in the order of `paths`."""
    groups: dict[tuple[int, bytes], list[str]] = defaultdict(list)
    for size, alike in _by_size(map(os.fsencode, paths)).items():
        for path in alike if len(alike) > 1 else ():
            if (digest := _digest(path)) is not None:
                groups[size, digest].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _by_size(packed: Iterable[bytes]) -> dict[int, list[str]]:
    """Group files by size, because only files of equal size have to be hashed."""
    sizes: dict[int, list[str]] = defaultdict(list)
    for name in packed:
        path = os.fsdecode(name)
        with contextlib.suppress(OSError):
            sizes[os.path.getsize(path)].append(path)
    return sizes


def _digest(path: str) -> bytes | None:
    """The file's hash, or None if it cannot be read."""
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError:
        return None


def existing_root(root: str | Path) -> Path:
    """The folder of a dataset, with `~` expanded. Raises: UserError if there is no such folder."""
    base = Path(root).expanduser()
    if not base.is_dir():
        raise UserError(f"data.root={root}: no such folder; check the path")
    return base
