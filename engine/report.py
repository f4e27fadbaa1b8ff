"""What a training says about itself while it runs: rows for the log, a bar or lines for the console."""

from typing import Any

from engine.log import Progress, RunLog

INPUT_BOUND = "input-bound: the model waits for data; raise data.workers or give data.cache=<folder>"


class Meter:
    """Sums what happened since the last `take`."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.losses: dict[str, float] = {}
        self.steps = self.images = 0
        self.waited = self.seconds = 0.0

    def add(self, losses: dict[str, float], *, images: int, waited: float, seconds: float) -> None:
        """Count one step: its losses, images over all processes, and seconds, `waited` of them for data."""
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + loss
        self.steps += 1
        self.images += images
        self.waited += waited
        self.seconds += seconds

    def take(self) -> dict[str, float]:
        """Mean losses, images/s and the share of time spent waiting for data; starts anew."""
        means = {name: loss / self.steps for name, loss in self.losses.items()}
        numbers = {
            "loss": sum(means.values()),
            **({f"loss/{name}": value for name, value in means.items()} if len(means) > 1 else {}),
            "images_per_s": self.images / self.seconds,
            "data_wait": self.waited / self.seconds,
        }
        self._clear()
        return numbers


class Report:
    """Reports steps and evaluations to a log and to the console.

    Rows of the log fall on fixed steps, so that two runs can be compared line by line; the console follows
    the clock. Where the model waited for data for more than 30 % of the time in three rows on end, that is
    said once.

    Args:
        last: the last step of the run.
        every: steps between rows of the log.
    """

    def __init__(self, log: RunLog, progress: Progress, *, last: int, every: int) -> None:
        self.log, self.progress, self.last, self.every = log, progress, last, every
        self._rows, self._console = Meter(), Meter()
        self._starved: int | None = 0

    def step(self, step: int, losses: dict[str, float], *, lr: float, **spent: Any) -> None:
        """One step was done; `spent` is what `Meter.add` counts."""
        self._rows.add(losses, **spent)
        self._console.add(losses, **spent)
        if step % self.every == 0 or step in (1, self.last):
            numbers = self._rows.take()
            self.log.row(step, "train", {**numbers, "lr": lr})
            if step > 1:
                self._watch(numbers["data_wait"])
        if self.progress.due(step):
            numbers = self._console.take()
            self.progress.update(
                step,
                f"loss {numbers['loss']:.3f}  lr {lr:.2g}  {numbers['images_per_s']:.1f} images/s  "
                f"data wait {numbers['data_wait']:.0%}",
            )

    def evaluation(self, step: int, metrics: dict[str, Any], *, metric: str, better: bool) -> None:
        """An evaluation was done."""
        self.log.row(step, "eval", metrics)
        mark = "  (best)" if better else ""
        self.progress.print(f"step {step}: {metric} {metrics[metric]:.4f}{mark}")

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
