"""How long a network takes, said with how sure that is.

Candidates take turns, one call each in every round, so that a load that comes and goes meets all alike, and a
ratio is formed within rounds. Rounds go on until the median of every candidate is known well enough, or time
is up.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Timer = Callable[[], float]
"""Runs something once; returns the seconds that it took."""


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """When there are enough rounds.

    warmup: rounds that are thrown away. least, most: rounds that count, at the least and at the most.
    interval: rounds end when the 95 % interval of every median reaches at most this far from it (0.02: 2 %).
    budget_s: seconds after which no further round begins, warm-up included; two rounds are always counted.

    Raises:
        ValueError: a value out of range.
    """

    warmup: int = 2
    least: int = 10
    most: int = 300
    interval: float = 0.02
    budget_s: float = 120.0

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"warmup must be 0 or more rounds, got {self.warmup}")
        if not 2 <= self.least <= self.most:
            raise ValueError(f"rounds need 2 <= least <= most, got {self.least} and {self.most}")
        if not 0 < self.interval < 1:
            raise ValueError(f"interval is a share of the median between 0 and 1, got {self.interval}")
        if not self.budget_s > 0:
            raise ValueError(f"budget_s must be a positive number of seconds, got {self.budget_s}")


def take_rounds(
    timers: Mapping[str, Timer],
    rounds: Rounds,
    *,
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[int, str], None] | None = None,
) -> dict[str, list[float]]:
    """Time all candidates in turns: the n-th seconds of each were taken in the same round.

    The order is reversed from round to round, so that no candidate always follows the same other.

    Args:
        progress: called with the number of counted rounds and a few words, after each of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    names, started = list(timers), clock()
    collects = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection in the middle of a call would be counted to it
    try:
        for number in range(rounds.warmup):
            if number and clock() - started > rounds.budget_s / 2:
                break
            for name in names:
                timers[name]()
        for number in range(rounds.most):
            for name in names if number % 2 == 0 else reversed(names):
                seconds[name].append(timers[name]())
            widest = max((relative_interval(values) for values in seconds.values()), default=0.0)
            if progress is not None:
                told = "" if math.isinf(widest) else f"medians known to {widest:.1%}"
                progress(number + 1, told)
            enough = number + 1 >= rounds.least and widest <= rounds.interval
            if enough or (number >= 1 and clock() - started > rounds.budget_s):
                break
    finally:
        if collects:
            gc.enable()
    return seconds


def median_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float] | None:
    """The narrowest interval of order statistics, the same number from each end, that holds the median.

    It assumes nothing about the distribution, but that the values are independent. None where there are too
    few: 95 % needs six of them.
    """
    count, ordered = len(values), sorted(values)
    outside, best = 0.0, None
    for rank in range(count // 2):
        outside += 2 * math.comb(count, rank) / 2**count
        if outside > 1 - confidence:
            break
        best = (ordered[rank], ordered[-1 - rank])
    return best


def relative_interval(values: Sequence[float]) -> float:
    """How far the 95 % interval of the median reaches from it, as a share of it; infinite for few values."""
    found = median_interval(values)
    if found is None:
        return math.inf
    middle = float(np.median(values))
    return max(middle - found[0], found[1] - middle) / middle if middle else math.inf


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What the rounds of one candidate say, in milliseconds. interval: 95 %, of the median."""

    p50: float
    p95: float
    minimum: float
    interval: tuple[float, float] | None
    rounds: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        ms = np.asarray(seconds) * 1000
        return cls(
            p50=float(np.median(ms)),
            p95=float(np.percentile(ms, 95)),
            minimum=float(ms.min()),
            interval=median_interval(ms.tolist()),
            rounds=len(ms),
        )


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One candidate's time over another's, round by round: the median, where nine of ten rounds lie (p5 to
    p95), and the 95 % interval of the median."""

    p50: float
    p5: float
    p95: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, seconds: Sequence[float], baseline: Sequence[float]) -> Ratio:
        """Raises: ValueError where the two were not timed in the same rounds."""
        if len(seconds) != len(baseline):
            raise ValueError(f"a ratio needs the same rounds, got {len(seconds)} and {len(baseline)}")
        ratios = np.asarray(seconds) / np.asarray(baseline)
        low, middle, high = np.percentile(ratios, [5, 50, 95])
        return cls(
            p50=float(middle), p5=float(low), p95=float(high), interval=median_interval(ratios.tolist())
        )


def clocked(
    run: Callable[[], Any],
    *,
    clock: Callable[[], float] = time.perf_counter,
    synchronise: Callable[[], Any] | None = None,
) -> Timer:
    """By the wall clock; `synchronise` waits for a device's work before and after."""

    def timed() -> float:
        if synchronise is not None:
            synchronise()
        started = clock()
        run()
        if synchronise is not None:
            synchronise()
        return clock() - started

    return timed


def on_cuda(run: Callable[[], Any], device: torch.device) -> Timer:
    """By a CUDA device's own clock: between two events around the kernels that `run` queues."""

    def timed() -> float:
        with torch.cuda.device(device):
            before = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            after = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            before.record()
            run()
            after.record()
            after.synchronize()
        return float(before.elapsed_time(after)) / 1000

    return timed
