"""Measures the time of one layer as part of a network.

A graph has costs at its edges: the call, copying its input and output and, in runtimes with their own
memory layout for feature maps, converting them, once for each layer that reads an input. Inside a network
these costs do not occur. So a layer is timed between two neighbors, 1x1 depthwise convolutions, the
cheapest layers there are, and the neighbors' time is subtracted, with that of the graph's edges. A
neighbor and an edge on one feature map together take half as long as two neighbors in a row, which have
two edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deploy.latency_table.layers import HeadOf, Layer, module_of
from deploy.latency_table.measurers import Measurer
from engine.errors import UserError


class LayerTimer:
    """Times layers between neighbors with a measurer, and subtracts the neighbors and the edges of the graph.

    Args:
        measure: times a module.
        known: returns the time of a neighbor that was measured before, None for others.
    """

    def __init__(self, measure: Measurer, *, known: Callable[[Layer], float | None] = lambda _: None) -> None:
        self.measure, self._known = measure, known
        self.neighbors: dict[Layer, float] = {}

    def __call__(self, layer: Layer, model: Callable[[], nn.Module] | None = None) -> float:
        """The layer's share of a network's time, in ms; 0 if it takes no longer than its neighbors.

        Args:
            model: builds the whole model that a head belongs to.

        Raises:
            UserError: if the layer is a head and there is no `model`.
        """
        if layer.kind == "neighbor":
            return self._neighbor(layer)
        if layer.kind == "head":
            if model is None:
                raise UserError(
                    f"the table has no entry for {layer.name}, and there is no model to measure it with"
                )
            module: nn.Module = HeadOf(model())
        else:
            module = module_of(layer)
        before, after = neighbors_before(layer), neighbors_after(layer)
        with torch.no_grad():
            inputs = [_random(*size) for size in input_sizes(layer)]
            ms = self.measure(Between(before, module, after), inputs)
            return max(0.0, ms - sum(map(self._neighbor, [*before, *after])))

    def _neighbor(self, neighbor: Layer) -> float:
        if neighbor not in self.neighbors:
            ms = self._known(neighbor)
            self.neighbors[neighbor] = self._half_of_two(neighbor) if ms is None else ms
        return self.neighbors[neighbor]

    def _half_of_two(self, neighbor: Layer) -> float:
        inputs = [_random(neighbor.channels_in, neighbor.height, neighbor.width)]
        return self.measure(nn.Sequential(_cheapest(neighbor), _cheapest(neighbor)), inputs) / 2


class Between(nn.Module):
    """A layer between its neighbors: one for each input, or none, and one for its output, or none."""

    def __init__(self, before: Sequence[Layer], layer: nn.Module, after: Sequence[Layer]) -> None:
        super().__init__()
        self.before = nn.ModuleList(map(_cheapest, before))
        self.layer = layer
        self.after = nn.Sequential(*map(_cheapest, after))

    def forward(self, *inputs: Tensor) -> Any:
        if self.before:
            inputs = tuple(neighbor(x) for neighbor, x in zip(self.before, inputs, strict=True))
        output = self.layer(*inputs)
        return self.after(output) if self.after else output


def input_sizes(layer: Layer) -> tuple[tuple[int, int, int], ...]:
    """(channels, height, width) of each input of a layer."""
    return layer.inputs or ((layer.channels_in, layer.height, layer.width),)


def neighbors_before(layer: Layer) -> list[Layer]:
    """One per input, except for the stem, whose input is the network's."""
    return [] if layer.kind == "stem" else [_on(*size) for size in input_sizes(layer)]


def neighbors_after(layer: Layer) -> list[Layer]:
    """One, except for a head, whose outputs are the network's."""
    channels = layer.out or layer.exp
    if not channels:
        return []
    return [_on(channels, -(-layer.height // layer.stride), -(-layer.width // layer.stride))]


def _on(channels: int, height: int, width: int) -> Layer:
    return Layer(kind="neighbor", channels_in=channels, height=height, width=width)


def _cheapest(neighbor: Layer) -> nn.Module:
    return nn.Conv2d(neighbor.channels_in, neighbor.channels_in, 1, groups=neighbor.channels_in)


def _random(channels: int, height: int, width: int) -> Tensor:
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0))
