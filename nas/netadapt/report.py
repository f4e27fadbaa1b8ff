"""The report of a NetAdapt search: report.md and trajectory.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones.spec import NetSpec
from engine.errors import counted
from nas.netadapt.search import NetAdaptResult
from nas.netadapt.trials import ScoredNetwork
from nas.report import latency_chart, markdown_table, write_report


@dataclass(frozen=True, kw_only=True)
class LatencyCheck:
    """The latency of a network as the sum of its layers in the table, and measured as a whole, in ms."""

    name: str
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share of the measured latency."""
        return self.predicted_ms / self.measured_ms - 1


def write_netadapt_report(
    folder: Path,
    result: NetAdaptResult,
    *,
    metric: str,
    trials: Sequence[Mapping[str, Any]],
    latency_checks: Sequence[LatencyCheck] = (),
    other_runs: Sequence[ScoredNetwork] = (),
    commands: Sequence[str] = (),
) -> None:
    """Write `trajectory.png` and `report.md`.

    Args:
        metric: name of the score.
        trials: rows of the history.
        other_runs: networks to compare with, such as trained width multipliers.
        commands: what to run next.

    Raises:
        UserError: if a file cannot be written.
    """
    draw_trajectory(folder / "trajectory.png", result, metric=metric, trials=trials, other_runs=other_runs)
    seed, final = result.seed, result.final
    failed = sum(row["status"] != "done" for row in trials)
    parts = [
        "# NetAdapt",
        f"{final.latency_ms / seed.latency_ms:.1%} of the seed's predicted latency. {metric} on the "
        f"samples held out from train: {final.score:.4f}, compared with {seed.score:.4f} for the seed. "
        f"{counted(len(trials), 'trial')}, {failed} failed.",
        "![trajectory](trajectory.png)",
        "## Steps",
        networks_table(result.trajectory, seed, metric),
    ]
    if compared := [*result.width_multipliers, *other_runs]:
        parts += ["## Compared with", networks_table(compared, seed, metric)]
    if latency_checks:
        parts += ["## Predicted and measured latency", latency_check_table(latency_checks)]
    parts += ["## The network and its seed", layer_changes_table(seed.spec, final.spec)]
    write_report(folder / "report.md", parts, commands)


def draw_trajectory(
    path: Path,
    result: NetAdaptResult,
    *,
    metric: str,
    trials: Sequence[Mapping[str, Any]] = (),
    other_runs: Sequence[ScoredNetwork] = (),
) -> None:
    """Accuracy over latency of all trials, the trajectory, width multipliers and other runs, as a PNG."""
    done = [row for row in trials if row["status"] == "done"]
    with latency_chart(path, accuracy=f"{metric} on samples held out from train") as axes:
        latencies, scores = [row["latency_ms"] for row in done], [row["metric"] for row in done]
        axes.scatter(latencies, scores, s=8, color="0.75", label="trials")
        _draw_curve(axes, result.trajectory, "o-", "tab:blue", "NetAdapt")
        if result.width_multipliers:
            multipliers = (result.seed, *result.width_multipliers)
            _draw_curve(axes, multipliers, "s--", "tab:orange", "width multipliers, same number of steps")
        if other_runs:
            _draw_curve(axes, other_runs, "^:", "tab:green", "other runs")


def _draw_curve(axes: Any, networks: Sequence[ScoredNetwork], style: str, color: str, label: str) -> None:
    ordered = sorted(networks, key=lambda network: network.latency_ms)
    latencies, scores = [n.latency_ms for n in ordered], [n.score for n in ordered]
    axes.plot(latencies, scores, style, color=color, label=label, markersize=4)


def networks_table(networks: Sequence[ScoredNetwork], seed: ScoredNetwork, metric: str) -> str:
    rows = [
        (
            str(network.step) if network.step or network is seed else "",
            network.change or "the seed",
            f"{network.latency_ms:.3f}",
            f"{network.latency_ms / seed.latency_ms:.1%}",
            f"{network.score:.4f}",
        )
        for network in networks
    ]
    return markdown_table(("step", "change", "ms", "of the seed", metric), rows)


def latency_check_table(checks: Sequence[LatencyCheck]) -> str:
    rows = [
        (check.name, f"{check.predicted_ms:.3f}", f"{check.measured_ms:.3f}", f"{check.error:+.1%}")
        for check in checks
    ]
    return markdown_table(("network", "sum of its layers, ms", "measured, ms", "error"), rows)


def layer_changes_table(seed: NetSpec, final: NetSpec) -> str:
    """The channels of two networks of the same depth, layer by layer, with changes in bold."""
    rows = [("stem", "", "", _change(seed.stem, final.stem))]
    for number, (before, after) in enumerate(zip(seed.blocks, final.blocks, strict=True), start=1):
        kind = f"{before.kernels} {before.act}{' SE' if before.se else ''}"
        kind += f" s{before.stride}" if before.stride > 1 else ""
        rows.append((f"block{number}", kind, _change(before.exp, after.exp), _change(before.out, after.out)))
    if seed.last:
        rows.append(("last", "1x1", "", _change(seed.last, final.last)))
    return markdown_table(("layer", "kind", "expansion", "out"), rows)


def _change(before: int, after: int) -> str:
    return str(before) if before == after else f"{before} -> **{after}**"
