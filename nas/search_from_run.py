"""`tools/search.py method=netadapt`: narrows the network of a run; writes it, a run folder and a report."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deploy.latency_table.network_latency import NetworkLatency
from engine import runtime
from engine.config import network_file
from engine.config.compose import make_paths_absolute, to_yaml, with_backbone
from engine.errors import UserError
from engine.io.files import write_json
from engine.run import checkpoint, run_folder
from engine.run.run_folder import RunFolder
from nas.executors import Executor, make_executor
from nas.history import SearchHistory
from nas.latency import network_latency
from nas.netadapt.report import LatencyCheck, write_netadapt_report
from nas.netadapt.search import NetAdaptResult, NetAdaptSearch
from nas.netadapt.trials import ScoredNetwork
from nas.options import SearchOptions
from nas.report import shell_command
from nas.task_trainer import RunTrainerFactory, TaskTrainer

log = partial(print, flush=True)


def search_from_run(options: SearchOptions, method: NetAdaptSearch) -> None:
    """Narrow the network of `options.run`.

    Raises:
        UserError: if the run does not exist, or the search cannot reach its budget.
    """
    if options.run is None:
        raise UserError("method=netadapt starts from the network of a run; set run=<run folder>")
    factory, executor = _factory(options, options.run), make_executor(options)
    out = Path(options.out or Path(options.run) / f"netadapt-{method.budget}")
    with run_folder.claim(out, key="out"):
        _search_into(out, options, method, factory, executor)


def _search_into(
    out: Path,
    options: SearchOptions,
    method: NetAdaptSearch,
    factory: RunTrainerFactory,
    executor: Executor,
) -> None:
    trainer = factory()
    latency = network_latency(options, trainer, out, trainer.taps(trainer.spec), log)
    run = {"run": factory.run, "checkpoint": options.checkpoint}
    identity = {**run, **options.identity(factory.trials, latency.size), "method": vars(method)}
    history = SearchHistory(out / "history.jsonl", identity=identity)
    log(f"{'resuming' if history.resumes else 'history:'} {history.path}")
    result = method.search(
        factory,
        latency=latency,
        history=history,
        folder=out / "weights",
        executor=executor,
        seed=options.seed,
        log=log,
    )
    _save_networks(str(options.run), method, trainer, result, out)
    write_netadapt_report(
        out,
        result,
        metric=trainer.metric,
        trials=history.of_kind("trial"),
        latency_checks=_latency_checks(trainer, latency, result),
        other_runs=[_other_run(options, run, latency) for run in options.compare],
        commands=_next_commands(trainer, out),
    )
    log(f"network: {out / 'network.yaml'}\nrun: {out / 'found'}\nreport: {out / 'report.md'}")


def _factory(options: SearchOptions, run: str) -> RunTrainerFactory:
    return RunTrainerFactory(
        run=os.path.abspath(run),
        overrides=tuple(options.overrides),
        checkpoint=options.checkpoint,
        trials=options.trial_options(default_lr_factor=0.1),
    )


def _save_networks(
    run: str, method: NetAdaptSearch, trainer: TaskTrainer, result: NetAdaptResult, out: Path
) -> None:
    """Write the final network, and the narrowest width multiplier to compare it with."""
    seed, final = result.seed, result.final
    header = (
        f"Found by NetAdapt from {seed.spec.name} ({run}), budget {method.budget}.\n"
        f"Predicted latency {seed.latency_ms:.3f} -> {final.latency_ms:.3f} ms; {trainer.metric} on the "
        f"held-out part of train {seed.score:.4f} -> {final.score:.4f}, before any further training."
    )
    _save_network(trainer, final, out / "network.yaml", run=out / "found", header=header)
    if result.width_multipliers:
        multiplier = result.width_multipliers[-1]
        header = f"The seed with {multiplier.change}."
        _save_network(trainer, multiplier, out / "width.yaml", run=out / "width", header=header)


def _save_network(
    trainer: TaskTrainer, network: ScoredNetwork, file: Path, *, run: Path, header: str
) -> None:
    """Write a network as a YAML file, and with its weights as a run folder."""
    network_file.write(file, network.spec.to_dict(), header=header)
    folder = RunFolder(run)
    config = with_backbone(trainer.config, network.spec.to_dict())
    make_paths_absolute(config)
    run_folder.update(folder, config=to_yaml(config), environment=runtime.describe(trainer.runtime))
    write_json(folder.classes, trainer.classes.to_dict())
    run_folder.make(folder.best.parent)
    shutil.copyfile(network.weights, folder.best)
    shutil.copyfile(network.weights, folder.last)


def _latency_checks(
    trainer: TaskTrainer, latency: NetworkLatency, result: NetAdaptResult
) -> list[LatencyCheck]:
    """For the seed, one halfway, the final network and the multipliers; empty if nothing is measured here."""
    steps = sorted({0, len(result.trajectory) // 2, result.final.step})
    named = [(f"step {step}", result.trajectory[step]) for step in steps]
    named += [(network.change, network) for network in result.width_multipliers]
    image = torch.rand(1, 3, *latency.size)
    checks = []
    for name, network in named:
        ms = latency.measured_ms(trainer.make_model(network.spec), image)
        if ms is not None:
            checks.append(LatencyCheck(name=name, predicted_ms=network.latency_ms, measured_ms=ms))
    return checks


def _other_run(options: SearchOptions, run: str, latency: NetworkLatency) -> ScoredNetwork:
    """The network of another run, scored on the same held-out samples, with its latency by the same table."""
    trainer = _factory(options, run)()
    task: Any = trainer.make_task(trainer.spec)
    checkpoint.load_strict(task.model, trainer.weights())
    own_latency = NetworkLatency(
        table=latency.table,
        size=latency.size,
        model=trainer.make_model,
        taps=trainer.taps(trainer.spec),
        head=trainer.head,
        measure=latency.measure,
        path=latency.path,
    )
    return ScoredNetwork(
        step=0,
        change=run,
        spec=trainer.spec,
        latency_ms=own_latency(trainer.spec),
        score=trainer.score(task),
        weights=Path(run),
    )


def _next_commands(trainer: TaskTrainer, out: Path) -> list[str]:
    found = out / "found"
    train = [f"task={trainer.info.name}", f"backbone={out / 'network.yaml'}"]
    return [
        f"{shell_command('train', *train)}  # from new weights; add the run's experiment= and data.*",
        f"{shell_command('train', *train, f'init_from={found}')}  # from the weights that the search found",
        shell_command("eval", f"run={found}"),
        shell_command("export", f"run={found}"),
    ]
