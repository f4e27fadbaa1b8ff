"""A device's latency table: the time of a network is the sum of the times of its layers.

The file is JSON, and can come from any device and program that writes this format:

    {"format": 1, "device": "...", "runtime": "onnx", "threads": 1, ..., "layers": [
        {"kind": "block", "channels_in": 16, "exp": 64, "out": 24, "kernel": 3, "stride": 2, "act": "RE",
         "height": 180, "width": 240, "latency_ms": 1.234}, ...]}

The keys of an entry are the fields of `deploy.latency_table.layers.Layer`; those with their default value are
left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.eager import current_name
from deploy.latency_table.interpolation import interpolated_ms, num_alike
from deploy.latency_table.layers import Layer
from engine.errors import UserError
from engine.io.files import write_json

FORMAT = 1


class NotInTable(UserError):
    """A layer is neither in a table nor between its entries."""


class LatencyTable:
    """Times of layers in milliseconds, with their origin.

    Args:
        about: device, runtime and so on, as plain values.
    """

    def __init__(self, *, about: Mapping[str, Any], entries: Mapping[Layer, float] | None = None) -> None:
        self.about = dict(about)
        self.entries = dict(entries or {})
        self._interpolated: dict[Layer, float] = {}

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read a table. Raises: UserError if the file is unreadable or not a table of this format."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise UserError(f"{path}: not a readable latency table ({reason})") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError(
                f"{path}: not a latency table of format {FORMAT}; create one with "
                "tools/benchmark.py table=latency"
            )
        rows = content.pop("layers", None)
        if not isinstance(rows, list):
            raise UserError(f"{path}: layers must be a list of entries")
        table = cls(about={key: value for key, value in content.items() if key != "format"})
        if isinstance(runtime := table.about.get("runtime"), str):
            table.about["runtime"] = current_name(runtime)
        for number, row in enumerate(rows):
            try:
                entry = dict(row)
                latency_ms = float(entry.pop("latency_ms"))
                table.add(Layer.from_dict(entry), latency_ms)
            except KeyError:
                raise UserError(f"{path}: layers[{number}] has no latency_ms") from None
            except (TypeError, ValueError) as error:
                raise UserError(f"{path}: layers[{number}]: {error}") from None
        return table

    def save(self, path: Path) -> None:
        """Write the table atomically. Raises: UserError if that fails."""
        rows = [{**layer.to_dict(), "latency_ms": round(ms, 6)} for layer, ms in self.entries.items()]
        write_json(path, {"format": FORMAT, **self.about, "layers": rows})

    def add(self, layer: Layer, latency_ms: float) -> None:
        """Add or replace an entry. Raises: UserError if the time is negative or not finite."""
        if not (math.isfinite(latency_ms) and latency_ms >= 0):
            raise UserError(f"latency_ms must be a number of at least 0, got {latency_ms}")
        # Rounded as in the file, so a table gives the same times after it is saved and loaded.
        self.entries[layer] = round(latency_ms, 6)
        self._interpolated.clear()

    def layer_ms(self, layer: Layer) -> float:
        """The time of one layer: its entry, or the interpolation between others.

        Raises:
            NotInTable: if there is neither.
        """
        if layer in self.entries:
            return self.entries[layer]
        if layer not in self._interpolated:
            ms = interpolated_ms(layer, self.entries)
            if ms is None:
                raise NotInTable(
                    f"the latency table has no entry for {layer.name} and no entries to interpolate between "
                    f"({num_alike(layer, self.entries)} of this kind and size); measure more channels, or "
                    "search on the device itself"
                )
            self._interpolated[layer] = ms
        return self._interpolated[layer]

    def latency_ms(self, network: Sequence[Layer]) -> float:
        """The time of a network: the sum over its layers."""
        return sum(map(self.layer_ms, network))
