"""Measure latency: rows of the paper's tables, or a run on the runtimes it can be exported to.

Usage: python tools/benchmark.py suite=<name> | run=<folder> | table=latency spec=<network> [key=value ...]

Examples:
  python tools/benchmark.py suite=table7                          LR-ASPP on V3 against R-ASPP on V2
  python tools/benchmark.py suite=table7 latency=false            parameters and multiply-adds, in seconds
  python tools/benchmark.py suite=table7 size=[512,1024] runtime=eager,onnx,openvino measure.budget_s=600
  python tools/benchmark.py suite=table6 include=all              from pixels to boxes
  python tools/benchmark.py run=<run folder> runtime=all threads=1,2
  python tools/benchmark.py run=<run folder> runtime=onnx artifact=[model_int8.onnx]
  python tools/benchmark.py table=latency spec=seg/lraspp_v3_large runtime=onnx size=[512,1024] out=phone.json
      shares=[1,0.75,0.5,0.25]      narrower layers too: for NetAdapt on another machine
      space=true                    all layers that method=mnas can ask for
"""

import os
import sys

# Python looks in a script's own folder first, where `search` would be a tool.
if (here := os.path.dirname(os.path.realpath(__file__))) in sys.path:
    sys.path.remove(here)

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import json
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from omegaconf import DictConfig, ListConfig, OmegaConf

from backbones.count import count
from backbones.spec import NetSpec
from deploy.benchmark import measurement, paper_rows, report
from deploy.benchmark.measurement import Contestant
from deploy.benchmark.paper_rows import NUM_CLASSES, BenchmarkRow
from deploy.benchmark.records import result
from deploy.benchmark.selection import EAGER, Exported, chosen, files_by_name
from deploy.latency_table.layer_timing import measurer
from deploy.latency_table.layers import head_name, read_spec
from deploy.latency_table.table import NetworkLatency, build_table
from deploy.timing.latency import Rounds
from engine import runtime
from engine.config.compose import build, build_task, compose_config, launch, load_trained, open_trained, plain
from engine.config.help import CONF, top_keys
from engine.config.instantiate import nearest
from engine.data.class_map import ClassMap
from engine.data.images import read_image
from engine.data.preprocessing import Size, as_size
from engine.errors import UserError
from engine.io.progress import Progress
from engine.run import run_folder
from nas.mnas.space import MnasSpace

SIZES = {"seg": "data.eval_size", "det": "data.size", "cls": "data.size"}
"""The key of a configuration that says at which size the network sees a picture."""


def benchmark(config: DictConfig) -> None:
    check(config)
    if config.table is not None:
        return layer_table(config)
    rounds = build(config.measure, key="measure")
    device = str(runtime.start(device=config.device).device)
    runtimes, remarks = chosen(listed(config.runtime), device=device)
    out = run_folder.make(Path(config.out or run_folder.default_path("benchmark", config.suite or "run")))
    rows = [*suite_rows(config), *run_rows(config)]
    baseline = baseline_row(config, rows)
    command = shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]])
    results = [result(row, baseline=baseline) for row in rows]
    report.save(results, out, command=command)  # what cannot be written shows before an hour is spent
    print("\n".join(remarks) if config.latency else report.tables(results))
    measured: list[dict[str, Any]] = []
    for found in measure(config, rows, runtimes, rounds, baseline, device) if config.latency else ():
        print(f"\n{report.tables(found)}", flush=True)
        measured += found
        report.save(measured, out, command=command)
    print(f"out: {out}")


def measure(
    config: DictConfig,
    rows: Sequence[BenchmarkRow],
    runtimes: list[str],
    rounds: Rounds,
    baseline: BenchmarkRow,
    device: str,
) -> Iterator[list[dict[str, Any]]]:
    """The results of each set of networks that is measured together."""
    options: dict[str, Any] = {"device": device, "channels_last": config.channels_last}
    if config.include == "all":
        largest = max(row.size for row in rows)
        options["picture"] = read_image(Path(config.input)) if config.input else measurement.noise(largest)
    files = files_by_name(str(config.artifact or ""))
    with tempfile.TemporaryDirectory() as folder:
        exported = Exported(Path(folder))
        for threads, members in measurement.groups(rows, runtimes, listed(config.threads)):
            options["threads"] = threads
            ready = [exported.contestant(row, name, **options) for row, name in members]
            ready += [Contestant(row=rows[-1], runtime=name, file=files[name], **options) for name in files]
            progress = Progress(rounds.most, unit="round")
            yield measurement.compare(
                ready, rounds, baseline=baseline, memory=config.memory, progress=progress.update
            )
            progress.close()


