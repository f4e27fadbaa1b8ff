"""Downloads from a local server: hashes are verified, and only one process downloads."""

import hashlib
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from engine.errors import UserError
from engine.io.download import fetch

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
ROOT = Path(__file__).resolve().parents[3]


class Server:
    """A local server; its attributes control the next responses."""

    def __init__(self):
        self.content, self.length, self.pause = CONTENT, True, 0.0
        self.drops: list[int] = []  # bytes after which the next connections break
        self.codes: list[int] = []  # status codes of the next answers
        self.location = ""
        self.requests: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda request, address: None  # a client that disconnected
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=partial(self.http.serve_forever, poll_interval=0.02), daemon=True).start()

    def answer(self, handler):
        self.requests.append(handler.path)
        if self.codes:
            handler.send_response(self.codes.pop(0))
            if self.location:
                handler.send_header("Location", self.location)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(200)
        if self.length:
            handler.send_header("Content-Length", str(len(self.content)))
        handler.end_headers()
        body = self.content[: self.drops.pop(0)] if self.drops else self.content
        for start in range(0, len(body), 100_000):
            handler.wfile.write(body[start : start + 100_000])
            time.sleep(self.pause)
        handler.close_connection = True


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def refuses(url, folder, *parts, **options):
    with pytest.raises(UserError) as caught:
        fetch(url, folder=folder, **{"sha256": SHA, **options})
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def test_a_file_is_downloaded_once(server, tmp_path, capsys):
    path = fetch(f"{server.url}/a/model.bin?x=1", sha256=SHA, folder=tmp_path / "new")
    assert path == tmp_path / "new" / "model.bin"
    assert path.read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["model.bin"]
    assert capsys.readouterr().out == f"downloading {server.url}/a/model.bin?x=1\n"
    assert fetch(f"{server.url}/a/model.bin", sha256=SHA.upper(), folder=tmp_path / "new") == path
    assert server.requests == ["/a/model.bin?x=1"]


def test_the_hash_can_be_part_of_the_file_name_as_in_torchvision(server, tmp_path):
    path = fetch(f"{server.url}/net-{SHA[:8]}.pth", folder=tmp_path)
    assert path.name == f"net-{SHA[:8]}.pth"
    refuses(
        f"{server.url}/net-00000000.pth",
        tmp_path,
        "invalid hash value",
        "the download was discarded",
        sha256=None,
    )
    assert names(tmp_path) == [f"net-{SHA[:8]}.pth"]
    for missing in (None, ""):
        refuses(
            f"{server.url}/net.pth",
            tmp_path,
            "no hash to verify the file with; pass its sha256",
            sha256=missing,
        )


def test_a_file_with_the_wrong_hash_is_discarded(server, tmp_path):
    server.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    refuses(f"{server.url}/a", tmp_path, "invalid hash value", SHA, "the download was discarded")
    assert names(tmp_path) == []


def test_an_existing_file_with_another_hash_is_not_changed(server, tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    refuses(f"{server.url}/a", tmp_path, "a: not the file at", f"not {SHA}); delete it")
    assert (tmp_path / "a").read_bytes() == b"mine"
    (tmp_path / "b").mkdir()
    refuses(f"{server.url}/b", tmp_path, "b: cannot be read or written (Is a directory)")
    assert server.requests == []


def test_a_partial_download_is_discarded(server, tmp_path):
    server.drops = [1_000_000]
    refuses(f"{server.url}/a", tmp_path, f"{server.url}/a: ", "the connection was lost")
    assert names(tmp_path) == []
    assert fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path).read_bytes() == CONTENT


def test_a_response_of_unknown_length(server, tmp_path):
    server.length = False
    assert fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("code", [403, 404, 503])
def test_http_errors_are_reported_with_their_status(server, tmp_path, code):
    server.codes = [code]
    refuses(
        f"{server.url}/a", tmp_path, f"cannot be downloaded (HTTP Error {code}", f"save it as {tmp_path}/a"
    )


