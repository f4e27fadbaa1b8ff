"""A device's latency table: the time of a network is the sum of the times of its layers.

The file is JSON, and may come from any device and any program that writes this format:

    {"format": 1, "device": "...", "runtime": "onnx", "threads": 1, ..., "layers": [
        {"kind": "block", "channels_in": 16, "exp": 64, "out": 24, "kernel": 3, "stride": 2, "act": "RE",
         "height": 180, "width": 240, "latency_ms": 1.234}, ...]}

The keys of an entry are those of `deploy.latency_table.layers.Layer`, the ones that have their default left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from backbones.spec import NetSpec, make_divisible
from deploy.latency_table.layer_timing import LayerTimer, Measurer
from deploy.latency_table.layers import Layer, layers
from deploy.timing.machine import describe
from engine.errors import UserError
from engine.io.files import write_json

FORMAT = 1


_NEAREST = 3
"""How many entries on each side of an axis may become a corner of the box that is interpolated in."""


class NotInTable(UserError):
    """A layer that is neither in a table nor between its entries."""


class LatencyTable:
    """Times of layers, in milliseconds, and where they come from.

    Args:
        about: provenance, plain values.
    """

    def __init__(self, *, about: Mapping[str, Any], entries: Mapping[Layer, float] | None = None) -> None:
        self.about = dict(about)
        self.entries = dict(entries or {})
        self._interpolated: dict[Layer, float] = {}

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Raises: UserError where the file is unreadable or no table of this format."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise UserError(f"{path}: unreadable latency table ({reason})") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError(f"{path}: no latency table of format {FORMAT}; make one with tools/benchmark.py")
        rows = content.pop("layers", None)
        if not isinstance(rows, list):
            raise UserError(f"{path}: layers must be a list of entries")
        table = cls(about={key: value for key, value in content.items() if key != "format"})
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
        """Write the table in one rename. Raises: UserError where that fails."""
        rows = [{**layer.to_dict(), "latency_ms": round(ms, 6)} for layer, ms in self.entries.items()]
        write_json(path, {"format": FORMAT, **self.about, "layers": rows})

    def add(self, layer: Layer, latency_ms: float) -> None:
        """Raises: ValueError for a time that is negative or not finite."""
        if not (math.isfinite(latency_ms) and latency_ms >= 0):
            raise ValueError(f"latency_ms must be a number of at least 0, got {latency_ms}")
        # As the file holds it, so that a table that was read again says the same.
        self.entries[layer] = round(latency_ms, 6)
        self._interpolated.clear()

    def layer_ms(self, layer: Layer) -> float:
        """The time of one layer: its entry, or what `interpolate` finds."""
        if layer in self.entries:
            return self.entries[layer]
        if layer not in self._interpolated:
            self._interpolated[layer] = self.interpolate(layer)
        return self._interpolated[layer]

    def latency_ms(self, network: Sequence[Layer]) -> float:
        """The time of a network: the sum over its layers."""
        return sum(map(self.layer_ms, network))

    def interpolate(self, layer: Layer) -> float:
        """The time of a layer between entries that differ from it in nothing but channels.

        Multilinear in the channels (input, expansion, output; those of each feature for a head): the time at
        the corners of the smallest box, in the product of its sides' ratios, that has an entry at every
        corner and the layer inside. Never outside of what was measured.

        Raises:
            NotInTable: there is no such box.
        """
        family = _family(layer)
        known = {_axes(other): ms for other, ms in self.entries.items() if _family(other) == family}
        at = _axes(layer)
        sides = [_sides(value, sorted({axes[i] for axes in known})) for i, value in enumerate(at)]
        for box in sorted(product(*sides), key=_extent):
            if all(corner in known for corner in product(*box)):
                return _multilinear(at, box, known)
        raise NotInTable(
            f"the latency table has no entry for {layer.name} and none around it to interpolate between "
            f"({len(known)} of this kind and size): measure more channels, or search on the device itself"
        )


class NetworkLatency:
    """Predicts and measures the latency of networks that are variants of one model.

    Args:
        table: what is known; grows by what is measured.
        size: (height, width) of the image.
        taps: features that the model reads, or what tells them for a spec.
        head: name of what the model does with them ("": only the backbone counts).
        model: makes the whole model of a spec, for its head and to be measured whole.
        measure: times what the table lacks (None: interpolate).
        path: file that the table is kept in whenever it has grown.
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
        return layers(spec, size=self.size, taps=taps, head=self.head)

    def __call__(self, spec: NetSpec) -> float:
        """The predicted latency in ms. Raises: UserError where the table has too little."""
        network = self.layers(spec)
        self.complete(network, spec)
        return self.table.latency_ms(network)

    def complete(self, network: Sequence[Layer], spec: NetSpec) -> None:
        """Measure what the table lacks, where there is something to measure with."""
        if self._timer is None:
            return
        missing = [layer for layer in dict.fromkeys(network) if layer not in self.table.entries]
        model = None if self.model is None else partial(self.model, spec)
        for layer in missing:
            self.table.add(layer, self._timer(layer, model))
        for edge, ms in self._timer.edges.items():
            if edge not in self.table.entries:
                self.table.add(edge, ms)
        if missing and self.path is not None:
            self.table.save(self.path)

    def measured_ms(self, module: nn.Module, image: Any) -> float | None:
        """The latency of a whole model on one image [1, 3, H, W]; None where nothing is measured here."""
        return None if self.measure is None else self.measure(module, (image,))


