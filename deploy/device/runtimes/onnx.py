"""Runs a model with ONNX Runtime: `load(path)(images)` -> its outputs, in their order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray


def load(path: Path, *, threads: int = 1) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: list(session.run(None, {"images": images}))
