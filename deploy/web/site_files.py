"""Writes the static parts of a web page that runs a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from deploy.web import assets
from engine.errors import UserError
from engine.io.files import write_json

SITE = Path(__file__).with_name("site")
MEASURE = Path(__file__).with_name("measure")
APP = "app"
"""Folder of the scripts and the style sheet in a site."""


def content_policy(cdn: str | None) -> str:
    """The Content-Security-Policy of a page that loads nothing from elsewhere but `cdn`, if it is set."""
    origin = "" if cdn is None else " {0.scheme}://{0.netloc}".format(urlsplit(cdn))
    local = (
        "" if cdn is None else " blob:"
    )  # files from elsewhere run from memory, after their hash was verified
    rules = {
        "default-src": "'none'",
        "script-src": f"'self' 'wasm-unsafe-eval'{local}",
        "worker-src": f"'self'{local}",
        "connect-src": f"'self'{origin}{local}",
        "style-src": "'self'",
        "img-src": "'self' data: blob:",
        "media-src": "blob: mediastream:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def policy_of(folder: Path) -> str:
    """The Content-Security-Policy of an existing page. Raises: UserError if it is not a page of ours."""
    try:
        about = json.loads((folder / "runtime.json").read_text(encoding="utf-8"))
        base = None if about["vendored"] is True else str(about["base"])
        policy = content_policy(base)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{folder}: has no valid runtime.json ({type(error).__name__}); export it again"
        ) from None
    if not policy.isprintable() or policy.count(";") != content_policy(None).count(";"):
        raise UserError(f"{folder}: runtime.json has an invalid base; export it again")
    return policy


def write_page(folder: Path, source: Path, *, package: Path | None, cdn: str = assets.CDN) -> None:
    """Write a page with its scripts, and onnxruntime-web or where it comes from.

    Args:
        folder: of the site; existing files are replaced.
        source: `SITE` or `MEASURE`, whose `.html` becomes `index.html`.
        package: npm's package of onnxruntime-web, which is copied; None: browsers load it from `cdn`.

    Raises:
        UserError: if a file cannot be written.
    """
    try:
        (folder / APP).mkdir(parents=True, exist_ok=True)
        for file in sorted({*SITE.iterdir(), *source.iterdir()}):
            if file.suffix in (".js", ".css"):
                shutil.copyfile(file, folder / APP / file.name)
        policy = content_policy(None if package is not None else cdn)
        (page,) = source.glob("*.html")
        text = page.read_text(encoding="utf-8").replace("{{ policy }}", policy)
        (folder / "index.html").write_text(text, encoding="utf-8")
        if package is not None:
            assets.copy_assets(package, folder / "runtime")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another out=") from None
    write_json(folder / "runtime.json", assets.describe(vendored=package is not None, cdn=cdn))
