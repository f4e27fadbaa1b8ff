"""Runs a model with OpenVINO: `load(path)(images)` -> its outputs, in their order."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# OpenVINO's telemetry fails without a home folder; as if it were not installed:
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402


def load(path: Path, *, threads: int = 1) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    # float32: the default on CPUs with bf16 is bf16, which changes results.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    model = openvino.Core().compile_model(str(path), "CPU", options)
    return lambda images: [np.array(output) for output in model([images]).values()]
