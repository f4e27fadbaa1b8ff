"""LiteRT (TensorFlow Lite); the number and size of images are fixed."""

import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from deploy.binary_files import append_metadata, read_appended_metadata, write_bytes
from deploy.libraries import not_installed, require
from deploy.session import Arrays, Session, without_channels

SUFFIX = ".tflite"
LIBRARIES = ("litert-torch", "ai-edge-litert")
INSTALL = "pip install -e '.[litert]'"
WEIGHT_PRECISIONS = ("fp32", "fp16")
COMPUTE_PRECISIONS = ("fp32",)
DYNAMIC = False


def missing() -> str:
    return not_installed(LIBRARIES)


def write(
    program: ExportedProgram, path: Path, *, names: tuple[str, ...], metadata: dict[str, str], precision: str
) -> None:
    library = require("litert_torch", INSTALL)
    example = tuple(program.example_inputs[0]) if program.example_inputs else ()
    logging.disable(logging.WARNING)  # it warns that a graph, which has no modes, is not in evaluation mode
    try:
        library.convert(program.module(), example).export(str(path))
    finally:
        logging.disable(logging.NOTSET)
    if precision == "fp16":
        write_bytes(path, _with_half_weights(path.read_bytes()))
    append_metadata(path, metadata)


def _with_half_weights(content: bytes) -> bytes:
    """The file with weights in half precision, each followed by a cast."""
    kind = require("ai_edge_quantizer.qtyping", INSTALL).TFLOperationName.ALL_SUPPORTED
    quantizer = require("ai_edge_quantizer.quantizer", INSTALL).Quantizer(bytearray(content))
    quantizer.add_weight_only_config(".*", kind, 16, algorithm_key="float_casting")
    return bytes(quantizer.quantize().quantized_model)


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
