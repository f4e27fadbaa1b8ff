"""Where numbers go: console, `log.jsonl`, TensorBoard, a picture of the curves."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import UserError
from engine.run_folder import RunFolder, write_text

T = TypeVar("T")


class RunLog:
    """Rows of a run, appended to `log.jsonl` and to TensorBoard.

    On resume the rows that the checkpoint does not know of are dropped. TensorBoard's events are then written
    anew from the rows that stay: events are flushed late, and a run that was killed has lost some.

    Args:
        step, evaluated_step: where the run stands, and where it was last evaluated.

    Raises:
        UserError: a file cannot be written (disk full, no permission); so does `row`.
    """

    def __init__(
        self, run: RunFolder, *, step: int = 0, evaluated_step: int = 0, tensorboard: bool = True
    ) -> None:
        self.path = run.log
        self._writer: Any = None
        try:
            kept = [
                row
                for row in read_rows(self.path)
                if row["step"] <= (evaluated_step if row["kind"] == "eval" else step)
            ]
            if self.path.exists():
                write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
            if tensorboard:
                self._open_tensorboard(run.path / "tensorboard", kept)
        except OSError as error:
            raise UserError(f"{run.path}: cannot write the log ({error.strerror})") from None

    def _open_tensorboard(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Purging from step 0 voids the events of earlier processes, which are then repeated.
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
                f"{self.path}: cannot be written ({error.strerror}); free space and resume"
            ) from None

    def _add_scalars(self, row: dict[str, Any]) -> None:
        if self._writer is None:
            return
        for name, value in row.items():
            if name not in ("step", "time") and _is_number(value):
                at = row.get("time")
                self._writer.add_scalar(
                    f"{row['kind']}/{name}", value, row["step"], walltime=at if _is_number(at) else None
                )

    def close(self) -> None:
        if self._writer is not None:
            # What TensorBoard could not write stands in log.jsonl too: no reason to hide another error.
            with contextlib.suppress(OSError):
                self._writer.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a `log.jsonl`; what follows a damaged or cut-off line is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
            whole = type(row["step"]) is int and abs(row["step"]) < 2**63 and isinstance(row["kind"], str)
        except (ValueError, TypeError, KeyError, RecursionError):
            break
        if not whole:
            break
        rows.append({"step": row["step"], "kind": row["kind"], **row})
    return rows


class Progress:
    """A bar on a terminal, a line now and then elsewhere: the first soon, the last always.

    Args:
        total: steps of the whole job.
        first: steps that were done before.
        every_seconds: seconds between lines where the output is no terminal.
        say: where lines go (for tests).
    """

    def __init__(
        self,
        total: int,
        *,
        first: int = 0,
        unit: str = "step",
        every_seconds: float = 10.0,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.total, self.first, self.unit = total, first, unit
        self.say = say or partial(print, flush=True)
        self._started = time.monotonic()
        self._next = self._started
        self._bar = None
        self._every = every_seconds
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._every = 0.2
            self._bar = tqdm(total=total, initial=first, unit=unit, dynamic_ncols=True)

    def due(self, done: int) -> bool:
        """Whether it is time for `update` to show something."""
        return done >= self.total or time.monotonic() >= self._next

    def update(self, done: int, text: str = "") -> None:
        """`done` of `total` steps are behind us; `text` holds the current numbers."""
        if not self.due(done):
            return
        now = time.monotonic()
        self._next = now + self._every
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        parts = [f"{self.unit} {done}/{self.total}", text, f"ETA {self._eta(done, now)}"]
        self.say("  ".join(part for part in parts if part))

    def _eta(self, done: int, now: float) -> str:
        behind = max(done - self.first, 1)
        seconds = int((now - self._started) / behind * (self.total - done))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def print(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            self.say(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def with_progress(work: Callable[..., T], total: int, *, unit: str) -> T:
    """`work(progress=...)`, which reports (done, total), under a bar of `total`.

    Raises: UserError for a ValueError of `work`, which may lie where there is no UserError.
    """
    bar = Progress(total, unit=unit)
    try:
        return work(progress=lambda done, _: bar.update(done))
    except ValueError as error:
        raise UserError(str(error)) from None
    finally:
        bar.close()


def draw_curves(rows: list[dict[str, Any]], metric: str, path: Path) -> None:
    """Losses (left axis) and the main metric (right axis) over steps, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    train = [row for row in rows if row["kind"] == "train" and _is_number(row.get("loss"))]
    scores = [
        (row["step"], row[metric]) for row in rows if row["kind"] == "eval" and _is_number(row.get(metric))
    ]
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axis.plot(
        [row["step"] for row in train],
        [row["loss"] for row in train],
        color="tab:gray",
        label="training loss",
    )
    axis.set(xlabel="step", ylabel="training loss")
    right = axis.twinx()
    if scores:
        right.plot(*zip(*scores, strict=True), color="tab:blue", marker="o", label=metric)
        right.annotate(
            f"{scores[-1][1]:.3f}", scores[-1], textcoords="offset points", xytext=(-4, 8), ha="right"
        )
    right.set(ylabel=metric, ylim=(0, 1))
    figure.legend(loc="upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e300


def _finite(numbers: dict[str, Any]) -> dict[str, Any]:
    # JSON has neither NaN nor infinity.
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in numbers.items()}
