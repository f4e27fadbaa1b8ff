"""The trials of NetAdapt: prune, fine-tune, score, and keep the weights of the chosen networks."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import nn

from backbones.spec import NetSpec
from engine.errors import UserError, counted
from engine.run import checkpoint
from nas.candidates import LatencyModel, LogLine, TrainerFactory, shared_trainer
from nas.executors import Executor
from nas.history import SearchHistory
from nas.netadapt.proposals import Proposal
from nas.netadapt.pruning import PrunableUnit, prune

Cuts = Sequence[tuple[PrunableUnit, int]]
"""Units and the channels that they are cut to, in the order of cutting."""


@dataclass(frozen=True, kw_only=True)
class PruningJob:
    """One trial: cut a network, fine-tune it for `steps`, score it.

    weights: file with the weights of `spec`. result: file for the new weights.
    """

    spec: NetSpec
    weights: Path
    cuts: Cuts
    steps: int
    seed: int
    result: Path


@dataclass(frozen=True, kw_only=True)
class ScoredNetwork:
    """A network with its latency, its score on the held-out samples and the file with its weights.

    step: of the search; 0 for the seed. change: what was done to get there, in words; empty for the seed.
    """

    step: int
    change: str
    spec: NetSpec
    latency_ms: float
    score: float
    weights: Path


class PruningTrials:
    """Runs the trials that are not in the history yet, and keeps the weights of the chosen networks.

    Args:
        folder: for weights.
        steps: of fine-tuning.
        seed: of all random numbers.
        log: shows progress.
    """

    def __init__(
        self,
        make_trainer: TrainerFactory,
        history: SearchHistory,
        *,
        folder: Path,
        executor: Executor,
        steps: int,
        seed: int,
        log: LogLine,
    ) -> None:
        self.make_trainer, self.history, self.folder = make_trainer, history, folder
        self.executor, self.steps, self.random_seed, self.log = executor, steps, seed, log

    def seed_network(self, latency: LatencyModel) -> ScoredNetwork:
        """The network that the search starts from, unchanged."""
        trainer, path = shared_trainer(self.make_trainer), self.folder / "step-000.safetensors"
        spec, row = trainer.spec, self.history.last(kind="seed")
        if row is None or not path.exists():
            task = trainer.make_task(spec)
            model = cast(nn.Module, task.model)
            checkpoint.load_strict(model, trainer.weights())
            _save_weights(path, model, spec)
            row = self.history.append(
                kind="seed", spec=spec.to_dict(), latency_ms=latency(spec), metric=trainer.score(task)
            )
        return ScoredNetwork(
            step=0, change="", spec=spec, latency_ms=row["latency_ms"], score=row["metric"], weights=path
        )

    def run_step(
        self,
        network: ScoredNetwork,
        proposals: Sequence[Proposal],
        choose: Callable[[Sequence[float]], int],
    ) -> ScoredNetwork:
        """Try all proposals, starting from the weights of `network`, and keep one.

        Args:
            choose: scores of the proposals (NaN: the trial failed) -> index of the one to keep.

        Raises:
            UserError: if all trials failed, or the history has other proposals.
        """
        step = network.step + 1
        jobs = [self._job(network, proposal, index) for index, proposal in enumerate(proposals)]
        scores = self._scores(step, jobs, proposals)
        if all(map(math.isnan, scores)):
            first = self.history.last(kind="trial", step=step, number=0) or {}
            raise UserError(f"all trials of step {step} failed; the first one: {first.get('error')}")
        best = choose(scores)
        chosen, path = proposals[best], self.folder / f"step-{step:03d}.safetensors"
        if self.history.last(kind="step", step=step) is None:
            path.unlink(missing_ok=True)  # left by a search whose history was deleted
            self.history.append(kind="step", step=step, number=best, **_row(chosen), metric=scores[best])
        self._keep_weights(jobs[best], path)
        for job in jobs:
            job.result.unlink(missing_ok=True)
        return ScoredNetwork(
            step=step,
            change=_change(chosen),
            spec=chosen.spec,
            latency_ms=chosen.latency_ms,
            score=scores[best],
            weights=path,
        )

    def tune_width_multiplier(
        self,
        seed: ScoredNetwork,
        spec: NetSpec,
        cuts: Cuts,
        *,
        number: int,
        change: str,
        latency_ms: float,
        steps: int,
    ) -> ScoredNetwork | None:
        """The seed with `cuts`, which lead to `spec`, fine-tuned for `steps`; None if that failed.

        number: of its file. change: what was done, in words.
        """
        job = PruningJob(
            spec=seed.spec,
            weights=seed.weights,
            cuts=tuple(cuts),
            steps=steps,
            seed=self._seed_of_step(0),
            result=self.folder / f"width-{number}.safetensors",
        )
        row = self.history.last(kind="width", spec=spec.to_dict(), steps=steps)
        if row is None:
            ((_, outcome),) = self.executor(partial(run_trial, self.make_trainer), [job])
            row = self.history.append(
                kind="width", spec=spec.to_dict(), steps=steps, latency_ms=latency_ms, **outcome
            )
        elif row["status"] == "done" and not job.result.exists():
            run_trial(self.make_trainer, job)
        self.log(f"{change}, {counted(steps, 'step')}, {row['latency_ms']:.3f} ms: {_result_text(row)}")
        if row["status"] == "failed":
            return None
        return ScoredNetwork(
            step=0,
            change=change,
            spec=spec,
            latency_ms=row["latency_ms"],
            score=row["metric"],
            weights=job.result,
        )

    def _job(self, network: ScoredNetwork, proposal: Proposal, index: int) -> PruningJob:
        step = network.step + 1
        return PruningJob(
            spec=network.spec,
            weights=network.weights,
            cuts=((proposal.unit, proposal.channels),),
            steps=self.steps,
            seed=self._seed_of_step(step),
            result=self.folder / f"trial-{step:03d}-{index:03d}.safetensors",
        )

    def _seed_of_step(self, step: int) -> int:
        """All trials of a step see the same samples, so that their scores are comparable."""
        return self.random_seed * 1_000_003 + step

    def _scores(self, step: int, jobs: Sequence[PruningJob], proposals: Sequence[Proposal]) -> list[float]:
        rows = [self._known_row(step, index, proposal) for index, proposal in enumerate(proposals)]
        if all(row is not None and row["status"] == "failed" for row in rows):
            rows = [None] * len(rows)  # this ended the search; the cause may have been fixed since
        missing = [index for index, row in enumerate(rows) if row is None]
        done = len(rows) - len(missing)
        trial = partial(run_trial, self.make_trainer)
        for position, outcome in self.executor(trial, [jobs[index] for index in missing]):
            index, done = missing[position], done + 1
            proposal = proposals[index]
            rows[index] = row = self.history.append(
                kind="trial", step=step, number=index, **_row(proposal), seed=jobs[index].seed, **outcome
            )
            text = f"{_change(proposal)}, {proposal.latency_ms:.3f} ms: {_result_text(row)}"
            self.log(f"  step {step}, trial {done}/{len(rows)}: {text}")
        return [row["metric"] if row["status"] == "done" else math.nan for row in rows if row is not None]

    def _known_row(self, step: int, index: int, proposal: Proposal) -> dict[str, Any] | None:
        row = self.history.last(kind="trial", step=step, number=index)
        if row is not None and row["spec"] != proposal.spec.to_dict():
            raise UserError(
                f"{self.history.path}: trial {index} of step {step} has a different network than the search "
                "proposes now, so the latency table or the run has changed; choose another out="
            )
        return row

    def _keep_weights(self, job: PruningJob, path: Path) -> None:
        """Move a trial's weights to `path`; if a killed search has lost them, repeat the trial."""
        if path.exists():
            return
        if not job.result.exists():
            run_trial(self.make_trainer, job)
        os.replace(job.result, path)