def check(config: DictConfig) -> None:
    """Raises: UserError for what can be seen to be wrong before anything is built."""
    if config.run is None and config.overrides:
        key = config.overrides[0].partition("=")[0]
        raise UserError(f"unknown key {key!r}{nearest(key, top_keys('benchmark'))}")
    if (config.suite is None and config.run is None) == (config.table is None):
        suites = ", ".join(config.suites)
        raise UserError(f"give suite=<{suites}> and/or run=<run folder>, or table=latency by itself")
    if config.suite is not None:
        paper_rows.choose(config.suite, OmegaConf.to_container(config.suites))
    if config.include not in ("network", "all"):
        raise UserError(f"include must be network or all, got {config.include!r}")
    for key in ("latency", "memory", "channels_last"):
        if not isinstance(config[key], bool):
            raise UserError(f"{key} must be true or false, got {config[key]!r}")
    if config.artifact is not None and (config.run is None or config.suite is not None):
        raise UserError("artifact is measured beside the run that it was made of: give run= and no suite=")
    measurement.check_threads(listed(config.threads))
    if config.size is not None:
        wanted_size(config)


def wanted_size(config: DictConfig) -> Size | None:
    """Raises: UserError for a size that is none."""
    if config.size is None:
        return None
    try:
        return as_size("size", OmegaConf.to_container(config).get("size"), least=32)
    except (TypeError, ValueError):
        raise UserError(f"size must be [height, width], each at least 32, got {config.size}") from None


def listed(value: Any) -> list[Any]:
    """One value or several -> a list."""
    return list(value) if isinstance(value, ListConfig) else [] if value is None else [value]


def suite_rows(config: DictConfig) -> list[BenchmarkRow]:
    """The rows of the suite, and its baseline where that is a row of another table."""
    if config.suite is None:
        return []
    chosen_suite = paper_rows.choose(config.suite, OmegaConf.to_container(config.suites))
    papers = paper_rows.published(chosen_suite)
    other = config.baseline or chosen_suite.baseline
    is_experiment = (CONF / "experiment" / f"{other}.yaml").is_file()
    if config.latency and is_experiment and other not in papers:
        papers = {other: paper_rows.paper_block(other), **papers}
    sizes = paper_rows.timed_sizes(papers, wanted_size(config))
    return [experiment_row(name, paper, sizes[name], config.latency) for name, paper in papers.items()]


def experiment_row(experiment: str, paper: dict[str, Any], size: Size, built: bool) -> BenchmarkRow:
    room, _, stem = experiment.partition("/")
    classes = paper.get("num_classes", NUM_CLASSES[room])
    as_published = train_config([f"experiment={experiment}"])
    task = None
    if built:
        height, width = size
        as_timed = train_config([f"experiment={experiment}", f"{SIZES[room]}=[{height},{width}]"])
        task = build_task(as_timed, ClassMap(names=tuple(f"class {number}" for number in range(classes))))
    facts = {"name": stem, "source": experiment, "paper": paper, "accuracy": {}, "task": task}
    return counted(as_published, classes, size, paper_rows.count_size(paper, size), facts)


def train_config(overrides: list[str]) -> DictConfig:
    """What tools/train.py would compose; also within a sweep, where Hydra holds a configuration already."""
    outer = Singleton.get_state()
    GlobalHydra.instance().clear()
    try:
        return compose_config("train", overrides)
    finally:
        Singleton.set_state(outer)


def counted(config: DictConfig, classes: int, size: Size, at: Size, facts: dict[str, Any]) -> BenchmarkRow:
    """A row with its counts: the paper's at `at`, what is executed at `size`."""
    with torch.device("meta"):
        model = build(config.model, key="model", num_classes=classes)
    params, madds = paper_rows.totals(config.room, count(model, at), classes)
    executed = count(model, size).madds if facts["task"] is not None else None
    return BenchmarkRow(
        room=config.room, params=params, madds=madds, size=size, executed_madds=executed, **facts
    )


