"""Sweeps: proposals depend on the finished trials alone, failures are recorded, and the best is reported."""

import csv
import json
import shlex

import pytest

pytest.importorskip("optuna", reason="needs the extra sweep")

from engine.config.choices.sweep import Dimension
from engine.config.compose import compose_config
from engine.config.instantiate import tool_options
from engine.errors import UserError
from nas.executors import SerialExecutor
from nas.history import SearchHistory
from nas.search_settings import search_settings
from nas.sweep.report import write_sweep_report
from nas.sweep.search import Sampler, Sweep, Trial, best_of, run_sweep
from tests.refusals import refuses

RATE = Dimension(key="optimizer.lr", low=1e-4, high=1e-1, log=True)
SPACE = [
    RATE,
    Dimension(key="trainer.ema", choices=("0.9", "null")),
    Dimension(key="trainer.accumulate", low=1, high=4),
]
SMALL = [
    "task=seg", "data.source.num_train=4", "data.source.num_val=2", "data.source.num_test=1",
    "data.source.size=[64,128]", "data.crop=64", "data.workers=0", "trainer.batch=2", "trainer.steps=1",
    "trainer.tensorboard=false", "backbone.width_mult=0.35",
]  # fmt: skip


def score(job):
    """Best at a learning rate of 0.01 with ema; trials with accumulate=3 fail."""
    settings = dict(override.split("=") for override in job.overrides)
    assert settings["task"] == "seg"
    if settings["trainer.accumulate"] == "3":
        raise UserError("out of luck")
    distance = abs(float(settings["optimizer.lr"]) - 0.01)
    return {"score": 1 - distance - 0.1 * (settings["trainer.ema"] == "null"), "step": 7}


def sweep(folder, *, trials=12, parallel=1, stop_after=None, sampler="tpe"):
    """All trials, or None if the sweep is interrupted after `stop_after` trials."""
    method = Sweep(trials=trials, sampler=sampler)
    done = []

    def run_trial(job):
        if len(done) == stop_after:
            raise KeyboardInterrupt
        done.append(job.run)
        return score(job)

    try:
        return run_sweep(
            method,
            Sampler(method, SPACE, seed=3),
            fixed=["task=seg"],
            history=SearchHistory(folder / "history.jsonl", identity={"seed": 3}),
            folder=folder / "trials",
            executor=SerialExecutor(),
            parallel=parallel,
            log=print,
            run_trial=run_trial,
        )
    except KeyboardInterrupt:
        return None


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("stop_after", [0, 5, 11])
def test_a_resumed_sweep_continues_as_if_uninterrupted(tmp_path, parallel, stop_after):
    whole = sweep(tmp_path / "whole", parallel=parallel)
    assert sweep(tmp_path / "part", parallel=parallel, stop_after=stop_after) is None
    resumed = sweep(tmp_path / "part", parallel=parallel)
    assert [trial.settings for trial in resumed] == [trial.settings for trial in whole]
    assert [trial.score for trial in resumed] == [trial.score for trial in whole]
    assert len(whole) == 12
    # Finished trials are not repeated, and more can be added.
    assert sweep(tmp_path / "part", parallel=parallel, stop_after=0) is not None
    longer = sweep(tmp_path / "part", parallel=parallel, trials=14)
    assert len(longer) == 14


def test_values_lie_in_their_ranges_and_differ(tmp_path):
    trials = sweep(tmp_path, trials=12, sampler="random")
    rates = [float(trial.settings["optimizer.lr"]) for trial in trials]
    assert len(set(rates)) == 12
    assert all(1e-4 <= rate <= 0.1 for rate in rates)
    assert min(rates) < 0.003 < max(rates)  # uniform in the logarithm: a uniform draw is rarely so small
    assert {trial.settings["trainer.ema"] for trial in trials} == {"0.9", "null"}
    assert {trial.settings["trainer.accumulate"] for trial in trials} <= {"1", "2", "3", "4"}


