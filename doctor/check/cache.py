"""Caches facts about files by their content, so that an interrupted check continues where it stopped."""

import hashlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.data.images import reading
from engine.data.labels.report import Fact
from engine.errors import UserError
from engine.io.files import user_cache
from engine.io.parallel import parallel_map

_TABLES = """
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, content BLOB)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (content BLOB, key TEXT, value BLOB, error TEXT, kind TEXT,
    PRIMARY KEY (content, key)) WITHOUT ROWID;
"""
_SAVE_SECONDS = 2.0
_WAIT_SECONDS = 60.0  # for another check that writes at the same time
_PLACE = "\0"  # stands for the file's path in a stored message


def facts_file() -> Path:
    """The cache file; a temporary one if the user's cache folder is not writable."""
    try:
        folder = user_cache() / "checked"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder / "facts.sqlite"
    except (OSError, UserError):
        pass
    return Path(tempfile.mkdtemp(prefix="mobilenet-dense-")) / "facts.sqlite"


class FactCache:
    """Results of functions on files. A file is recognized by path, size and modification time, or by content.

    file: of the database. workers: number of processes that read files.
    """

    def __init__(self, file: Path, *, workers: int = 0) -> None:
        self.file, self.workers = file.absolute(), workers
        self._database = _open(file)
        self._unsaved: list[tuple[str, tuple[int, int], str, Fact]] = []

    def read(
        self, paths: NDArray[np.bytes_], function: Callable[[str], bytes], *, key: str, unit: str
    ) -> Iterator[tuple[int, Fact]]:
        """Implements `engine.data.labels.report.ReadFacts`: known files first, then the others in order."""
        key = _with_limit(key)
        pending = []
        for index, packed in enumerate(paths):
            fact = self._known(os.fsdecode(packed), key)
            if fact is None:
                pending.append(index)
            else:
                yield index, fact
        if pending:
            yield from self._read(np.array(pending), paths, _Reading(self.file, function, key, paths), unit)

    def value(self, content: bytes, key: str) -> bytes:
        """The value of a file that has been read, by its content."""
        row = self._database.execute(
            "SELECT value FROM facts WHERE content = ? AND key = ?", (content, _with_limit(key))
        ).fetchone()
        return bytes(row[0]) if row else b""

    def _read(
        self, pending: NDArray[np.int64], paths: NDArray[np.bytes_], reader: "_Reading", unit: str
    ) -> Iterator[tuple[int, Fact]]:
        saved = time.monotonic()
        results = parallel_map(
            lambda item: reader(int(pending[item])), range(len(pending)), workers=self.workers, unit=unit
        )
        try:
            for result in results:
                index = int(pending[result.item])
                fact, stamp = result.value
                if stamp is not None:
                    self._unsaved.append((os.fsdecode(paths[index]), stamp, reader.key, fact))
                if time.monotonic() - saved > _SAVE_SECONDS:
                    self._save()
                    saved = time.monotonic()
                yield index, fact
        finally:
            self._save()

    def _known(self, path: str, key: str) -> Fact | None:
        stamp = _stamp(path)
        if stamp is None:
            return Fact(b"", f"{path}: no such file; restore it, or remove its entry", "MissingFile")
        row = self._database.execute(
            "SELECT f.content, value, error, kind FROM files f JOIN facts USING (content) "
            "WHERE path = ? AND size = ? AND mtime = ? AND key = ?",
            (_text(path), *stamp, key),
        ).fetchone()
        return None if row is None else _fact(path, *row)

    def _save(self) -> None:
        """Write what was read since the last time, in one short transaction: workers read meanwhile."""
        files = [(_text(path), *stamp, fact.content) for path, stamp, _, fact in self._unsaved]
        facts = [
            (fact.content, key, fact.value, fact.error.replace(path, _PLACE), fact.kind)
            for path, _, key, fact in self._unsaved
        ]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", files)
            self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)", facts)
        self._unsaved.clear()

    def close(self) -> None:
        self._database.close()


class _Reading:
    """Reads one file in any process: (the fact, size and time of the file)."""

    def __init__(
        self, file: Path, function: Callable[[str], bytes], key: str, paths: NDArray[np.bytes_]
    ) -> None:
        self.file, self.function, self.key, self.paths = file, function, key, paths
        self._process = -1
        self._database: sqlite3.Connection | None = None

    def __call__(self, index: int) -> tuple[Fact, tuple[int, int] | None]:
        path = os.fsdecode(self.paths[index])
        stamp = _stamp(path)
        try:
            content = hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
        except OSError as error:
            return Fact(
                b"", f"{path}: cannot be read ({error.strerror}); check the path", "MissingFile"
            ), None
        row = (
            self._own_database()
            .execute(
                "SELECT content, value, error, kind FROM facts WHERE content = ? AND key = ?",
                (content, self.key),
            )
            .fetchone()
        )
        if row is not None:  # a copy of a file that was read
            return _fact(path, *row), stamp
        try:
            return Fact(self.function(path), content=content), stamp
        except UserError as error:
            return Fact(b"", str(error), type(error).__name__, content), stamp

    def _own_database(self) -> sqlite3.Connection:
        if self._database is None or self._process != os.getpid():  # connections do not survive a fork
            self._process = os.getpid()
            self._database = sqlite3.connect(f"{self.file.as_uri()}?mode=ro", uri=True, timeout=_WAIT_SECONDS)
        return self._database


def _with_limit(key: str) -> str:
    """A key that changes with data.max_megapixels too: larger images cannot be read."""
    return f"{key} {reading.MAX_PIXELS}"


def _open(file: Path) -> sqlite3.Connection:
    try:
        database = sqlite3.connect(file, timeout=_WAIT_SECONDS)
        database.executescript(_TABLES)
    except sqlite3.Error as error:
        raise UserError(f"{file}: not a readable cache ({error}); delete it") from None
    return database


def _fact(path: str, content: bytes, value: bytes, error: str, kind: str) -> Fact:
    return Fact(bytes(value), error.replace(_PLACE, path), kind, bytes(content))


def _text(path: str) -> str:
    """A path that SQLite can store, even if it is not valid UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
