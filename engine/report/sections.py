"""Sections that the reports of trainings and evaluations share."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from engine.html.charts import Point, line_chart
from engine.html.page import Page
from engine.report.settings import Difference
from engine.sample_images import drawn
from engine.train.run_log import INPUT_BOUND, is_number, percent

Rows = Sequence[Mapping[str, Any]]
"""Rows of log.jsonl."""

_WAITS = 0.3  # share of the time from which a training is input-bound


def points(rows: Rows, kind: str, name: str, factor: float = 1.0) -> list[Point]:
    """(step, value) of the rows of a kind that have this number."""
    return [
        (row["step"], factor * row[name]) for row in rows if row["kind"] == kind and is_number(row.get(name))
    ]


def add_results(page: Page, metrics: Mapping[str, Any]) -> None:
    """The metrics of the whole split that are known; those of single classes belong to the task's section."""
    rows = [
        (name, percent(value) if isinstance(value, float) and "threshold" not in name else value)
        for name, value in metrics.items()
        if "/" not in name and isinstance(value, int | float) and not isinstance(value, bool)
        if not math.isnan(value)  # such as miou_category without categories
    ]
    page.section("Results").table(["metric", "value"], rows, str(metrics.get("protocol", "")))


def add_curves(page: Page, rows: Rows, metric: str) -> None:
    """Loss, metric and learning rate against the step."""
    losses = {"total": points(rows, "train", "loss")}
    parts = dict.fromkeys(name for row in rows for name in row if name.startswith("loss/"))
    losses |= {name.removeprefix("loss/"): points(rows, "train", name) for name in parts}
    if not losses["total"]:
        return
    page.section("Curves")
    page.chart(line_chart(losses if parts else {"": losses["total"]}, title="Training loss",
                          x_label="step", y_label="loss"))  # fmt: skip
    curves, label = score_curves({"": rows}, metric)
    if len(curves[""]) > 1:  # one is no curve
        best = max(curves[""], key=lambda score: score[1])
        text = f"best {best[1]:.4f}" if label == metric else f"best {best[1]:.2f}%"
        page.chart(line_chart(curves, title=f"Evaluated {metric}", x_label="step", y_label=label,
                              marks=[(*best, text)]))  # fmt: skip
    page.chart(line_chart({"": points(rows, "train", "lr")}, title="Learning rate", x_label="step",
                          y_label="learning rate"))  # fmt: skip


def score_curves(rows: Mapping[str, Rows], metric: str) -> tuple[dict[str, list[Point]], str]:
    """The evaluated metric of each run as (step, value), and the label of its axis; in percent if all values
    are between 0 and 1."""
    curves = {name: points(run, "eval", metric) for name, run in rows.items()}
    if not all(0 <= value <= 1 for curve in curves.values() for _, value in curve):
        return curves, metric
    return {name: points(run, "eval", metric, 100) for name, run in rows.items()}, f"{metric}, %"


def add_speed(page: Page, rows: Rows, batch: int) -> None:
    """Images per second and the share of the time that was spent waiting for data."""
    speeds, waits = points(rows, "train", "images_per_s"), points(rows, "train", "data_wait", 100)
    if not speeds:
        return
    waited = median(wait for _, wait in waits)
    page.section("Speed")
    seconds = training_seconds(rows, batch)
    page.text(
        f"Training took {duration(seconds)}, not counting evaluations. Median speed: "
        f"{median(s for _, s in speeds):.3g} images/s, with {waited:.0f}% of the time spent waiting for data."
    )
    if waited > 100 * _WAITS:
        page.text(INPUT_BOUND[0].upper() + INPUT_BOUND[1:] + ".")
    page.chart(line_chart({"": speeds}, title="Throughput", x_label="step", y_label="images/s"))
    page.chart(line_chart({"": waits}, title="Waiting for data", x_label="step", y_label="% of the time",
                          y_range=(0, 100)))  # fmt: skip


def training_seconds(rows: Rows, batch: int) -> float:
    """Seconds spent in training steps, from the throughput of each row; pauses and evaluations are not
    counted."""
    speeds, last, seconds = points(rows, "train", "images_per_s"), 0.0, 0.0
    for step, speed in speeds:
        seconds += batch * (step - last) / speed if speed > 0 else 0.0
        last = step
    return seconds


def add_images(
    page: Page,
    reporter: Any,
    dataset: Any,
    worst: Sequence[tuple[str, int, float]],
    *,
    worst_by: str,
    random: int,
) -> None:
    """The worst images of an evaluation, and others chosen at random, with labels and predictions.

    worst_by: what the scores of `worst` are, such as "lowest F1".
    """
    if worst:
        page.section("Worst images", f"The images with the {worst_by}, the worst first.")
        page.images(
            (reporter.draw_sample(dataset, index), f"{rank}.\N{NO-BREAK SPACE}{name}: {score:.3f}")
            for rank, (name, index, score) in enumerate(drawn(worst), start=1)
        )
    chosen = np.random.default_rng(0).permutation(len(dataset))[:random].tolist()
    if chosen:
        page.section("Random images")
        page.images((reporter.draw_sample(dataset, index), dataset.name(index)) for index in drawn(chosen))


def add_settings(page: Page, differences: Sequence[Difference], task: str) -> None:
    """What differs from the default configuration."""
    page.section("Settings", f"Keys that differ from the defaults of task={task}; config.yaml lists all.")
    if differences:
        page.table(
            ["key", "default", "this run"], [(d.key, _shown(d.default), _shown(d.value)) for d in differences]
        )
    else:
        page.text("All keys have their default values.")


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)


def duration(seconds: float) -> str:
    """Such as 2 h 05 min, 12 min or 40 s."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
