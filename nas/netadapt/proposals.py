"""The proposals of a NetAdapt step: for each unit, the smallest cut that saves enough latency."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backbones.spec import NetSpec
from deploy.latency_table.table import NotInTable
from nas.candidates import LatencyModel
from nas.netadapt.pruning import PrunableUnit, pruned_spec


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A unit cut to `channels`, the resulting spec, and its predicted latency."""

    unit: PrunableUnit
    channels: int
    spec: NetSpec
    latency_ms: float


def propose(
    spec: NetSpec,
    units: Sequence[PrunableUnit],
    latency: LatencyModel,
    *,
    target_ms: float,
    divisor: int = 8,
    progress: Callable[[int], None] | None = None,
) -> list[Proposal]:
    """For each unit, the largest multiple of `divisor` at which the network takes at most `target_ms`.

    Units without such a number, or with none in the latency table, are left out. Latency is assumed to grow
    with the number of channels, apart from the steps of real devices: the resulting size is fast enough, and
    the next wider one is not.

    Args:
        progress: called with the number of units done.

    Raises:
        ValueError: if the divisor is below 1.
    """
    if divisor < 1:
        raise ValueError(f"divisor must be at least 1, got {divisor}")
    before_ms = latency(spec)
    proposals = []
    for done, unit in enumerate(units, start=1):
        proposals.append(_widest(spec, unit, latency, before_ms, target_ms, divisor))
        if progress is not None:
            progress(done)
    return [proposal for proposal in proposals if proposal is not None]


def _widest(
    spec: NetSpec,
    unit: PrunableUnit,
    latency: LatencyModel,
    before_ms: float,
    target_ms: float,
    divisor: int,
) -> Proposal | None:
    sizes = _possible_sizes(spec, unit, divisor)
    # sizes[low - 1] is too slow (low = 0: the uncut unit), sizes[high - 1] is not, those between are unknown.
    low, low_ms = 0, before_ms
    high, high_ms = len(sizes) + 1, math.nan
    while high - low > 1:
        if not math.isnan(high_ms):
            per_size = (low_ms - high_ms) / (high - low)
        else:
            per_size = (before_ms - low_ms) / low if low else math.inf
        # Measuring a latency takes time, so the next guess comes from a line through two known latencies.
        steps = math.ceil((low_ms - target_ms) / per_size) if per_size > 0 else max(low, 1)
        guess = min(low + max(steps, 1), high - 1)
        try:
            guess_ms = latency(pruned_spec(spec, unit, sizes[guess - 1]))
        except NotInTable:  # narrower ones are not in it either
            high, high_ms = guess, math.nan
            continue
        if guess_ms <= target_ms:
            high, high_ms = guess, guess_ms
        else:
            low, low_ms = guess, guess_ms
    if math.isnan(high_ms):
        return None
    channels = sizes[high - 1]
    smaller = pruned_spec(spec, unit, channels)
    return Proposal(unit=unit, channels=channels, spec=smaller, latency_ms=high_ms)


def _possible_sizes(spec: NetSpec, unit: PrunableUnit, divisor: int) -> list[int]:
    """The multiples of `divisor` that the unit can be cut to, the largest first."""
    sizes = []
    for channels in range((unit.channels - 1) // divisor * divisor, 0, -divisor):
        try:
            pruned_spec(spec, unit, channels)
        except ValueError:
            continue
        sizes.append(channels)
    return sizes