def run_trial(make_trainer: TrainerFactory, job: PruningJob) -> dict[str, Any]:
    """Cut, fine-tune and score a network, in any process; writes its weights to `job.result`.

    Returns:
        `metric` and `seconds`.

    Raises:
        UserError: if the score is not a number.
    """
    started = time.perf_counter()
    trainer = shared_trainer(make_trainer)
    spec, state = job.spec, checkpoint.inference_weights(job.weights)[0]
    for unit, channels in job.cuts:
        spec, state = prune(spec, state, unit, channels, make_model=trainer.make_model)
    task = trainer.make_task(spec)
    model = cast(nn.Module, task.model)
    checkpoint.load_strict(model, state)
    trainer.train(task, job.steps, job.seed)
    score = trainer.score(task)
    if not math.isfinite(score):
        raise UserError(f"the score is {score}")
    _save_weights(job.result, model, spec)
    return {"metric": score, "seconds": round(time.perf_counter() - started, 3)}


def _save_weights(path: Path, model: nn.Module, spec: NetSpec) -> None:
    checkpoint.write(path, checkpoint.prefixed("model", model.state_dict()), {"spec": spec.to_dict()})


def _result_text(row: dict[str, Any]) -> str:
    return f"{row['metric']:.4f}" if row["status"] == "done" else str(row["error"])


def _change(proposal: Proposal) -> str:
    return f"{proposal.unit.name} {proposal.unit.channels} -> {proposal.channels}"


def _row(proposal: Proposal) -> dict[str, Any]:
    return {
        "unit": proposal.unit.name,
        "channels": proposal.channels,
        "latency_ms": proposal.latency_ms,
        "spec": proposal.spec.to_dict(),
    }