def run_rows(config: DictConfig) -> list[BenchmarkRow]:
    """The run as a row, with the accuracy of its last evaluation."""
    if config.run is None:
        return []
    run, trained = open_trained(config)
    size = wanted_size(config)
    if size is not None:
        OmegaConf.update(trained, SIZES[trained.room], list(size))
    size = size or run_size(trained)
    classes = ClassMap.read(run.classes)
    task = load_trained(run, trained, classes, config.checkpoint) if config.latency else None
    paper = OmegaConf.to_container(trained.paper) if trained.get("paper") else {}
    metric = paper_rows.METRICS[trained.room]
    found = json.loads(run.metrics.read_text(encoding="utf-8")) if run.metrics.exists() else {}
    facts = {
        "name": "/".join(run.path.resolve().parts[-2:]),
        "source": str(run.path),
        "paper": paper,
        "accuracy": {metric: found[metric]} if found.get(metric) is not None else {},
        "task": task,
    }
    return [counted(trained, len(classes), size, size, facts)]


def run_size(trained: DictConfig) -> Size:
    """(height, width) at which a run's network sees pictures; where it takes them as they are stored, that of
    its training crops."""
    wanted = OmegaConf.select(trained, SIZES[trained.room])
    if not isinstance(wanted, int | ListConfig):
        wanted = trained.data.crop
    return as_size("size", wanted if isinstance(wanted, int) else list(wanted))


def baseline_row(config: DictConfig, rows: Sequence[BenchmarkRow]) -> BenchmarkRow:
    wanted = config.baseline
    if wanted is None and config.suite is not None:
        default = config.suites[config.suite].baseline
        wanted = default if default in [row.source for row in rows] else None
    return paper_rows.baseline(rows, wanted)


def layer_table(config: DictConfig) -> None:
    """Measure the layers of a network one by one, for a search that adds them up."""
    if config.spec is None or config.size is None or config.out is None:
        raise UserError(
            "table=latency needs spec=<experiment or YAML file>, size=[height,width] and out=<file>"
        )
    names, threads = listed(config.runtime), listed(config.threads)
    if len(names) != 1 or len(threads) != 1:
        raise UserError("a latency table is for one runtime and one number of threads")
    clock = measurer("torch" if names[0] == EAGER else names[0], threads=threads[0])
    spec, network = network_of(config.spec)
    out = Path(config.out)
    run_folder.make(out.parent)
    size, bars = wanted_size(config), {}

    def progress(done: int, total: int, unit: str = "layer") -> None:
        if unit not in bars:
            bars[unit] = Progress(total, unit=unit)
        bars[unit].update(done)

    shares = tuple(listed(config.shares))
    table = build_table(spec, size=size, measure=clock, shares=shares, progress=progress, **network)
    table.save(out)
    if config.space:  # each network adds what the table lacks
        networks = list(MnasSpace(spec).covering())
        add = NetworkLatency(table=table, size=size, measure=clock, path=out, **network)
        for done, one in enumerate(networks, start=1):
            add(one)
            progress(done, len(networks), unit="network")
    for bar in bars.values():
        bar.close()
    print(f"{len(table.entries)} layers\nout: {out}")


def network_of(name: str) -> tuple[NetSpec, dict[str, Any]]:
    """A spec, and what `build_table` has to know of the model around it: nothing, for a spec in a file."""
    if Path(name).suffix in (".yaml", ".yml"):
        return read_spec(Path(name)), {}
    paper_rows.paper_block(name)  # says so where there is no such experiment
    config = train_config([f"experiment={name}"])
    build_model = partial(build, config.model, key="model", num_classes=NUM_CLASSES[config.room])
    spec = build(config.backbone, key="backbone")
    with torch.device("meta"):
        whole = build_model()
    OmegaConf.set_struct(config, False)
    config.model.pop("backbone")
    head = head_name(whole, plain(config.model, "model"), NUM_CLASSES[config.room])

    def model(spec: NetSpec) -> Any:
        return build_model(backbone=spec)

    def taps(spec: NetSpec) -> Sequence[str]:
        with torch.device("meta"):
            found: Sequence[str] = model(spec).backbone.taps
        return found

    return spec, {"taps": taps, "head": head, "model": model}


def with_lists(arguments: Sequence[str]) -> list[str]:
    """`threads=1,2` means both, in one run; Hydra takes it for a sweep, and lists are in brackets there."""
    found = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        several = key in ("threads", "runtime") and "," in value and value[0] not in "[\"'"
        found.append(f"{key}=[{value}]" if several else argument)
    return found


if __name__ == "__main__":
    if not {"-m", "--multirun"}.intersection(sys.argv):
        sys.argv[1:] = with_lists(sys.argv[1:])
    launch(benchmark, "benchmark", __doc__)
