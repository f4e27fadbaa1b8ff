"""A benchmark as people read it: tables for the terminal and for results.md, and a picture with the Pareto
front. The paper's figures have columns of their own, whose names say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from deploy.benchmark.paper_rows import METRICS
from engine.errors import UserError
from engine.io.files import write_json, write_text

Result = dict[str, Any]


Column = tuple[str, Callable[[Result], str]]


_LABELS = {"miou": "mIoU", "map": "mAP", "top1": "top-1"}


_PHONES = {"seg": "one large core of a Pixel 3", "det": "one large core of a Pixel 1", "cls": "a Pixel 1"}


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _milliseconds(value: float | None) -> str:
    """Three digits or more."""
    return _number(value, 1 if value is not None and value >= 100 else 2)


def _ratio(one: Result) -> str:
    if one["ratio_to_baseline"] is None:
        return ""
    return f"{one['ratio_to_baseline']:.3f} ({one['ratio_p5']:.3f}-{one['ratio_p95']:.3f})"


def _interval(one: Result) -> str:
    found = one["latency_ms_interval"]
    if not found:
        return "unknown"
    p50 = one["latency_ms_p50"]
    return f"{max(p50 - found[0], found[1] - p50) / p50:.1%}" + ("" if one["interval_reached"] else " !")


def _size(one: Result) -> str:
    return "x".join(map(str, one["size"]))


def _published(one: Result) -> str:
    ms, size = one["paper"]["latency_ms"], one["paper"]["latency_size"]
    if ms is None:
        return ""
    return f"{ms:.0f}" + ("" if size == one["size"] else f" at {size[0]}x{size[1]}")


COUNTS: list[Column] = [
    ("name", lambda one: one["name"]),
    ("row", lambda one: str(one["paper"]["row"] or "")),
    ("params M", lambda one: _number(one["params_m"], 3)),
    ("paper's", lambda one: str(one["paper"].get("params_m") or "")),
    ("MAdds B", lambda one: _number(one["madds_b"], 3)),
    ("paper's", lambda one: str(one["paper"]["madds_b"] or "")),
]


TIMES: list[Column] = [
    ("p50 ms", lambda one: _milliseconds(one["latency_ms_p50"])),
    ("+-", _interval),
    ("p95", lambda one: _milliseconds(one["latency_ms_p95"])),
    ("min", lambda one: _milliseconds(one["latency_ms_min"])),
    ("ratio (p5-p95)", _ratio),
    ("paper's ratio", lambda one: _number(one["paper"]["ratio_to_baseline"], 3)),
    ("paper's ms", _published),
    ("GMAdd/s", lambda one: _number(one["gmadds_per_s"], 1)),
    ("MB", lambda one: _number(one["peak_memory_mb"], 0)),
]


def tables(results: Sequence[Result]) -> str:
    """Markdown: one table for each set of results that was measured together, under a line that says how."""
    parts = []
    for _, members in groupby(results, key=_together):
        rows = list(members)
        columns = COUNTS if rows[0]["latency_ms_p50"] is None else [*COUNTS, *TIMES]
        if len({one["runtime"] for one in rows}) > 1:
            columns = [columns[0], ("runtime", lambda one: one["runtime"]), *columns[1:]]
        if len({_size(one) for one in rows}) > 1:
            columns = [columns[0], ("size", _size), *columns[1:]]
        text = [[value(one) for _, value in columns] for one in rows]
        filled = [at for at in range(len(columns)) if at == 0 or any(line[at] for line in text)]
        header = [columns[at][0] for at in filled]
        body = [[line[at] for at in filled] for line in text]
        parts.append(f"{_caption(rows)}\n\n{markdown(header, body)}")
    return "\n\n".join(parts)


def _together(one: Result) -> tuple[Any, ...]:
    # Rows on one runtime, or one row on all.
    return one["threads"], (one["machine"] or {}).get("date")


def _caption(rows: Sequence[Result]) -> str:
    first = rows[0]
    if first["latency_ms_p50"] is None:
        return "Parameters and multiply-adds, by the counting convention of the paper's table."
    runtimes = ", ".join(dict.fromkeys(one["runtime"] for one in rows))
    what = "network alone" if first["include"] == "network" else "from pixels to result"
    sizes = ", ".join(dict.fromkeys(map(_size, rows)))
    baseline = first["baseline"]
    if len({one["runtime"] for one in rows}) > 1:
        baseline += f" on {first['baseline_runtime']}"
    how = ", ".join([runtimes, _threads(first), what, sizes, f"{first['rounds']} rounds"])
    return f"{how}; ratios are to {baseline}, whose latency is 1"


def _threads(one: Result) -> str:
    return "1 thread" if one["threads"] == 1 else f"{one['threads']} threads"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    lines = [_line(row, widths) for row in (header, *rows)]
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    return "| " + " | ".join([row[0].ljust(widths[0]), *cells[1:]]) + " |"


def document(results: Sequence[Result], *, command: str) -> str:
    """The text of results.md."""
    lines = ["# Benchmark", "", f"```bash\n{command}\n```", ""]
    about = next((one["machine"] for one in results if one["machine"]), None)
    if about:
        versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        lines += [
            f"{about['device']}; {about['cpu']}, {about['cores']} cores, load {about['load']} at the start; "
            f"{about['platform']}; Python {about['python']}, {versions}; {about['date']}.",
            "",
        ]
    lines += [tables(results), "", *_notes(results)]
    return "\n".join(lines) + "\n"


def _notes(results: Sequence[Result]) -> list[str]:
    notes = []
    if results[0]["latency_ms_p50"] is not None:
        peaks = {one["threads"]: one["gemm_gmadds_per_s"] for one in results if one["gemm_gmadds_per_s"]}
        peak = "; ".join(f"{value:.0f} with threads={count}" for count, value in peaks.items())
        notes.append(
            "Networks took turns, one call each per round, after warm-up. `+-`: how far the 95 % interval of "
            "the median reaches (order statistics, rounds taken as independent; `!`: further than was asked "
            "for when time was up). Ratios are formed round by round: their median, and where nine of ten "
            "rounds lie. GMAdd/s: multiply-adds of convolutions and linear layers, in billions per second"
            + (f" (a large float32 matrix product reaches {peak})" if peak else "")
            + ". MB: what a fresh process adds for loading and running the network, libraries of the runtime "
            "included. Weights are random where no run is given."
        )
    timed = {_PHONES[one["room"]]: one for one in results if one["paper"]["latency_ms"]}
    notes += [f"The paper's milliseconds were measured on {phone}, not here." for phone in timed]
    return [line for note in notes for line in (note, "")][:-1]


def save(results: Sequence[Result], out: Path, *, command: str) -> None:
    """Write results.json and results.md, and pareto.png where there are latencies and accuracies.

    Raises: UserError where a file cannot be written.
    """
    write_json(out / "results.json", list(results))
    try:
        write_text(out / "results.md", document(results, command=command))
        draw(results, out / "pareto.png")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another out=") from None


def accuracy(one: Result) -> tuple[float, str] | None:
    """(percent, where it is from): what was measured here, else what was published, else None."""
    metric = METRICS[one["room"]]
    if (measured := one["accuracy"].get(metric)) is not None:
        return 100 * measured, "measured"
    published = one["paper"].get(metric)
    return None if published is None else (float(published), "published")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of (cost, value) that no other point beats in both, by rising cost.

    A point that another one equals in one and beats in the other is not on the front; of equals the first is.
    """
    front: list[int] = []
    for at in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if not front or points[at][1] > points[front[-1]][1]:
            front.append(at)
    return front


