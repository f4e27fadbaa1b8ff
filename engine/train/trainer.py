"""The one training loop.

`step` (an optimizer update) is its only clock: what data a step sees, its learning rate, its random numbers,
when to save and when to evaluate all follow from it. So a checkpoint is the tensors and a few numbers, and a
resumed run is the same run.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, NoReturn

from torch import nn
from torch.optim import Optimizer

from engine.contracts import Batch, Evaluator
from engine.data.loader import Batches, LostWorker, TrainingData, file_of
from engine.errors import UserError
from engine.io.files import write_json
from engine.io.progress import Progress
from engine.run import checkpoint
from engine.run.run_folder import RunFolder
from engine.run.training_state import RunIdentity, TrainingState
from engine.runtime import Runtime
from engine.train.evaluation import evaluate_until
from engine.train.learner import Gradients, Learner
from engine.train.optimizers import set_lr
from engine.train.run_log import RunLog, TrainingMonitor
from engine.train.schedules import Schedule
from engine.train.settings import TrainerOptions
from engine.train.signals import Stopped, StopRequest


class Trainer:
    """Trains one task.

    Args:
        plan: in steps (`Plan.resolved`).
        schedule: step -> factor on the learning rate.
    """

    def __init__(
        self,
        *,
        plan: TrainerOptions,
        task: nn.Module,
        optimizer: Optimizer,
        schedule: Schedule,
        runtime: Runtime,
        run: RunFolder,
        feed: TrainingData,
        evaluator: Evaluator,
    ) -> None:
        assert plan.steps is not None
        assert plan.eval_every is not None
        assert plan.save_every is not None
        self.plan, self.schedule, self.runtime, self.run = plan, schedule, runtime, run
        self.feed, self.evaluator, self.optimizer = feed, evaluator, optimizer
        self.steps, self.eval_every, self.save_every = plan.steps, plan.eval_every, plan.save_every
        self.identity = RunIdentity(
            seed=feed.seed,
            batch=plan.batch,
            num_samples=len(feed.train_set),
            optimizer=type(optimizer).__name__,
            steps=plan.steps,
        )
        self.learner = Learner(task=task, optimizer=optimizer, plan=plan, runtime=runtime)
        self.state, self.stop = TrainingState(), StopRequest()
        self.report: TrainingMonitor | None = None

    @property
    def inference_task(self) -> nn.Module:
        """The task with the weights that are evaluated: the averaged ones, where there are any."""
        return self.learner.inference_task

    @property
    def finished(self) -> bool:
        """Whether there is nothing left for `fit` to do."""
        return self.state.step == self.state.evaluated_step == self.steps

    def fit(self) -> dict[str, Any]:
        """Train up to the last step; returns the metrics of the last evaluation.

        Raises:
            Stopped: SIGTERM or SIGINT came; the run has saved itself.
            UserError: the loss or its gradient is not finite, a file cannot be read or written, or another
                process, or one that reads data, has ended.
        """
        if self.finished:
            return self.state.metrics
        self.stop.install()
        try:
            if self.runtime.is_main:
                self.report = self._open_report()
            self._loop()
        finally:
            self.stop.remove()
            if self.report is not None:
                self.report.close()
        return self.state.metrics

    def _open_report(self) -> TrainingMonitor:
        step, evaluated = self.state.step, self.state.evaluated_step
        log = RunLog(self.run, step=step, evaluated_step=evaluated, tensorboard=self.plan.tensorboard)
        return TrainingMonitor(
            log, Progress(self.steps, first=step), last=self.steps, every=self.plan.log_every
        )

    def _loop(self) -> None:
        self.learner.start(compile=self.plan.compile)
        batches = self._batches(self.feed) if self.state.step < self.steps else iter(())
        while True:
            if self._save_due():
                self.save()
            if self._evaluation_due():
                self._evaluate()
            if self.state.step == self.steps:
                return
            self._step(batches)

    def _batches(self, feed: TrainingData) -> Iterator[Batch]:
        batches = feed.train_batches(
            self.state.step,
            batch=self.plan.batch,
            micro_batches=self.plan.accumulate,
            rank=self.runtime.rank,
            world_size=self.runtime.world_size,
            pin=self.runtime.device.type == "cuda",
        )
        return Batches(batches)

    def _read(self, batches: Iterator[Batch]) -> list[Batch]:
        try:
            return [self.runtime.move(next(batches)) for _ in range(self.plan.accumulate)]
        except LostWorker:
            if self.stop.signal is None:
                raise
            # Some schedulers signal every process of a job, and those that read data end at once. Others may
            # be in this step already: it is done with data that is read here, and all stop after it.
            return self._read(self._batches(replace(self.feed, workers=0)))

    def _step(self, batches: Iterator[Batch]) -> None:
        started = time.perf_counter()
        micro_batches = self._read(batches)
        waited = time.perf_counter() - started

        step = self.state.step
        # Dropout and the like draw from generators that are seeded anew each step: none has to be saved.
        self.runtime.seed(step_seed(self.feed.seed, step, self.runtime.rank))
        lr = set_lr(self.optimizer, self.schedule(step))
        found = self.learner.gradients(micro_batches, stop=self.stop.signal is not None)
        self._check(found)
        self.learner.update()
        self.state.step = step = step + 1

        if self.report is not None:
            seconds = time.perf_counter() - started
            self.report.step(
                step, found.losses, lr=lr, images=self.plan.batch, waited=waited, seconds=seconds
            )
        if found.stop:
            self._stop()

    def _check(self, found: Gradients) -> None:
        if not all(map(math.isfinite, found.losses.values())):
            self._refuse(found, "loss")
        if not math.isfinite(found.norm) and not self.learner.scale_can_fall():
            self._refuse(found, "gradient")

    def _refuse(self, found: Gradients, what: str) -> NoReturn:
        """End the run on what is not finite, leaving what is needed to repeat the step (`engine.train.nonfinite`).

        Weights and optimizer are as they were before the step. Running statistics have seen its batch by now,
        but a training step does not read them.
        """
        draws = self.feed.draws(self.state.step, batch=self.plan.batch)
        files = [file_of(self.feed.train_set, draw.index) for draw in draws]
        kept = f"python tools/train.py replay={self.run.replay} repeats the step"
        if self.runtime.is_main:
            tensors, metadata = self._capture()
            metadata |= {"losses": found.losses, "norm": found.norm, "not_finite": what}
            metadata |= {"draws": [list(draw) for draw in draws], "files": files}
            metadata |= {"processes": self.runtime.world_size, "accumulate": self.plan.accumulate}
            try:
                checkpoint.write(self.run.replay, tensors, metadata)
            except UserError as error:
                kept = str(error)
        named = ", ".join(f"{name} {value:g}" for name, value in found.losses.items())
        some = ", ".join(files[:4]) + (f" and {len(files) - 4} more" if len(files) > 4 else "")
        raise UserError(
            f"the {what} is not finite at step {self.state.step} ({named}), on {some}; look at their labels, "
            f"lower optimizer.lr or set trainer.clip; {kept}"
        )

    def _stop(self) -> NoReturn:
        if self.state.saved_step != self.state.step:
            self.save()
        # A launcher may end the others as soon as one has ended: none does before rank 0 has saved.
        self.runtime.gather(None)
        raise Stopped(
            f"stopped by {self.stop.signal or 'another process'} at step {self.state.step} of {self.steps}; "
            f"go on with resume={self.run.path}"
        )

    def _evaluation_due(self) -> bool:
        step = self.state.step
        return step not in (0, self.state.evaluated_step) and (
            step % self.eval_every == 0 or step == self.steps
        )

    def _evaluate(self) -> None:
        where, state = self.runtime, self.state
        pin = where.device.type == "cuda"
        share = self.feed.eval_batches(rank=where.rank, world_size=where.world_size, pin=pin)
        metrics = evaluate_until(
            self.inference_task, share, self.evaluator, where, stop=lambda: self.stop.signal is not None
        )
        if metrics is None:
            self._stop()
        state.evaluated_step, state.metrics = state.step, metrics
        score = metrics[self.evaluator.main_metric]
        better = not math.isnan(score) and (state.best is None or score > state.best)
        if better:
            state.best, state.best_step = score, state.step
        if self.report is not None:
            self.report.evaluation(state.step, metrics, metric=self.evaluator.main_metric, better=better)
            write_json(self.run.metrics, state.results(self.evaluator.main_metric) | dict(self.feed.notes))
        self.save()

    def _save_due(self) -> bool:
        step = self.state.step
        return step not in (0, self.state.saved_step) and (step % self.save_every == 0 or step == self.steps)

    def save(self) -> None:
        """Write `last`, from which `restore` continues bit for bit; and `best`, where this step is."""
        self.state.saved_step = self.state.step
        if self.runtime.is_main:
            checkpoint.write(self.run.last, *self._capture())
            self._save_best()

    def _save_best(self) -> None:
        if self.state.is_best:
            checkpoint.write(self.run.best, self.learner.inference_tensors(), self._metadata())

    def _capture(self) -> tuple[checkpoint.Tensors, dict[str, Any]]:
        tensors, metadata = self.learner.capture()
        return tensors, {**self._metadata(), **metadata}

    def _metadata(self) -> dict[str, Any]:
        return {"format": 1, "state": asdict(self.state), "identity": asdict(self.identity)}

    def restore(self) -> str:
        """Continue from the run's last checkpoint; says from where, and what was unexpected about it.

        Raises:
            UserError: the checkpoint is unreadable, is further than this run shall go, or belongs to a run
                with other data, batch, seed or optimizer.
        """
        path = self.run.last
        tensors, metadata, damage = checkpoint.read_latest(path)
        try:
            state, identity = TrainingState(**metadata["state"]), metadata["identity"]
        except (KeyError, TypeError):
            raise UserError(f"{path}: not a checkpoint of a training") from None
        change = self.identity.check(identity, state, path)
        if len(set(self.runtime.gather(state.step))) > 1:
            raise UserError(f"{path}: the processes read different checkpoints; put it where all see it")
        self.learner.load(tensors, metadata)
        self.state = state
        if self.runtime.is_main:
            if damage:
                checkpoint.set_aside(path)
            # The run may have been killed between writing `last` and writing `best`.
            if state.is_best and checkpoint.step_of(self.run.best) != state.step:
                self._save_best()
        where = f"{path}, step {state.step} of {self.steps}"
        return "; ".join(part for part in (damage, where, change) if part)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of a step's random numbers in one process."""
    return (seed * 1_000_003 + step * 4_099 + rank) % 2**63
