"""The files of a benchmark: results.json, results.md and pareto.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
        versions = machine.get("runner") or ", ".join(
            f"{name} {number}" for name, number in machine["versions"].items()
        )
        python = f"Python {machine['python']}, " if machine["python"] else ""
        lines += [
            f"{machine['device']}; {_hardware(machine)}; {machine['platform']}; {python}{versions}; "
            f"{machine['date']}.",
            "",
        ]
    lines += [tables(results), "", *_notes(results)]
    return "\n".join(lines) + "\n"


def _device_notes(results: Sequence[Result]) -> list[str]:
    """How another device was measured, if there was one."""
    machine = results[0]["machine"] or {}
    if "runner" in machine:
        return [
            f"Measured by {machine['runner']}; outputs were not compared. If several networks took turns, it "
            "was started for each turn, and the time of a round is the median of the calls in that turn."
        ]
    agreements = [result["agreement"] for result in results if result["agreement"] is not None]
    if not agreements:
        return []
    return [
        f"At least {min(agreements):.2%} of the numbers in each output on the device match PyTorch's (for an "
        "artifact: the file's) here, to within 1 % of the largest. MB: in addition to Python and NumPy."
    ]


def _hardware(machine: Mapping[str, Any]) -> str:
    parts = [
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']} at the start",
        f"governor {machine['governor']}" if machine.get("governor") else None,
        _state("before", machine),
        _state("after", machine.get("at_the_end", {})),
    ]
    return ", ".join(part for part in [machine.get("board"), *parts] if part)


def _state(when: str, state: Mapping[str, Any]) -> str | None:
    """Frequencies and temperature, which show whether a device slowed down because it got hot."""
    mhz, degrees = state.get("mhz"), state.get("temperature_c")
    known = [f"{'/'.join(map(str, mhz))} MHz" if mhz else None, f"{degrees:.0f} °C" if degrees else None]
    text = " and ".join(part for part in known if part)
    return f"{text} {when}" if text else None


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
    notes += _device_notes(results)
    devices = dict.fromkeys(
        result["paper"]["latency_device"] for result in results if result["paper"]["latency_ms"]
    )
    notes += [
        f"The paper's milliseconds were measured on one large core of a {name}, not here." for name in devices
    ]
    return [line for note in notes for line in (note, "")][:-1]
