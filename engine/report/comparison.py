"""Several runs side by side: results, curves, and what differs in their settings."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.errors import UserError, padded, some, text_width
from engine.html.charts import bar_chart, line_chart
from engine.html.page import Page
from engine.report.sections import Rows, duration, points, score_curves, training_seconds
from engine.report.settings import Settings, varying
from engine.train.run_log import is_number, percent

SEED = "seed"
_COUNTED = ("num_images", "num_classes_present", "num_objects", "step", "best_step")
_MOST_CLASSES, _MOST_BARS = 60, 4
_ABSENT = "–"


@dataclass(frozen=True, kw_only=True)
class TrainedResult:
    """A training to compare: its settings, its log, and the metrics of its best evaluation.

    params: 0 if the weights are gone.
    damage: why rows are missing; empty if none are.
    """

    name: str
    task: str
    split: str
    metric: str
    settings: Settings
    rows: Rows
    params: int
    batch: int
    damage: str = ""

    @cached_property
    def metrics(self) -> Mapping[str, Any]:
        """The row of the best evaluation; empty if there is none."""
        scored = [row for row in self.rows if row["kind"] == "eval" and is_number(row.get(self.metric))]
        return max(scored, key=lambda row: float(row[self.metric]), default={})


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed."""

    runs: tuple[TrainedResult, ...]

    @property
    def title(self) -> str:
        names, count = [run.name for run in self.runs], len(self.runs)
        return names[0] if count == 1 else f"{names[0]} and {count - 1} more seed{'s' * (count > 2)}"

    def value(self, name: str) -> float | None:
        """The mean of a metric over the runs; None if none has it."""
        values = self._values(name)
        return statistics.fmean(values) if values else None

    def shown(self, name: str) -> str:
        """A metric as text: in percent if it is a share; for several seeds with its standard deviation
        (n - 1)."""
        values = self._values(name)
        if not values:
            return _ABSENT
        mean = statistics.fmean(values)
        share = name not in _COUNTED and "threshold" not in name and all(0 <= value <= 1 for value in values)
        if len(values) == 1 or name in _COUNTED:
            return percent(mean) if share else _joined(f"{value:,.6g}" for value in values)
        factor, unit = (100, "%") if share else (1, "")
        return f"{factor * mean:.2f} ± {factor * statistics.stdev(values):.2f}{unit}"

    def _values(self, name: str) -> list[float]:
        return [float(run.metrics[name]) for run in self.runs if is_number(run.metrics.get(name))]


