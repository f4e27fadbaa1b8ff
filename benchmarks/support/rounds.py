"""Comparisons in rounds: every side runs once per round, so other load on the machine affects all equally.

Figures are medians over the rounds, with the lowest and the highest in parentheses.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def take_turns(sides: Mapping[str, Callable[[], Any]], *, rounds: int) -> dict[str, list[Any]]:
    """The results of each side, one per round; a warm-up round before them does not count.

    The order is reversed from round to round, so no side always runs after the same one.
    """
    results: dict[str, list[Any]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        names = list(sides) if number % 2 else list(sides)[::-1]
        for name in names:
            result = sides[name]()
            if number:
                results[name].append(result)
        print(f"round {number} of {rounds}", file=sys.stderr)
    return results


def clocked(run: Callable[[], Any]) -> Callable[[], float]:
    """Wrap a job so that it returns the seconds it takes."""

    def timed() -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    return timed


def spread(values: Sequence[float], digits: int = 1) -> str:
    """'median (lowest-highest)'."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def ratio(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """Round by round: how many times as long `slow` took as `fast`."""
    return [one / other for one, other in zip(slow, fast, strict=True)]
