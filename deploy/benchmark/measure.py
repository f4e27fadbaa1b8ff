"""Times candidates together, and returns their results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from deploy.benchmark.candidate import Candidate, set_threads
from deploy.benchmark.results import result, timing
from deploy.benchmark.rows import BenchmarkRow
from deploy.timing import machine
from deploy.timing.latency import Rounds, clocked, take_rounds
from deploy.timing.memory import peak_mb
from engine.io.progress import announced


def measure_together(
    candidates: Sequence[Candidate],
    rounds: Rounds,
    *,
    baseline: BenchmarkRow,
    memory: bool = True,
    progress: Callable[[int, str], None] | None = None,
) -> list[dict[str, Any]]:
    """Time candidates with the same number of threads in turns; returns one result for each, in order.

    Args:
        baseline: the row that ratios refer to, on its first runtime here.
        memory: measure peak memory too, each in its own process.
    """
    reference = next(candidate for candidate in candidates if candidate.row is baseline)
    set_threads(reference.threads)
    about: dict[str, Any] = {"machine": machine.describe(reference.device)}
    with announced("loading and warming up the networks") as loaded:
        if torch.device(reference.device).type == "cpu":
            about["gemm_gmadds_per_s"] = gemm_gmadds()
        timers = {candidate.name: candidate.timer(candidate.open()) for candidate in candidates}
        assert len(timers) == len(candidates), "two candidates with the same name would be measured as one"

        def show(done: int, text: str) -> None:
            loaded()
            if progress is not None:
                progress(done, text)

        seconds = take_rounds(timers, rounds, progress=show)
    timers.clear()  # frees the networks before memory is measured
    results = []
    for candidate in candidates:
        figures = timing(seconds[candidate.name], seconds[reference.name], rounds)
        with announced(f"measuring the memory of {candidate.name}"):
            figures["peak_memory_mb"] = peak_mb(candidate.open, device=reference.device) if memory else None
        setup = setup_of(candidate, reference)
        results.append(result(candidate.row, baseline=baseline, **setup, **figures, **about))
    return results


def setup_of(candidate: Candidate, reference: Candidate) -> dict[str, Any]:
    """How a candidate was run, for its result."""
    return {
        "runtime": candidate.runtime,
        "threads": candidate.threads,
        "include": candidate.include,
        "channels_last": candidate.channels_last if candidate.file is None else None,
        "baseline_runtime": reference.runtime,
    }


def groups(
    rows: Sequence[BenchmarkRow], runtimes: Sequence[str], threads: Sequence[int]
) -> list[tuple[int, list[tuple[BenchmarkRow, str]]]]:
    """The groups that are measured together, as (threads, rows with a runtime): all rows on one runtime, or
    one row on all runtimes.

    The ratios of interest, between rows or between runtimes, are then computed within rounds, and no more
    networks are in memory than there are rows or runtimes.
    """
    if len(rows) == 1:
        return [(count, [(rows[0], runtime) for runtime in runtimes]) for count in threads]
    return [(count, [(row, runtime) for row in rows]) for count in threads for runtime in runtimes]


def gemm_gmadds(*, seconds: float = 0.5, side: int = 1024) -> float:
    """Billions of multiply-adds per second in a large float32 matrix product: close to this CPU's peak.

    Computed by torch with its current number of threads.
    """
    left, right = torch.rand(side, side), torch.rand(side, side)
    best, until = float("inf"), time.perf_counter() + seconds
    multiply = clocked(lambda: torch.mm(left, right))
    while time.perf_counter() < until:
        best = min(best, multiply())
    return side**3 / best / 1e9
