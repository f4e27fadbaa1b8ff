"""NetAdapt's proposals: for everything that can be cut, the smallest cut that saves enough time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backbones.spec import NetSpec
from deploy.latency_table.table import NotInTable
from nas.netadapt.pruning import Unit, narrowed


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A unit cut to `channels`, the spec that this gives, and its predicted latency."""

    unit: Unit
    channels: int
    spec: NetSpec
    latency_ms: float


def propose(
    spec: NetSpec,
    units: Sequence[Unit],
    latency: Callable[[NetSpec], float],
    *,
    target_ms: float,
    divisor: int = 8,
) -> list[Proposal]:
    """For each unit the widest multiple of `divisor` with which the network takes at most `target_ms`.

    Units for which there is none, or none that the latency table knows, are left out. Latency is taken to
    rise with channels, within the steps that real devices have: of two sizes that border on each other, the
    wider is too slow and the narrower is not.

    Raises:
        ValueError: a divisor below 1.
    """
    if divisor < 1:
        raise ValueError(f"divisor must be at least 1, got {divisor}")
    before = latency(spec)
    found = (_widest(spec, unit, latency, before, target_ms, divisor) for unit in units)
    return [proposal for proposal in found if proposal is not None]


def _widest(
    spec: NetSpec,
    unit: Unit,
    latency: Callable[[NetSpec], float],
    before_ms: float,
    target_ms: float,
    divisor: int,
) -> Proposal | None:
    sizes = _legal_sizes(spec, unit, divisor)
    # sizes[low - 1] is too slow (0: the unit as it is), sizes[high - 1] is not; in between nothing is known.
    low, low_ms = 0, before_ms
    high, high_ms = len(sizes) + 1, math.nan
    while high - low > 1:
        if not math.isnan(high_ms):
            per_size = (low_ms - high_ms) / (high - low)
        else:
            per_size = (before_ms - low_ms) / low if low else math.inf
        # Each latency may have to be measured first: look where the line through the known ones ends.
        steps = math.ceil((low_ms - target_ms) / per_size) if per_size > 0 else max(low, 1)
        guess = min(low + max(steps, 1), high - 1)
        try:
            found = latency(narrowed(spec, unit, sizes[guess - 1]))
        except NotInTable:  # nor are narrower ones
            high, high_ms = guess, math.nan
            continue
        if found <= target_ms:
            high, high_ms = guess, found
        else:
            low, low_ms = guess, found
    if math.isnan(high_ms):
        return None
    channels = sizes[high - 1]
    smaller = narrowed(spec, unit, channels)
    return Proposal(unit=unit, channels=channels, spec=smaller, latency_ms=high_ms)


def _legal_sizes(spec: NetSpec, unit: Unit, divisor: int) -> list[int]:
    """Multiples of `divisor` that the unit can be cut to, the widest first."""
    sizes = []
    for channels in range((unit.channels - 1) // divisor * divisor, 0, -divisor):
        try:
            narrowed(spec, unit, channels)
        except ValueError:
            continue
        sizes.append(channels)
    return sizes
