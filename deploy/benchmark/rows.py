"""The rows of a benchmark: the networks of a suite and of a run, with parameters and multiply-adds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbones.count import count
from deploy.benchmark import paper as papers
from deploy.options import BenchmarkOptions, Suite
from engine.config.compose import compose_config
from engine.config.instantiate import build, find_task, plain, task_info
from engine.config.runs import TrainedRun
from engine.config.training import build_task
from engine.contracts import Image, TaskInfo
from engine.data.class_map import ClassMap
from engine.data.images import read_image
from engine.data.preprocessing import Size, as_size
from engine.errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """One network in a benchmark.

    Attributes:
        name: short, unique in a benchmark.
        source: the experiment or the run folder that it comes from.
        task: name of the task.
        metric: the task's main metric.
        params, madds: by the counting convention of the paper's table, at the table's size.
        size: (height, width) at which the network is timed.
        executed_madds: of convolutions and linear layers at that size; None if nothing is timed.
        paper: published figures; empty if there are none.
        accuracy: our measured values, by metric; empty if there are none.
        accuracy_on: the data that they were measured on; None: those of the run.
        predictor: the task (`predictor.model` is the network); None if nothing is timed.
        read: path -> image [H, W, 3], read with the run's settings.
    """

    name: str
    source: str
    task: str
    metric: str
    params: float
    madds: float
    size: Size
    executed_madds: int | None
    paper: Mapping[str, Any]
    accuracy: Mapping[str, float]
    accuracy_on: str | None = None
    predictor: nn.Module | None = None
    read: Callable[[str], Image] = read_image


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows that are measured together, and the one of them that ratios refer to."""

    rows: Sequence[BenchmarkRow]
    baseline: BenchmarkRow


def comparisons(options: BenchmarkOptions) -> list[Comparison]:
    """The parts of the suite, each with its baseline; a run is a row of its task's part, or of a new one.

    Raises:
        UserError: if `options.baseline` is no row of any part, or if two runs are the same.
    """
    parts: list[tuple[Suite | None, list[BenchmarkRow]]] = [
        (suite, _suite_rows(suite, options)) for suite in options.chosen_suites
    ]
    for run in _run_rows(options):
        beside = next((rows for _, rows in parts if rows[0].task == run.task), None)
        if beside is None:
            parts.append((None, [run]))
        else:
            beside.append(run)
    named = [options.baseline in (row.name, row.source) for _, rows in parts for row in rows]
    if options.baseline is not None and not any(named):
        choose_baseline([row for _, rows in parts for row in rows], options.baseline)
    return [Comparison(rows=rows, baseline=_baseline(suite, rows, options.baseline)) for suite, rows in parts]


def _baseline(suite: Suite | None, rows: Sequence[BenchmarkRow], wanted: str | None) -> BenchmarkRow:
    """The row that was asked for if it is among these, else the suite's, else the first MobileNetV2."""
    for name in (wanted, suite and suite.baseline):
        for row in rows:
            if name in (row.name, row.source):
                return row
    return choose_baseline(rows, None)


def _suite_rows(suite: Suite, options: BenchmarkOptions) -> list[BenchmarkRow]:
    """The rows of a suite, and its baseline if that is in another table."""
    if suite.networks:
        return [_network_row(name, suite, options) for name in suite.networks]
    published = papers.papers_of(suite)
    baseline = options.baseline or suite.baseline
    if options.latency and baseline and baseline not in published and papers.is_experiment(baseline):
        published = {baseline: papers.paper_block(baseline), **published}
    sizes = papers.timed_sizes(published, options.image_size)
    return [
        _experiment_row(name, paper, sizes[name], timed=options.latency) for name, paper in published.items()
    ]


def _experiment_row(experiment: str, paper: Mapping[str, Any], size: Size, *, timed: bool) -> BenchmarkRow:
    return _untrained_row(
        [f"experiment={experiment}"],
        size,
        timed=timed,
        classes=paper.get("num_classes"),
        count_size=papers.count_size(paper, size),
        name=experiment.partition("/")[2],
        source=experiment,
        paper=paper,
        accuracy={},
    )


def _network_row(name: str, suite: Suite, options: BenchmarkOptions) -> BenchmarkRow:
    size = options.image_size or as_size("size", list(suite.size))
    percent = suite.accuracy.get(name)
    overrides = list(suite.networks[name])
    return _untrained_row(
        overrides,
        size,
        timed=options.latency,
        count_size=size,
        name=name,
        source=" ".join(overrides),
        paper={},
        accuracy={} if percent is None else {find_task(suite.task).metric: percent / 100},
        accuracy_on=suite.accuracy_on,
    )


