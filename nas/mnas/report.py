"""What platform-aware NAS has come to: accuracy against latency as a picture, tables, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backbones.spec import NetSpec
from engine.io.files import write_text
from nas.mnas.trials import MnasResult, SampledTrial

_COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red")


_LISTED = 15  # MnasNet trained its 15 best to the end


def write(folder: Path, result: MnasResult, *, metric: str, commands: Sequence[str] = ()) -> None:
    """Write `scatter.png` and `report.md`.

    Args:
        metric: name of the accuracy.
        commands: what to do next.

    Raises:
        UserError: a file cannot be written.
    """
    label = f"w = {result.reward.w:g}" if result.reward.form == "soft" else "hard"
    draw(folder / "scatter.png", {label: result}, metric=metric)
    found, failed = result.found, sum(not trial.scored for trial in result.trials)
    parts = [
        "# Platform-aware NAS",
        f"{result.space}; {len(result.trials)} trials, {len({t.spec for t in result.trials})} "
        f"different networks, {failed} failed. Reward: {metric} x (latency / "
        f"{result.reward.target_ms:.4g} ms)^w, {label}.",
        f"The best: reward {found.reward:.4f}, {metric} {found.accuracy:.4f} after the short training, "
        f"{found.latency_ms:.3f} ms.",
        "![scatter](scatter.png)",
        "## The best networks",
        trials_table(result, result.top(_LISTED), metric),
        "## The network",
        network_table(found.spec),
    ]
    if commands:
        parts += ["## Next", "```\n" + "\n".join(commands) + "\n```"]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")


def front(trials: Sequence[SampledTrial]) -> list[SampledTrial]:
    """The trials that no other one beats in accuracy at the same or less latency, the fastest first."""
    kept: list[SampledTrial] = []
    scored = (trial for trial in trials if trial.scored)
    for trial in sorted(scored, key=lambda trial: (trial.latency_ms, -trial.accuracy, trial.number)):
        if not kept or trial.accuracy > kept[-1].accuracy:
            kept.append(trial)
    return kept


def _places(trials: Sequence[SampledTrial]) -> tuple[list[float], list[float]]:
    scored = [trial for trial in trials if trial.scored]
    return [trial.latency_ms for trial in scored], [trial.accuracy for trial in scored]


def draw(path: Path, results: Mapping[str, MnasResult], *, metric: str) -> None:
    """Accuracy over latency, as a PNG: the trials of each search (later ones darker), the target, the best
    one as a star, and the front of those that none beats as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import to_rgb

    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    for number, (label, result) in enumerate(results.items()):
        color = _COLORS[number % len(_COLORS)]
        late = [
            (*to_rgb(color), 0.2 + 0.7 * t.number / len(result.trials)) for t in result.trials if t.scored
        ]
        axis.scatter(*_places(result.trials), s=14, c=late, linewidths=0)
        axis.plot(*_places(front(result.trials)), color=color, linewidth=1, alpha=0.6)
        found = result.found
        text = f"{label}: best {found.accuracy:.3f} at {found.latency_ms:.2f} ms"
        axis.scatter(*_places([found]), s=160, marker="*", color=color, label=text)
    for target in sorted({result.reward.target_ms for result in results.values()}):
        axis.axvline(target, color="0.5", linestyle=":", label=f"target {target:.4g} ms")
    axis.set_xlabel("latency by the table, ms")
    axis.set_ylabel(f"{metric} after the short training")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def trials_table(result: MnasResult, trials: Sequence[SampledTrial], metric: str) -> str:
    """Markdown: reward, accuracy, latency and stages of each."""
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
    return _markdown(("trial", "reward", metric, "ms", "stages"), rows)


def network_table(spec: NetSpec) -> str:
    """Markdown: a row for each layer, as in Table 1 of the paper."""
    rows: list[tuple[Any, ...]] = [("stem", "3x3", "", spec.stem, "", spec.stem_act, 2)]
    for number, block in enumerate(spec.blocks, start=1):
        kernel, se = f"{block.kernel}x{block.kernel}", "yes" if block.se else ""
        rows.append((f"block{number}", kernel, block.exp, block.out, se, block.act, block.stride))
    if spec.last:
        rows.append(("last", "1x1", "", spec.last, "", spec.last_act, 1))
    return _markdown(("layer", "kernel", "expansion", "out", "SE", "activation", "stride"), rows)


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
