"""MNN, for phones and boards, converted from ONNX; the number and size of images are fixed."""

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from deploy.binary_files import append_metadata, read_appended_metadata, write_bytes
from deploy.formats import onnx
from deploy.libraries import not_installed, require
from deploy.session import Arrays, Session
from engine.errors import UserError

SUFFIX = ".mnn"
LIBRARIES = ("MNN", "onnx", "onnxscript")
INSTALL = "pip install -e '.[mnn]'"
WEIGHT_PRECISIONS = ("fp32", "fp16")
COMPUTE_PRECISIONS = ("fp32",)
DYNAMIC = False

_OUTPUT_TYPES = "output_types"
"""Metadata key: NumPy's names of the outputs' types, since MNN knows only 32-bit integers."""
# MNN's own command reports each conversion to its makers; the function that it calls does not.
_CONVERTER = "import sys, _tools; _tools.mnnconvert(sys.argv)"


def missing() -> str:
    return not_installed(LIBRARIES)


def write(
    program: ExportedProgram, path: Path, *, names: tuple[str, ...], metadata: dict[str, str], precision: str
) -> None:
    if reason := missing():  # importing MNN would print a line
        raise UserError(f"{reason}; {INSTALL}")
    outputs = next(node for node in program.graph.nodes if node.op == "output").args[0]
    types = [str(output.meta["val"].dtype).removeprefix("torch.") for output in outputs]
    with tempfile.TemporaryDirectory(prefix="mnn-") as folder:
        source, converted = Path(folder, "model.onnx"), Path(folder, "model.mnn")
        onnx.write(program, source, names=names, metadata={}, precision="fp32")
        options = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(converted)]
        options += ["--bizCode", "mobilenet-dense", *(["--fp16"] if precision == "fp16" else [])]
        done = subprocess.run(
            [sys.executable, "-c", _CONVERTER, *options], capture_output=True, text=True, errors="replace"
        )
        if not converted.is_file():
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            reason = lines[-1][:200] if lines else f"exit status {done.returncode}"
            raise UserError(f"format=mnn: MNN cannot convert this network ({reason})")
        write_bytes(path, converted.read_bytes())
    append_metadata(path, {**metadata, _OUTPUT_TYPES: json.dumps(types)})


def open(path: Path, *, threads: int, precision: str) -> Session:
    load = require("deploy.device.runtimes.mnn", INSTALL).load
    metadata = read_appended_metadata(path)
    types, model = json.loads(metadata.get(_OUTPUT_TYPES, "[]")), load(path, threads=threads)

    def run(images: NDArray[Any]) -> Arrays:
        outputs = model(images)
        return [output.astype(np.dtype(kind)) for output, kind in zip(outputs, types, strict=True)]

    return Session.described_by(metadata, run=run, runtime=f"MNN {version('MNN')}")
