"""onnxruntime-web, which runs ONNX files in browsers: downloaded from npm, with pinned version and hashes."""

from __future__ import annotations

import base64
import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deploy.binary_files import write_bytes
from engine.errors import UserError
from engine.io.download import fetch
from engine.io.files import user_cache

VERSION = "1.30.0"
TARBALL = f"onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
"""Path of the package in an npm registry."""
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
"""Of the package, 33 MB."""
NPM = "https://registry.npmjs.org"
CDN = "https://cdn.jsdelivr.net/npm"


@dataclass(frozen=True)
class Asset:
    """A file of the package: its path in `dist/`, its name in a site, and its sha384 in base64."""

    source: str
    name: str
    sha384: str

    @property
    def integrity(self) -> str:
        """The value of an HTML `integrity` attribute."""
        return f"sha384-{self.sha384}"


ASSETS = {
    "wasm": (
        Asset(
            "ort.wasm.bundle.min.mjs",
            "ort.wasm.js",
            "PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
        ),
        Asset(
            "ort-wasm-simd-threaded.wasm",
            "ort.wasm.wasm",
            "vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
        ),
    ),
    "webgpu": (
        Asset(
            "ort.webgpu.bundle.min.mjs",
            "ort.webgpu.js",
            "1ntMeyj+z5diX6vBR5h+zlJBPc4iNvhCxE6nlammh8daBYcLBZkzrwDkuJjhwI+f",
        ),
        Asset(
            "ort-wasm-simd-threaded.asyncify.wasm",
            "ort.webgpu.wasm",
            "EPVDLTxuO663dkZO/pcKJF6vOyyfq/5z9FY1oksN0UWFX2ABH4wDDZQHeNoUleWR",
        ),
    ),
}
"""The script and the program of each kind of execution. Not every web server knows `.mjs`."""

LICENSE = f"""onnxruntime-web {VERSION}, https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def download(npm: str = NPM) -> Path:
    """The package, downloaded once into the user's cache.

    npm: address of a registry; a mirror's or a company's own serves the same file.

    Raises:
        UserError: if it cannot be downloaded, or is not the pinned file.
    """
    if urlsplit(npm).scheme not in ("http", "https", "file"):
        raise UserError(f"web.npm={npm}: must be an address such as {NPM} or file:///mnt/npm")
    try:
        return fetch(f"{npm.rstrip('/')}/{TARBALL}", folder=user_cache() / "web", sha256=SHA256)
    except UserError as error:
        raise UserError(f"{error}; or set web.npm=<another registry>, or web.vendored=false") from None


def copy_assets(package: Path, folder: Path) -> None:
    """Copy the files of `ASSETS` and the license from the package into `folder`.

    Raises:
        UserError: if a file's hash is not the pinned one.
    """
    wanted = {f"package/dist/{asset.source}": asset for pair in ASSETS.values() for asset in pair}
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(package) as archive:
        for member in archive:
            asset = wanted.pop(member.name, None)
            if asset is None:
                continue
            file = archive.extractfile(member)
            content = file.read() if file is not None else b""
            if base64.b64encode(hashlib.sha384(content).digest()).decode() != asset.sha384:
                raise UserError(f"{package}: {asset.source} is not the pinned file; delete {package}")
            write_bytes(folder / asset.name, content)
    if wanted:
        raise UserError(f"{package}: lacks {next(iter(wanted))}; delete it to download it again")
    (folder / "LICENSE.txt").write_text(LICENSE, encoding="utf-8")


def describe(*, vendored: bool, cdn: str = CDN) -> dict[str, Any]:
    """The content of a site's `runtime.json`: where a page finds the library."""
    files = {
        kind: {
            part: {"name": asset.name if vendored else asset.source, "integrity": asset.integrity}
            for part, asset in zip(("script", "wasm"), pair, strict=True)
        }
        for kind, pair in ASSETS.items()
    }
    base = "../runtime/" if vendored else f"{cdn.rstrip('/')}/onnxruntime-web@{VERSION}/dist/"
    return {"version": VERSION, "vendored": vendored, "base": base, "files": files}
