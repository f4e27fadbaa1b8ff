"""The files of a benchmark: results.json, results.md and pareto.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deploy.benchmark.pareto import draw_pareto
from deploy.benchmark.results import Result
from deploy.benchmark.tables import tables
from engine.errors import UserError
from engine.io.files import write_json, write_text


def save(results: Sequence[Result], out: Path, *, command: str) -> None:
    """Write results.json and results.md, and pareto.png if there are latencies and accuracies.

    Raises: UserError if a file cannot be written.
    """
    write_json(out / "results.json", list(results))
    try:
        write_text(out / "results.md", document(results, command=command))
        draw_pareto(results, out / "pareto.png")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another out=") from None


def document(results: Sequence[Result], *, command: str) -> str:
    """The text of results.md."""
    lines = ["# Benchmark", "", f"```bash\n{command}\n```", ""]
    machine = next((result["machine"] for result in results if result["machine"]), None)
    if machine:
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        lines += [
            f"{machine['device']}; {machine['cpu']}, {machine['cores']} cores, load {machine['load']} at the "
            f"start; {machine['platform']}; Python {machine['python']}, {versions}; {machine['date']}.",
            "",
        ]
    lines += [tables(results), "", *_notes(results)]
    return "\n".join(lines) + "\n"


def _notes(results: Sequence[Result]) -> list[str]:
    notes = []
    if results[0]["latency_ms_p50"] is not None:
        peaks = {
            result["threads"]: result["gemm_gmadds_per_s"]
            for result in results
            if result["gemm_gmadds_per_s"]
        }
        peak = "; ".join(f"{value:.0f} with threads={count}" for count, value in peaks.items())
        notes.append(
            "Networks took turns, one call each per round, after warm-up. `+-`: half-width of the 95 % "
            "interval of the median (from order statistics; rounds are assumed independent; `!`: wider than "
            "requested when time was up). Ratios are computed per round: their median, and the range of nine "
            "out of ten rounds. GMAdd/s: multiply-adds of convolutions and linear layers, in billions per "
            "second" + (f" (a large float32 matrix product reaches {peak})" if peak else "") + ". MB: "
            "memory that a new process needs to load and run the network, including the runtime's libraries. "
            "Weights are random unless a run is benchmarked."
        )
    devices = dict.fromkeys(
        result["paper"]["latency_device"] for result in results if result["paper"]["latency_ms"]
    )
    notes += [
        f"The paper's milliseconds were measured on one large core of a {name}, not here." for name in devices
    ]
    return [line for note in notes for line in (note, "")][:-1]
