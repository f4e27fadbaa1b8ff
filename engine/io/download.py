"""Published files: fetched once, pinned by their hash, resumed where they broke off.

A file is written as `<name>.partial` beside its place and renamed when its SHA-256 is right. What stands at
its name is therefore whole and what was asked for, whoever was killed in between.
"""

import contextlib
import errno
import hashlib
import http.client
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from engine.errors import UserError
from engine.io import web
from engine.io.files import sync_folder
from engine.io.locks import locked
from engine.io.progress import Progress

MAX_BYTES = 64 * 10**9


_CHUNK = 1 << 18


_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.")


def fetch(
    url: str,
    *,
    folder: str | os.PathLike[str],
    sha256: str | None = None,
    name: str | None = None,
    max_bytes: int = MAX_BYTES,
    attempts: int = 4,
    timeout: float = 30.0,
    say: Callable[[str], None] | None = None,
) -> Path:
    """The file at `url` (http, https or file) as `folder/name`; downloaded unless it is there already.

    Args:
        sha256: of the file, 64 hex digits, or the first 8 of them. By default those that torchvision and
            torch.hub put into a file's name (`mobilenet_v3_large-8738ca79.pth`).
        name: by default the last part of the URL's path.
        attempts: how often in a row the connection may fail without a single new byte.
        timeout: seconds without an answer after which a connection counts as failed.
        say: where lines of progress go (for tests).

    Raises:
        UserError: no hash to check against, no such file, no connection (with what to put where), contents
            with another hash, more than `max_bytes`, a full disk.
    """
    name = _file_name(url, name)
    wanted = _Wanted(url, Path(folder) / name, _hash(url, name, sha256), max_bytes, timeout)
    try:
        wanted.target.parent.mkdir(parents=True, exist_ok=True)
        if not _is_there(wanted):
            lock = wanted.target.with_name(f".{name}.lock")
            with locked(lock, waiting_for=f"another process, which is fetching {name}"):
                if not _is_there(wanted):
                    _download(wanted, attempts, say)
                # Only now: whoever waits for this lock or makes a new one finds that the file is there.
                lock.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{wanted.target}: cannot be written ({error.strerror or error}); free space or choose another "
            "folder"
        ) from None
    return wanted.target


@dataclass(frozen=True)
class _Wanted:
    url: str
    target: Path
    sha256: str
    max_bytes: int
    timeout: float

    @property
    def partial(self) -> Path:
        return self.target.with_name(self.target.name + ".partial")

    def by_hand(self, reason: object) -> UserError:
        return UserError(
            f"{self.url}: cannot be fetched ({_plain(reason)}); fetch it by other means and "
            f"put it at {self.target.absolute()} (sha256 {self.sha256}{self.dots})"
        )

    @property
    def dots(self) -> str:
        return "" if len(self.sha256) == 64 else "..."


def _file_name(url: str, name: str | None) -> str:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UserError(f"{url}: not a URL ({error})") from None
    if parts.scheme not in ("http", "https", "file"):
        raise UserError(
            f"{url}: only http, https and file can be fetched, not {parts.scheme or 'a bare path'!r}"
        )
    name = unquote(parts.path).rpartition("/")[2] if name is None else name
    if name in ("", ".", "..") or not name.isprintable() or set(name) & set('/\\:*?"<>|'):
        raise UserError(f"{url}: {name!r} is no plain file name; give another name")
    return name


def _hash(url: str, name: str, sha256: str | None) -> str:
    if sha256 is None:
        found = _HASH_IN_NAME.search(name) or _HASH_IN_NAME.search(urlsplit(url).path.rpartition("/")[2])
        if found is None:
            raise UserError(f"{url}: nothing to check it against; give its sha256")
        return found[1]
    if not re.fullmatch(r"[0-9a-fA-F]{64}|[0-9a-fA-F]{8}", sha256):
        raise UserError(f"{url}: sha256 must be 64 hex digits, or the first 8, got {sha256!r}")
    return sha256.lower()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_there(wanted: _Wanted) -> bool:
    if not wanted.target.exists():
        return False
    if not wanted.target.is_file():
        raise UserError(f"{wanted.target}: is no file; remove it or choose another name")
    found = _sha256(wanted.target)
    if not found.startswith(wanted.sha256):
        raise UserError(
            f"{wanted.target}: is not the file at {wanted.url} (its sha256 starts with {found[:8]}, not "
            f"{wanted.sha256[:8]}); remove it to have it fetched"
        )
    return True


