"""Times candidates in turns, one call each per round, until the median of each is known precisely enough.

Copied to devices by `deploy.remote`, so it needs nothing but Python 3.8.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def in_turns(
    timers: Mapping[str, Callable[[], float]],
    *,
    warmup: int,
    least: int,
    most: int,
    interval: float,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[int, str], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each candidate: the n-th times of all of them are from the same round.

    The order is reversed from round to round, so no candidate always follows the same one.

    Args:
        timers: each runs its candidate once and returns the seconds that it took.
        warmup, least, most, interval, budget_s: see `deploy.timing.latency.Rounds`.
        progress: called after each counted round with its number and a short status.
    """
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    names, started = list(timers), clock()
    collects = gc.isenabled()
    gc.collect()
    gc.disable()  # a garbage collection during a call would be part of its time
    try:
        for number in range(warmup):
            if number and clock() - started > budget_s / 2:
                break
            for name in names:
                timers[name]()
        for number in range(most):
            for name in names if number % 2 == 0 else reversed(names):
                seconds[name].append(timers[name]())
            widest = max((relative_interval(values) for values in seconds.values()), default=0.0)
            if progress is not None:
                text = "" if math.isinf(widest) else f"medians known to {widest:.1%}"
                progress(number + 1, text)
            enough = number + 1 >= least and widest <= interval
            if enough or (number >= 1 and clock() - started > budget_s):
                break
    finally:
        if collects:
            gc.enable()
    return seconds


def median_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float] | None:
    """The narrowest confidence interval of the median from order statistics, symmetric in rank.

    It makes no assumption about the distribution, except that values are independent. None if there are too
    few values: 95 % needs six.
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
    """Half-width of the median's 95 % interval, as a fraction of the median; infinite for too few values."""
    interval = median_interval(values)
    if interval is None:
        return math.inf
    middle = statistics.median(values)
    return max(middle - interval[0], interval[1] - middle) / middle if middle else math.inf
