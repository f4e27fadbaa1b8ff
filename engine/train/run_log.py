"""Logs a training to `log.jsonl`, TensorBoard and the console."""

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from engine.errors import UserError
from engine.io.files import write_text
from engine.io.progress import Progress
from engine.run.run_folder import RunFolder


class Tracker(Protocol):
    """An experiment tracker, which shows the rows of a run, its configuration and sample images."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Record a row of log.jsonl."""
        ...

    def images(self, step: int, paths: Sequence[Path]) -> None:
        """Record image files."""
        ...

    def close(self) -> None: ...


class RunLog:
    """Appends rows to `log.jsonl`, TensorBoard and other trackers.

    On resume, rows after the checkpoint are dropped, and TensorBoard's events are rewritten from the
    remaining rows, because a killed run can lose events that were not flushed.

    Args:
        step, evaluated_step: the current step of the run, and the last evaluated step.
        trackers: receive new rows; the caller closes them.

    Raises:
        UserError: if a file cannot be written (disk full, no permission); also raised by `row`.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        step: int = 0,
        evaluated_step: int = 0,
        tensorboard: bool = True,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self.path, self._trackers = run.log, trackers
        self._writer: Any = None
        try:
            rows = [
                row
                for row in read_rows(self.path)
                if row["step"] <= (evaluated_step if row["kind"] == "eval" else step)
            ]
            if self.path.exists():
                write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))
            if tensorboard:
                self._open_tensorboard(run.path / "tensorboard", rows)
        except OSError as error:
            raise UserError(f"{run.path}: cannot write the log ({error.strerror})") from None

    def _open_tensorboard(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Purging from step 0 discards all events of earlier processes; they are rewritten below.
        self._writer = SummaryWriter(str(folder), purge_step=0 if folder.exists() else None)
        for row in rows:
            self._add_scalars(row)

    def row(self, step: int, kind: str, numbers: dict[str, Any]) -> None:
        """Record `numbers` of `kind` ("train" or "eval") at `step`."""
        row = {"step": step, "kind": kind, "time": round(time.time(), 3), **_finite(numbers)}
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            self._add_scalars(row)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); free some space and resume"
            ) from None
        for tracker in self._trackers:
            tracker.row(row)

    def _add_scalars(self, row: dict[str, Any]) -> None:
        if self._writer is None:
            return
        for name, value in row.items():
            if name not in ("step", "time") and is_number(value):
                at = row.get("time")
                self._writer.add_scalar(
                    f"{row['kind']}/{name}", value, row["step"], walltime=at if is_number(at) else None
                )

    def close(self) -> None:
        if self._writer is not None:
            # log.jsonl contains the same rows, and an error here would hide the original exception.
            with contextlib.suppress(OSError):
                self._writer.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a `log.jsonl`, up to the first damaged or truncated line."""
    return _read(path)[0]


def damaged_line(path: Path) -> int | None:
    """The number of the first damaged line of a `log.jsonl`; None if there is none.

    A killed training can leave its last line incomplete, which is no damage.
    """
    rows, total = _read(path)
    return len(rows) + 1 if len(rows) + 1 < total or (total == 1 and not rows) else None


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows up to the first damaged line, and the number of lines."""
    if not path.exists():
        return [], 0
    rows, lines = [], path.read_bytes().splitlines()
    for line in lines:
        try:
            row = json.loads(line)
            valid = type(row["step"]) is int and abs(row["step"]) < 2**63 and isinstance(row["kind"], str)
        except (ValueError, TypeError, KeyError, RecursionError):
            break
        if not valid:
            break
        rows.append({"step": row["step"], "kind": row["kind"], **row})
    return rows, len(lines)


def is_number(value: Any) -> bool:
    """Whether a value of a row can be plotted."""
    return isinstance(value, (int, float)) and abs(value) < 1e300


def percent(value: float) -> str:
    """A metric as the tables show it: in percent if it is a share, 0..1."""
    return f"{value:.2%}" if 0 <= value <= 1 else f"{value:.4f}"


def _finite(numbers: dict[str, Any]) -> dict[str, Any]:
    # JSON has no NaN or infinity.
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in numbers.items()}


INPUT_BOUND = "input-bound: the model waits for data; raise data.workers or set data.cache=<folder>"


class IntervalStats:
    """Sums over the steps since the last `pop`."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.losses: dict[str, float] = {}
        self.steps = self.images = 0
        self.waited = self.seconds = 0.0

    def add(self, losses: dict[str, float], *, images: int, waited: float, seconds: float) -> None:
        """Add one step: its losses, images in all processes, and seconds (`waited` of them for data)."""
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + loss
        self.steps += 1
        self.images += images
        self.waited += waited
        self.seconds += seconds

    def pop(self) -> dict[str, float]:
        """Mean losses, images/s and the fraction of time spent waiting for data; starts a new interval."""
        means = {name: loss / self.steps for name, loss in self.losses.items()}
        numbers = {
            "loss": sum(means.values()),
            **({f"loss/{name}": value for name, value in means.items()} if len(means) > 1 else {}),
            "images_per_s": self.images / self.seconds,
            "data_wait": self.waited / self.seconds,
        }
        self._clear()
        return numbers


class TrainingMonitor:
    """Reports steps and evaluations to the log and the console.

    Log rows are written at fixed steps, which makes runs comparable line by line; console lines are printed
    at fixed time intervals. If the model waits for data more than 30% of the time in three successive rows, a
    warning is printed once.

    Args:
        last: the last step of the run.
        every: steps between log rows.
    """

    def __init__(self, log: RunLog, progress: Progress, *, last: int, every: int) -> None:
        self.log, self.progress, self.last, self.every = log, progress, last, every
        self._rows, self._console = IntervalStats(), IntervalStats()
        self._starved: int | None = 0

    def step(self, step: int, losses: dict[str, float], *, lr: float, **spent: Any) -> None:
        """Report one step; `spent` is passed to `IntervalStats.add`."""
        self._rows.add(losses, **spent)
        self._console.add(losses, **spent)
        if step % self.every == 0 or step in (1, self.last):
            numbers = self._rows.pop()
            self.log.row(step, "train", {**numbers, "lr": lr})
            if step > 1:
                self._watch(numbers["data_wait"])
        if self.progress.due(step):
            numbers = self._console.pop()
            self.progress.update(
                step,
                f"loss {numbers['loss']:.3f}  lr {lr:.2g}  {numbers['images_per_s']:.1f} images/s  "
                f"data wait {numbers['data_wait']:.0%}",
            )

    def evaluation(self, step: int, metrics: dict[str, Any], *, metric: str, better: bool) -> None:
        """Report an evaluation."""
        self.log.row(step, "eval", metrics)
        mark = "  (best)" if better else ""
        self.progress.print(f"step {step}: {metric} {percent(metrics[metric])}{mark}")

    def close(self) -> None:
        self.log.close()
        self.progress.close()

    def _watch(self, data_wait: float) -> None:
        if self._starved is None:
            return
        self._starved = self._starved + 1 if data_wait > 0.3 else 0
        if self._starved == 3:
            self._starved = None
            self.progress.print(INPUT_BOUND)
