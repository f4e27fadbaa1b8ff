"""Runs a model with LiteRT: `load(path)(images)` -> its outputs, in their order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray


def load(path: Path, *, threads: int = 1) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    (images,) = interpreter.get_input_details()
    outputs = [output["index"] for output in interpreter.get_output_details()]

    def run(array: NDArray[Any]) -> list[NDArray[Any]]:
        interpreter.set_tensor(images["index"], array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return run