class Comparison:
    """Compares trainings of one task on one split.

    Raises: UserError if fewer than two runs have results, or the runs belong to several tasks or splits.
    """

    def __init__(self, results: Sequence[TrainedResult]) -> None:
        for name, remedy in (("task", "compare runs of one task"), ("split", "evaluate them on one split")):
            _check_same(results, name, remedy)
        self.runs = [run for run in results if run.metrics]
        missing = [run.name for run in results if not run.metrics and not run.damage]
        self.notes = [f"not evaluated yet, so left out: {', '.join(missing)}"] if missing else []
        damaged = [f"{run.name}: {run.damage}" for run in results if run.damage]
        self.notes += [f"{line}, so later results are missing" for line in damaged]
        if len(self.runs) < 2:
            reason = f"; not evaluated yet: {some(missing)}" if missing else ""
            reason += f"; {some(damaged, 2)}" if damaged else ""
            raise UserError(f"run: needs at least two runs with results{reason}")
        self.differing = varying([run.settings for run in self.runs])
        self.groups = _grouped(self.runs, [key for key in self.differing if key != SEED])
        images = {run.metrics.get("num_images") for run in self.runs}
        if len(images) > 1 or "data.root" in self.differing:
            self.notes.append("the runs were evaluated on different images, so results are not comparable")
        if len({tuple(self._classes(run)) for run in self.runs}) > 1:
            self.notes.append("the runs have different classes, so means are not comparable")

    @property
    def metric_rows(self) -> list[list[str]]:
        """Metric and value per group; the task's main metric first, metrics of single classes left out."""
        names = dict.fromkeys([self.runs[0].metric, *(name for run in self.runs for name in run.metrics)])
        names = dict.fromkeys(
            name for name in names if "/" not in name and name not in ("step", "kind", "time", "protocol")
        )
        rows = [[name, *(group.shown(name) for group in self.groups)] for name in names]
        rows = [row for row in rows if set(row[1:]) != {_ABSENT}]
        rows.append(
            ["best at step", *(_joined(str(run.metrics["step"]) for run in g.runs) for g in self.groups)]
        )
        rows.append(
            [
                "parameters",
                *(_joined(f"{run.params:,}" if run.params else "n/a" for run in g.runs) for g in self.groups),
            ]
        )
        times = [[training_seconds(run.rows, run.batch) for run in group.runs] for group in self.groups]
        rows.append(["training time", *(duration(statistics.fmean(each)) for each in times)])
        return rows

    @property
    def class_rows(self) -> list[list[str]]:
        """Class and main metric per group."""
        names = dict.fromkeys(name for run in self.runs for name in self._classes(run))
        return [[name.partition("/")[2], *(group.shown(name) for group in self.groups)] for name in names]

    @property
    def setting_rows(self) -> list[list[str]]:
        """The settings that differ, per group."""
        return [
            [key, *(_joined(str(run.settings.get(key, _ABSENT)) for run in g.runs) for g in self.groups)]
            for key in self.differing
        ]

    @property
    def titles(self) -> list[str]:
        return [group.title for group in self.groups]

    def text(self) -> str:
        """The tables, for a terminal."""
        parts = [_text_table(["", *self.titles], self.metric_rows)]
        if self.class_rows and len(self.class_rows) <= _MOST_CLASSES:
            parts.append(_text_table(["class", *self.titles], self.class_rows))
        if self.setting_rows:
            parts.append(_text_table(["settings that differ", *self.titles], self.setting_rows))
        return "\n\n".join([*parts, *(f"note: {note}" for note in self.notes)])

    def write(self, path: Path) -> None:
        """Write report.html. Raises: UserError if it cannot be written."""
        first = self.runs[0]
        page = Page(f"Comparison of {len(self.runs)} runs", f"task {first.task}, evaluated on {first.split}")
        page.section("Results", "The best evaluation of each run." + self._seeds)
        for note in self.notes:
            page.text(f"Note: {note}.")
        page.table(["", *self.titles], self.metric_rows)
        page.section("Curves")
        scores, label = score_curves({run.name: run.rows for run in self.runs}, first.metric)
        page.chart(line_chart(scores, title=first.metric, x_label="step", y_label=label))
        losses = {run.name: points(run.rows, "train", "loss") for run in self.runs}
        page.chart(line_chart(losses, title="Training loss", x_label="step", y_label="training loss"))
        self._add_classes(page)
        page.section("Settings that differ")
        if self.setting_rows:
            page.table(["key", *self.titles], self.setting_rows)
        else:
            page.text("None.")
        page.write(path)

    def _add_classes(self, page: Page) -> None:
        if not self.class_rows:
            return
        page.section("Classes")
        names = dict.fromkeys(name for run in self.runs for name in self._classes(run))
        if len(names) <= _MOST_CLASSES and len(self.groups) <= _MOST_BARS:
            bars = {
                group.title: [100 * (group.value(name) or 0.0) for name in names] for group in self.groups
            }
            labels = [name.partition("/")[2] for name in names]
            kind = next(iter(names)).partition("/")[0]
            page.chart(bar_chart(labels, bars, title=f"{kind} per class", unit="%"))
        page.table(["class", *self.titles], self.class_rows)

    @property
    def _seeds(self) -> str:
        several = any(len(group.runs) > 1 for group in self.groups)
        return " Runs that differ only in the seed: mean ± standard deviation." if several else ""

    def _classes(self, run: TrainedResult) -> list[str]:
        """The names of a run's metrics per class: those with the prefix of its first one."""
        named = [name for name in run.metrics if "/" in name]
        return [name for name in named if name.partition("/")[0] == named[0].partition("/")[0]]


def _check_same(results: Sequence[TrainedResult], name: str, remedy: str) -> None:
    values = {run.name: getattr(run, name) for run in results}
    if len(set(values.values())) > 1:
        each = ", ".join(f"{run} has {name} {value}" for run, value in values.items())
        raise UserError(f"run: {each}; {remedy}")


def _grouped(runs: Sequence[TrainedResult], keys: Sequence[str]) -> list[Group]:
    groups: dict[str, list[TrainedResult]] = {}
    for run in runs:
        groups.setdefault(repr([run.settings.get(key) for key in keys]), []).append(run)
    return [Group(tuple(members)) for members in groups.values()]


def _joined(values: Any) -> str:
    """The values of a group's runs, once each."""
    return ", ".join(dict.fromkeys(values))


def _text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(text_width, column)) for column in zip(columns, *rows, strict=True)]
    lines = [
        "  ".join([padded(row[0], widths[0]), *map(_right, row[1:], widths[1:])]).rstrip()
        for row in (columns, *rows)
    ]
    lines.insert(1, "-" * max(map(text_width, lines)))
    return "\n".join(lines)


def _right(text: str, width: int) -> str:
    return " " * (width - text_width(text)) + text
