"""Published files: downloaded once, and never kept with another hash than they were published with."""

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
    """The file at `url` (http, https or file) in `folder`, downloaded unless it is there.

    It is written under another name and renamed once its hash is right. If several processes ask for it, one
    downloads and the others wait.

    Args:
        sha256: of the file, in hex, or the first 8 digits; by default those that torchvision and torch.hub
            put into a file's name (`mobilenet_v3_large-8738ca79.pth`).
        timeout: seconds without an answer after which the server is given up.

    Raises:
        UserError: if there is no hash, the file has another one, it cannot be downloaded (with what to put
            where), or it cannot be written.
    """
    name = urlsplit(url).path.rpartition("/")[2]
    sha256 = (sha256 or "".join(_HASH_IN_NAME.findall(name)[-1:])).lower()
    if urlsplit(url).scheme not in ("http", "https", "file"):
        raise UserError(f"{url}: only http, https and file URLs can be downloaded")
    if not sha256:
        raise UserError(f"{url}: has no hash to check it against; give its sha256")
    target = folder / name
    try:
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / f".{name}.lock", waiting_for=f"another process, which downloads {name}"):
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
            f"{target}: not the file at {url} (its sha256 is {digest}, not {sha256}); remove it to have it "
            "downloaded again"
        )
    return target


def _download(url: str, target: Path, sha256: str, timeout: float) -> None:
    print(f"downloading {url}", flush=True)
    default = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)  # torch asks for none
    try:
        # Redirects lead to the web only: urllib refuses file: and data:.
        download_url_to_file(url, str(target), hash_prefix=sha256, progress=sys.stderr.isatty())
    except RuntimeError as error:
        raise UserError(
            f"{url}: {error}; nothing was kept: the file was changed, the connection ended early, or a proxy "
            "answered instead"
        ) from None
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        reason = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
        text = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
        plain = "".join(c if c.isprintable() else "?" for c in text)[:200]  # a server may send anything
        raise UserError(
            f"{url}: cannot be downloaded ({plain}); download it by other means and put it at "
            f"{target.absolute()} (sha256 {sha256})"
        ) from None
    finally:
        socket.setdefaulttimeout(default)
