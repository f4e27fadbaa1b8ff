"""Downloads published files once and verifies their hashes."""

import hashlib
import re
import socket
import sys
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from torch.hub import download_url_to_file

from engine.errors import UserError
from engine.io.files import locked

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.")


def fetch(url: str, *, folder: Path, sha256: str | None = None, timeout: float = 30.0) -> Path:
    """Download the file at `url` (http, https or file) into `folder`, unless it exists; returns its path.

    The download has a temporary name until its hash is verified. If several processes request the same file,
    one downloads it and the others wait.

    Args:
        sha256: the file's hash in hex, or its first 8 digits; by default, the digits in the file's name, as
            used by torchvision and torch.hub (`mobilenet_v3_large-8738ca79.pth`).
        timeout: seconds to wait for a response.

    Raises:
        UserError: if there is no hash, it does not match, or the file cannot be downloaded (the message
            explains how to do it manually) or written.
    """
    name = urlsplit(url).path.rpartition("/")[2]
    sha256 = (sha256 or "".join(_HASH_IN_NAME.findall(name)[-1:])).lower()
    if urlsplit(url).scheme not in ("http", "https", "file"):
        raise UserError(f"{url}: only http, https and file URLs can be downloaded")
    if not sha256:
        raise UserError(f"{url}: no hash to verify the file with; pass its sha256")
    target = folder / name
    try:
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / f".{name}.lock", waiting_for=f"another process that is downloading {name}"):
                if not target.exists():
                    _download(url, target, sha256, timeout)
        with open(target, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"{target}: cannot be read or written ({error.strerror or error}); free some space or choose "
            "another folder"
        ) from None
    if not digest.startswith(sha256):
        raise UserError(
            f"{target}: not the file at {url} (its sha256 is {digest}, not {sha256}); delete it to "
            "download it again"
        )
    return target


def _download(url: str, target: Path, sha256: str, timeout: float) -> None:
    print(f"downloading {url}", flush=True)
    default = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)  # torch sets no timeout
    try:
        # Redirects can only lead to http, https and ftp URLs: urllib rejects file: and data:.
        download_url_to_file(url, str(target), hash_prefix=sha256, progress=sys.stderr.isatty())
    except RuntimeError as error:
        raise UserError(
            f"{url}: {error}; the download was discarded: the file has changed, the connection was lost, "
            "or a proxy answered instead; try again"
        ) from None
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        reason = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
        text = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
        raise UserError(
            f"{url}: cannot be downloaded ({text[:200]}); download it another way and save it as "
            f"{target.absolute()} (sha256 {sha256})"
        ) from None
    finally:
        socket.setdefaulttimeout(default)
