"""The latency of candidate networks: from a device's table, or measured layer by layer on this machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backbones.spec import NetSpec
from deploy.device.hardware import cpu_model
from deploy.eager import current_name
from deploy.latency_table.build import provenance
from deploy.latency_table.measurers import RUNTIMES, Measurer, measurer
from deploy.latency_table.network_latency import NetworkLatency
from deploy.latency_table.table import LatencyTable
from engine.data.preprocessing import Size, as_size
from engine.errors import UserError, nearest
from nas.candidates import LogLine
from nas.task_trainer import TaskTrainer

TABLE_FILE = "latency.json"
"""The file in a search's folder with all latencies that the search has used."""

Taps = Sequence[str] | Callable[[NetSpec], Sequence[str]]
"""The features that a model reads, or a function that returns them for a spec."""


@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """Which latency a search uses; conf/search.yaml explains each.

    Raises:
        ValueError: if `runtime` is unknown, or if `threads` or `size` is out of range.
    """

    latency: str | None = None
    measure: Literal[True, False, "auto"] = "auto"
    runtime: str = "onnx"
    threads: int = 1
    size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if current_name(self.runtime) not in RUNTIMES:
            raise ValueError(
                f"runtime must be one of {', '.join(RUNTIMES)}, got {self.runtime!r}"
                f"{nearest(self.runtime, RUNTIMES)}"
            )
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if self.size is not None:
            as_size("size", list(self.size))


def network_latency(
    options: LatencyOptions, trainer: TaskTrainer, folder: Path, taps: Taps, log: LogLine
) -> NetworkLatency:
    """Latency according to the table in the search's folder, which starts as a copy of the options' table.

    Args:
        folder: of the search.
        log: gets a line if the table has no entry for the model's head.

    Raises:
        UserError: if a table cannot be read, differs from the one that the search used before, or is missing
            although measuring is turned off.
    """
    path = folder / TABLE_FILE
    table = combined_table(path, Path(options.latency) if options.latency else None)
    measure = _measurer(options, table)
    size = _size(options, table) or trainer.input_size()
    if table is None:
        assert measure is not None
        table = LatencyTable(about=provenance(measure, size))
    head = trainer.head
    if measure is None and head not in {layer.head for layer in table.entries}:
        log(f"the latency table has no head {head}: only the backbone's latency counts")
        head = ""
    if options.size is None:
        height, width = size
        origin = _origin(options, table)
        log(f"latency of images of {height}x{width} (height x width), {origin}; set size= for another one")
    table.save(path)
    return NetworkLatency(
        table=table, size=size, taps=taps, head=head, model=trainer.make_model, measure=measure, path=path
    )


def _origin(options: LatencyOptions, table: LatencyTable) -> str:
    if table.about.get("size") is None:
        return "as at evaluation"
    return f"the size of {options.latency}" if options.latency else "as at evaluation"


def combined_table(own: Path, other: Path | None) -> LatencyTable | None:
    """The search's own table plus the entries that only the other one has; the other one if there is no own.

    Raises:
        UserError: if they have different latencies for a layer, which would make earlier trials incomparable
            with later ones.
    """
    if not own.exists():
        return LatencyTable.load(other) if other else None
    table = LatencyTable.load(own)
    if other is not None and other.exists():  # a search can resume without it
        entries = LatencyTable.load(other).entries
        if any(table.entries.get(layer, ms) != ms for layer, ms in entries.items()):
            raise UserError(f"{own}: its latencies differ from those in {other}; choose another out=")
        table.entries = {**table.entries, **entries}
    return table


def _size(options: LatencyOptions, table: LatencyTable | None) -> Size | None:
    """(height, width) that the options or the table give."""
    if options.size is not None:
        return as_size("size", list(options.size))
    if table is None or table.about.get("size") is None:
        return None
    try:
        return as_size("size", table.about["size"])
    except (TypeError, ValueError) as error:
        raise UserError(f"the latency table has an invalid size: {error}; set size=[height,width]") from None


def _measurer(options: LatencyOptions, table: LatencyTable | None) -> Measurer | None:
    """Times layers that the table lacks; None if they are interpolated."""
    if table is None:
        if options.measure is False:
            raise UserError("measure=false needs the latency table of a device; set latency=<file>")
        return measurer(options.runtime, threads=options.threads)
    runtime, threads = table.about.get("runtime"), table.about.get("threads", 1)
    made_here = table.about.get("cpu") == cpu_model() and runtime in RUNTIMES
    if options.measure is False or (options.measure == "auto" and not made_here):
        return None
    try:
        return measurer(str(runtime), threads=threads)
    except ValueError as error:
        raise UserError(
            f"measure={options.measure}: layers cannot be measured the way the table was: {error}"
        ) from None