def _untrained_row(
    overrides: Sequence[str], size: Size, *, timed: bool, classes: int | None = None, **facts: Any
) -> BenchmarkRow:
    """The network of a training configuration, with random weights; without `classes`, for the paper's."""
    as_published = compose_config("train", overrides)
    info = task_info(as_published)
    classes = classes or info.paper_classes
    task = None
    if timed:
        height, width = size
        as_timed = compose_config("train", [*overrides, f"{info.size_key}=[{height},{width}]"])
        task = build_task(as_timed, ClassMap(names=tuple(f"class {number}" for number in range(classes))))
    return _row(as_published.model, info, classes=classes, size=size, predictor=task, **facts)


def _run_rows(options: BenchmarkOptions) -> list[BenchmarkRow]:
    """The runs, named by the last two parts of their paths, or by as many as distinguish them."""
    paths = [Path(path).resolve() for path in options.runs]
    if len(set(paths)) < len(paths):
        raise UserError(f"run=[{','.join(options.runs)}]: contains a run twice; name each of them once")
    length = next(
        length for length in itertools.count(2) if len({path.parts[-length:] for path in paths}) == len(paths)
    )
    names = ["/".join(path.parts[-length:]) for path in paths]
    return [_run_row(path, name, options) for path, name in zip(options.runs, names, strict=True)]


def _run_row(path: str, name: str, options: BenchmarkOptions) -> BenchmarkRow:
    """The run at `path`, with the accuracy of its checkpoint's evaluation."""
    open_run = partial(TrainedRun.open, path, checkpoint=options.checkpoint, reads="network")
    run, size = open_run(overrides=options.overrides), options.image_size
    if size is not None:
        for override in options.overrides:
            if (key := override.partition("=")[0].lstrip("+")) in (run.info.size_key, "data.crop"):
                raise UserError(f"{key}= and size= both set the input size; leave one out")
        run = open_run(overrides=[*options.overrides, f"{run.info.size_key}=[{size[0]},{size[1]}]"])
    size = size or _run_size(run)
    metrics = run.folder.metrics
    stored = json.loads(metrics.read_text(encoding="utf-8")) if metrics.exists() else {}
    metric = run.info.metric
    accuracy = stored.get(f"best_{metric}" if options.checkpoint == "best" else metric, stored.get(metric))
    return _row(
        run.config.model,
        run.info,
        classes=len(run.classes),
        count_size=size,
        size=size,
        name=name,
        source=str(run.folder.path),
        paper=plain(run.config.get("paper"), "paper") or {},
        accuracy={} if accuracy is None else {metric: accuracy},
        predictor=run.task() if options.latency else None,
        read=run.read_image,
    )


def _run_size(run: TrainedRun) -> Size:
    """(height, width) of the images that a run's network sees: that of its training crops if it takes images
    of any size."""
    for key in (run.info.size_key, "data.crop"):
        value: Any = run.config
        for name in key.split("."):
            value = value.get(name) if hasattr(value, "get") else None
        value = plain(value, key)
        if isinstance(value, int | list):
            return as_size(key, value)
    raise UserError(f"the run takes images of any size; set size=[height,width] or {run.info.size_key}=")


def _row(
    model: Any, info: TaskInfo, *, classes: int, count_size: Size, size: Size, **facts: Any
) -> BenchmarkRow:
    """A row with its counts: the paper's at `count_size`, the executed ones at `size`."""
    with torch.device("meta"):
        network = build(model, key="model", num_classes=classes)
    try:
        params, madds = info.totals(count(network, count_size), classes)
        executed = count(network, size).madds if facts["predictor"] is not None else None
    except ValueError as error:  # a backbone from another library can have unknown layers
        raise UserError(f"{facts['name']}: {error}") from None
    return BenchmarkRow(
        task=info.name,
        metric=info.metric,
        params=params,
        madds=madds,
        size=size,
        executed_madds=executed,
        **facts,
    )


def choose_baseline(rows: Sequence[BenchmarkRow], wanted: str | None) -> BenchmarkRow:
    """A row by name or source; by default the first MobileNetV2, else the first row.

    Raises:
        UserError: if no row has this name; suggests the nearest.
    """
    if wanted is None:
        return next((row for row in rows if "v2" in row.source.rpartition("/")[2]), rows[0])
    for row in rows:
        if wanted in (row.name, row.source):
            return row
    names = [row.name for row in rows]
    raise UserError(
        f"baseline={wanted}: no such row{nearest(wanted, names)}; the rows are {', '.join(names)}"
    )
