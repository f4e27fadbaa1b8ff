"""Builds a latency table: the layers of a network, with all or a share of their channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from torch import nn

from backbones.spec import NetSpec, make_divisible
from deploy.latency_table.layer_timing import LayerTimer
from deploy.latency_table.layers import Layer, layers_of
from deploy.latency_table.measurers import Measurer
from deploy.latency_table.table import LatencyTable
from deploy.timing.machine import describe
from engine.errors import UserError


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
    """Measure the layers of a network, each with all and with shares of its channels.

    Args:
        size, taps, head, model: as for `NetworkLatency`.
        shares: of the channels of every input, expansion and output, rounded to multiples of 8: with
            (1, 0.75, 0.5, 0.25) a search on another machine can interpolate down to a quarter.
        progress: called with the number of finished layers and of all layers.

    Raises:
        UserError: if a share is not in (0, 1], if there are none, or if there is a head but no `model`.
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise UserError(f"shares must be above 0 and at most 1, got {list(shares)}")
    table = LatencyTable(about={**provenance(measure, size), "network": spec.name})
    timer = LayerTimer(measure)
    options: dict[str, Any] = {"size": size, "taps": taps(spec) if callable(taps) else taps, "head": head}
    wanted: dict[Layer, NetSpec] = {}
    for layer in _grid(layers_of(spec, **options), spec, shares):
        wanted.setdefault(layer, spec)
    for layer, variant in _heads(spec, shares, **options) if head else ():
        wanted.setdefault(layer, variant)
    for done, (layer, variant) in enumerate(wanted.items(), start=1):
        table.add(layer, timer(layer, None if model is None else partial(model, variant)))
        if progress is not None:
            progress(done, len(wanted))
    for neighbor, ms in timer.neighbors.items():
        table.add(neighbor, ms)
    return table


def provenance(measure: Measurer, size: tuple[int, int]) -> dict[str, Any]:
    """The `about` entries of a table: machine, runtime and settings."""
    batch = {"dtype": "float32", "batch": 1, "size": list(size), "neighbors": "subtracted"}
    here = describe()
    if "cpu" in measure.about:  # another machine, which describes itself; the graphs were written by this one
        here = {key: here[key] for key in ("versions", "date", "git")}
    return {**here, **measure.about, **batch}


def _grid(network: Sequence[Layer], spec: NetSpec, shares: Sequence[float]) -> Iterator[Layer]:
    """The layers, followed by each of them (except the head) at the given shares of its channels."""
    yield from network
    for layer, (first, middle, end) in product(network, product(shares, repeat=3)):
        if layer.kind == "head":
            continue
        channels_in = 3 if layer.kind == "stem" else _share(layer.channels_in, first)
        exp = _share(layer.exp, middle) if layer.expands else channels_in
        if exp == channels_in and layer.expands and not layer.fused:
            continue  # a block without expansion, which is a different kind
        out = channels_in if layer.residual else _share(layer.out, end)
        squeezed = spec.se.squeezed(channels_in=channels_in, exp=exp) if layer.squeezed else 0
        yield replace(layer, channels_in=channels_in, exp=exp, out=out, squeezed=squeezed)


def _heads(spec: NetSpec, shares: Sequence[float], **options: Any) -> Iterator[tuple[Layer, NetSpec]]:
    """The head at shares of the expansions' channels and of all others, each with its network."""
    for inner, outer in product(shares, repeat=2):
        blocks = tuple(
            replace(block, exp=_share(block.exp, inner), out=_share(block.out, outer), residual=False)
            for block in spec.blocks
        )
        last = _share(spec.last, outer)
        variant = replace(spec, stem=_share(spec.stem, outer), blocks=blocks, last=last)
        yield layers_of(variant, **options)[-1], variant


def _share(channels: int, share: float) -> int:
    return make_divisible(channels * share) if channels and share < 1 else channels
