"""`tools/search.py method=sweep`: trains with settings that Optuna proposes, and keeps the best."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.config.choices.sweep import Dimension
from engine.errors import UserError
from engine.train.run_log import percent
from nas.executors import Executor
from nas.history import SearchHistory
from nas.sweep import trial

Settings = Mapping[str, str]
"""Key -> value, as typed."""

_STARTUP_SHARE = 0.3  # of the trials, drawn at random before the sampler models them


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A finished trial; `score` is None if it failed."""

    number: int
    settings: Settings
    run: str
    score: float | None
    error: str = ""


class Sweep:
    """Options of a sweep.

    Args:
        trials: number of trainings.
        sampler: `tpe`, which proposes values near those of good trials, or `random`.

    Raises:
        ValueError: if there is no trial.
    """

    def __init__(self, *, trials: int = 20, sampler: Literal["tpe", "random"] = "tpe") -> None:
        if trials < 1:
            raise ValueError(f"trials must be at least 1, got {trials}")
        self.trials, self.sampler = trials, sampler

    def identity(self) -> dict[str, Any]:
        """What must not change when a sweep is resumed; it can be extended by more trials."""
        return {"sampler": self.sampler}


class Sampler:
    """Proposes settings, from the finished trials alone: a resumed sweep continues as if uninterrupted.

    Raises:
        UserError: if Optuna is not installed.
    """

    def __init__(self, sweep: Sweep, dimensions: Sequence[Dimension], *, seed: int) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError("method=sweep needs Optuna: pip install -e '.[sweep]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._sweep, self._seed = optuna, sweep, seed
        self._spaces = {dimension.key: self._distribution(dimension) for dimension in dimensions}

    def _distribution(self, dimension: Dimension) -> Any:
        kinds = self._optuna.distributions
        if dimension.choices:
            return kinds.CategoricalDistribution(dimension.choices)
        if dimension.whole:
            return kinds.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
        return kinds.FloatDistribution(dimension.low, dimension.high, log=dimension.log)

    def ask(
        self, count: int, finished: Sequence[tuple[Mapping[str, Any], float | None]]
    ) -> list[dict[str, Any]]:
        """The values of the next `count` trials.

        finished: values and score of all earlier trials, in their order.
        """
        optuna = self._optuna
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(direction="maximize", sampler=self._new_sampler(len(finished)))
        for values, score in finished:
            state = optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(values), distributions=self._spaces, value=score, state=state
                )
            )
        return [study.ask(self._spaces).params for _ in range(count)]

    def _new_sampler(self, number: int) -> Any:
        samplers, seed = self._optuna.samplers, (self._seed * 1_000_003 + number) % 2**32
        if self._sweep.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        startup = max(1, min(10, round(_STARTUP_SHARE * self._sweep.trials)))
        return samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)


def run_sweep(
    sweep: Sweep,
    sampler: Sampler,
    *,
    fixed: Sequence[str],
    history: SearchHistory,
    folder: Path,
    executor: Executor,
    parallel: int,
    log: Callable[[str], None],
    run_trial: Callable[[trial.Job], dict[str, Any]] = trial.train,
) -> list[Trial]:
    """Run the trials that are not in the history yet; returns all trials in order.

    Args:
        fixed: overrides of every trial.
        folder: gets the run folders `0`, `1` ... of the trials.
        parallel: number of trials proposed at a time.
    """
    while True:
        asked = {row["number"]: row["values"] for row in history.of_kind("asked")}
        done = {row["number"]: row for row in history.of_kind("trial")}
        waiting = [number for number in asked if number not in done]
        if not waiting:
            if len(done) >= sweep.trials:
                break
            finished = [(asked[number], done[number].get("score")) for number in sorted(done)]
            proposed = sampler.ask(min(parallel, sweep.trials - len(done)), finished)
            for number, values in enumerate(proposed, start=len(asked)):
                history.append(kind="asked", number=number, values=values)
            continue
        jobs = []
        for number in waiting:
            chosen, run = (
                [f"{key}={_typed(value)}" for key, value in asked[number].items()],
                folder / str(number),
            )
            jobs.append(trial.Job((*fixed, *chosen), str(run)))
            log(f"trial {number} of {sweep.trials}: {' '.join(chosen)}; output: {run}.log")
        for position, outcome in executor(run_trial, jobs):
            row = history.append(kind="trial", number=waiting[position], **outcome)
            result = row.get("error") or f"{percent(row['score'])} at step {row['step']}"
            log(f"trial {waiting[position]} of {sweep.trials}: {result}")
    return [_trial(number, asked[number], done[number], folder) for number in sorted(done)]


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest score, the first of equals. Raises: UserError if all have failed."""
    scored = [trial for trial in trials if trial.score is not None]
    if not scored:
        raise UserError(f"all {len(trials)} trials failed; the first error: {trials[0].error}")
    return max(scored, key=lambda trial: trial.score or 0.0)


def _trial(number: int, values: Mapping[str, Any], row: Mapping[str, Any], folder: Path) -> Trial:
    settings = {key: _typed(value) for key, value in values.items()}
    return Trial(
        number=number,
        settings=settings,
        run=str(folder / str(number)),
        score=row.get("score"),
        error=row.get("error", ""),
    )


def _typed(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
