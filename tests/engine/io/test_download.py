"""Fetching: never kept with a wrong hash, resumed, one process at a time; against a server of our own."""

import hashlib
import os
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
from engine.io import download
from engine.io.download import fetch

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
ROOT = Path(__file__).resolve().parents[3]


class Server:
    """What the tests tell it to be: `ranges`, the faults of the next answers, and what was asked."""

    def __init__(self):
        self.content, self.ranges, self.length, self.pause = CONTENT, True, True, 0.0
        self.drops: list[int] = []  # bytes after which the next connections break
        self.codes: list[int] = []  # what the next requests are answered with
        self.location, self.content_range = "", None
        self.asked: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda request, address: None  # a client that went away
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=partial(self.http.serve_forever, poll_interval=0.02), daemon=True).start()

    def answer(self, handler):
        asked = handler.headers.get("Range")
        self.asked.append(asked)
        if self.codes:
            handler.send_response(self.codes.pop(0))
            if self.location:
                handler.send_header("Location", self.location)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if start >= len(self.content):
            handler.send_error(416)
            return
        body = self.content[start:]
        handler.send_response(206 if asked and self.ranges else 200)
        if asked and self.ranges:
            span = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
            handler.send_header("Content-Range", self.content_range or span)
        if self.length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        sent = body[: self.drops.pop(0)] if self.drops else body
        for at in range(0, len(sent), 100_000):
            handler.wfile.write(sent[at : at + 100_000])
            time.sleep(self.pause)
        handler.close_connection = True


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Back-off without waiting: what would have been waited, in seconds."""
    waited, sleep = [], time.sleep
    monkeypatch.setattr(download.time, "sleep", lambda s: waited.append(s) if s >= 1 else sleep(s))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return waited


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def quiet(text):
    pass


def test_a_file_is_fetched_once(server, tmp_path):
    lines = []
    path = fetch(f"{server.url}/a/model.bin?x=1", sha256=SHA, folder=tmp_path / "new", say=lines.append)
    assert path == tmp_path / "new" / "model.bin"
    assert path.read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["model.bin"]
    assert lines[-1].startswith("MB 3/3  model.bin")
    assert fetch(f"{server.url}/a/model.bin", sha256=SHA.upper(), folder=tmp_path / "new") == path
    assert server.asked == [None]


def test_the_hash_in_a_name_as_torchvision_writes_it(server, tmp_path):
    path = fetch(f"{server.url}/net-{SHA[:8]}.pth", folder=tmp_path, say=quiet)
    assert path.name == f"net-{SHA[:8]}.pth"
    assert fetch(f"{server.url}/net-{SHA[:8]}.pth", folder=tmp_path, name="n.pth", say=quiet).exists()
    with pytest.raises(UserError, match=r"have sha256 .*, not 00000000\.\.\.; nothing was kept"):
        fetch(f"{server.url}/net-00000000.pth", folder=tmp_path, say=quiet)
    assert names(tmp_path) == ["n.pth", f"net-{SHA[:8]}.pth"]
    with pytest.raises(UserError, match="nothing to check it against; give its sha256"):
        fetch(f"{server.url}/net.pth", folder=tmp_path)
    for wrong in ("", "abc", SHA + "0", "g" * 64, SHA[:8] + "\n"):
        with pytest.raises(UserError, match="64 hex digits, or the first 8"):
            fetch(f"{server.url}/net.pth", sha256=wrong, folder=tmp_path)


def test_wrong_contents_are_never_kept(server, tmp_path):
    server.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(UserError, match="nothing was kept") as caught:
        fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, say=quiet)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []
    assert server.asked == [None]


def test_a_file_that_is_there_and_wrong_is_left_to_its_owner(server, tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(UserError, match=rf"a: is not the file at .*not {SHA[:8]}\); remove it"):
        fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path)
    assert (tmp_path / "a").read_bytes() == b"mine"
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="b: is no file"):
        fetch(f"{server.url}/b", sha256=SHA, folder=tmp_path)
    assert server.asked == []


def test_a_broken_connection_is_resumed_where_it_broke(server, tmp_path, waits):
    server.drops = [1_000_000, 500_000]
    lines = []
    path = fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, say=lines.append)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-"]
    assert waits == [1.0, 1.0]  # each brought something: not the next longer wait
    assert any("ended after 1000000 of 3000000 bytes; trying again in 1 s" in line for line in lines)


def test_a_partial_file_of_an_earlier_process_is_resumed(server, tmp_path):
    (tmp_path / "a.partial").write_bytes(CONTENT[:2_999_000])
    fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, say=quiet)
    assert server.asked == ["bytes=2999000-"]
    assert names(tmp_path) == ["a"]
    (tmp_path / "b.partial").write_bytes(CONTENT)  # killed between the last byte and the rename
    assert fetch(f"{server.url}/b", sha256=SHA, folder=tmp_path, say=quiet).read_bytes() == CONTENT


@pytest.mark.parametrize("old", [b"other version" * 1000, CONTENT + b"longer"])
def test_a_partial_file_of_another_version_is_fetched_anew(server, tmp_path, old):
    (tmp_path / "a.partial").write_bytes(old)
    assert fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, say=quiet).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(old)}-", None]
    assert names(tmp_path) == ["a"]


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.ranges, server.drops = False, [1_000_000]
    assert fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, say=quiet).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-"]


@pytest.mark.parametrize(
    "span", ["bytes 0-2999999/3000000", "bytes 10-20/3000000", "pages 1-2/3", "bytes 9-/9", "bytes */3000000"]
)
def test_a_server_that_answers_with_another_part_begins_anew(server, tmp_path, span):
    (tmp_path / "a.partial").write_bytes(CONTENT[:1_000_000])
    server.content_range = span
    assert fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, say=quiet).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000000-", None]


def test_an_answer_of_unknown_length(server, tmp_path):
    server.length = False
    assert fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, say=quiet).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_an_absent_file_is_not(server, tmp_path, waits):
    server.codes = [503, 429, 500]
    assert fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, say=quiet).exists()
    assert waits == [1.0, 2.0, 4.0]
    for code in (403, 404, 410):
        server.codes = [code]
        with pytest.raises(UserError, match=f"the server answered {code}"):
            fetch(f"{server.url}/b", sha256=SHA, folder=tmp_path, say=quiet)
    assert len(waits) == 3


def test_offline_is_one_line_with_what_to_put_where(tmp_path, waits):
    with pytest.raises(UserError) as caught:
        fetch("http://127.0.0.1:9/a.bin", sha256=SHA, folder=tmp_path / "w", say=quiet)
    assert str(caught.value) == (
        "http://127.0.0.1:9/a.bin: cannot be fetched (Connection refused); fetch it by other means and put "
        f"it at {tmp_path}/w/a.bin (sha256 {SHA})"
    )
    assert waits == [1.0, 2.0, 4.0]


def test_a_silent_server_is_given_up(server, tmp_path):
    server.pause = 0.9
    with pytest.raises(UserError, match=r"cannot be fetched \(.*timed out"):
        fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, attempts=1, timeout=0.1, say=quiet)


def test_more_than_the_limit_is_refused(server, tmp_path):
    with pytest.raises(UserError, match="larger than the 2999999 bytes"):
        fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, max_bytes=2_999_999, say=quiet)
    server.length = False  # noticed while reading
    with pytest.raises(UserError, match="larger than the 2999999 bytes"):
        fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, max_bytes=2_999_999, say=quiet)
    assert names(tmp_path) == []
    assert fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, max_bytes=3_000_000, say=quiet).exists()


def test_redirects_lead_to_the_web_alone(server, tmp_path):
    (tmp_path / "secret").write_bytes(CONTENT)
    for location in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/a", "data:text/plain,a", "gopher://x"):
        server.codes, server.location = [302], location
        with pytest.raises(UserError, match="the server answered 302"):
            fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, say=quiet)
    server.codes, server.location = [301], "/elsewhere"
    assert fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, say=quiet).read_bytes() == CONTENT
    server.codes, server.location = [302] * 50, "/loop"
    with pytest.raises(UserError, match="infinite loop"):
        fetch(f"{server.url}/b", sha256=SHA, folder=tmp_path, say=quiet)


def test_file_urls(tmp_path):
    (tmp_path / "ä b").write_bytes(CONTENT)
    url = (tmp_path / "ä b").as_uri()
    path = fetch(url, sha256=SHA, folder=tmp_path / "there", say=quiet)
    assert path == tmp_path / "there" / "ä b"
    assert path.read_bytes() == CONTENT
    for url, why in [
        ("file:///dev/zero", "no regular file"),
        (tmp_path.as_uri(), "no regular file"),
        ((tmp_path / "none").as_uri(), "No such file"),
        ("file://elsewhere/a", "of another machine"),
    ]:
        with pytest.raises(UserError, match=why):
            fetch(url, sha256=SHA, folder=tmp_path / "there", say=quiet)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://x/a", "only http, https and file"),
        ("data:,a", "only http"),
        ("a/b", "'a bare path'"),
        ("http://x/", "no plain file name"),
        ("http://x/..", "no plain file name"),
        ("http://x/%2e%2e", "no plain file name"),
        ("http://x/a%2Fb", r"'b'|cannot be fetched"),
        ("http://x/a%00", "no plain file name"),
        ("http://x/a%5Cb", "no plain file name"),
        ("http://x/a%0Ab", "no plain file name"),
        ("http://[x/a", "not a URL"),
        ("http://x:port/a", "no URL"),
        ("http://x y/a", "no URL"),
    ],
)
def test_other_urls_are_refused(tmp_path, url, why):
    with pytest.raises(UserError, match=why) as caught:
        fetch(url, sha256=SHA, folder=tmp_path, attempts=1, say=quiet)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\\b", "C:a", "a\0", "a\nb"])
def test_a_name_with_a_folder_in_it_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="no plain file name"):
        fetch("http://x/a", sha256=SHA, folder=tmp_path, name=name)


def test_a_full_disk_and_a_folder_that_cannot_be_made(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/a: cannot be written \((File exists|Not a directory)\)"):
        fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path / "file", say=quiet)
    usage = download.shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"a: cannot be written \(No space left on device\); free space"):
        fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, say=quiet)


FETCH = """
import sys
from engine.io.download import fetch
fetch(sys.argv[1], sha256=sys.argv[2], folder=sys.argv[3])
"""


def other_process(server, folder):
    command = [sys.executable, "-c", FETCH, f"{server.url}/a", SHA, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_download_leaves_no_file_and_is_resumed(server, tmp_path):
    server.pause = 0.05
    process = other_process(server, tmp_path)
    piece = tmp_path / "a.partial"
    wait_for(lambda: piece.exists() and piece.stat().st_size > 500_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a").exists()
    size, server.pause = piece.stat().st_size, 0.0
    assert fetch(f"{server.url}/a", sha256=SHA, folder=tmp_path, say=quiet).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={size}-"]
    assert names(tmp_path) == ["a"]


def test_processes_at_once_fetch_once(server, tmp_path):
    server.pause = 0.03
    processes = [other_process(server, tmp_path) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert server.asked == [None]
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert names(tmp_path) == ["a"]


def test_what_a_server_says_does_nothing_to_a_terminal(server, tmp_path):
    assert download._plain("a\x1b[31m\nb") == "a?[31m b"
    assert os.linesep not in download._plain("a\r\nb\x85c")
