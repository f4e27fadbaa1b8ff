"""`tools/search.py method=mnas` and its baselines: search from new weights, write network and report."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from engine.config import network_file
from engine.run import run_folder
from nas.executors import Executor, make_executor
from nas.history import SearchHistory
from nas.latency import network_latency
from nas.mnas.report import write_mnas_report
from nas.mnas.search import MnasSearch
from nas.mnas.trials import ShortTraining
from nas.options import SearchOptions
from nas.report import shell_command
from nas.task_trainer import NewTrainerFactory, TaskTrainer, TrialOptions

log = partial(print, flush=True)


def search_from_scratch(options: SearchOptions, method: MnasSearch) -> None:
    """Search around the network of the training that `options.overrides` describe.

    Raises:
        UserError: if the training cannot be composed, or the search cannot run.
    """
    trials = options.trial_options(default_lr_factor=1.0)
    factory = NewTrainerFactory(overrides=tuple(options.overrides), trials=trials)
    trainer, executor = factory(), make_executor(options)
    strategy = method.strategy_name.lower()
    default = run_folder.default_path(trainer.info.name, f"search-{strategy}")
    with run_folder.claim(Path(options.out or default), renames=options.out is None, key="out") as out:
        _search_into(out, options, method, factory, trainer, executor, trials)


def _search_into(
    out: Path,
    options: SearchOptions,
    method: MnasSearch,
    factory: NewTrainerFactory,
    trainer: TaskTrainer,
    executor: Executor,
    trials: TrialOptions,
) -> None:
    strategy = method.strategy_name.lower()
    latency = network_latency(options, trainer, out, trainer.taps, log)
    identity = {**options.identity(trials, latency.size), "method": method.identity()}
    history = SearchHistory(out / "history.jsonl", identity=identity)
    log(f"{'resuming' if history.resumes else 'history:'} {history.path}")
    result = method.search(
        trainer.spec,
        ShortTraining(make_trainer=factory, steps=method.steps),
        latency=latency,
        history=history,
        folder=out,
        executor=executor,
        seed=options.seed,
        log=log,
    )
    best, file = result.best, out / "network.yaml"
    header = (
        f"Found by {strategy} around {trainer.spec.name}: reward {best.reward:.4f}, {best.latency_ms:.3f} ms."
    )
    network_file.write(file, best.spec.to_dict(), header=header)
    train = shell_command("train", *factory.overrides, f"backbone={file}")
    write_mnas_report(out, result, metric=trainer.metric, commands=[train])
    log(f"network: {file}\nreport: {out / 'report.md'}")
