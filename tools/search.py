"""Search for a network that is faster on a device and nearly as accurate.

Usage: python tools/search.py run=<run folder> [latency=<table>.json] [budget=<share>] [key=value ...]
       python tools/search.py method=mnas task=<task> latency=<table>.json target_ms=<ms> [key=value ...]

Examples:
  python tools/search.py run=<run folder> budget=0.7             70 % of its latency on this machine
  python tools/search.py run=<run folder> latency=phone.json budget=0.7 method.steps=500
  python tools/search.py run=<run folder> runtime=onnx threads=1 size=[360,480] data.root=camvid
  python tools/search.py run=<run folder> executor=ray cpus=2     trials on the workers of Ray
  python tools/search.py method=mnas task=seg target_ms=8 samples=400
  python tools/search.py run=<run folder> out=<folder>            go on with a search that was stopped
  python tools/train.py task=seg backbone=<folder>/network.yaml   train what was found
"""

import os
import sys

# Python looks in a script's own folder first, where `search` would be this file; so would workers of Ray.
if (here := os.path.dirname(os.path.realpath(__file__))) in sys.path:
    sys.path.remove(here)

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import shlex
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from backbones.spec import NetSpec
from deploy.latency_table.layer_timing import RUNTIMES, Measurer, measurer
from deploy.latency_table.table import LatencyTable, NetworkLatency, provenance
from deploy.timing.machine import cpu_model
from engine import runtime
from engine.config import network_file
from engine.config.compose import build, launch, to_yaml, validate, with_backbone
from engine.data.preprocessing import as_size
from engine.errors import UserError
from engine.io.files import write_json
from engine.run import checkpoint, run_folder
from engine.run.run_folder import RunFolder
from nas.executors import Executor, Ray, Serial
from nas.history import History
from nas.mnas import report as mnas_report
from nas.mnas.search import Mnas, Proxy
from nas.netadapt import report
from nas.netadapt.search import NetAdapt, NetAdaptResult
from nas.netadapt.trials import Point
from nas.training_problem import OpenRun, OpenTraining, Trained

Taps = Sequence[str] | Callable[[NetSpec], Sequence[str]]

say = partial(print, flush=True)


def search(config: DictConfig) -> None:
    if "reward" in config.method and config.target_ms is None:
        raise UserError("a search from new weights aims at a latency: give target_ms=<milliseconds>")
    validate(config)
    method = build(config.method, key="method")
    if isinstance(method, NetAdapt):
        return narrow(config, method)
    if isinstance(method, Mnas):
        return explore(config, method)
    raise UserError(f"method: {type(method).__name__} is no method of this tool")


def narrow(config: DictConfig, method: NetAdapt) -> None:
    """NetAdapt on a run."""
    if config.run is None:
        raise UserError("method=netadapt narrows the network of a run: give run=<run folder>")
    make_problem, workers = open_run(config, config.run), executor(config)
    out = run_folder.make(Path(config.out or Path(config.run) / f"netadapt-{config.budget}"))
    problem = make_problem()
    latency = network_latency(config, problem, out, problem.taps(problem.spec))
    run = {"run": make_problem.run, "checkpoint": config.checkpoint}
    identity = {**run, **trial_identity(config, latency, make_problem), "method": vars(method)}
    history = History(out / "history.jsonl", identity=identity)
    say(f"{'going on with' if history.resumed else 'history:'} {history.path}")
    result = method.search(
        make_problem,
        latency=latency,
        history=history,
        folder=out / "weights",
        executor=workers,
        seed=config.seed,
        say=say,
    )
    record = lab_record(config, problem, result)
    save(problem, result.found, out / "network.yaml", run=out / "found", header=record)
    if result.widths:
        width = result.widths[-1]
        save(problem, width, out / "width.yaml", run=out / "width", header=f"The seed with {width.change}.")
    report.write(
        out,
        result,
        metric=problem.metric,
        trials=history.all("trial"),
        measured=measured(problem, latency, result),
        others=[compared(config, folder, latency) for folder in config.compare],
        commands=next_commands(problem, out),
    )
    say(f"network: {out / 'network.yaml'}\nrun: {out / 'found'}\nreport: {out / 'report.md'}")


