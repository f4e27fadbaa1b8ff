"""A latency table of another device, checked against the time of the whole network there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from deploy.latency_table.build import build_table
from deploy.latency_table.layers import layers_of
from deploy.latency_table.measurers import Measurer
from deploy.latency_table.table import LatencyTable
from deploy.latency_table.timed_network import TimedNetwork
from engine.data.preprocessing import Size


@dataclass(frozen=True, kw_only=True)
class CheckedTable:
    """A table, the sum of the network's layers, and the time of the whole network, in ms.

    network_ms: None for a network without a model.
    """

    table: LatencyTable
    sum_ms: float
    network_ms: float | None

    def text(self, where: str) -> str:
        """A line with both times and their difference. where: such as `in the same browser`."""
        text = f"sum of the network's layers: {self.sum_ms:.3g} ms"
        if self.network_ms is None:
            return text
        error = self.sum_ms / self.network_ms - 1
        return f"{text}; whole network {where}: {self.network_ms:.3g} ms ({error:+.1%})"


def check_table(
    network: TimedNetwork,
    *,
    size: Size,
    measure: Measurer,
    shares: Sequence[float],
    progress: Callable[[int, int], None] | None = None,
) -> CheckedTable:
    """Measure the layers and, before and after them, the whole network: small devices slow down when hot.

    The first measurement is discarded: browsers optimize WebAssembly while it runs.
    """
    whole = None if network.model is None else network.model(network.spec)
    image = torch.rand(1, 3, *size)
    times = [] if whole is None else [measure(whole, (image,)) for _ in range(2)][1:]
    table = build_table(
        network.spec, size=size, measure=measure, shares=shares, progress=progress, **network.model_options
    )
    times += [] if whole is None else [measure(whole, (image,))]
    taps = None if network.taps is None else network.taps(network.spec)
    sum_ms = table.latency_ms(layers_of(network.spec, size=size, taps=taps, head=network.head))
    table.about |= {"sum_ms": round(sum_ms, 6), "network_ms": [round(ms, 6) for ms in times]}
    return CheckedTable(table=table, sum_ms=sum_ms, network_ms=sum(times) / len(times) if times else None)
