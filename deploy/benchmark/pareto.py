"""The chart of a benchmark: latency against accuracy, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.benchmark.results import Result
from deploy.benchmark.tables import threads_text


def accuracy(result: Result) -> tuple[float, str] | None:
    """(percent, its origin): the value measured here, else the published one, else None."""
    metric = result["metric"]
    if (measured := result["accuracy"].get(metric)) is not None:
        return 100 * measured, "measured"
    published = result["paper"].get(metric)
    return None if published is None else (float(published), "published")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, value) points that no other point dominates, by increasing cost.

    A point is dominated if another one is at least as good in both and better in one. Of equal points, only
    the first is on the front.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def draw_pareto(results: Sequence[Result], path: Path) -> None:
    """Latency against accuracy, with the Pareto front of each runtime and thread count, task and data.

    Nothing is drawn if no result has both.
    """
    shown = [row for row in results if row["latency_ms_p50"] is not None and accuracy(row) is not None]
    if not shown:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    label = "name" if len({row["name"] for row in shown}) > 1 else "runtime"
    parts = panels(shown, label)
    columns = min(len(parts), 3)
    lines = -(-len(parts) // columns)
    width = 9 if columns == 1 else 6 * columns
    figure, axes = plt.subplots(
        lines, columns, figsize=(width, 5.5 * lines), layout="constrained", sharey=True, squeeze=False
    )
    for axis, (title, members) in zip(axes.flat, parts.items(), strict=False):
        _draw_panel(axis, members, label)
        axis.set_title(title, fontsize=10)
    for axis in list(axes.flat)[len(parts) :]:
        axis.set_visible(False)
    metrics = " / ".join(dict.fromkeys(row["metric"] for row in shown))
    sources = sorted({known[1] for row in shown if (known := accuracy(row))})  # measured, published
    origin = " (filled) or ".join(sources) + (" (hollow)" if len(sources) > 1 else "")
    percents = [known[0] for row in shown if (known := accuracy(row))]
    low, high = min(percents), max(percents)
    margin = max(0.1 * (high - low), 1.0)  # in percent; equal accuracies are drawn on a line in the middle
    axes.flat[0].set_ylim(low - margin, high + margin)
    figure.supylabel(f"{metrics} [%], {origin}", fontsize=10)
    figure.supxlabel(f"latency here [ms], median of rounds ({shown[0]['machine']['device']})", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def panels(results: Sequence[Result], label: str) -> dict[str, list[Result]]:
    """The results in each panel of the chart, by title.

    Each runtime has its own: on the axis of a slow one, the points of a fast one would overlap. So has each
    task, and each dataset that accuracy was measured on, because their accuracies cannot be compared.

    Args:
        label: `runtime` if the points in a panel are runtimes, else `name`.
    """
    scores = {(row["task"], row.get("accuracy_on")) for row in results}
    parts: dict[str, list[Result]] = {}
    for row in results:
        title = threads_text(row) if label == "runtime" else f"{row['runtime']}, {threads_text(row)}"
        if len(scores) > 1:
            data = f" on {row['accuracy_on']}" if row.get("accuracy_on") else ""
            title += f"; {row['task']}, {row['metric']}{data}"
        parts.setdefault(title, []).append(row)
    return parts


def _draw_panel(axis: Any, members: Sequence[Result], label: str) -> None:
    members = sorted(members, key=lambda row: row["latency_ms_p50"])
    accuracies = [accuracy(row) or (0.0, "") for row in members]
    points = [(row["latency_ms_p50"], percent) for row, (percent, _) in zip(members, accuracies, strict=True)]
    front = [points[index] for index in pareto_front(points)]
    if len(front) > 1:
        axis.plot(*zip(*front, strict=True), color="C0", alpha=0.4, label="Pareto front")
        axis.legend(frameon=False, loc="lower right")
    for index, (row, point) in enumerate(zip(members, points, strict=True)):
        hollow = accuracies[index][1] == "published"
        axis.plot(*point, "o", color="C0", markerfacecolor="white" if hollow else "C0")
        # Slanted, and on alternating sides, so that the labels of nearby points can be read.
        others = [other for other in points if other != point]
        near = min(others, key=lambda other: abs(other[0] - point[0]), default=point)
        up = index % 2 == 0 if near[1] == point[1] else near[1] < point[1]
        offset, alignment = ((3, 5), "bottom") if up else ((3, -5), "top")
        text = f"{row[label]}, {point[0]:.3g} ms"
        axis.annotate(
            text,
            point,
            textcoords="offset points",
            xytext=offset,
            fontsize=7,
            rotation=35 if up else -35,
            rotation_mode="anchor",
            va=alignment,
        )
    axis.set_xlim(0, 1.25 * points[-1][0])
    axis.grid(alpha=0.3)
