"""The report of a platform-aware search: report.md and scatter.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from backbones.spec import NetSpec
from engine.errors import counted
from nas.mnas.trials import MnasResult, SampledTrial
from nas.report import latency_chart, markdown_table, write_report

_COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red")
_LISTED = 15  # MnasNet fully trained its 15 best


def write_mnas_report(folder: Path, result: MnasResult, *, metric: str, commands: Sequence[str] = ()) -> None:
    """Write `scatter.png` and `report.md`.

    Args:
        metric: name of the accuracy.
        commands: what to run next.

    Raises:
        UserError: if a file cannot be written.
    """
    label = f"w = {result.reward.w:g}" if result.reward.form == "soft" else "hard"
    draw_scatter(folder / "scatter.png", {label: result}, metric=metric)
    best, failed = result.best, sum(not trial.scored for trial in result.trials)
    parts = [
        "# Platform-aware NAS",
        f"{result.space}; {counted(len(result.trials), 'trial')}, {len({t.spec for t in result.trials})} "
        f"different networks, {failed} failed. Reward: {metric} x (latency / "
        f"{result.reward.target_ms:.4g} ms)^w, {label}.",
        f"The best network: reward {best.reward:.4f}, {metric} {best.accuracy:.4f} after the short training, "
        f"{best.latency_ms:.3f} ms.",
        "![scatter](scatter.png)",
        "## The best networks",
        trials_table(result, result.top(_LISTED), metric),
        "## The layers of the best network",
        layer_table(best.spec),
    ]
    write_report(folder / "report.md", parts, commands)


def pareto_front(trials: Sequence[SampledTrial]) -> list[SampledTrial]:
    """The trials that no other one beats in accuracy at the same or less latency, the fastest first."""
    front: list[SampledTrial] = []
    scored = (trial for trial in trials if trial.scored)
    for trial in sorted(scored, key=lambda trial: (trial.latency_ms, -trial.accuracy, trial.number)):
        if not front or trial.accuracy > front[-1].accuracy:
            front.append(trial)
    return front


def draw_scatter(path: Path, results: Mapping[str, MnasResult], *, metric: str) -> None:
    """Accuracy over latency of one or more searches, as a PNG.

    Each search has its trials as points (later ones darker), its best trial as a star and its Pareto front as
    a line.

    Args:
        results: by label.
    """
    from matplotlib.colors import to_rgb

    with latency_chart(path, accuracy=f"{metric} after the short training") as axes:
        for number, (label, result) in enumerate(results.items()):
            color = _COLORS[number % len(_COLORS)]
            opacities = [0.2 + 0.7 * t.number / len(result.trials) for t in result.trials if t.scored]
            colors = [(*to_rgb(color), opacity) for opacity in opacities]
            axes.scatter(*_coordinates(result.trials), s=14, c=colors, linewidths=0)
            axes.plot(*_coordinates(pareto_front(result.trials)), color=color, linewidth=1, alpha=0.6)
            best = result.best
            text = f"{label}: best {best.accuracy:.3f} at {best.latency_ms:.2f} ms"
            axes.scatter(*_coordinates([best]), s=160, marker="*", color=color, label=text)
        for target in sorted({result.reward.target_ms for result in results.values()}):
            axes.axvline(target, color="0.5", linestyle=":", label=f"target {target:.4g} ms")


def _coordinates(trials: Sequence[SampledTrial]) -> tuple[list[float], list[float]]:
    scored = [trial for trial in trials if trial.scored]
    return [trial.latency_ms for trial in scored], [trial.accuracy for trial in scored]


def trials_table(result: MnasResult, trials: Sequence[SampledTrial], metric: str) -> str:
    """Markdown: reward, accuracy, latency and stages of each trial."""
    rows = [
        (
            f"{trial.number + 1}",
            f"{trial.reward:.4f}",
            f"{trial.accuracy:.4f}" if trial.scored else "failed",
            f"{trial.latency_ms:.3f}",
            result.space.describe(trial.tokens).replace(" | ", ", "),
        )
        for trial in trials
    ]
    return markdown_table(("trial", "reward", metric, "ms", "stages"), rows)


def layer_table(spec: NetSpec) -> str:
    """Markdown: a row for each layer, as in Table 1 of the paper."""
    rows: list[tuple[object, ...]] = [("stem", "3x3", "", spec.stem, "", spec.stem_act, 2)]
    for number, block in enumerate(spec.blocks, start=1):
        se = "yes" if block.se else ""
        rows.append((f"block{number}", block.kernels, block.exp, block.out, se, block.act, block.stride))
    if spec.last:
        rows.append(("last", "1x1", "", spec.last, "", spec.last_act, 1))
    return markdown_table(("layer", "kernel", "expansion", "out", "SE", "activation", "stride"), rows)
