"""`tools/search.py method=sweep`: searches for good settings of a training."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from engine.config.choices.sweep import split_dimensions
from engine.config.compose import compose_config
from engine.config.instantiate import task_info
from engine.config.training import validate
from engine.errors import UserError
from engine.run import run_folder
from engine.train.run_log import percent
from nas.executors import make_executor
from nas.history import SearchHistory
from nas.options import SearchOptions
from nas.report import shell_command
from nas.sweep.report import write_sweep_report
from nas.sweep.search import Sampler, Sweep, best_of, run_sweep

log = partial(print, flush=True)


def search_settings(options: SearchOptions, method: Sweep) -> None:
    """Run a sweep over the overrides that have several values; write table, report and commands.

    Raises:
        UserError: if no override has several values, one does not fit the configuration, or all trials fail.
    """
    if options.run is not None:
        raise UserError("method=sweep starts new trainings; leave out run=, or pass init_from=<run folder>")
    typed, dimensions = split_dimensions(options.overrides)
    if not dimensions:
        raise UserError(
            "method=sweep needs an override with several values, such as optimizer.lr=0.001,0.003 or "
            "'optimizer.lr=tag(log,interval(1e-4,1e-2))'"
        )
    config = compose_config("train", [*typed, *(f"{item.key}={item.first}" for item in dimensions)])
    validate(config)
    info = task_info(config)
    fixed = [*typed, *([f"seed={options.seed}"] if options.seed else [])]
    fixed += [f"trainer.device={options.device}"] if options.device != "auto" else []
    sampler = Sampler(method, dimensions, seed=options.seed)
    default = run_folder.default_path(info.name, "sweep")
    with run_folder.claim(Path(options.out or default), renames=options.out is None, key="out") as out:
        identity = {
            "method": method.identity(),
            "training": fixed,
            "values": [override for override in options.overrides if override not in typed],
        }
        executor = make_executor(options)
        history = SearchHistory(out / "history.jsonl", identity=identity)
        log(f"{'resuming' if history.resumes else 'history:'} {history.path}")
        trials = run_sweep(
            method,
            sampler,
            fixed=[*fixed, "samples=0"],
            history=history,
            folder=(out / "trials").absolute(),
            executor=executor,
            parallel=executor.parallel,
            log=log,
        )
        best = best_of(trials)
        chosen = [f"{key}={value}" for key, value in best.settings.items()]
        train = shell_command("train", *fixed, *chosen)
        write_sweep_report(out, trials, metric=info.metric, commands=[train])
        log(f"best: {info.metric} {percent(best.score or 0.0)} with {' '.join(chosen)} (run: {best.run})")
        log(f"table: {out / 'trials.csv'}\nreport: {out / 'report.md'}\nnext: {train}")