def draw(results: Sequence[Result], path: Path) -> None:
    """Latency against accuracy, the Pareto front of each runtime and thread count; nothing without both."""
    shown = [one for one in results if one["latency_ms_p50"] is not None and accuracy(one) is not None]
    if not shown:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    named = "name" if len({one["name"] for one in shown}) > 1 else "runtime"
    panels: dict[
        str, list[Result]
    ] = {}  # a fast runtime's points would lie on each other beside a slow one's
    for one in shown:
        title = _threads(one) if named == "runtime" else f"{one['runtime']}, {_threads(one)}"
        panels.setdefault(title, []).append(one)
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    width = 9 if columns == 1 else 6 * columns
    figure, axes = plt.subplots(
        lines, columns, figsize=(width, 5.5 * lines), layout="constrained", sharey=True, squeeze=False
    )
    for axis, (title, members) in zip(axes.flat, panels.items(), strict=False):
        _draw_panel(axis, members, named)
        axis.set_title(title, fontsize=10)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    metric = " / ".join(dict.fromkeys(_LABELS[METRICS[one["room"]]] for one in shown))
    sources = sorted({found[1] for one in shown if (found := accuracy(one))})  # measured, published
    origin = " (filled) or ".join(sources) + (" (hollow)" if len(sources) > 1 else "")
    figure.supylabel(f"{metric} [%], {origin}", fontsize=10)
    figure.supxlabel(f"latency here [ms], median of rounds ({shown[0]['machine']['device']})", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_panel(axis: Any, members: Sequence[Result], named: str) -> None:
    members = sorted(members, key=lambda one: one["latency_ms_p50"])
    found = [accuracy(one) or (0.0, "") for one in members]
    points = [(one["latency_ms_p50"], percent) for one, (percent, _) in zip(members, found, strict=True)]
    front = [points[at] for at in pareto_front(points)]
    axis.plot(*zip(*front, strict=True), color="C0", alpha=0.4, label="Pareto front")
    for at, (one, point) in enumerate(zip(members, points, strict=True)):
        hollow = found[at][1] == "published"
        axis.plot(*point, "o", color="C0", markerfacecolor="white" if hollow else "C0")
        offset = (4, 6) if at % 2 else (4, -12)  # neighbors' labels on different sides
        axis.annotate(one[named], point, textcoords="offset points", xytext=offset, fontsize=7)
    axis.set_xlim(0, 1.25 * points[-1][0])
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="lower right")
