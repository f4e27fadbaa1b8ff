"""Shared parts of search reports: Markdown, the chart of accuracy over latency, the next commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engine.config.overrides import unquote_path
from engine.errors import UserError
from engine.io.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_report(path: Path, parts: Sequence[str], commands: Sequence[str] = ()) -> None:
    """Write the parts of a report, followed by the commands to run next.

    Raises:
        UserError: if the file cannot be written.
    """
    if commands:
        parts = [*parts, "## Next", "```\n" + "\n".join(commands) + "\n```"]
    try:
        write_text(path, "\n\n".join(parts) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def shell_command(tool: str, *arguments: str) -> str:
    """A command of one of the tools, quoted for a shell; paths lose the quotes that Hydra needs."""
    return shlex.join(["python", f"tools/{tool}.py", *map(unquote_path, arguments)])


@contextmanager
def latency_chart(path: Path, *, accuracy: str) -> Iterator[Axes]:
    """A chart of accuracy over latency: yields its axes to draw in, then writes it as a PNG.

    accuracy: label of the vertical axis.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    yield axes
    axes.set_xlabel("predicted latency, ms")
    axes.set_ylabel(accuracy)
    _widen(axes, "x", 0.1)
    _widen(axes, "y", 0.05)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _widen(axes: Axes, axis: Literal["x", "y"], share: float) -> None:
    """Make an axis span at least a share of its largest value, so that small differences look small."""
    low, high = getattr(axes, f"get_{axis}lim")()
    least = share * max(abs(low), abs(high))
    if high - low < least:
        middle = (low + high) / 2
        getattr(axes, f"set_{axis}lim")(middle - least / 2, middle + least / 2)
