"""Measures the time of one layer as part of a network.

A layer that runs alone has extra costs at the edges of its graph: the call, copying its input and output and,
in runtimes with their own memory layout for feature maps (ONNX Runtime uses blocks of channels), converting
them. Inside a network these costs do not occur, so they are subtracted. The cost of an edge is measured per
feature map with the cheapest layer, a 1x1 depthwise convolution: one of them takes its own time and two
edges, two in a row take twice their own time and two edges, so an edge costs once - twice / 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from deploy.latency_table.layers import HeadOf, Layer, module_of
from deploy.latency_table.measurers import Measurer
from engine.errors import UserError


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


def _cheapest(channels: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 1, groups=channels)


def _random(channels: int, height: int, width: int) -> Tensor:
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0))
