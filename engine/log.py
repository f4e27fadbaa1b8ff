"""Where numbers go: console, `log.jsonl`, TensorBoard, a picture of the curves."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.run_folder import RunFolder


class RunLog:
    """Rows of a run, appended to `log.jsonl` and to TensorBoard; on resume the rows after `step` are dropped."""

    def __init__(self, run: RunFolder, *, step: int = 0, tensorboard: bool = True) -> None:
        self.path = run.log
        _truncate(self.path, step)
        self._writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1 if step else None)

    def row(self, step: int, kind: str, numbers: dict[str, Any]) -> None:
        """Record `numbers` of `kind` ("train" or "eval") at `step`."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **_finite(numbers)}) + "\n")
        if self._writer is not None:
            for name, value in numbers.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a `log.jsonl`; a last line that was cut off is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Progress:
    """A bar on a terminal, a line now and then elsewhere.

    Args:
        total: steps of the whole job.
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
        say: Callable[[str], None] = print,
    ) -> None:
        self.total, self.first, self.unit, self.every_seconds, self.say = (
            total,
            first,
            unit,
            every_seconds,
            say,
        )
        self._started = self._said = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=first, unit=unit, dynamic_ncols=True, leave=False)

    def update(self, done: int, text: str = "") -> None:
        """`done` of `total` steps are behind us; `text` holds the current numbers."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if now - self._said >= self.every_seconds or done == self.total:
            self._said = now
            self.say(
                f"{self.unit} {done}/{self.total}  {text}  ETA {self._eta(done, now)}".replace("    ", "  ")
            )

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


def draw_curves(rows: list[dict[str, Any]], metric: str, path: Path) -> None:
    """Losses (left axis) and the main metric (right axis) over steps, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    train = [row for row in rows if row["kind"] == "train"]
    scores = [
        (row["step"], row[metric]) for row in rows if row["kind"] == "eval" and row.get(metric) is not None
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


def _truncate(path: Path, step: int) -> None:
    rows = read_rows(path)
    kept = [row for row in rows if row["step"] <= step]
    if path.exists():
        path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def _finite(numbers: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and v != v else v for k, v in numbers.items()}
