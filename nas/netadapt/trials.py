"""Trials that narrow a network: cut, fine-tune, score; and what is kept of them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor, nn

from backbones.spec import NetSpec
from engine.errors import UserError
from engine.run import checkpoint
from nas.executors import Executor
from nas.history import History
from nas.netadapt.proposals import Proposal
from nas.netadapt.pruning import Unit, shrink

Latency = Callable[[NetSpec], float]
"""Spec -> predicted milliseconds."""


Say = Callable[[str], None]


class Problem(Protocol):
    """What a search works on: a trained network, and how variants of it are built, trained and scored."""

    spec: NetSpec

    def make_model(self, spec: NetSpec) -> nn.Module:
        """A model, with new weights, whose `backbone` is the network of `spec`."""
        ...

    def make_task(self, spec: NetSpec) -> nn.Module:
        """A task around such a `model`."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """The state dict of the seed's model."""
        ...

    def finetune(self, task: nn.Module, steps: int, seed: int) -> None: ...

    def score(self, task: nn.Module) -> float:
        """Accuracy on samples that are not trained on: higher is better."""
        ...


MakeProblem = Callable[[], Problem]
"""Opens the problem in any process: can be pickled and hashed, and is equal to its copies."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One trial: the network of a parent, cut, fine-tuned and scored.

    parent_weights, result: files. cuts: units and the channels that they keep, one after the other.
    """

    parent: NetSpec
    parent_weights: Path
    result: Path
    cuts: tuple[tuple[Unit, int], ...]
    steps: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Point:
    """A network on the way: what was done to get there, and where it stands.

    step: 0 for the seed. score: on the held-out samples. weights: file.
    """

    step: int
    change: str
    spec: NetSpec
    latency_ms: float
    score: float
    weights: Path


