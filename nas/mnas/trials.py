"""The trials of a search: run where the history does not know them, ranked, and the best of them shown."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from backbones.spec import NetSpec
from engine.errors import UserError
from nas.executors import Executor
from nas.history import History
from nas.mnas.reward import Reward
from nas.mnas.space import MnasSpace, Tokens

Evaluate = Callable[[NetSpec, int], float]
"""(spec, seed) -> accuracy after a short training from new weights; pickled where trials run elsewhere."""


_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class SampledTrial:
    """One architecture that was tried. A trial that crashed has the accuracy NaN, and `error` says how."""

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
    def of(cls, row: Mapping[str, Any]) -> SampledTrial:
        """A row of the history."""
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
    """All trials in their order."""

    space: MnasSpace
    reward: Reward
    trials: tuple[SampledTrial, ...]

    @property
    def found(self) -> SampledTrial:
        """The trial with the highest reward."""
        return self.top(1)[0]

    def top(self, count: int) -> list[SampledTrial]:
        """The best different networks, the best first; equal rewards in the order of the trials."""
        order = sorted(self.trials, key=lambda trial: (-trial.reward, trial.number))
        return list({trial.spec: trial for trial in reversed(order)}.values())[::-1][:count]


class SampledTrials:
    """Runs the trials that the history does not know yet.

    Args:
        samples: how many there will be.
        latency: spec -> ms.
        say: takes lines on the progress.

    Attributes:
        rows: of the history, by number of the trial.
    """

    def __init__(
        self,
        *,
        space: MnasSpace,
        evaluate: Evaluate,
        latency: Callable[[NetSpec], float],
        reward: Reward,
        samples: int,
        history: History,
        executor: Executor,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self.space, self.evaluate, self.latency, self.reward = space, evaluate, latency, reward
        self.samples, self.history, self.executor = samples, history, executor
        self.seed, self.say = seed, say
        self.rows: dict[int, dict[str, Any]] = {}
        self.scored: dict[NetSpec, dict[str, Any]] = {}
        for row in history.all("trial"):
            try:
                trial = SampledTrial.of(row)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"{history.path}: a trial is damaged ({error!r}); restore its line or choose another out="
                ) from None
            self.rows[trial.number] = row
            if trial.scored and "same_as" not in row:
                self.scored[trial.spec] = row

    @property
    def done_before(self) -> int:
        """How many trials the history holds from the first one on without a gap."""
        return next(number for number in range(len(self.rows) + 1) if number not in self.rows)

    def run(self, first: int, asked: Sequence[Tokens]) -> list[float]:
        """The rewards of `asked`, whose first is trial number `first`.

        Raises:
            UserError: the history has another architecture under one of the numbers, or no trial has ever
                succeeded.
        """
        specs = {first + place: self.space.decode(tokens) for place, tokens in enumerate(asked)}
        tokens = dict(zip(specs, asked, strict=True))
        for number in specs:
            if number in self.rows and tuple(self.rows[number]["tokens"]) != tokens[number]:
                raise UserError(
                    f"{self.history.path}: trial {number + 1} is of another architecture than this search "
                    "asks for: its settings or libraries have changed; choose another out="
                )
        for number, outcome in self._outcomes({n: s for n, s in specs.items() if n not in self.rows}):
            self._record(number, tokens[number], specs[number], outcome)
        if not self.scored:
            error = self.rows[first]["error"]
            raise UserError(f"all of the first {len(asked)} trials failed, the first with {error}")
        return [self.rows[number]["reward"] for number in specs]

    def _outcomes(self, todo: dict[int, NetSpec]) -> Iterator[tuple[int, dict[str, Any]]]:
        # The first of equal networks is trained, the others wait for it.
        firsts: dict[NetSpec, int] = {}
        for number, spec in todo.items():
            if spec not in self.scored:
                firsts.setdefault(spec, number)
        times = {number: self.latency(spec) for spec, number in firsts.items()}
        jobs = list(firsts)
        for index, outcome in self.executor(
            partial(run_trial, self.evaluate), [(spec, self.seed) for spec in jobs]
        ):
            number = firsts[jobs[index]]
            yield number, {**outcome, "latency_ms": times[number]}
        for number, spec in todo.items():
            if number in self.rows:
                continue
            known = self.scored.get(spec) or self.rows[firsts[spec]]
            kept = ("status", "metric", "error", "latency_ms")
            outcome = {key: known[key] for key in kept if key in known}
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
        told = f"{row['metric']:.4f}, reward {reward:.4f}" if done else row["error"]
        same = f" (as trial {row['same_as']})" if "same_as" in row else ""
        self.say(f"  trial {number + 1}/{self.samples}: {ms:.3f} ms: {told}{same}")

    def table(self, told: int, rewards: Sequence[float]) -> str:
        """The best so far."""
        best: dict[tuple[int, ...], dict[str, Any]] = {}
        known = [self.rows[number] for number in range(told) if self.rows[number]["status"] == "done"]
        for row in sorted(known, key=lambda row: (-row["reward"], row["number"])):
            if "same_as" not in row and len(best) < _SHOWN:
                best[tuple(row["tokens"])] = row
        mean = sum(rewards) / len(rewards)
        lines = [f"{told}/{self.samples} trials, mean reward of the last {len(rewards)}: {mean:.4f}; best:"]
        lines += [
            f"  {row['reward']:.4f}  accuracy {row['metric']:.4f}  {row['latency_ms']:9.3f} ms  "
            f"trial {row['number'] + 1}  {self.space.describe(tokens)}"
            for tokens, row in best.items()
        ]
        return "\n".join(lines)


def run_trial(evaluate: Evaluate, job: tuple[NetSpec, int]) -> dict[str, Any]:
    """`metric` and `seconds` of one (spec, seed). Runs in any process.

    Raises: ValueError where the accuracy is negative or no number.
    """
    started = time.perf_counter()
    accuracy = float(evaluate(*job))
    if not 0 <= accuracy < math.inf:
        raise ValueError(f"the accuracy is {accuracy}")
    return {"metric": accuracy, "seconds": round(time.perf_counter() - started, 3)}
