"""Downloads published files once and verifies their hashes."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from engine.errors import UserError
from engine.io.files import locked, write_text
from engine.io.progress import Progress

MIRROR = "MOBILENET_DENSE_MIRROR"
"""Environment variable with a mirror's address: <mirror>/<host>/<path> replaces https://<host>/<path>."""

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.")
_CHUNK = 1 << 18

Check = Callable[[Path], object]


def fetch(
    url: str,
    *,
    folder: Path,
    sha256: str | None = None,
    name: str | None = None,
    record: bool = False,
    check: Check | None = None,
    timeout: float = 30.0,
) -> Path:
    """Download the file at `url` (http, https or file) into `folder`, unless it exists; returns its path.

    The download has a temporary name until its hash is verified. If several processes request the same file,
    one downloads it and the others wait.

    Args:
        sha256: the file's hash in hex, or its first 8 digits; by default, the digits in the file's name, as
            used by torchvision and torch.hub (`mobilenet_v3_large-8738ca79.pth`).
        name: the file's name in `folder`; by default, the last part of the URL.
        record: if there is no hash, record that of the first file in `<name>.sha256`; from then on, only a
            file with this hash is accepted.
        check: reads a file before its hash is recorded; raises a UserError if it is not of the right kind,
            such as the login page of a network. A download that fails the check is discarded.
        timeout: seconds to wait for a response.

    Raises:
        UserError: if there is no hash, it does not match, or the file cannot be downloaded (the message
            explains how to do it manually) or written.
    """
    name = name or urlsplit(url).path.rpartition("/")[2]
    sha256 = (sha256 or "".join(_HASH_IN_NAME.findall(name)[-1:])).lower()
    if urlsplit(url).scheme not in ("http", "https", "file"):
        raise UserError(f"{url}: only http, https and file URLs can be downloaded")
    if not sha256 and not record:
        raise UserError(f"{url}: no hash to verify the file with; pass its sha256")
    target = folder / name
    try:
        sha256 = sha256 or _recorded(_note(target))
        if not target.exists():
            _download_once(url, target, sha256, check, timeout)
            sha256 = sha256 or _recorded(_note(target))  # by a process that this one waited for
        elif check is not None and not sha256:
            check(target)
        _verify(target, url, sha256)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be read or written ({error.strerror or error}); free some space or choose "
            "another folder"
        ) from None
    return target


def _download_once(url: str, target: Path, sha256: str, check: Check | None, timeout: float) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    lock, who = target.with_name(f".{target.name}.lock"), f"another process that is downloading {target.name}"
    with locked(lock, waiting_for=who):
        if not target.exists():
            _download(url, target, sha256, check, timeout)


def _verify(target: Path, url: str, sha256: str) -> None:
    with open(target, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    note = _note(target)
    if not sha256:
        _record(digest, note)
    if not digest.startswith(sha256):
        recorded = f", recorded in {note}" if note.exists() else ""
        raise UserError(
            f"{target}: not the file at {url} (its sha256 is {digest}, not {sha256}{recorded}); delete it to "
            "download it again"
        )


def _record(digest: str, note: Path) -> None:
    try:
        write_text(note, f"{digest}\n")
    except OSError as error:  # such as a shared, read-only folder
        print(f"sha256 {digest} is not published and cannot be recorded in {note} ({error.strerror})")
    else:
        print(f"sha256 {digest} recorded in {note}: none is published, so later files must match this one")


def _note(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _recorded(note: Path) -> str:
    """The hash in a `.sha256` file; empty if the file does not exist."""
    if not note.exists():
        return ""
    digest = note.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise UserError(f"{note}: not a sha256 in hex; delete it to record the hash again")
    return digest


def mirrored(url: str) -> str:
    """The address to download from: that of the mirror, if the environment variable names one."""
    mirror, parts = os.environ.get(MIRROR), urlsplit(url)
    if not mirror or parts.scheme == "file":
        return url
    address = f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}"
    try:
        known = urlsplit(address).scheme in ("http", "https", "file")
    except ValueError:
        known = False
    if not known:
        raise UserError(
            f"{MIRROR}={mirror}: must be an address such as https://mirror.org or file:///mnt/mirror"
        )
    return address


def _download(url: str, target: Path, sha256: str, check: Check | None, timeout: float) -> None:
    address = mirrored(url)
    print(f"downloading {address}", flush=True)
    partial = target.with_name(f".partial.{target.name}")  # ends in the suffix, which the check needs
    try:
        # Redirects can only lead to http, https and ftp URLs: urllib rejects file: and data:.
        request = Request(address, headers={"User-Agent": "mobilenet-dense"})
        with urlopen(request, timeout=timeout) as response, open(partial, "wb") as file:
            fault = _copy(response, file, sha256)
        if check is not None and not sha256:
            fault = fault or _complaint(check, partial)
        if fault:
            recorded = (
                f"; the hash of an earlier download is in {note}" if (note := _note(target)).exists() else ""
            )
            raise UserError(
                f"{address}: {fault}; the download was discarded: the file has changed, the connection was "
                f"lost, or a proxy answered instead; try again{recorded}"
            )
        os.replace(partial, target)
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        reason = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
        text = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
        raise UserError(
            f"{address}: cannot be downloaded ({text[:200]}); download it another way and save it as "
            f"{target.absolute()}{f' (sha256 {sha256})' if sha256 else ''}"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _complaint(check: Check, partial: Path) -> str:
    """What a check says about a file, without its path; an empty string if it passes."""
    try:
        check(partial)
    except UserError as error:
        return str(error).removeprefix(f"{partial}: ")
    return ""


def _copy(response: Any, file: IO[bytes], sha256: str) -> str:
    """Write the response into the file; returns what is wrong with it, or an empty string."""
    stated = response.headers.get("Content-Length") or ""
    length = int(stated) if re.fullmatch("[0-9]{1,15}", stated) else 0
    progress = Progress(length // 1024, unit="KB", after=1.5)
    done, digest = 0, hashlib.sha256()
    while chunk := response.read(_CHUNK):
        file.write(chunk)
        digest.update(chunk)
        done += len(chunk)
        progress.update(done // 1024)
    progress.close()
    if length and done != length:
        return f"ended after {done} of {length} bytes"
    if not digest.hexdigest().startswith(sha256):
        return f"invalid hash value (sha256 {digest.hexdigest()}, not {sha256})"
    return ""
