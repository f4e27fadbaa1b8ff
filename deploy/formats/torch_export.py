"""PyTorch's own archive of a captured graph, run by PyTorch."""

import json
import zipfile
from importlib.metadata import version
from pathlib import Path

import torch
from torch.export import ExportedProgram

from deploy.binary_files import METADATA_FILE
from deploy.eager import array_function
from deploy.formats import aot_inductor
from deploy.session import Session

SUFFIX = ".pt2"
LIBRARIES: tuple[str, ...] = ()
INSTALL = ""
WEIGHT_PRECISIONS = ("fp32",)
COMPUTE_PRECISIONS = ("fp32",)
DYNAMIC = True


def missing() -> str:
    return ""


def write(
    program: ExportedProgram, path: Path, *, names: tuple[str, ...], metadata: dict[str, str], precision: str
) -> None:
    torch.export.save(program, path, extra_files={METADATA_FILE: json.dumps(metadata)})


def open(path: Path, *, threads: int, precision: str) -> Session:
    with zipfile.ZipFile(path) as archive:
        compiled = any("/aotinductor/" in name for name in archive.namelist())
    if compiled:  # renamed: the suffix is `.aoti.pt2`
        return aot_inductor.open(path, threads=threads, precision=precision)
    extra = {METADATA_FILE: ""}
    module = torch.export.load(path, extra_files=extra).module()
    return Session.described_by(
        json.loads(extra[METADATA_FILE] or "{}"),
        run=array_function(module, threads),
        runtime=f"torch.export, PyTorch {version('torch')}",
    )