def explore(config: DictConfig, method: Mnas) -> None:
    """Platform-aware NAS, or a baseline of it, on the training that the other options describe."""
    open_task = OpenTraining(
        overrides=tuple(config.overrides),
        held_out=config.held_out,
        lr_factor=1.0 if config.lr_factor is None else config.lr_factor,
        device=config.device,
    )
    problem, workers = open_task(), executor(config)
    name = OmegaConf.to_container(config.method)["strategy"]["_target_"].rpartition(".")[2].lower()
    out = run_folder.make(Path(config.out or run_folder.default_path(problem.config.room, f"search-{name}")))
    latency = network_latency(config, problem, out, problem.taps)
    identity = {**trial_identity(config, latency, open_task), "method": method.identity()}
    history = History(out / "history.jsonl", identity=identity)
    say(f"{'going on with' if history.resumed else 'history:'} {history.path}")
    result = method.search(
        problem.spec,
        Proxy(open=open_task, steps=method.steps),
        latency=latency,
        history=history,
        folder=out,
        executor=workers,
        seed=config.seed,
        say=say,
    )
    found, file = result.found, out / "network.yaml"
    about = (
        f"Found by {name} around {problem.spec.name}: reward {found.reward:.4f}, {found.latency_ms:.3f} ms."
    )
    network_file.write(file, found.spec.to_dict(), header=about)
    train = command("train", *open_task.overrides, f"backbone={file}")
    mnas_report.write(out, result, metric=problem.metric, commands=[train])
    say(f"network: {file}\nreport: {out / 'report.md'}")


def open_run(config: DictConfig, run: str) -> OpenRun:
    return OpenRun(
        run=os.path.abspath(run),
        overrides=tuple(config.overrides),
        checkpoint=config.checkpoint,
        held_out=config.held_out,
        lr_factor=0.1 if config.lr_factor is None else config.lr_factor,
        device=config.device,
    )


def trial_identity(
    config: DictConfig, latency: NetworkLatency, training: OpenRun | OpenTraining
) -> dict[str, Any]:
    """What trials depend on besides the network: a search goes on with the same alone."""
    return {
        "training": list(training.overrides),
        "held_out": training.held_out,
        "lr_factor": training.lr_factor,
        "seed": config.seed,
        "size": list(latency.size),
    }


def executor(config: DictConfig) -> Executor:
    if config.executor == "serial":
        return Serial()
    if config.executor == "ray":
        return Ray(address=config.address, cpus=config.cpus, gpus=config.gpus)
    raise UserError(f"executor must be serial or ray, got {config.executor!r}")


def network_latency(config: DictConfig, problem: Trained, out: Path, taps: Taps) -> NetworkLatency:
    """Latency by the table that the search keeps in its folder, at first the one that is given."""
    kept = out / "latency.json"
    table = known_table(kept, config.latency and Path(config.latency))
    clock = clock_of(config, table)
    size = config.size or (table.about.get("size") if table else None)
    size = as_size("size", list(size) if size is not None else problem.input_size())
    if table is None:
        assert clock is not None
        table = LatencyTable(about=provenance(clock, size))
    head = problem.head
    if clock is None and head not in {layer.head for layer in table.entries}:
        say(f"the latency table has no head {head}: only the backbone's latency counts")
        head = ""
    table.save(kept)
    make = problem.make_model
    return NetworkLatency(table=table, size=size, taps=taps, head=head, model=make, measure=clock, path=kept)


def known_table(kept: Path, given: Path | None) -> LatencyTable | None:
    """The table in the search's folder, with what the given one has more; at first the given one.

    Raises:
        UserError: the two differ, so that earlier trials would not compare with later ones.
    """
    if not kept.exists():
        return LatencyTable.load(given) if given else None
    table = LatencyTable.load(kept)
    if given is not None and given.exists():  # a search goes on without it
        more = LatencyTable.load(given).entries
        if any(table.entries.get(layer, ms) != ms for layer, ms in more.items()):
            raise UserError(f"{kept}: has other latencies than {given}; choose another out=")
        table.entries = {**table.entries, **more}
    return table


