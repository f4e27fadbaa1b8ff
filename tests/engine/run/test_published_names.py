"""Values of `weights` and `init_from`: a file, a run folder, or the name of published weights."""

import hashlib
import threading
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from engine.errors import UserError
from engine.run.initial_weights import is_name, locate, read_state, weights_folder


@dataclass(frozen=True)
class File:
    url: str
    sha256: str
    categories: tuple[str, ...] = ()
    pixels: str = "imagenet"
    task: str = "cls"
    spec: None = None
    network: tuple[str, ...] = ()

    @property
    def file_name(self):
        return self.url.rpartition("/")[2]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder served over HTTP: (folder, address, requests)."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder, requests = tmp_path / "site", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            requests.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}", requests
    server.shutdown()
    server.server_close()


def published(files):
    """A catalog of published files, in the form that the tools pass."""

    def find(name):
        if name not in files:
            raise ValueError(f"no published weights have that name; there are {', '.join(files)}")
        return files[name]

    return find


def nothing(name):
    raise AssertionError(f"{name} was looked up")


def test_an_existing_path_is_used_unchanged(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "net.pth").write_bytes(b"")
    assert locate(str(tmp_path / "run"), key="weights", published=nothing) == tmp_path / "run"
    assert locate(str(tmp_path / "net.pth"), key="weights", published=nothing) == tmp_path / "net.pth"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/net.pth", key="weights", published=nothing) == tmp_path / "net.pth"
    monkeypatch.chdir(tmp_path)
    assert not is_name("run")  # a folder of that name goes before published weights


@pytest.mark.parametrize(
    "text",
    ["/nowhere/x", "runs/seg/1", "net.pth", "a.safetensors", "~/x", "~nobody/x", "a\0b/c", "x" * 5000 + "/"],
)
def test_a_path_that_does_not_exist(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such weight file or run folder"):
        locate(text, key="weights", published=nothing)


def test_published_weights_are_downloaded_once(site, tmp_path):
    folder, address, requests = site
    torch.save({"w": torch.ones(2)}, folder / "net.pth")
    sha = hashlib.sha256((folder / "net.pth").read_bytes()).hexdigest()
    find = published({"net.imagenet1k_v1": File(f"{address}/net.pth", sha[:8])})
    for _ in range(2):
        path = locate("net.imagenet1k_v1", key="weights", published=find, folder=tmp_path / "cache")
        assert path == tmp_path / "cache" / "net.pth"
    assert len(requests) == 1
    assert read_state(path)["w"].tolist() == [1, 1]


def test_files_that_torchvision_has_downloaded_are_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / "hub" / "checkpoints"
    assert weights_folder() == folder
    folder.mkdir(parents=True)
    (folder / "net.pth").write_bytes(b"already here")
    sha = hashlib.sha256(b"already here").hexdigest()
    find = published({"net": File("http://127.0.0.1:9/net.pth", sha[:8])})
    assert locate("net", key="weights", published=find) == folder / "net.pth"


def test_without_a_connection_the_message_explains_how_to_download_manually(tmp_path):
    find = published({"net": File("http://127.0.0.1:9/net.pth", "0" * 8)})
    with pytest.raises(UserError, match=r"^weights=net: http.*/net.pth: cannot be downloaded") as caught:
        locate("net", key="weights", published=find, folder=tmp_path)
    assert f"save it as {tmp_path / 'net.pth'}" in str(caught.value)


def test_a_file_with_another_hash_is_not_used(site, tmp_path):
    folder, address, _ = site
    (folder / "net.pth").write_bytes(b"other")
    find = published({"net": File(f"{address}/net.pth", "0" * 8)})
    with pytest.raises(UserError, match=r"net: .*invalid hash value .*; the download was discarded"):
        locate("net", key="weights", published=find, folder=tmp_path / "cache")
    assert not (tmp_path / "cache" / "net.pth").exists()


def test_an_unknown_name_is_reported_with_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^weights=nett: no such .* run folder, and no published"):
        locate("nett", key="weights", published=published({"net": File("", "")}))
