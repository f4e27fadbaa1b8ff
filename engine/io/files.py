"""File utilities: atomic writes, locks, path arrays for workers, duplicate search, checks of many files."""

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from engine.errors import UserError
from engine.io.progress import Progress

_CHECK_THREADS, _CHECKED_AT_ONCE = 8, 16
_ENDING = 4096  # bytes; different images of the same size almost never have the same ending

_SILENT_SECONDS = 1.0  # a check that lasts longer shows its progress


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
    """The folder for files that can be recreated, below `$XDG_CACHE_HOME` or `~/.cache`.

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


_OF_SYSTEMS = ("@eadir", "#recycle", "$recycle.bin", "__macosx", "lost+found", "system volume information")
"""Folders that operating systems and network storage add, in lower case: thumbnails, deleted files."""


def is_hidden(name: str) -> bool:
    """Whether files and folders of this name are never read."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


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
            entries = [entry for entry in os.scandir(place) if not is_hidden(entry.name)]
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


def flat_names(names: Iterable[str]) -> list[str]:
    """`flat_name` of each; of names that become equal (`a/x`, `a_x`), later ones end in `_2`, `_3` ..."""
    taken: set[str] = set()

    def unique(name: str) -> str:
        free, number = name, 1
        while free.lower() in taken:  # some file systems ignore case
            number += 1
            free = f"{name}_{number}"
        taken.add(free.lower())
        return free

    return [unique(flat_name(name)) for name in names]


def link_or_copy(source: Path, target: Path) -> bool:
    """Create a hard link to a file, which takes no space, or copy it if the file system cannot do that.

    Returns:
        Whether it was linked.

    Raises:
        OSError: if neither is possible.
    """
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
        return False
    return True


def same_content(first: Iterable[bytes], second: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Yield (second, first) for each file of `second` (packed paths) that equals one of `first`.

    Unreadable files are ignored here; they are reported or skipped when the samples are read.
    """
    known = _by_size(first)
    for size, paths in _by_size(second).items():
        ends = _by_digest(known.get(size, ()), of=_ENDING)
        for end, alike in _by_digest(paths if ends else (), of=_ENDING).items():
            seen = _by_digest(ends.get(end, ()))
            for digest, same in _by_digest(alike if seen else ()).items():
                yield from ((path, seen[digest][-1]) for path in same if digest in seen)


def groups_of_same_content(paths: Iterable[str]) -> list[list[str]]:
    """Groups of two or more files with the same content, each in the order of `paths`."""
    by_size = [group for group in _by_size(map(os.fsencode, paths)).values() if len(group) > 1]
    by_end = [group for alike in by_size for group in _by_digest(alike, of=_ENDING).values()]
    groups = [group for alike in by_end if len(alike) > 1 for group in _by_digest(alike).values()]
    return [group for group in groups if len(group) > 1]


def _by_size(packed: Iterable[bytes]) -> dict[int, list[str]]:
    """Group files by size, because only files of equal size have to be hashed."""
    sizes: dict[int, list[str]] = defaultdict(list)
    for name in packed:
        path = os.fsdecode(name)
        with contextlib.suppress(OSError):
            sizes[os.path.getsize(path)].append(path)
    return sizes


def _by_digest(paths: Iterable[str], *, of: int | None = None) -> dict[bytes, list[str]]:
    """Group files by the hash of their content or of its last `of` bytes; unreadable files are left out."""
    groups: dict[bytes, list[str]] = defaultdict(list)
    for path in paths:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if of is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - of))
            groups[hashlib.blake2b(file.read(), digest_size=16).digest()].append(path)
    return groups


def check_files(
    paths: Sequence[str], check: Callable[[str], None], *, name: str = "", quiet: bool = False
) -> dict[str, str]:
    """Call `check` for each file, in threads; path -> message of each UserError that it raises.

    Files that passed are remembered in the user's cache by path, size and time, and not checked again.

    Args:
        name: checks of the same files under different names are remembered separately.
        quiet: show no progress.
    """
    if not paths:
        return {}
    folder = os.path.commonpath([os.path.abspath(path) for path in (min(paths), max(paths))])
    record = _record_of_checks(f"{folder} {name}")
    known = _read_stamps(record)
    stamps = {path: _stamp(path) for path in paths}
    pending = [path for path, stamp in stamps.items() if stamp not in known]
    errors = _check_all(pending, check, quiet=quiet)
    passed = {stamps[path] for path in pending if path not in errors}
    if passed and record is not None:
        with contextlib.suppress(OSError):  # it is only a cache: the files are checked again next time
            record.parent.mkdir(parents=True, exist_ok=True)
            partial_file = record.with_name(f"{record.name}.{os.getpid()}")
            partial_file.write_bytes(np.array(sorted(known | passed), np.uint64).tobytes())
            os.replace(partial_file, record)
    return errors


def _check_all(paths: list[str], check: Callable[[str], None], *, quiet: bool) -> dict[str, str]:
    batches = [paths[start : start + _CHECKED_AT_ONCE] for start in range(0, len(paths), _CHECKED_AT_ONCE)]
    errors: dict[str, str] = {}
    started, progress, done = time.monotonic(), None, 0
    with ThreadPoolExecutor(_CHECK_THREADS) as pool:
        for batch, found in zip(batches, pool.map(partial(_check_some, check), batches), strict=True):
            errors |= found
            done += len(batch)
            if progress is None and not quiet and time.monotonic() - started > _SILENT_SECONDS:
                progress = Progress(len(paths), first=done, unit="file checked")
            if progress is not None:
                progress.update(done)
    if progress is not None:
        progress.close()
    return errors


def _check_some(check: Callable[[str], None], paths: list[str]) -> dict[str, str]:
    errors = {}
    for path in paths:
        try:
            check(path)
        except UserError as error:
            errors[path] = str(error)
    return errors


def _record_of_checks(key: str) -> Path | None:
    """The file that remembers checks, in the user's cache; None if the user has no folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    digest = hashlib.blake2b(os.fsencode(key), digest_size=12).hexdigest()
    return None if cache.startswith("~") else Path(cache, "mobilenet-dense", "checked", digest)


def _read_stamps(record: Path | None) -> set[int]:
    try:
        data = b"" if record is None else record.read_bytes()
    except OSError:
        return set()
    return set(np.frombuffer(data[: len(data) // 8 * 8], np.uint64).tolist())


def _stamp(path: str) -> int:
    """64 bits of a hash of path, size and time of a file."""
    try:
        status = os.stat(path)
    except OSError:
        return -1
    content = os.fsencode(f"{path} {status.st_size} {status.st_mtime_ns}")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def existing_root(root: str | Path) -> Path:
    """The folder of a dataset, with `~` expanded. Raises: UserError if there is no such folder."""
    base = Path(root).expanduser()
    if not base.is_dir():
        raise UserError(f"data.root={root}: no such folder; check the path")
    return base