def build_table(
    spec: NetSpec,
    *,
    size: tuple[int, int],
    measure: Measurer,
    taps: Sequence[str] | Callable[[NetSpec], Sequence[str]] | None = None,
    head: str = "",
    model: Callable[[NetSpec], nn.Module] | None = None,
    shares: Sequence[float] = (1.0,),
    progress: Callable[[int, int], None] | None = None,
) -> LatencyTable:
    """Measure the layers of a network, each also with shares of its channels.

    Args:
        shares: of the channels of every input, expansion and output, rounded to multiples of 8: with
            (1, 0.75, 0.5, 0.25) a search on another machine can interpolate down to a quarter.
        progress: called with the layers done and their number.

    Raises:
        ValueError: a share outside of (0, 1], or none.
        UserError: a head without `model`.
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"shares must lie in (0, 1], got {list(shares)}")
    table = LatencyTable(about={**provenance(measure, size), "network": spec.name})
    timer = LayerTimer(measure)
    options: dict[str, Any] = {"size": size, "taps": taps(spec) if callable(taps) else taps, "head": head}
    wanted: dict[Layer, NetSpec] = {}
    for layer in _grid(layers(spec, **options), spec, shares):
        wanted.setdefault(layer, spec)
    for layer, variant in _heads(spec, shares, **options) if head else ():
        wanted.setdefault(layer, variant)
    for done, (layer, variant) in enumerate(wanted.items(), start=1):
        table.add(layer, timer(layer, None if model is None else partial(model, variant)))
        if progress is not None:
            progress(done, len(wanted))
    for edge, ms in timer.edges.items():
        table.add(edge, ms)
    return table


def provenance(measure: Measurer, size: tuple[int, int]) -> dict[str, Any]:
    """What a table says about where it comes from."""
    batch = {"dtype": "float32", "batch": 1, "size": list(size), "edges": "taken off"}
    return {**describe(), **measure.about, **batch}


def _grid(network: Sequence[Layer], spec: NetSpec, shares: Sequence[float]) -> Iterator[Layer]:
    """The layers, and each of them (the head excepted) at the given shares of its channels."""
    yield from network
    for layer, (first, middle, end) in product(network, product(shares, repeat=3)):
        if layer.kind == "head":
            continue
        channels_in = 3 if layer.kind == "stem" else _share(layer.channels_in, first)
        exp = channels_in if layer.exp == layer.channels_in else _share(layer.exp, middle)
        if exp == channels_in and layer.exp != layer.channels_in:
            continue  # a block without expansion, which is another kind
        out = channels_in if layer.residual else _share(layer.out, end)
        squeezed = spec.se.squeezed(channels_in=channels_in, exp=exp) if layer.squeezed else 0
        yield replace(layer, channels_in=channels_in, exp=exp, out=out, squeezed=squeezed)


def _heads(spec: NetSpec, shares: Sequence[float], **options: Any) -> Iterator[tuple[Layer, NetSpec]]:
    """The head on shares of the expansions' channels and of the others, with a network for each."""
    for inner, outer in product(shares, repeat=2):
        blocks = tuple(
            replace(block, exp=_share(block.exp, inner), out=_share(block.out, outer), residual=False)
            for block in spec.blocks
        )
        last = _share(spec.last, outer)
        variant = replace(spec, stem=_share(spec.stem, outer), blocks=blocks, last=last)
        yield layers(variant, **options)[-1], variant


def _share(channels: int, share: float) -> int:
    return make_divisible(channels * share) if channels and share < 1 else channels


_CHANNELS = ("channels_in", "exp", "out", "squeezed", "inputs")


def _family(layer: Layer) -> tuple[Any, ...]:
    """All that the time depends on but the channels."""
    fixed = tuple(getattr(layer, f.name) for f in fields(layer) if f.name not in _CHANNELS)
    expands = layer.exp != layer.channels_in
    return (*fixed, expands, layer.squeezed > 0, tuple(size[1:] for size in layer.inputs))


def _axes(layer: Layer) -> tuple[int, ...]:
    """The channels that may differ: those that follow from others (residual, no expansion) are left out."""
    if layer.kind == "head":
        return tuple(channels for channels, _, _ in layer.inputs)
    exp = (layer.exp,) if layer.exp != layer.channels_in else ()
    out = () if layer.residual else (layer.out,)
    return (layer.channels_in, *exp, *out)


def _sides(value: int, known: Sequence[int]) -> list[tuple[int, ...]]:
    """Sides of a box with `value` inside: itself where it is known, and pairs of known values around it."""
    below = [other for other in known if other < value][-_NEAREST:]
    above = [other for other in known if other > value][:_NEAREST]
    return [(value,)] * (value in known) + list(product(below, above))


def _extent(box: tuple[tuple[int, ...], ...]) -> float:
    return sum(math.log(side[-1] / side[0]) for side in box if len(side) > 1)


def _multilinear(
    at: tuple[int, ...], box: tuple[tuple[int, ...], ...], known: Mapping[tuple[int, ...], float]
) -> float:
    total = 0.0
    for corner in product(*box):
        weight = 1.0
        for value, side, end in zip(at, box, corner, strict=True):
            if len(side) > 1:
                share = (value - side[0]) / (side[1] - side[0])
                weight *= share if end == side[1] else 1 - share
        total += weight * known[corner]
    return total
