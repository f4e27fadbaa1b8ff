"""Measures the time of one layer as part of a network.

A layer that runs alone has extra costs at the edges of its graph: the call, copying its input and output and,
in runtimes with their own memory layout for feature maps (ONNX Runtime uses blocks of channels), converting
them. Inside a network these costs do not occur, so they are subtracted. The cost of an edge is measured per
feature map with the cheapest layer, a 1x1 depthwise convolution: one of them takes its own time and two
edges, two in a row take twice their own time and two edges, so an edge costs once - twice / 2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deploy.formats.onnx import INSTALL, OPSET, inference_session, onnxruntime
from deploy.latency_table.layers import HeadOf, Layer, module_of
from deploy.libraries import require
from deploy.timing.latency import Latency, Rounds, clocked, take_rounds
from engine.errors import UserError
from engine.runtime import keep_freed_memory

RUNTIMES = ("torch", "onnx")


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


class TorchMeasurer:
    """Eager torch on the CPU, in eval mode.

    Args:
        threads: number of torch threads while measuring.
        rounds: number of rounds.

    Raises:
        UserError: if `threads` is below 1.
    """

    def __init__(self, *, threads: int = 1, rounds: Rounds = QUICK) -> None:
        self.threads, self.rounds = _checked(threads), rounds
        self.about = settings("torch", version("torch"), threads, rounds)
        # Otherwise the kernel allocates each large feature map again, which can cost more than the layer.
        keep_freed_memory()

    def __call__(self, module: nn.Module, inputs: Sequence[Tensor]) -> float:
        module, before = module.eval(), torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                return _median(lambda: module(*inputs), self.rounds)
        finally:
            torch.set_num_threads(before)


class OnnxMeasurer:
    """ONNX Runtime on the CPU, with the graph that the ONNX export writes.

    Raises:
        UserError: if `threads` is below 1, or if ONNX Runtime or the exporter is not installed.
    """

    def __init__(self, *, threads: int = 1, rounds: Rounds = QUICK) -> None:
        self.threads, self.rounds = _checked(threads), rounds
        library = onnxruntime()
        require("onnxscript", INSTALL)
        self.about = settings("onnx", library.__version__, threads, rounds)

    def __call__(self, module: nn.Module, inputs: Sequence[Tensor]) -> float:
        graph = onnx_graph(module.eval(), tuple(inputs))
        session = inference_session(graph, threads=self.threads)
        names = [entry.name for entry in session.get_inputs()]
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return _median(lambda: session.run(None, feed), self.rounds)


def measurer(runtime: str, *, threads: int = 1, rounds: Rounds = QUICK) -> Measurer:
    """The measurer for a runtime, `torch` or `onnx`. Raises: UserError if it is unknown."""
    if runtime == "torch":
        return TorchMeasurer(threads=threads, rounds=rounds)
    if runtime == "onnx":
        return OnnxMeasurer(threads=threads, rounds=rounds)
    raise UserError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")


class LayerTimer:
    """Times layers with a measurer, and subtracts the edges of their graphs.

    Args:
        measure: times a module.
        known: returns the time of an edge that was measured before, None for others.
    """

    def __init__(self, measure: Measurer, *, known: Callable[[Layer], float | None] = lambda _: None) -> None:
        self.measure, self._known = measure, known
        self.edges: dict[Layer, float] = {}

    def __call__(self, layer: Layer, model: Callable[[], nn.Module] | None = None) -> float:
        """The layer's share of a network's time, in ms; 0 if it takes no longer than its edges.

        Args:
            model: builds the whole model that a head belongs to.

        Raises:
            UserError: if the layer is a head and there is no `model`.
        """
        if layer.kind == "edge":
            return self._edge(layer)
        if layer.kind == "head":
            if model is None:
                raise UserError(
                    f"the table has no entry for {layer.name}, and there is no model to measure it with"
                )
            module: nn.Module = HeadOf(model())
        else:
            module = module_of(layer)
        with torch.no_grad():
            inputs = [_random(*size) for size in input_sizes(layer)]
            return max(0.0, self.measure(module, inputs) - sum(map(self._edge, inner_edges(layer))))

    def _edge(self, edge: Layer) -> float:
        if edge not in self.edges:
            known = self._known(edge)
            self.edges[edge] = self._measured_edge(edge) if known is None else known
        return self.edges[edge]

    def _measured_edge(self, edge: Layer) -> float:
        channels = edge.channels_in
        inputs = [_random(channels, edge.height, edge.width)]
        once, twice = (
            self.measure(nn.Sequential(*(_cheapest(channels) for _ in range(count))), inputs)
            for count in (1, 2)
        )
        return max(0.0, once - twice / 2)


def input_sizes(layer: Layer) -> tuple[tuple[int, int, int], ...]:
    """(channels, height, width) of each input of a layer."""
    return layer.inputs or ((layer.channels_in, layer.height, layer.width),)


def inner_edges(layer: Layer) -> Iterable[Layer]:
    """The edges that a layer has when it runs alone but not in its network.

    The stem's input and the head's output are edges of the network too.
    """
    maps = list(input_sizes(layer)) if layer.kind != "stem" else []
    if channels := layer.out or layer.exp:
        maps.append((channels, -(-layer.height // layer.stride), -(-layer.width // layer.stride)))
    return [Layer(kind="edge", channels_in=c, height=h, width=w) for c, h, w in maps]


def onnx_graph(module: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """The ONNX file of a module, as the ONNX export writes it."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, inputs)
        exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False)
    assert exported is not None
    graph: bytes = exported.model_proto.SerializeToString()
    return graph


def _cheapest(channels: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 1, groups=channels)


def _random(channels: int, height: int, width: int) -> Tensor:
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0))


def _median(run: Callable[[], Any], rounds: Rounds) -> float:
    return Latency.of(take_rounds({"": clocked(run)}, rounds)[""]).p50


def settings(runtime: str, library_version: str, threads: int, rounds: Rounds) -> dict[str, Any]:
    """What a measurer's `about` says about the runtime and the rounds."""
    how = {"warmup": rounds.warmup, "repeats": [rounds.least, rounds.most], "statistic": "median"}
    return {"runtime": runtime, "runtime_version": library_version, "threads": threads, **how}


def _checked(threads: int) -> int:
    if threads < 1:
        raise UserError(f"threads must be at least 1, got {threads}")
    return threads