def test_tpe_ends_nearer_to_the_best_than_random(tmp_path):
    def late_scores(sampler):
        trials = sweep(tmp_path / sampler, trials=40, sampler=sampler)
        scores = sorted(trial.score for trial in trials[20:] if trial.score is not None)
        return scores[len(scores) // 2]

    assert late_scores("tpe") > late_scores("random")


def test_failed_trials_are_recorded_and_do_not_stop_the_sweep(tmp_path, capsys):
    trials = sweep(tmp_path, trials=20)
    failed = [trial for trial in trials if trial.settings["trainer.accumulate"] == "3"]
    assert failed
    assert all((trial.score, trial.error) == (None, "out of luck") for trial in failed)
    assert f"trial {failed[0].number} of 20: out of luck" in capsys.readouterr().out
    assert best_of(trials).score == max(trial.score for trial in trials if trial.score is not None)
    with pytest.raises(UserError, match="all 1 trials failed; the first error: out of luck"):
        best_of(failed[:1])


def test_the_first_of_equal_trials_is_best():
    trials = [
        Trial(number=i, settings={}, run="", score=value) for i, value in enumerate([0.2, -1.0, 0.5, 0.5])
    ]
    assert best_of(trials).number == 2
    assert best_of(trials[1:2]).number == 1


def test_the_table_and_the_report(tmp_path):
    trials = [
        Trial(number=0, settings={"optimizer.lr": "0.1", "trainer.ema": "null"}, run="r/0", score=0.25),
        Trial(
            number=1,
            settings={"optimizer.lr": "0.2", "trainer.ema": "0.9"},
            run="r/1",
            score=None,
            error="x, y",
        ),
        Trial(number=2, settings={"optimizer.lr": "0.3", "trainer.ema": "0.9"}, run="r/2", score=0.5),
    ]
    write_sweep_report(tmp_path, trials, metric="miou", commands=["python tools/train.py a=1"])
    rows = list(csv.reader((tmp_path / "trials.csv").open()))
    assert rows == [
        ["trial", "miou", "optimizer.lr", "trainer.ema", "run", "error"],
        ["0", "0.25", "0.1", "null", "r/0", ""],
        ["1", "", "0.2", "0.9", "r/1", "x, y"],
        ["2", "0.5", "0.3", "0.9", "r/2", ""],
    ]
    text = (tmp_path / "report.md").read_text()
    assert (
        "3 trials, 1 failed. The best is trial 2: miou 50.00% with `optimizer.lr=0.3 trainer.ema=0.9`."
        in text
    )
    assert text.index("| 2 | 50.00% |") < text.index("| 0 | 25.00% |")
    assert "python tools/train.py a=1" in text


def search(*overrides):
    options = tool_options(compose_config("search", ["method=sweep", *overrides]))
    search_settings(options, options.method)


@pytest.mark.slow
def test_real_trainings_and_the_command_for_the_best(tmp_path, capsys):
    sweep_of = [*SMALL, "optimizer.lr=0,0.01", f"out={tmp_path / 'out'}", "seed=2"]
    search(*sweep_of, "method.trials=2")
    rows = list(csv.DictReader((tmp_path / "out" / "trials.csv").open()))
    for row in rows:
        metrics = json.loads((tmp_path / "out" / "trials" / row["trial"] / "metrics.json").read_text())
        assert float(row["miou"]) == metrics["best_miou"]
        assert "step 1: miou" in (tmp_path / "out" / "trials" / f"{row['trial']}.log").read_text()
    output = capsys.readouterr().out
    best = max(rows, key=lambda row: float(row["miou"]))
    assert f"seed=2 optimizer.lr={best['optimizer.lr']}" in output.splitlines()[-1]
    # Repeating the command with more trials continues; other values are another sweep.
    search(*sweep_of, "method.trials=3")
    assert len(list(csv.DictReader((tmp_path / "out" / "trials.csv").open()))) == 3
    other = [override.replace("0,0.01", "0,0.02") for override in sweep_of]
    refuses(lambda: search(*other), "belongs to a search with values=", "choose another out=")


@pytest.mark.weekly
@pytest.mark.parametrize("executor", ["ray", "processes"])
def test_executors_run_trials_and_the_printed_command_has_the_path_as_typed(executor, tmp_path, capsys):
    ray = pytest.importorskip("ray") if executor == "ray" else None
    root = tmp_path / "my data, 1"
    typed = [*SMALL, f"data.root={root}", "optimizer.lr=0.01,0.02,0.03", f"out={tmp_path / 'out'}"]
    try:
        search(*typed, "method.trials=3", f"executor={executor}")
    finally:
        if ray is not None:
            ray.shutdown()
    rows = list(csv.DictReader((tmp_path / "out" / "trials.csv").open()))
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    assert all(float(row["miou"]) >= 0 and not row["error"] for row in rows)
    command = shlex.split(capsys.readouterr().out.splitlines()[-1].partition("next: ")[2])
    assert f"data.root={root}" in command


def test_options_that_make_no_sweep(tmp_path):
    out = f"out={tmp_path / 'out'}"
    refuses(lambda: search(*SMALL, out), "method=sweep needs an override with several values")
    refuses(lambda: search(*SMALL, out, "optimizer.rate=1,2"), "optimizer.rate", "did you mean")
    refuses(lambda: search(*SMALL, out, "trainer.batch=few,many"), "trainer.batch must be a whole number")
    refuses(lambda: search(*SMALL, out, "optimizer.lr=1,2", "run=runs/x"), "leave out run=")
    refuses(
        lambda: search(*SMALL, out, "optimizer.lr=1,2", "method.trials=0"), "method.trials must be at least 1"
    )
    refuses(lambda: search(*SMALL, out, "optimizer.lr=1,2", "method.sampler=grid"), "one of tpe, random")