def _download(wanted: _Wanted, attempts: int, say: Callable[[str], None] | None) -> None:
    """Fetch into `partial`, verify, rename. A resumed file with the wrong hash is fetched once more, whole:
    its beginning may be of an older version."""
    resumed = _receive_all(wanted, attempts, say)
    found = _sha256(wanted.partial)
    if resumed and not found.startswith(wanted.sha256):
        wanted.partial.unlink()
        _receive_all(wanted, attempts, say)
        found = _sha256(wanted.partial)
    if not found.startswith(wanted.sha256):
        wanted.partial.unlink()
        raise UserError(
            f"{wanted.url}: its contents have sha256 {found}, not {wanted.sha256}{wanted.dots}; nothing was "
            "kept: the file was changed, or something between here and there answers in its place"
        )
    os.replace(wanted.partial, wanted.target)
    sync_folder(wanted.target.parent)


def _receive_all(wanted: _Wanted, attempts: int, say: Callable[[str], None] | None) -> bool:
    """Receive until the end, in as many connections as it takes; returns what the last `_receive` did."""
    failures = 0
    while True:
        before = _size(wanted.partial)
        try:
            return _receive(wanted, before, say)
        except web.Lost as error:
            failures = 1 if _size(wanted.partial) > before else failures + 1
            if failures >= attempts:
                raise wanted.by_hand(error) from None
            wait = 2.0 ** (failures - 1)
            (say or print)(f"{wanted.target.name}: {_plain(error)}; trying again in {wait:.0f} s")
            time.sleep(wait)


def _plain(reason: object) -> str:
    """One line that does nothing to a terminal, whatever a server says."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(reason).split()))[:200]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(wanted: _Wanted, offset: int, say: Callable[[str], None] | None) -> bool:
    """One connection: append to `partial`, or begin it anew where the server does; returns which of both."""
    try:
        stream, start, total = web.open_at(wanted.url, offset, wanted.timeout)
    except web.Refused as error:
        raise wanted.by_hand(error) from None
    with contextlib.closing(stream):
        if total is not None and total > wanted.max_bytes:
            raise _too_large(wanted)
        if total is not None and total - start > shutil.disk_usage(wanted.partial.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with open(wanted.partial, "ab" if start else "wb") as file:
            done = _copy(wanted, stream, file, start, total, say)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done < total:
        raise web.Lost(f"the connection ended after {done} of {total} bytes")
    return start > 0


def _copy(
    wanted: _Wanted,
    stream: Any,
    file: IO[bytes],
    done: int,
    total: int | None,
    say: Callable[[str], None] | None,
) -> int:
    bar = Progress(-(-total // 10**6), first=done // 10**6, unit="MB", say=say) if total else None
    try:
        while chunk := _read(stream):
            done += len(chunk)
            if done > wanted.max_bytes:
                raise _too_large(wanted)
            file.write(chunk)
            if bar is not None and (done == total or (done - len(chunk)) // 10**6 != done // 10**6):
                bar.update(-(-done // 10**6), wanted.target.name)
        return done
    finally:
        if bar is not None:
            bar.close()


def _read(stream: Any) -> bytes:
    try:
        return bytes(stream.read(_CHUNK))
    except (OSError, http.client.HTTPException) as error:
        raise web.Lost(f"the connection broke ({error or type(error).__name__})") from None


def _too_large(wanted: _Wanted) -> UserError:
    wanted.partial.unlink(missing_ok=True)
    return UserError(f"{wanted.url}: larger than the {wanted.max_bytes} bytes that it may have")
