"""Runs modules, such as the layers of a network, in one runtime and measures their time."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from deploy.eager import EAGER, current_name
from deploy.formats.onnx import INSTALL, OPSET, inference_session, onnxruntime
from deploy.libraries import require
from deploy.timing.latency import Latency, Rounds, clocked, take_rounds
from engine.errors import UserError
from engine.runtime import keep_freed_memory

RUNTIMES = (EAGER, "onnx", "openvino", "executorch", "ncnn")


QUICK = Rounds(warmup=5, least=15, most=400, interval=0.02, budget_s=1.0)
"""Rounds for one layer: at most a second."""
WHOLE = 5
"""How many times longer other devices measure a whole network than a layer."""


class Measurer(Protocol):
    """Times modules in one runtime; `about` describes the runtime and the settings."""

    about: dict[str, Any]

    def __call__(self, module: nn.Module, inputs: Sequence[Tensor]) -> float:
        """The median time of one call, in milliseconds."""
        ...


class LocalMeasurer(ABC):
    """Times modules in a runtime of this machine."""

    about: dict[str, Any]
    rounds: Rounds

    def __call__(self, module: nn.Module, inputs: Sequence[Tensor]) -> float:
        return self.median_ms(self.program(module, inputs))

    @abstractmethod
    def program(self, module: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], Any]:
        """The module in the runtime, ready to be called again and again on these inputs."""

    def median_ms(self, program: Callable[[], Any]) -> float:
        return Latency.of(take_rounds({"": clocked(program)}, self.rounds)[""]).p50


class TorchMeasurer(LocalMeasurer):
    """Eager torch on the CPU, in eval mode.

    Args:
        threads: number of torch threads while measuring.
        rounds: number of rounds.

    Raises:
        UserError: if `threads` is below 1.
    """

    def __init__(self, *, threads: int = 1, rounds: Rounds = QUICK) -> None:
        self.threads, self.rounds = _checked(threads), rounds
        self.about = settings(EAGER, version("torch"), threads, rounds)
        # Otherwise the kernel allocates each large feature map again, which can cost more than the layer.
        keep_freed_memory()

    def program(self, module: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], Any]:
        return partial(module.eval(), *inputs)

    def median_ms(self, program: Callable[[], Any]) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                return super().median_ms(program)
        finally:
            torch.set_num_threads(before)


class OnnxMeasurer(LocalMeasurer):
    """ONNX Runtime on the CPU, with the graph that the ONNX export writes.

    Raises:
        UserError: if `threads` is below 1, or if ONNX Runtime or the exporter is not installed.
    """

    def __init__(self, *, threads: int = 1, rounds: Rounds = QUICK) -> None:
        self.threads, self.rounds = _checked(threads), rounds
        library = onnxruntime()
        require("onnxscript", INSTALL)
        self.about = settings("onnx", library.__version__, threads, rounds)

    def program(self, module: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], Any]:
        graph = onnx_graph(module.eval(), tuple(inputs))
        session = inference_session(graph, threads=self.threads)
        names = [entry.name for entry in session.get_inputs()]
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return partial(session.run, None, feed)


class FormatMeasurer(LocalMeasurer):
    """The runtime of an export format, on the CPU, with what its converter makes of a module.

    Args:
        runtime: `openvino`, `executorch` or `ncnn`.

    Raises:
        UserError: if `threads` is below 1, or if the format's libraries are not installed.
    """

    def __init__(self, runtime: str, *, threads: int = 1, rounds: Rounds = QUICK) -> None:
        self.threads, self.rounds = _checked(threads), rounds
        self.format = import_module(f"deploy.formats.{runtime}")
        for library in self.format.LIBRARIES:
            require(library, self.format.INSTALL)
        self.about = settings(runtime, version(self.format.LIBRARIES[-1]), threads, rounds)

    def program(self, module: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], Any]:
        run = self.format.load_program(_program(module.eval(), tuple(inputs)), threads=self.threads)
        arrays = [tensor.numpy() for tensor in inputs]
        return partial(run, arrays)


def measurer(runtime: str, *, threads: int = 1, rounds: Rounds = QUICK) -> LocalMeasurer:
    """The measurer for one of `RUNTIMES`. Raises: UserError if it is unknown, or not installed."""
    runtime = current_name(runtime)
    if runtime not in RUNTIMES:
        raise UserError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
    if runtime == EAGER:
        return TorchMeasurer(threads=threads, rounds=rounds)
    if runtime == "onnx":
        return OnnxMeasurer(threads=threads, rounds=rounds)
    return FormatMeasurer(runtime, threads=threads, rounds=rounds)


def onnx_graph(module: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """The ONNX file of a module, as the ONNX export writes it."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            _program(module, inputs), dynamo=True, opset_version=OPSET, verbose=False
        )
    assert exported is not None
    graph: bytes = exported.model_proto.SerializeToString()
    return graph


def _program(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.export.export(module, inputs)


def settings(runtime: str, library_version: str, threads: int, rounds: Rounds) -> dict[str, Any]:
    """What a measurer's `about` says about the runtime and the rounds."""
    how = {"warmup": rounds.warmup, "repeats": [rounds.least, rounds.most], "statistic": "median"}
    return {"runtime": runtime, "runtime_version": library_version, "threads": threads, **how}


def _checked(threads: int) -> int:
    if threads < 1:
        raise UserError(f"threads must be at least 1, got {threads}")
    return threads
