"""Measures how long networks take, and how precise the result is.

Candidates take turns, one call each per round, so a varying load affects all of them equally, and ratios are
computed within rounds. Rounds continue until the median of every candidate is known precisely enough, or time
is up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from deploy.device.rounds import in_turns, median_interval

Timer = Callable[[], float]
"""Runs something once and returns the seconds that it took."""


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How many rounds to measure.

    Args:
        warmup: rounds that are discarded.
        least, most: minimum and maximum number of counted rounds.
        interval: stop when the 95 % interval of every median is within this fraction of it (0.02: 2 %).
        budget_s: seconds, including warm-up, after which no new round begins; two rounds always count.

    Raises:
        ValueError: if a value is out of range.
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
            raise ValueError(
                f"interval is a fraction of the median and must be between 0 and 1, got {self.interval}"
            )
        if not self.budget_s > 0:
            raise ValueError(f"budget_s must be a positive number of seconds, got {self.budget_s}")


def take_rounds(
    timers: Mapping[str, Timer],
    rounds: Rounds,
    *,
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[int, str], None] | None = None,
) -> dict[str, list[float]]:
    """Time all candidates in turns: the n-th times of all of them are from the same round.

    Args:
        progress: called after each counted round with its number and a short status.
    """
    return in_turns(timers, **asdict(rounds), clock=clock, progress=progress)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """One candidate's rounds in milliseconds. interval: the 95 % interval of the median."""

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
    """One candidate's time over another's, per round: the median, the range of nine out of ten rounds (p5 to
    p95), and the 95 % interval of the median."""

    p50: float
    p5: float
    p95: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, seconds: Sequence[float], baseline: Sequence[float]) -> Ratio:
        """Raises: ValueError if the two were not timed in the same rounds."""
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
    synchronize: Callable[[], Any] | None = None,
) -> Timer:
    """A timer by the wall clock; `synchronize` waits for a device before and after."""

    def timed() -> float:
        if synchronize is not None:
            synchronize()
        started = clock()
        run()
        if synchronize is not None:
            synchronize()
        return clock() - started

    return timed


def on_cuda(run: Callable[[], Any], device: torch.device) -> Timer:
    """A timer by a CUDA device's own clock: between two events around the kernels that `run` queues."""

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
