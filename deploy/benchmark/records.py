"""What is written down of a benchmark: one flat entry per row, runtime and thread count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploy.benchmark.paper_rows import BenchmarkRow, madds_b, published_latency
from deploy.timing.latency import Latency, Ratio, Rounds, relative_interval


def timing(seconds: Sequence[float], baseline: Sequence[float], rounds: Rounds) -> dict[str, Any]:
    """What is written down of a contestant's rounds and the baseline's."""
    found, ratio = Latency.of(seconds), Ratio.of(seconds, baseline)
    return {
        "latency_ms_p50": found.p50,
        "latency_ms_p95": found.p95,
        "latency_ms_min": found.minimum,
        "latency_ms_interval": found.interval,
        "interval_reached": relative_interval(seconds) <= rounds.interval,
        "rounds": found.rounds,
        "ratio_to_baseline": ratio.p50,
        "ratio_p5": ratio.p5,
        "ratio_p95": ratio.p95,
        "ratio_interval": ratio.interval,
    }


MEASURED = (
    "runtime",
    "threads",
    "include",
    "channels_last",
    "latency_ms_p50",
    "latency_ms_p95",
    "latency_ms_min",
    "latency_ms_interval",
    "interval_reached",
    "rounds",
    "ratio_to_baseline",
    "ratio_p5",
    "ratio_p95",
    "ratio_interval",
    "baseline_runtime",
    "gmadds_per_s",
    "gemm_gmadds_per_s",
    "peak_memory_mb",
    "machine",
)
"""Keys that are null where only counts are wanted."""


def result(row: BenchmarkRow, *, baseline: BenchmarkRow, **measured: Any) -> dict[str, Any]:
    """One entry of results.json; what is not among `measured` is null.

    `gmadds_per_s` are multiply-adds of convolutions and linear layers, in billions per second; published
    figures stand under `paper` and nowhere else.
    """
    values = dict.fromkeys(MEASURED) | measured
    executed = row.executed_madds
    if (ms := values["latency_ms_p50"]) and executed is not None:
        values["gmadds_per_s"] = executed / ms / 1e6
    return {
        "name": row.name,
        "source": row.source,
        "room": row.room,
        "size": list(row.size),
        "params_m": row.params / 1e6,
        "madds_b": row.madds / 1e9,
        "executed_madds_b": None if executed is None else executed / 1e9,
        **values,
        "baseline": baseline.name,
        "accuracy": dict(row.accuracy),
        "paper": paper_figures(row, baseline),
    }


def paper_figures(row: BenchmarkRow, baseline: BenchmarkRow) -> dict[str, Any]:
    """The row's published figures, with `row`, `madds_b`, `latency_ms` for `latency_size`, and the ratio of
    published latencies for `ratio_to_baseline`; null where the paper has none."""
    own, other = published_latency(row.paper, row.size), published_latency(baseline.paper, baseline.size)
    return {
        **row.paper,
        "row": row.paper.get("row"),
        "madds_b": madds_b(row.paper) or None,
        "latency_ms": own[0] if own else None,
        "latency_size": list(own[1]) if own else None,
        "ratio_to_baseline": own[0] / other[0] if own and other else None,
    }
