"""A web page that runs the network: a folder of static files around an ONNX file.

The page itself is in deploy/web.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from deploy.formats import onnx
from deploy.web import assets
from deploy.web.site_files import SITE, write_page
from engine.errors import UserError
from engine.io.files import write_json

SUFFIX = ".web.onnx"
LIBRARIES = onnx.LIBRARIES
INSTALL = onnx.INSTALL
WEIGHT_PRECISIONS = onnx.WEIGHT_PRECISIONS
COMPUTE_PRECISIONS = onnx.COMPUTE_PRECISIONS
DYNAMIC = onnx.DYNAMIC

missing, open = onnx.missing, onnx.open

TASKS = ("seg", "det", "cls")
"""Tasks whose outputs the page can draw."""
FOLDER = "site"
_NOT_FOR_THE_PAGE = ("golden", "decoder", "compared_with_pytorch")


def write(
    program: ExportedProgram, path: Path, *, names: tuple[str, ...], metadata: dict[str, str], precision: str
) -> None:
    preprocessing = json.loads(metadata["preprocessing"])
    if metadata["task"] not in TASKS:
        raise UserError(f"format=web: the page can show task={', '.join(TASKS)}, not {metadata['task']}")
    if preprocessing["resize"]["mode"] == "custom":
        raise UserError("format=web: the page cannot resize images with a transform of your own")
    if preprocessing["pixel_range"] is not None:
        raise UserError("format=web: browsers read 8 bits per channel, but the run has data.pixel_range")
    onnx.write(program, path, names=names, metadata=metadata, precision=precision)


def packager(options: Any) -> Callable[[Path], str]:
    """Get what the page needs before the export; the result makes the page around the exported file.

    options: `deploy.options.ExportOptions`.

    Raises:
        UserError: if onnxruntime-web cannot be downloaded.
    """
    package = assets.download(options.web.npm) if options.web.vendored else None

    def make_site(path: Path) -> str:
        folder = path.parent / FOLDER
        write_page(folder, SITE, package=package, cdn=options.web.cdn)
        shutil.copyfile(path, folder / "model.onnx")
        about = json.loads((path.parent / "preprocess.json").read_text(encoding="utf-8"))
        shown = {key: value for key, value in about.items() if key not in _NOT_FOR_THE_PAGE}
        write_json(folder / "preprocess.json", {**shown, "file": "model.onnx"})
        return f"site: {folder}"

    return make_site
