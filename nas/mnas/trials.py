"""The trials of a platform-aware search: run if they are not in the history yet, and ranked by reward."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from backbones.spec import NetSpec
from engine.errors import UserError
from nas.candidates import CandidateTrainer, LatencyModel, LogLine, shared_trainer
from nas.executors import Executor
from nas.history import SearchHistory
from nas.mnas.reward import Reward
from nas.mnas.space import MnasSpace, Tokens

ScoreCandidate = Callable[[NetSpec, int], float]
"""(spec, seed) -> accuracy after a short training from new weights; can be pickled."""

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class ShortTraining:
    """A `ScoreCandidate`: `steps` steps of training from new weights, then the score on held-out samples.

    make_trainer: called once in each process; can be pickled and hashed.
    steps: at least 1.
    """

    make_trainer: Callable[[], CandidateTrainer]
    steps: int

    def __call__(self, spec: NetSpec, seed: int) -> float:
        trainer = shared_trainer(self.make_trainer)
        torch.manual_seed(seed)
        task = trainer.make_task(spec)
        trainer.train(task, self.steps, seed)
        return trainer.score(task)


@dataclass(frozen=True, kw_only=True)
class SampledTrial:
    """One architecture that was tried. A failed trial has the accuracy NaN, the reward 0 and an `error`."""

    number: int
    tokens: Tokens
    spec: NetSpec
    accuracy: float
    latency_ms: float
    reward: float
    error: str = ""

    @property
    def scored(self) -> bool:
        return not self.error

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> SampledTrial:
        """Read a row of the history."""
        return cls(
            number=row["number"],
            tokens=tuple(row["tokens"]),
            spec=NetSpec.from_dict(row["spec"]),
            accuracy=row.get("metric", math.nan),
            latency_ms=row["latency_ms"],
            reward=row["reward"],
            error=row.get("error", ""),
        )


@dataclass(frozen=True, kw_only=True)
class MnasResult:
    """All trials of a search, in order."""

    space: MnasSpace
    reward: Reward
    trials: tuple[SampledTrial, ...]

    @property
    def best(self) -> SampledTrial:
        """The trial with the highest reward."""
        return self.top(1)[0]

    def top(self, count: int) -> list[SampledTrial]:
        """The best trials of different networks, the best first; equal rewards in the order of the trials."""
        order = sorted(self.trials, key=lambda trial: (-trial.reward, trial.number))
        return list({trial.spec: trial for trial in reversed(order)}.values())[::-1][:count]


class TrialRunner:
    """Runs the trials that are not in the history yet.

    Args:
        samples: number of trials of the whole search, for progress.
        log: shows progress.

    Attributes:
        rows: of the history, by number of the trial.

    Raises:
        UserError: if a row of the history is damaged.
    """

    def __init__(
        self,
        *,
        space: MnasSpace,
        score_candidate: ScoreCandidate,
        latency: LatencyModel,
        reward: Reward,
        samples: int,
        history: SearchHistory,
        executor: Executor,
        seed: int,
        log: LogLine,
    ) -> None:
        self.space, self.score_candidate, self.latency, self.reward = space, score_candidate, latency, reward
        self.samples, self.history, self.executor = samples, history, executor
        self.seed, self.log = seed, log
        self.rows: dict[int, dict[str, Any]] = {}
        self.scored: dict[NetSpec, dict[str, Any]] = {}
        for row in history.of_kind("trial"):
            try:
                trial = SampledTrial.from_row(row)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"{history.path}: the record of a trial is damaged ({error!r}); restore that line or "
                    "choose another out="
                ) from None
            self.rows[trial.number] = row
            if trial.scored and "same_as" not in row:
                self.scored[trial.spec] = row

    @property
    def known_from_start(self) -> int:
        """How many trials the history has without a gap, from the first one on."""
        return next(number for number in range(len(self.rows) + 1) if number not in self.rows)

    def run(self, first: int, architectures: Sequence[Tokens]) -> list[float]:
        """The rewards of these architectures; the first one is trial number `first`.

        Raises:
            UserError: if the history has another architecture for one of the trials, or no trial of the
                search has succeeded yet.
        """
        specs = {first + place: self.space.decode(tokens) for place, tokens in enumerate(architectures)}
        tokens = dict(zip(specs, architectures, strict=True))
        for number in specs:
            if number in self.rows and tuple(self.rows[number]["tokens"]) != tokens[number]:
                raise UserError(
                    f"{self.history.path}: trial {number + 1} has a different architecture than this search "
                    "proposes, so its settings or libraries have changed; choose another out="
                )
        missing = {number: spec for number, spec in specs.items() if number not in self.rows}
        for number, outcome in self._outcomes(missing):
            self._record(number, tokens[number], specs[number], outcome)
        if not self.scored:
            error = self.rows[first]["error"]
            raise UserError(f"all of the first {len(architectures)} trials failed; the first one: {error}")
        return [self.rows[number]["reward"] for number in specs]

    def _outcomes(self, missing: Mapping[int, NetSpec]) -> Iterator[tuple[int, dict[str, Any]]]:
        # Equal networks are trained once and share the outcome.
        first_numbers: dict[NetSpec, int] = {}
        for number, spec in missing.items():
            if spec not in self.scored:
                first_numbers.setdefault(spec, number)
        latencies = {number: self.latency(spec) for spec, number in first_numbers.items()}
        specs = list(first_numbers)
        trial = partial(run_trial, self.score_candidate)
        for index, outcome in self.executor(trial, [(spec, self.seed) for spec in specs]):
            number = first_numbers[specs[index]]
            yield number, {**outcome, "latency_ms": latencies[number]}
        for number, spec in missing.items():
            if number in self.rows:
                continue
            known = self.scored.get(spec) or self.rows[first_numbers[spec]]
            shared = ("status", "metric", "error", "latency_ms")
            outcome = {key: known[key] for key in shared if key in known}
            yield number, {**outcome, "seconds": 0.0, "same_as": known["number"]}

    def _record(self, number: int, tokens: Tokens, spec: NetSpec, outcome: dict[str, Any]) -> None:
        done, ms = outcome["status"] == "done", outcome["latency_ms"]
        reward = self.reward(outcome["metric"], ms) if done else 0.0
        row = self.history.append(
            kind="trial",
            number=number,
            tokens=list(tokens),
            spec=spec.to_dict(),
            seed=self.seed,
            reward=reward,
            **outcome,
        )
        self.rows[number] = row
        if done:
            self.scored.setdefault(spec, row)
        text = f"{row['metric']:.4f}, reward {reward:.4f}" if done else row["error"]
        same = f" (same network as trial {row['same_as'] + 1})" if "same_as" in row else ""
        self.log(f"  trial {number + 1}/{self.samples}: {ms:.3f} ms: {text}{same}")

    def best_so_far(self, count: int, rewards: Sequence[float]) -> str:
        """The best of the first `count` trials, and the mean of the last `rewards`, as text."""
        best: dict[tuple[int, ...], dict[str, Any]] = {}
        done = [self.rows[number] for number in range(count) if self.rows[number]["status"] == "done"]
        for row in sorted(done, key=lambda row: (-row["reward"], row["number"])):
            if "same_as" not in row and len(best) < _SHOWN:
                best[tuple(row["tokens"])] = row
        mean = sum(rewards) / len(rewards)
        lines = [f"{count}/{self.samples} trials, mean reward of the last {len(rewards)}: {mean:.4f}; best:"]
        lines += [
            f"  {row['reward']:.4f}  accuracy {row['metric']:.4f}  {row['latency_ms']:9.3f} ms  "
            f"trial {row['number'] + 1}  {self.space.describe(tokens)}"
            for tokens, row in best.items()
        ]
        return "\n".join(lines)


def run_trial(score_candidate: ScoreCandidate, job: tuple[NetSpec, int]) -> dict[str, Any]:
    """Score a (spec, seed), in any process.

    Returns:
        `metric` and `seconds`.

    Raises:
        UserError: if the accuracy is negative or not a number.
    """
    started = time.perf_counter()
    accuracy = float(score_candidate(*job))
    if not 0 <= accuracy < math.inf:
        raise UserError(f"the accuracy is {accuracy}")
    return {"metric": accuracy, "seconds": round(time.perf_counter() - started, 3)}