def clock_of(config: DictConfig, table: LatencyTable | None) -> Measurer | None:
    """What times layers that the table lacks; None where they are interpolated."""
    if config.measure not in (True, False, "auto"):
        raise UserError(f"measure must be true, false or auto, got {config.measure!r}")
    if table is None:
        if config.measure is False:
            raise UserError("measure=false needs the table of a device: latency=<file>")
        return measurer(config.runtime, threads=config.threads)
    about = table.about
    here = about.get("cpu") == cpu_model() and about.get("runtime") in RUNTIMES
    if config.measure is False or (config.measure == "auto" and not here):
        return None
    return measurer(str(about.get("runtime")), threads=about.get("threads", 1))


def save(problem: Trained, point: Point, network: Path, *, run: Path, header: str) -> None:
    """Write a network as a YAML file, and with its weights as a run folder."""
    network_file.write(network, point.spec.to_dict(), header=header)
    folder = RunFolder(run)
    config = with_backbone(problem.config, point.spec.to_dict())
    run_folder.update(folder, config=to_yaml(config), environment=runtime.describe(problem.where))
    write_json(folder.classes, problem.classes.to_dict())
    run_folder.make(folder.best.parent)
    shutil.copyfile(point.weights, folder.best)
    shutil.copyfile(point.weights, folder.last)


def measured(problem: Trained, latency: NetworkLatency, result: NetAdaptResult) -> list[report.Measured]:
    """Seed, found network, the one half-way and width multipliers: the sum of their layers, and their time
    as a whole."""
    steps = sorted({0, len(result.trajectory) // 2, result.found.step})
    named = [(f"step {step}", result.trajectory[step]) for step in steps]
    image = torch.rand(1, 3, *latency.size)
    rows = []
    for name, point in [*named, *((point.change, point) for point in result.widths)]:
        ms = latency.measured_ms(problem.make_model(point.spec), image)
        if ms is not None:
            rows.append(report.Measured(name=name, predicted_ms=point.latency_ms, measured_ms=ms))
    return rows


def compared(config: DictConfig, folder: str, latency: NetworkLatency) -> Point:
    """Another run on the same held-out samples, by the same table."""
    other = open_run(config, folder)()
    task: Any = other.make_task(other.spec)
    checkpoint.load_strict(task.model, other.weights())
    own = NetworkLatency(
        table=latency.table,
        size=latency.size,
        model=other.make_model,
        taps=other.taps(other.spec),
        head=other.head,
        measure=latency.measure,
        path=latency.path,
    )
    return Point(
        step=0,
        change=folder,
        spec=other.spec,
        latency_ms=own(other.spec),
        score=other.score(task),
        weights=Path(folder),
    )


def lab_record(config: DictConfig, problem: Trained, result: NetAdaptResult) -> str:
    seed, found = result.seed, result.found
    return (
        f"Found by NetAdapt from {seed.spec.name} ({config.run}), budget {config.budget}.\n"
        f"Latency by the table {seed.latency_ms:.3f} -> {found.latency_ms:.3f} ms; {problem.metric} on the "
        f"held-out part of train {seed.score:.4f} -> {found.score:.4f}, before any longer training."
    )


def next_commands(problem: Trained, out: Path) -> list[str]:
    train = [f"task={problem.config.room}", f"backbone={out / 'network.yaml'}"]
    found = out / "found"
    return [
        f"{command('train', *train)}  # from scratch; with the experiment= and data.* of the run",
        f"{command('train', *train, f'init_from={found}')}  # from the weights that the search left",
        command("eval", f"run={found}"),
        command("export", f"run={found}"),
    ]


def command(tool: str, *arguments: str) -> str:
    """What to type in a shell."""
    return shlex.join(["python", f"tools/{tool}.py", *arguments])


if __name__ == "__main__":
    launch(search, "search", __doc__)
