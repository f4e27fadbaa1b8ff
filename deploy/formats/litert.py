"""LiteRT (TensorFlow Lite); the number and size of images are fixed.

Converted by litert-torch or, if only that is installed, by onnx2tf from ONNX.
"""

import contextlib
import io
import json
import logging
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from deploy.binary_files import append_metadata, read_appended_metadata, write_bytes
from deploy.formats import onnx
from deploy.libraries import first_line, not_installed, require
from deploy.session import INPUT, Arrays, Session, without_channels
from engine.errors import UserError

SUFFIX = ".tflite"
LIBRARIES = ("litert-torch", "ai-edge-litert")
INSTALL = "pip install -e '.[litert]'"
WEIGHT_PRECISIONS = ("fp32", "fp16")
COMPUTE_PRECISIONS = ("fp32",)
DYNAMIC = False


def missing() -> str:
    converter = not_installed(["litert-torch"]) if not_installed(["onnx2tf"]) else ""
    return converter or not_installed(["ai-edge-litert"])


def write(
    program: ExportedProgram, path: Path, *, names: tuple[str, ...], metadata: dict[str, str], precision: str
) -> None:
    if not_installed(["litert-torch"]) and not not_installed(["onnx2tf"]):
        _convert_by_onnx2tf(program, path, names)
    else:
        _convert_by_litert_torch(program, path)
    if precision == "fp16":
        write_bytes(path, _with_half_weights(path.read_bytes()))
    append_metadata(path, metadata)


def _convert_by_litert_torch(program: ExportedProgram, path: Path) -> None:
    library = require("litert_torch", INSTALL)
    example = tuple(program.example_inputs[0]) if program.example_inputs else ()
    logging.disable(logging.WARNING)  # it warns that a graph, which has no modes, is not in evaluation mode
    try:
        library.convert(program.module(), example).export(str(path))
    finally:
        logging.disable(logging.NOTSET)


def _convert_by_onnx2tf(program: ExportedProgram, path: Path, names: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(prefix="litert-") as folder, contextlib.redirect_stderr(io.StringIO()):
        source = Path(folder, "model.onnx")
        onnx.write(program, source, names=names, metadata={}, precision="fp32")
        library = require("onnx2tf", INSTALL)
        try:
            library.convert(
                input_onnx_file_path=str(source),
                output_folder_path=folder,
                tflite_backend="flatbuffer_direct",  # without TensorFlow
                keep_ncw_or_nchw_or_ncdhw_input_names=[INPUT],
                output_signaturedefs=True,
                non_verbose=True,
            )
        except (Exception, SystemExit) as error:  # the converter has many kinds
            reason = first_line(error)
            raise UserError(f"format=litert: onnx2tf cannot convert this network ({reason})") from None
        write_bytes(path, Path(folder, "model_float32.tflite").read_bytes())


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
