"""LiteRT (TensorFlow Lite); the number and size of images are fixed."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from deploy.binary_files import append_metadata, read_appended_metadata
from deploy.libraries import not_installed, require
from deploy.session import Arrays, Session, without_channels

SUFFIX = ".tflite"
LIBRARIES = ("litert-torch", "ai-edge-litert")
# Not an extra of this package: it pins versions that conflict with those of the other formats.
INSTALL = "pip install litert-torch in a separate environment (docs/guides/export.md)"
WEIGHT_PRECISIONS = ("fp32",)
COMPUTE_PRECISIONS = ("fp32",)
DYNAMIC = False


def missing() -> str:
    return not_installed(LIBRARIES)


def write(
    program: ExportedProgram, path: Path, *, names: tuple[str, ...], metadata: dict[str, str], precision: str
) -> None:
    library = require("litert_torch", INSTALL)
    example = tuple(program.example_inputs[0]) if program.example_inputs else ()
    library.convert(program.module(), example).export(str(path))
    append_metadata(path, metadata)


def open(path: Path, *, threads: int, precision: str) -> Session:
    library = require("ai_edge_litert.interpreter", INSTALL)
    interpreter = library.Interpreter(model_path=str(path), num_threads=threads)
    (images,) = interpreter.get_input_details()
    interpreter.allocate_tensors()
    metadata = read_appended_metadata(path)
    outputs = [output["index"] for output in interpreter.get_output_details()]

    def run(array: NDArray[Any]) -> Arrays:
        interpreter.set_tensor(images["index"], array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return Session(
        run=run,
        output_names=tuple(json.loads(metadata.get("outputs", "[]"))),
        runtime=f"LiteRT {version('ai-edge-litert')}",
        dtype=np.dtype(images["dtype"]).name,
        shape=without_channels(images["shape"].tolist()),
        metadata=metadata,
    )
