"""The entries of results.json: one per row, runtime and number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploy.benchmark.paper import madds_b, published_latency
from deploy.benchmark.rows import BenchmarkRow
from deploy.device.rounds import relative_interval
from deploy.timing.latency import Latency, Ratio, Rounds

Result = dict[str, Any]

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
    "agreement",
    "machine",
)
"""Keys that are null if only parameters and multiply-adds are counted."""


def timing(seconds: Sequence[float], baseline: Sequence[float], rounds: Rounds) -> dict[str, Any]:
    """Statistics of a candidate's rounds, and of their ratio to the baseline's."""
    latency, ratio = Latency.of(seconds), Ratio.of(seconds, baseline)
    return {
        "latency_ms_p50": latency.p50,
        "latency_ms_p95": latency.p95,
        "latency_ms_min": latency.minimum,
        "latency_ms_interval": latency.interval,
        "interval_reached": relative_interval(seconds) <= rounds.interval,
        "rounds": latency.rounds,
        "ratio_to_baseline": ratio.p50,
        "ratio_p5": ratio.p5,
        "ratio_p95": ratio.p95,
        "ratio_interval": ratio.interval,
    }


def result(row: BenchmarkRow, *, baseline: BenchmarkRow, **measured: Any) -> Result:
    """One entry of results.json; keys missing from `measured` are null.

    `gmadds_per_s` counts the multiply-adds of convolutions and linear layers, in billions per second;
    published figures are only under `paper`.
    """
    values = dict.fromkeys(MEASURED) | measured
    executed = row.executed_madds
    if (ms := values["latency_ms_p50"]) and executed is not None:
        values["gmadds_per_s"] = executed / ms / 1e6
    return {
        "name": row.name,
        "source": row.source,
        "task": row.task,
        "metric": row.metric,
        "size": list(row.size),
        "params_m": row.params / 1e6,
        "madds_b": row.madds / 1e9,
        "executed_madds_b": None if executed is None else executed / 1e9,
        **values,
        "baseline": baseline.name,
        "accuracy": dict(row.accuracy),
        "accuracy_on": row.accuracy_on,
        "paper": _paper_figures(row, baseline),
    }


def _paper_figures(row: BenchmarkRow, baseline: BenchmarkRow) -> dict[str, Any]:
    """The row's published figures; null if the paper has none.

    `latency_ms` was measured at `latency_size` on `latency_device`; `ratio_to_baseline` is a ratio of such
    latencies.
    """
    own, other = published_latency(row.paper, row.size), published_latency(baseline.paper, baseline.size)
    return {
        **row.paper,
        "row": row.paper.get("row"),
        "madds_b": madds_b(row.paper) or None,
        "latency_ms": own.ms if own else None,
        "latency_size": list(own.size) if own else None,
        "latency_device": own.device if own else None,
        "ratio_to_baseline": own.ms / other.ms if own and other else None,
    }
