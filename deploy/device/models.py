"""Loads models, makes their inputs and compares their outputs with the expected ones.

Copied to devices by `deploy.remote`, so it needs nothing but Python 3.8, NumPy and the models' runtime. A
model is described by its entry in the kit's manifest, see `deploy.remote.kit`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # fails without a home folder

SAME = 0.01
"""Two numbers match if they differ by at most this share of the largest number in the output."""
LIBRARIES = {"onnx": "onnxruntime", "openvino": "openvino"}
"""Format -> the library that runs it."""


def version(library: str) -> str:
    return str(__import__(library).__version__).split("-")[0]  # OpenVINO adds its commit and branch


def load(folder: Path, model: Mapping[str, Any], threads: int) -> Callable[[list[Any]], list[Any]]:
    """A function that runs the model: inputs -> outputs."""
    loaders = {"onnx": load_onnx, "openvino": load_openvino}
    return loaders[model["runtime"]](str(folder / model["file"]), threads)


def inputs(model: Mapping[str, Any]) -> list[Any]:
    """Inputs for the model: noise that is the same on every machine."""
    random = np.random.RandomState(0)  # its streams never change
    return [
        random.randint(0, 256, shape).astype(np.uint8)
        if dtype == "uint8"
        else (random.random_sample(shape) * 2 - 1).astype(dtype)
        for shape, dtype in model["inputs"]
    ]


def agreement(folder: Path, model: Mapping[str, Any], outputs: list[Any]) -> float:
    """Share of matching numbers in the output where it is smallest; 0 if a shape differs."""
    if len(outputs) != len(model["outputs"]):
        return 0.0
    shares = []
    with np.load(str(folder / model["expected"]), allow_pickle=False) as expected:
        for number, (output, about) in enumerate(zip(outputs, model["outputs"])):
            if list(output.shape) != about["shape"]:
                return 0.0
            values = expected[str(number)].astype(np.float64)
            found = np.asarray(output).ravel()[:: about["step"]].astype(np.float64)
            largest = float(np.abs(values).max()) if values.size else 0.0
            same = np.abs(found - values) <= SAME * max(largest, 1e-6)
            shares.append(float(same.mean()) if same.size else 1.0)
    return min(shares)


def load_onnx(path: str, threads: int) -> Callable[[list[Any]], list[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays)))  # type: ignore[no-any-return]


def load_openvino(path: str, threads: int) -> Callable[[list[Any]], list[Any]]:
    import openvino

    # As deploy.formats.openvino sets them.
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(path, "CPU", options)
    request = compiled.create_infer_request()
    outputs = tuple(compiled.outputs)

    def run(arrays: list[Any]) -> list[Any]:
        request.infer(arrays, share_inputs=True)
        return [np.array(request.get_tensor(output).data) for output in outputs]

    return run