def test_without_a_connection_the_message_explains_how_to_download_manually(tmp_path):
    message = refuses("http://127.0.0.1:9/a.bin", tmp_path / "w")
    assert message == (
        "http://127.0.0.1:9/a.bin: cannot be downloaded (Connection refused); download it another way and "
        f"save it as {tmp_path}/w/a.bin (sha256 {SHA})"
    )


def test_a_server_that_does_not_respond_times_out(server, tmp_path):
    server.pause = 0.9
    refuses(f"{server.url}/a", tmp_path, "cannot be downloaded (", "timed out", timeout=0.1)
    assert names(tmp_path) == []


def test_redirects_to_local_files_are_rejected(server, tmp_path):
    (tmp_path / "secret").write_bytes(CONTENT)
    for location in (f"file://{tmp_path}/secret", "data:text/plain,a", "gopher://x"):
        server.codes, server.location = [302], location
        refuses(f"{server.url}/a", tmp_path, "HTTP Error 302", "is not allowed")
    server.codes, server.location = [301], "/elsewhere"
    assert fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path).read_bytes() == CONTENT
    server.codes, server.location = [302] * 50, "/loop"
    refuses(f"{server.url}/b", tmp_path, "infinite loop")


def test_file_urls(tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    path = fetch((tmp_path / "a.bin").as_uri(), sha256=SHA, folder=tmp_path / "there")
    assert path == tmp_path / "there" / "a.bin"
    assert path.read_bytes() == CONTENT
    refuses((tmp_path / "none").as_uri(), tmp_path / "there", "cannot be downloaded (", "No such file")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://x/a", "only http, https and file"),
        ("data:,a", "only http"),
        ("a/b", "only http"),
        ("http://x:port/a", "cannot be downloaded ("),
        ("http://x y/a", "cannot be downloaded ("),
    ],
)
def test_other_urls_are_rejected(tmp_path, url, why):
    refuses(url, tmp_path, why)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_created(server, tmp_path):
    (tmp_path / "file").touch()
    refuses(f"{server.url}/a", tmp_path / "file", "file/a: cannot be read or written (", "another folder")


def test_the_first_hash_is_recorded_and_held(server, tmp_path, capsys):
    url = f"{server.url}/a.tar.gz"
    path = fetch(url, folder=tmp_path, record=True)
    assert (tmp_path / "a.tar.gz.sha256").read_text() == f"{SHA}\n"
    assert f"sha256 {SHA} recorded in {tmp_path}/a.tar.gz.sha256" in capsys.readouterr().out
    assert fetch(url, folder=tmp_path, record=True) == path
    assert capsys.readouterr().out == ""
    path.unlink()
    server.content = CONTENT + b"another release"
    parts = (
        "invalid hash value",
        SHA,
        "the download was discarded",
        f"earlier download is in {tmp_path}/a.tar",
    )
    refuses(url, tmp_path, *parts, sha256=None, record=True)
    path.write_bytes(b"changed on disk")
    refuses(
        url,
        tmp_path,
        f"not {SHA}, recorded in {tmp_path}/a.tar.gz.sha256); delete it",
        sha256=None,
        record=True,
    )
    (tmp_path / "a.tar.gz.sha256").write_text("hello")
    refuses(url, tmp_path, "a.tar.gz.sha256: not a sha256 in hex; delete it", sha256=None, record=True)


def test_a_file_saved_by_hand_is_recorded_too(tmp_path):
    refuses(
        "http://127.0.0.1:9/a.bin",
        tmp_path,
        f"save it as {tmp_path}/b.bin",
        sha256=None,
        name="b.bin",
        record=True,
    )
    (tmp_path / "b.bin").write_bytes(CONTENT)
    assert fetch("http://127.0.0.1:9/a.bin", folder=tmp_path, name="b.bin", record=True) == tmp_path / "b.bin"
    assert (tmp_path / "b.bin.sha256").read_text() == f"{SHA}\n"


