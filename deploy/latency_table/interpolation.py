"""Interpolates the time of a layer between measured layers that differ only in channels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import product
from typing import Any

from deploy.latency_table.layers import Layer

_NEAREST = 3
"""How many entries on each side, per axis, are tried as corners of the interpolation box."""

_CHANNELS = ("channels_in", "exp", "out", "squeezed", "inputs")


def interpolated_ms(layer: Layer, entries: Mapping[Layer, float]) -> float | None:
    """Milliseconds of a layer from those of `entries`; None if none of them surround it.

    Multilinear in the channels (input, expansion, output; for a head those of each feature), between the
    corners of the smallest box (by the product of its sides' ratios) that has an entry at every corner and
    the layer inside. Never extrapolates.
    """
    known = {_axes(other): ms for other, ms in entries.items() if _is_alike(other, layer)}
    at = _axes(layer)
    sides = [_sides(value, sorted({axes[i] for axes in known})) for i, value in enumerate(at)]
    for box in sorted(product(*sides), key=_extent):
        if all(corner in known for corner in product(*box)):
            return _multilinear(at, box, known)
    return None


def num_alike(layer: Layer, entries: Mapping[Layer, float]) -> int:
    """How many entries differ from a layer only in channels."""
    return sum(_is_alike(other, layer) for other in entries)


def _is_alike(one: Layer, other: Layer) -> bool:
    return _all_but_channels(one) == _all_but_channels(other)


def _all_but_channels(layer: Layer) -> tuple[Any, ...]:
    fixed = tuple(getattr(layer, f.name) for f in fields(layer) if f.name not in _CHANNELS)
    return (*fixed, layer.expands, layer.squeezed > 0, tuple(size[1:] for size in layer.inputs))


def _axes(layer: Layer) -> tuple[int, ...]:
    """The channels that can vary, without those that follow from others (residual, no expansion)."""
    if layer.kind == "head":
        return tuple(channels for channels, _, _ in layer.inputs)
    exp = (layer.exp,) if layer.expands else ()
    out = () if layer.residual else (layer.out,)
    return (layer.channels_in, *exp, *out)


def _sides(value: int, known: Sequence[int]) -> list[tuple[int, ...]]:
    """Sides of boxes around `value`: the value itself if it is known, and pairs of known values around it."""
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
