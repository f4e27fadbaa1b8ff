"""Files: written in one piece, locked, packed for workers, sampled for checks, compared between splits."""

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
    """Write JSON in one rename; NaN and infinity become null.

    Raises:
        UserError: if the file cannot be written; the previous one is then intact.
    """
    try:
        write_text(path, json.dumps(_nulls(content), indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file in one rename, so that it is never seen half written.

    What UTF-8 cannot encode (names of files in other encodings) is written as `\\udce9`, which JSON and YAML
    read.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Flush a rename inside `folder` to the disk, if the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def locked(path: Path, *, waiting_for: str) -> Iterator[None]:
    """Hold the lock on `path`, which only one process can; prints a line if it has to wait.

    The system releases the lock if its holder dies.

    Raises:
        OSError: if the file cannot be written.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"waiting for {waiting_for}", flush=True)
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
    """Paths as one fixed-width array: no reference counts, so forked workers go on sharing the memory."""
    return np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)


def evenly_spaced(count: int, limit: int) -> list[int]:
    """At most `limit` indices, evenly spread over `range(count)`."""
    return sorted({round(step) for step in np.linspace(0, count - 1, min(count, limit))})


def flat_name(name: str) -> str:
    """An image's name, which may contain folders, as the name of one file."""
    return name.replace("/", "_")


def find_same_content(first: Iterable[bytes], second: Iterable[bytes]) -> tuple[str, str] | None:
    """The first file of `second` (packed paths) with the content of one of `first`, and that one; or None.

    Files that cannot be read are passed over: whatever reads the samples reports them, or leaves them out.
    """
    known = _by_size(first)
    for size, paths in _by_size(second).items():
        seen = {digest: path for path in known.get(size, ()) if (digest := _digest(path)) is not None}
        for path in paths if seen else ():
            digest = _digest(path)
            if digest is not None and (twin := seen.get(digest)) is not None:
                return path, twin
    return None


def _by_size(packed: Iterable[bytes]) -> dict[int, list[str]]:
    """Files by size: equal files have equal sizes, so few need to be read and hashed."""
    sizes: dict[int, list[str]] = defaultdict(list)
    for name in packed:
        path = os.fsdecode(name)
        with contextlib.suppress(OSError):
            sizes[os.path.getsize(path)].append(path)
    return sizes


def _digest(path: str) -> bytes | None:
    """None if it cannot be read."""
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError:
        return None
