"""What a search for a narrower network has come to: a picture, tables, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones.spec import NetSpec
from engine.io.files import write_text
from nas.netadapt.search import NetAdaptResult
from nas.netadapt.trials import Point


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A network's latency by the table and as a whole, in ms."""

    name: str
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return self.predicted_ms / self.measured_ms - 1


def write(
    folder: Path,
    result: NetAdaptResult,
    *,
    metric: str,
    trials: Sequence[Mapping[str, Any]],
    measured: Sequence[Measured] = (),
    others: Sequence[Point] = (),
    commands: Sequence[str] = (),
) -> None:
    """Write `trajectory.png` and `report.md`.

    Args:
        trials: rows of the history.
        others: networks to compare with, such as trained width multipliers.
    """
    draw(folder / "trajectory.png", result, metric=metric, trials=trials, others=others)
    seed, found = result.seed, result.found
    parts = [
        "# NetAdapt",
        f"{found.latency_ms / seed.latency_ms:.1%} of the seed's latency by the table; {metric} on the "
        f"samples held out from train {found.score:.4f}, the seed's {seed.score:.4f}; {len(trials)} trials, "
        f"{sum(row['status'] != 'done' for row in trials)} of them failed.",
        "![trajectory](trajectory.png)",
        "## Steps",
        steps_table(result, metric),
    ]
    if beside := [*result.widths, *others]:
        parts += ["## Beside it", points_table(beside, seed, metric)]
    if measured:
        parts += ["## Predicted and measured latency", measured_table(measured)]
    parts += ["## The network beside its seed", layer_table(seed.spec, found.spec)]
    if commands:
        parts += ["## Next", "```\n" + "\n".join(commands) + "\n```"]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")


def draw(
    path: Path,
    result: NetAdaptResult,
    *,
    metric: str,
    trials: Sequence[Mapping[str, Any]] = (),
    others: Sequence[Point] = (),
) -> None:
    """Accuracy over latency: all trials, the trajectory, and width multipliers, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    done = [row for row in trials if row["status"] == "done"]
    axis.scatter(
        [row["latency_ms"] for row in done],
        [row["metric"] for row in done],
        s=8,
        color="0.75",
        label="trials",
    )
    curves = [
        (result.trajectory, "o-", "tab:blue", "NetAdapt"),
        ((result.seed, *result.widths), "s--", "tab:orange", "width multiplier, as many steps"),
        (others, "^:", "tab:green", "other runs"),
    ]
    for points, style, color, label in curves:
        ordered = sorted(points, key=lambda point: point.latency_ms)
        if len(ordered) > (label.startswith("width")):
            axis.plot(
                [point.latency_ms for point in ordered],
                [point.score for point in ordered],
                style,
                color=color,
                label=label,
                markersize=4,
            )
    axis.set_xlabel("latency by the table, ms")
    axis.set_ylabel(f"{metric} on samples held out from train")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def steps_table(result: NetAdaptResult, metric: str) -> str:
    return points_table(result.trajectory, result.seed, metric)


def points_table(points: Sequence[Point], seed: Point, metric: str) -> str:
    rows = [
        (
            str(point.step) if point.step or point is seed else "",
            point.change or "the seed",
            f"{point.latency_ms:.3f}",
            f"{point.latency_ms / seed.latency_ms:.1%}",
            f"{point.score:.4f}",
        )
        for point in points
    ]
    return _markdown(("step", "change", "ms", "of the seed", metric), rows)


def measured_table(measured: Sequence[Measured]) -> str:
    rows = [
        (one.name, f"{one.predicted_ms:.3f}", f"{one.measured_ms:.3f}", f"{one.error:+.1%}")
        for one in measured
    ]
    return _markdown(("network", "sum of its layers, ms", "measured, ms", "error"), rows)


def layer_table(seed: NetSpec, found: NetSpec) -> str:
    """Two networks of the same depth, layer by layer: channels, what changed in bold."""
    rows = [("stem", "", "", _pair(seed.stem, found.stem))]
    for number, (before, after) in enumerate(zip(seed.blocks, found.blocks, strict=True), start=1):
        kind = f"{before.kernel}x{before.kernel} {before.act}{' SE' if before.se else ''}"
        kind += f" s{before.stride}" if before.stride > 1 else ""
        rows.append((f"block{number}", kind, _pair(before.exp, after.exp), _pair(before.out, after.out)))
    if seed.last:
        rows.append(("last", "1x1", "", _pair(seed.last, found.last)))
    return _markdown(("layer", "kind", "expansion", "out"), rows)


def _pair(before: int, after: int) -> str:
    return str(before) if before == after else f"{before} -> **{after}**"


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
