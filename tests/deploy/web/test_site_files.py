"""The files of a page: pinned versions and hashes, and what may be loaded from where."""

import base64
import hashlib
import io
import json
import tarfile

import pytest

from deploy.formats import web
from deploy.options import WebPage
from deploy.web import assets
from deploy.web.assets import ASSETS, copy_assets, describe, download
from deploy.web.site_files import MEASURE, SITE, content_policy, policy_of, write_page
from tests.refusals import refuses


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package like npm's, with small files and their hashes."""
    pinned = {}
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for kind, pair in ASSETS.items():
            contents = [f"{kind} {asset.source}".encode() for asset in pair]
            hashes = [base64.b64encode(hashlib.sha384(content).digest()).decode() for content in contents]
            pinned[kind] = tuple(
                assets.Asset(asset.source, asset.name, digest)
                for asset, digest in zip(pair, hashes, strict=True)
            )
            for asset, content in zip(pair, contents, strict=True):
                member = tarfile.TarInfo(f"package/dist/{asset.source}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(assets, "ASSETS", pinned)
    return path


@pytest.mark.parametrize("source", [SITE, MEASURE])
def test_a_vendored_page_has_all_files_and_loads_nothing_from_elsewhere(tmp_path, package, source):
    write_page(tmp_path / "site", source, package=package)
    page = (tmp_path / "site/index.html").read_text()
    assert f'content="{content_policy(None)}"' in page
    assert "http" not in content_policy(None)
    assert "{{" not in page
    about = json.loads((tmp_path / "site/runtime.json").read_text())
    for pair in about["files"].values():
        for file in pair.values():
            assert (tmp_path / "site/app" / about["base"] / file["name"]).is_file()
    assert "MIT License" in (tmp_path / "site/runtime/LICENSE.txt").read_text()


def test_a_page_without_the_library_names_its_address_and_hashes(tmp_path):
    write_page(tmp_path, SITE, package=None, cdn="https://cdn.example.org/npm")
    about = json.loads((tmp_path / "runtime.json").read_text())
    assert about["base"] == f"https://cdn.example.org/npm/onnxruntime-web@{assets.VERSION}/dist/"
    assert about["files"]["wasm"]["script"]["integrity"] == f"sha384-{ASSETS['wasm'][0].sha384}"
    assert not (tmp_path / "runtime").exists()
    assert policy_of(tmp_path) == content_policy("https://cdn.example.org/npm")
    policy = (tmp_path / "index.html").read_text()
    assert "connect-src 'self' https://cdn.example.org blob:;" in policy
    assert "script-src 'self' 'wasm-unsafe-eval' blob:;" in policy


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"vendored": false}', '{"vendored": false, "base": "https://a; script-src *"}',
     '{"vendored": false, "base": "https://[a"}'],
)  # fmt: skip
def test_the_policy_of_a_damaged_page_is_refused(tmp_path, text):
    (tmp_path / "runtime.json").write_text(text)
    refuses(lambda: policy_of(tmp_path), f"{tmp_path}", "export it again")


def test_another_file_than_the_pinned_one_is_refused(tmp_path, package, monkeypatch):
    wrong = {"wasm": (assets.Asset("ort.wasm.bundle.min.mjs", "ort.wasm.js", "A" * 64),)}
    monkeypatch.setattr(assets, "ASSETS", wrong)
    refuses(lambda: copy_assets(package, tmp_path / "to"), "is not the pinned file")
    assert not (tmp_path / "to/ort.wasm.js").exists()
    monkeypatch.setattr(assets, "ASSETS", {"wasm": (assets.Asset("other.mjs", "other.js", "A" * 64),)})
    refuses(lambda: copy_assets(package, tmp_path / "to"), "lacks package/dist/other.mjs")


def test_the_download_comes_from_the_registry_that_is_set(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    refuses(lambda: download("npm"), "web.npm=npm: must be an address")
    registry = tmp_path / "registry"
    refuses(lambda: download(registry.as_uri()), "cannot be downloaded", "web.npm=", "web.vendored=false")
    file = registry / assets.TARBALL
    file.parent.mkdir(parents=True)
    file.write_bytes(b"another package")
    refuses(lambda: download(registry.as_uri()), "invalid hash value")
    monkeypatch.setattr(assets, "SHA256", hashlib.sha256(b"another package").hexdigest())
    assert download(registry.as_uri()).read_bytes() == b"another package"


def test_the_addresses_of_the_package_and_of_the_files_name_the_same_version():
    assert assets.TARBALL.endswith(f"/onnxruntime-web-{assets.VERSION}.tgz")
    assert f"@{assets.VERSION}/" in describe(vendored=False)["base"]


def test_an_insecure_cdn_is_refused():
    with pytest.raises(ValueError, match="cdn must be an https address"):
        WebPage(cdn="http://cdn.example.org")
    WebPage(cdn="http://localhost:8000/npm")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"task": "depth"}, "the page can show task=seg, det, cls, not depth"),
        ({"preprocessing": {"resize": {"mode": "custom"}, "pixel_range": None}}, "a transform of your own"),
        ({"preprocessing": {"resize": {"mode": "none"}, "pixel_range": [0, 4095]}}, "data.pixel_range"),
    ],
)
def test_what_the_page_cannot_show_is_refused_before_anything_is_written(tmp_path, metadata, reason):
    whole = {"task": "seg", "preprocessing": {"resize": {"mode": "none"}, "pixel_range": None}, **metadata}
    texts = {**whole, "preprocessing": json.dumps(whole["preprocessing"])}
    refuses(
        lambda: web.write(None, tmp_path / "m", names=("logits",), metadata=texts, precision="fp32"), reason
    )
    assert list(tmp_path.iterdir()) == []
