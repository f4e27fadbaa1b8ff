"""The latency of variants of one model, from a table that can grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from backbones.spec import NetSpec
from deploy.latency_table.layer_timing import LayerTimer
from deploy.latency_table.layers import Layer, layers_of
from deploy.latency_table.measurers import Measurer
from deploy.latency_table.table import LatencyTable
from engine.io.progress import PATIENCE_S, Progress


class NetworkLatency:
    """Predicts and measures the latency of variants of one model.

    Args:
        table: known times; new measurements are added to it.
        size: (height, width) of the image.
        taps: features that the model uses, or a function of the spec that returns them.
        head: name of the model's head ("": only the backbone is timed).
        model: builds the whole model for a spec, to measure its head or all of it.
        measure: times layers that are missing in the table (None: interpolate).
        path: file to save the table to whenever it grows.
    """

    def __init__(
        self,
        *,
        table: LatencyTable,
        size: tuple[int, int],
        taps: Sequence[str] | Callable[[NetSpec], Sequence[str]] | None = None,
        head: str = "",
        model: Callable[[NetSpec], nn.Module] | None = None,
        measure: Measurer | None = None,
        path: Path | None = None,
    ) -> None:
        self.table, self.size, self.taps, self.head = table, size, taps, head
        self.model, self.measure, self.path = model, measure, path
        self._timer = None if measure is None else LayerTimer(measure, known=table.entries.get)

    def layers(self, spec: NetSpec) -> list[Layer]:
        taps = self.taps(spec) if callable(self.taps) else self.taps
        return layers_of(spec, size=self.size, taps=taps, head=self.head)

    def __call__(self, spec: NetSpec) -> float:
        """The predicted latency in ms. Raises: UserError if entries are missing in the table."""
        network = self.layers(spec)
        self.complete(network, spec)
        return self.table.latency_ms(network)

    def complete(self, network: Sequence[Layer], spec: NetSpec) -> None:
        """Measure layers that are missing in the table, if there is a measurer."""
        if self._timer is None:
            return
        missing = [layer for layer in dict.fromkeys(network) if layer not in self.table.entries]
        model = None if self.model is None else partial(self.model, spec)
        progress = Progress(len(missing), unit="layer measured", after=PATIENCE_S)
        for done, layer in enumerate(missing, start=1):
            self.table.add(layer, self._timer(layer, model))
            progress.update(done)
        progress.close()
        for neighbor, ms in self._timer.neighbors.items():
            if neighbor not in self.table.entries:
                self.table.add(neighbor, ms)
        if missing and self.path is not None:
            self.table.save(self.path)

    def measured_ms(self, module: nn.Module, image: Any) -> float | None:
        """The latency of a whole model on one image [1, 3, H, W]; None if there is no measurer."""
        return None if self.measure is None else self.measure(module, (image,))
