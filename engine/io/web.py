"""http, https and file URLs, opened at an offset; nothing else, whoever redirects there."""

import http.client
import io
import re
import stat
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

SCHEMES = ("http", "https", "file")


_PASSING = {408, 425, 429, 500, 502, 503, 504}


class Lost(Exception):
    """The connection failed, or a server was busy: worth another attempt."""


class Refused(Exception):
    """The answer is final."""


def open_at(url: str, offset: int, timeout: float) -> tuple[Any, int, int | None]:
    """Open `url` where a server can at byte `offset`, else at its beginning.

    Returns: (stream, the offset that it starts at, size of the whole file or None where that is not told).
    Raises: Lost, Refused.
    """
    try:
        if urlsplit(url).scheme == "file":
            return _open_file(url)
        return _open_web(url, offset, timeout)
    except (http.client.InvalidURL, ValueError) as error:
        raise Refused(f"it is no URL: {error}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        text = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
        raise Lost(text) from None


def _open_web(url: str, offset: int, timeout: float) -> tuple[Any, int, int | None]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "mobilenet-dense"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        answer = _opener().open(request.Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code == 416 and offset:  # nothing follows: what is there is whole, or of another version
            return io.BytesIO(), offset, None
        kind = Lost if error.code in _PASSING else Refused
        raise kind(f"the server answered {error.code} {error.reason}") from None
    if answer.status == 200:  # no ranges here, or none was asked for: from the beginning
        return answer, 0, answer.length
    if (total := _end_of_range(answer, offset)) is not None:
        return answer, offset, total
    answer.close()
    if offset:
        return _open_web(url, 0, timeout)
    raise Refused(f"the server answered {answer.status} with a part that was not asked for")


def _end_of_range(answer: Any, offset: int) -> int | None:
    """The size of the whole file, where the answer is all of it from `offset` on."""
    span = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", answer.headers.get("Content-Range", ""))
    if answer.status == 206 and span is not None:
        first, end = int(span[1]), int(span[2]) + 1
        if first == offset and answer.length in (None, end - first) and span[3] in ("*", str(end)):
            return end
    return None


def _open_file(url: str) -> tuple[Any, int, int | None]:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise Refused("it is a file of another machine; write file:///path")
    source = Path(request.url2pathname(parts.path))
    try:
        if not stat.S_ISREG(source.stat().st_mode):  # a device or a pipe need not end
            raise Refused("it is no regular file")
        return open(source, "rb"), 0, source.stat().st_size
    except OSError as error:
        raise Refused(error.strerror or str(error)) from None


class _WebOnly(request.HTTPRedirectHandler):
    """Follows redirects from web to web, and from https to https alone."""

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> request.Request | None:
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            raise HTTPError(req.full_url, code, f"and leads to {newurl}, which is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> request.OpenerDirector:
    """What opens http and https; urllib's own default also opens file, ftp and data."""
    opener = request.OpenerDirector()
    handlers = (request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPErrorProcessor)
    for handler in (*handlers, request.HTTPDefaultErrorHandler, _WebOnly):
        opener.add_handler(handler())
    return opener