class NarrowingTrials:
    """Runs the trials that the history does not know yet, and keeps the weights of those that are chosen.

    Args:
        folder: for weights.
        steps: of fine-tuning.
        seed: of all random numbers.
        say: takes lines on the progress.
    """

    def __init__(
        self,
        make_problem: MakeProblem,
        history: History,
        *,
        folder: Path,
        executor: Executor,
        steps: int,
        seed: int,
        say: Say,
    ) -> None:
        self.make_problem, self.history, self.folder = make_problem, history, folder
        self.executor, self.steps, self.random, self.say = executor, steps, seed, say

    def seed(self, latency: Latency) -> Point:
        """The network that the search starts from, as it is."""
        problem, path = opened(self.make_problem), self.folder / "step-000.safetensors"
        spec, row = problem.spec, self.history.find(kind="seed")
        if row is None or not path.exists():
            task = problem.make_task(spec)
            model = cast(nn.Module, task.model)
            checkpoint.load_strict(model, problem.weights())
            _write(path, model, spec)
            row = self.history.append(
                kind="seed", spec=spec.to_dict(), latency_ms=latency(spec), metric=problem.score(task)
            )
        return Point(
            step=0, change="", spec=spec, latency_ms=row["latency_ms"], score=row["metric"], weights=path
        )

    def step(
        self, point: Point, proposals: Sequence[Proposal], choose: Callable[[Sequence[float]], int]
    ) -> Point:
        """Try all proposals, starting from `point`; the one that `choose` picks by their scores (NaN for a
        trial that crashed) is kept.

        Raises:
            UserError: all trials crashed, or the history has other proposals.
        """
        number, path = point.step + 1, self.folder / f"step-{point.step + 1:03d}.safetensors"
        jobs = [self._job(point, proposal, index) for index, proposal in enumerate(proposals)]
        scores = self._scores(number, jobs, proposals)
        if all(map(math.isnan, scores)):
            first = self.history.find(kind="trial", step=number, number=0) or {}
            raise UserError(f"all trials of step {number} failed, the first with {first.get('error')}")
        best = choose(scores)
        chosen = proposals[best]
        if self.history.find(kind="step", step=number) is None:
            path.unlink(missing_ok=True)  # of a search whose history was deleted
            self.history.append(kind="step", step=number, number=best, **_row(chosen), metric=scores[best])
        self._keep(jobs[best], path)
        for job in jobs:
            job.result.unlink(missing_ok=True)
        return Point(
            step=number,
            change=_change(chosen),
            spec=chosen.spec,
            latency_ms=chosen.latency_ms,
            score=scores[best],
            weights=path,
        )

    def width(
        self,
        seed: Point,
        spec: NetSpec,
        cuts: Sequence[tuple[Unit, int]],
        *,
        number: int,
        change: str,
        latency_ms: float,
        steps: int,
    ) -> Point | None:
        """The seed with `cuts`, which lead to `spec`, fine-tuned for `steps`; None where that crashed.

        number: of its file. change: what was done, in words.
        """
        path = self.folder / f"width-{number}.safetensors"
        job = Job(
            parent=seed.spec,
            parent_weights=seed.weights,
            result=path,
            cuts=tuple(cuts),
            steps=steps,
            seed=self._seed_of(0),
        )
        row = self.history.find(kind="width", spec=spec.to_dict(), steps=steps)
        if row is None:
            ((_, outcome),) = self.executor(partial(run_trial, self.make_problem), [job])
            row = self.history.append(
                kind="width", spec=spec.to_dict(), steps=steps, latency_ms=latency_ms, **outcome
            )
        elif row["status"] == "done" and not path.exists():
            run_trial(self.make_problem, job)
        told = f"{row['metric']:.4f}" if row["status"] == "done" else row["error"]
        self.say(f"{change}, {steps} steps, {row['latency_ms']:.3f} ms: {told}")
        if row["status"] == "failed":
            return None
        return Point(
            step=0, change=change, spec=spec, latency_ms=row["latency_ms"], score=row["metric"], weights=path
        )

    def _job(self, point: Point, proposal: Proposal, index: int) -> Job:
        step = point.step + 1
        return Job(
            parent=point.spec,
            parent_weights=point.weights,
            result=self.folder / f"trial-{step:03d}-{index:03d}.safetensors",
            cuts=((proposal.unit, proposal.channels),),
            steps=self.steps,
            seed=self._seed_of(step),
        )

    def _seed_of(self, step: int) -> int:
        """All trials of a step see the same samples, so that they compare."""
        return self.random * 1_000_003 + step

    def _scores(self, step: int, jobs: Sequence[Job], proposals: Sequence[Proposal]) -> list[float]:
        rows = [self._known(step, number, proposal) for number, proposal in enumerate(proposals)]
        if all(row is not None and row["status"] == "failed" for row in rows):
            rows = [None] * len(rows)  # that ended the search: what was wrong may have been mended
        todo = [number for number, row in enumerate(rows) if row is None]
        done = len(rows) - len(todo)
        work = partial(run_trial, self.make_problem)
        for index, outcome in self.executor(work, [jobs[number] for number in todo]):
            number, done = todo[index], done + 1
            proposal = proposals[number]
            rows[number] = row = self.history.append(
                kind="trial", step=step, number=number, **_row(proposal), seed=jobs[number].seed, **outcome
            )
            told = f"{row['metric']:.4f}" if row["status"] == "done" else row["error"]
            trial = f"  step {step}, trial {done}/{len(rows)}"
            self.say(f"{trial}: {_change(proposal)}, {proposal.latency_ms:.3f} ms: {told}")
        return [row["metric"] if row["status"] == "done" else math.nan for row in rows if row is not None]

    def _known(self, step: int, number: int, proposal: Proposal) -> dict[str, Any] | None:
        row = self.history.find(kind="trial", step=step, number=number)
        if row is not None and row["spec"] != proposal.spec.to_dict():
            raise UserError(
                f"{self.history.path}: trial {number} of step {step} is of another network than is proposed "
                "now: the latency table or the run has changed; choose another out="
            )
        return row

    def _keep(self, job: Job, path: Path) -> None:
        """Put a trial's weights to `path`; they are made anew where a kill has lost them."""
        if path.exists():
            return
        if not job.result.exists():
            run_trial(self.make_problem, job)
        os.replace(job.result, path)


def run_trial(make_problem: MakeProblem, job: Job) -> dict[str, Any]:
    """Cut, fine-tune, score; writes the weights to `job.result`. Runs in any process.

    Returns: `metric` and `seconds`.
    Raises: ValueError where the score is not a number.
    """
    started = time.perf_counter()
    problem = opened(make_problem)
    spec, state = job.parent, checkpoint.inference_weights(job.parent_weights)[0]
    for unit, channels in job.cuts:
        spec, state = shrink(spec, state, unit, channels, make_model=problem.make_model)
    task = problem.make_task(spec)
    model = cast(nn.Module, task.model)
    checkpoint.load_strict(model, state)
    problem.finetune(task, job.steps, job.seed)
    score = problem.score(task)
    if not math.isfinite(score):
        raise ValueError(f"the score is {score}")
    _write(job.result, model, spec)
    return {"metric": score, "seconds": round(time.perf_counter() - started, 3)}


@lru_cache(maxsize=1)
def opened(make_problem: MakeProblem) -> Problem:
    """The problem, opened once in each process."""
    return make_problem()


def _write(path: Path, model: nn.Module, spec: NetSpec) -> None:
    checkpoint.write(path, checkpoint.prefixed("model", model.state_dict()), {"spec": spec.to_dict()})


def _change(proposal: Proposal) -> str:
    return f"{proposal.unit.name} {proposal.unit.channels} -> {proposal.channels}"


def _row(proposal: Proposal) -> dict[str, Any]:
    return {
        "unit": proposal.unit.name,
        "channels": proposal.channels,
        "latency_ms": proposal.latency_ms,
        "spec": proposal.spec.to_dict(),
    }
