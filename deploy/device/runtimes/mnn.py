"""Runs a model with MNN: `load(path)(images)` -> its outputs, in their order."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@contextlib.contextmanager
def _printing_to_stderr() -> Iterator[None]:
    """MNN describes the CPU on standard output, where a program's results belong."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


with _printing_to_stderr():
    import MNN


def load(path: Path, *, threads: int = 1) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    # Arithmetic in float32: with another precision, MNN computes in float16 or bfloat16 where the CPU can.
    config = {"backend": "CPU", "numThread": threads, "precision": "high"}
    with _printing_to_stderr():
        manager = MNN.nn.create_runtime_manager((config,))
        net = MNN.nn.load_module_from_file(str(path), [], [], runtime_manager=manager)
    order = MNN.expr.NCHW

    def run(images: NDArray[Any]) -> list[NDArray[Any]]:
        variable = MNN.expr.placeholder(list(images.shape), order, MNN.expr.float)
        variable.write(np.ascontiguousarray(images, np.float32))
        return [np.array(MNN.expr.convert(output, order).read()) for output in net.forward([variable])]

    return run