def test_a_hash_is_recorded_only_if_the_file_is_of_the_right_kind(server, tmp_path):
    def check(path):
        assert path.suffix == ".gz"
        if path.read_bytes() != CONTENT:
            raise UserError(f"{path}: not an archive")

    url, options = f"{server.url}/a.tar.gz", {"sha256": None, "record": True, "check": check}
    server.content = b"<html>please log in</html>"
    refuses(url, tmp_path, f"{url}: not an archive; the download was discarded", **options)
    assert names(tmp_path) == []
    (tmp_path / "a.tar.gz").write_bytes(server.content)
    refuses(url, tmp_path, f"{tmp_path}/a.tar.gz: not an archive", **options)
    assert names(tmp_path) == ["a.tar.gz"]
    (tmp_path / "a.tar.gz").unlink()
    server.content = CONTENT
    fetch(url, folder=tmp_path, record=True, check=check)
    assert names(tmp_path) == ["a.tar.gz", "a.tar.gz.sha256"]


def test_a_hash_that_cannot_be_recorded_is_printed(tmp_path, monkeypatch, capsys):
    def fail(path, text):
        raise OSError(30, "Read-only file system")

    (tmp_path / "a.bin").write_bytes(CONTENT)
    monkeypatch.setattr("engine.io.download.write_text", fail)
    fetch("http://127.0.0.1:9/a.bin", folder=tmp_path, record=True)
    assert "cannot be recorded" in capsys.readouterr().out


def test_without_a_hash_a_partial_download_is_discarded_by_its_length(server, tmp_path):
    server.drops = [1_000_000]
    refuses(f"{server.url}/a", tmp_path, "ended after 1000000 of 3000000 bytes", sha256=None, record=True)
    assert names(tmp_path) == []


def test_a_mirror(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MOBILENET_DENSE_MIRROR", f"{server.url}/mirror/")
    path = fetch("https://download.tensorflow.org/models/a.tar.gz", folder=tmp_path, record=True)
    assert (path.name, path.read_bytes()) == ("a.tar.gz", CONTENT)
    assert server.requests == ["/mirror/download.tensorflow.org/models/a.tar.gz"]
    assert f"downloading {server.url}/mirror/download" in capsys.readouterr().out
    (tmp_path / "files" / "x.org").mkdir(parents=True)
    (tmp_path / "files" / "x.org" / "b.pb").write_bytes(b"b")
    monkeypatch.setenv("MOBILENET_DENSE_MIRROR", (tmp_path / "files").as_uri())
    assert fetch("https://x.org/b.pb", folder=tmp_path, record=True).read_bytes() == b"b"
    for wrong in ("mirror.org", str(tmp_path), "http://[::1"):
        monkeypatch.setenv("MOBILENET_DENSE_MIRROR", wrong)
        refuses("https://x.org/c.pb", tmp_path, f"MOBILENET_DENSE_MIRROR={wrong}: must be an address such as")


def test_control_characters_from_a_server_are_not_printed(server, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise ConnectionError("a\x1b[31m\nb")

    monkeypatch.setattr("engine.io.download.urlopen", fail)
    refuses(f"{server.url}/a", tmp_path, r"(a\x1b[31m\nb)")


FETCH = """
import sys
from pathlib import Path
from engine.io.download import fetch
fetch(sys.argv[1], sha256=sys.argv[2], folder=Path(sys.argv[3]))
"""


def other_process(server, folder):
    command = [sys.executable, "-c", FETCH, f"{server.url}/a", SHA, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_download_leaves_no_file_and_can_be_retried(server, tmp_path):
    server.pause = 0.05
    process = other_process(server, tmp_path)
    wait_for(lambda: any(path.stat().st_size > 500_000 for path in tmp_path.glob(".partial.a")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "a").exists()
    server.pause = 0.0
    assert fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == ["a"]


@pytest.mark.slow
def test_several_processes_download_once(server, tmp_path):
    server.pause = 0.03
    processes = [other_process(server, tmp_path) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert server.requests == ["/a"]
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert names(tmp_path) == ["a"]
