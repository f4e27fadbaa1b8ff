"""The results of a benchmark as Markdown tables, with the paper's figures in columns of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from deploy.benchmark.results import Result

Column = tuple[str, Callable[[Result], str]]


def tables(results: Sequence[Result]) -> str:
    """One table per group of results that were measured together, under a line that describes the setup."""
    parts = []
    for _, members in groupby(results, key=_group_key):
        rows = list(members)
        columns = COUNTS if rows[0]["latency_ms_p50"] is None else [*COUNTS, *TIMES]
        if len({row["runtime"] for row in rows}) > 1:
            columns = [columns[0], ("runtime", lambda row: row["runtime"]), *columns[1:]]
        if len({_size(row) for row in rows}) > 1:
            columns = [columns[0], ("size", _size), *columns[1:]]
        text = [[value(row) for _, value in columns] for row in rows]
        filled = [i for i in range(len(columns)) if i == 0 or any(line[i] for line in text)]
        header = [columns[i][0] for i in filled]
        body = [[line[i] for i in filled] for line in text]
        parts.append(f"{_caption(rows)}\n\n{markdown(header, body)}")
    return "\n\n".join(parts)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    lines = [_line(row, widths) for row in (header, *rows)]
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def threads_text(result: Result) -> str:
    return "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    return "| " + " | ".join([row[0].ljust(widths[0]), *cells[1:]]) + " |"


def _group_key(result: Result) -> tuple[Any, ...]:
    # Rows on one runtime, or one row on all.
    return result["task"], result["threads"], (result["machine"] or {}).get("date")


def _caption(rows: Sequence[Result]) -> str:
    first = rows[0]
    if first["latency_ms_p50"] is None:
        return "Parameters and multiply-adds, by the counting convention of the paper's table."
    runtimes = ", ".join(dict.fromkeys(row["runtime"] for row in rows))
    what = "network alone" if first["include"] == "network" else "from pixels to result"
    sizes = ", ".join(dict.fromkeys(map(_size, rows)))
    baseline = first["baseline"]
    if len({row["runtime"] for row in rows}) > 1:
        baseline += f" on {first['baseline_runtime']}"
    how = ", ".join([runtimes, threads_text(first), what, sizes, f"{first['rounds']} rounds"])
    return f"{how}; ratios are to {baseline}, whose latency is 1"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _milliseconds(value: float | None) -> str:
    """With at least three significant digits."""
    return _number(value, 1 if value is not None and value >= 100 else 2)


def _ratio(result: Result) -> str:
    if result["ratio_to_baseline"] is None:
        return ""
    return f"{result['ratio_to_baseline']:.3f} ({result['ratio_p5']:.3f}-{result['ratio_p95']:.3f})"


def _interval(result: Result) -> str:
    interval, p50 = result["latency_ms_interval"], result["latency_ms_p50"]
    if not interval:
        return "unknown"
    half_width = max(p50 - interval[0], interval[1] - p50) / p50
    return f"{half_width:.1%}" + ("" if result["interval_reached"] else " !")


def _accuracy(result: Result) -> str:
    value = result["accuracy"].get(result["metric"])
    if value is None:
        return ""
    data = f" on {result['accuracy_on']}" if result.get("accuracy_on") else ""
    return f"{100 * value:.1f} {result['metric']}{data}"


def _size(result: Result) -> str:
    return "x".join(map(str, result["size"]))


def _published(result: Result) -> str:
    ms, size = result["paper"]["latency_ms"], result["paper"]["latency_size"]
    if ms is None:
        return ""
    return f"{ms:.0f}" + ("" if size == result["size"] else f" at {size[0]}x{size[1]}")


COUNTS: list[Column] = [
    ("name", lambda row: row["name"]),
    ("row", lambda row: str(row["paper"]["row"] or "")),
    ("params M", lambda row: _number(row["params_m"], 3)),
    ("paper's", lambda row: str(row["paper"].get("params_m") or "")),
    ("MAdds B", lambda row: _number(row["madds_b"], 3)),
    ("paper's", lambda row: str(row["paper"]["madds_b"] or "")),
    ("measured %", _accuracy),
]
TIMES: list[Column] = [
    ("p50 ms", lambda row: _milliseconds(row["latency_ms_p50"])),
    ("+-", _interval),
    ("p95", lambda row: _milliseconds(row["latency_ms_p95"])),
    ("min", lambda row: _milliseconds(row["latency_ms_min"])),
    ("ratio (p5-p95)", _ratio),
    ("paper's ratio", lambda row: _number(row["paper"]["ratio_to_baseline"], 3)),
    ("paper's ms", _published),
    ("GMAdd/s", lambda row: _number(row["gmadds_per_s"], 1)),
    ("MB", lambda row: _number(row["peak_memory_mb"], 0)),
]
