"""A small web server for the local network: a fixed set of files, and calls with JSON."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from engine.errors import UserError

MAX_BODY = 64 * 1024
"""Largest body of a call, in bytes."""
TIMEOUT_S = 60
"""How long a connection may stay silent."""

HEADERS = {
    # Threads share memory, which browsers allow only to pages that are isolated from others.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class Reply:
    """The answer to a call: its status, body and additional headers."""

    status: int = 200
    body: bytes = b""
    type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, content: Mapping[str, Any], *, status: int = 200) -> Reply:
        return cls(status=status, body=json.dumps(content).encode())


class Refusal(Exception):
    """Why a call is refused, in one line, with its HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Call:
    """A call of a page. bearer: the secret in its `Authorization` header; content: its JSON."""

    bearer: str
    content: Mapping[str, Any]


Calls = Mapping[tuple[str, str], Callable[[Call], Reply]]
"""(method, path) -> what answers it."""


class SiteServer(ThreadingHTTPServer):
    """Serves the files that `folder` has now, and nothing else, so no path can lead out of it.

    Args:
        address: (host, port); port 0: any.
        policy: the Content-Security-Policy of all files.
        calls: what answers calls; all of them check their caller.
        context: for https.
        opened: called with the address of each device that opens the page, once.

    Raises:
        UserError: if the address cannot be used.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        address: tuple[str, int],
        folder: Path,
        *,
        policy: str,
        calls: Calls | None = None,
        context: ssl.SSLContext | None = None,
        opened: Callable[[str], None] = lambda device: None,
    ) -> None:
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        self.files = {f"/{path.relative_to(folder).as_posix()}": path for path in files}
        if "/index.html" in self.files:
            self.files["/"] = self.files["/index.html"]
        self.headers = {**HEADERS, "Content-Security-Policy": f"{policy}; frame-ancestors 'none'"}
        self.calls, self._opened, self._devices = dict(calls or {}), opened, set[str]()
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            host, port = address
            raise UserError(
                f"host={host} port={port}: cannot be used ({error.strerror}); set another port="
            ) from None
        if context is not None:  # the handshake is up to the connection's thread
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A lost or refused connection is no event for the user."""

    def note(self, device: str) -> None:
        if device not in self._devices:
            self._devices.add(device)
            self._opened(device)


class _Handler(BaseHTTPRequestHandler):
    server: SiteServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mobilenet-dense", ""
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        path = self._path()
        if ("GET", path) in self.server.calls:
            self._answer_call("GET", path)
        elif path in self.server.files:
            self._send_file(self.server.files[path])
            if path in ("/", "/index.html"):
                self.server.note(self.client_address[0])
        else:
            self._send(_refused(Refusal(404, "there is no such file")))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self._answer_call("POST", self._path())

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are not listed."""

    def _path(self) -> str:
        with contextlib.suppress(ValueError):
            return unquote(urlsplit(self.path).path)
        return ""

    def _answer_call(self, method: str, path: str) -> None:
        try:
            answer = self.server.calls.get((method, path))
            content = self._body() if method == "POST" else {}
            if answer is None:
                raise Refusal(404, f"{method} {path[:80]}: there is no such call")
            scheme, _, secret = self.headers.get("Authorization", "").partition(" ")
            reply = answer(Call(bearer=secret if scheme == "Bearer" else "", content=content))
        except Refusal as refusal:
            reply = _refused(refusal)
        self._send(reply)

    def _body(self) -> Mapping[str, Any]:
        stated = self.headers.get("Content-Length", "")
        if not stated.isascii() or not stated.isdigit():
            self.close_connection = True
            raise Refusal(411, "the length of the content is not stated")
        if int(stated) > MAX_BODY:
            self.close_connection = True
            raise Refusal(413, f"the content is larger than {MAX_BODY} bytes")
        try:
            content = json.loads(self.rfile.read(int(stated)))
        except (ValueError, RecursionError) as error:
            reason = str(error).partition("\n")[0][:100]
            raise Refusal(400, f"not JSON: {reason}") from None
        if not isinstance(content, dict):
            raise Refusal(400, f"must be a JSON object, got {type(content).__name__}")
        return content

    def _send_file(self, path: Path) -> None:
        try:
            stamp = path.stat()
            tag = f'"{stamp.st_mtime_ns:x}-{stamp.st_size:x}"'
            if self.headers.get("If-None-Match") == tag:
                self._send(Reply(status=304, headers={"ETag": tag}))
                return
            body = path.read_bytes()
        except OSError:
            self._send(_refused(Refusal(404, "the file is no longer there")))
            return
        kind = _TYPES.get(path.suffix, "application/octet-stream")
        self._send(Reply(body=body, type=kind, headers={"ETag": tag}))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in {**self.server.headers, **reply.headers}.items():
            self.send_header(name, value)
        if reply.status not in (204, 304):
            self.send_header("Content-Type", reply.type)
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if reply.status not in (204, 304) and self.command != "HEAD":
            self.wfile.write(reply.body)


def _refused(refusal: Refusal) -> Reply:
    return Reply.json({"error": str(refusal)}, status=refusal.status)
