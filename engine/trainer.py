"""The one training loop.

`step` (an optimizer update) is its only clock: what data a step sees, its learning rate, its random numbers,
when to save and when to evaluate all follow from it. So a checkpoint is the tensors and a few numbers, and a
resumed run is the same run.
"""

import functools
import math
import operator
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from engine import checkpoint, run_folder, state
from engine.data import Feed, file_of
from engine.ema import Average
from engine.errors import UserError
from engine.evaluate import evaluate_until
from engine.log import Progress, RunLog
from engine.optim import set_lr
from engine.plan import Plan
from engine.report import Report
from engine.run_folder import RunFolder
from engine.runtime import Readout, Runtime
from engine.schedule import Schedule
from engine.state import State
from engine.stop import Stopped, StopRequest
from engine.task import Batch, Evaluator


class Trainer:
    """Trains one task.

    Args:
        plan: in steps (`Plan.resolved`).
        schedule: step -> factor on the learning rate.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        task: nn.Module,
        optimizer: Optimizer,
        schedule: Schedule,
        runtime: Runtime,
        run: RunFolder,
        feed: Feed,
        evaluator: Evaluator,
    ) -> None:
        assert plan.steps is not None
        self.plan, self.task, self.optimizer, self.schedule = plan, task, optimizer, schedule
        self.runtime, self.run, self.evaluator, self.feed = runtime, run, evaluator, feed
        self.model = cast(nn.Module, task.model)
        self.steps = plan.steps
        self.state = State()
        self.average = Average(task, plan.ema) if plan.ema else None
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=plan.precision == "fp16")
        self.stop = StopRequest()
        self.report: Report | None = None

    @property
    def inference_task(self) -> nn.Module:
        """The task with the weights that are evaluated: the averaged ones, where there are any."""
        return self.average.task if self.average is not None else self.task

    @property
    def finished(self) -> bool:
        """Whether `fit` has nothing left to do."""
        return self.state.step == self.steps == self.state.evaluated_step

    def fit(self) -> dict[str, Any]:
        """Train up to the last step; returns the metrics of the last evaluation.

        Raises:
            Stopped: SIGTERM or SIGINT came; the run has saved itself.
            UserError: the loss is not finite, or a file cannot be read or written.
        """
        if self.finished:
            return self.state.metrics
        self.stop.install()
        try:
            self.report = self._open_report() if self.runtime.is_main else None
            self._loop()
        finally:
            self.stop.remove()
            if self.report is not None:
                self.report.close()
        return self.state.metrics

    def _open_report(self) -> Report:
        step, evaluated = self.state.step, self.state.evaluated_step
        log = RunLog(self.run, step=step, evaluated_step=evaluated, tensorboard=self.plan.tensorboard)
        return Report(log, Progress(self.steps, first=step), last=self.steps, every=self.plan.log_every)

    def _loop(self) -> None:
        step_model = self.runtime.parallel(self.task)
        if self.plan.compile:
            self.model.compile()
        self.task.train()
        batches = self._train_batches()
        while True:
            if self._save_due():
                self.save()
            if self._evaluation_due():
                self._evaluate()
            if self.state.step == self.steps:
                return
            self._step(step_model, batches)

    def _train_batches(self) -> Iterator[Batch]:
        if self.state.step == self.steps:
            return iter(())
        return self.feed.train_batches(
            self.state.step,
            batch=self.plan.batch,
            micro_batches=self.plan.accumulate,
            rank=self.runtime.rank,
            world_size=self.runtime.world_size,
            pin=self.runtime.device.type == "cuda",
        )

    def _step(self, step_model: nn.Module, batches: Iterator[Batch]) -> None:
        started = time.perf_counter()
        micro_batches = [self.runtime.move(next(batches)) for _ in range(self.plan.accumulate)]
        waited = time.perf_counter() - started

        # Dropout and the like draw from generators that are seeded anew each step: none has to be saved.
        self.runtime.seed(_step_seed(self.feed.seed, self.state.step, self.runtime.rank))
        factor = self.schedule(self.state.step)
        set_lr(self.optimizer, factor)
        losses, stopping = self._gradients(step_model, micro_batches)
        if not all(map(math.isfinite, losses.values())):
            self._refuse(losses)
        self._update()
        self.state.step += 1
        if self.report is not None:
            lr = max(group["lr"] for group in self.optimizer.param_groups)
            seconds = time.perf_counter() - started
            self.report.step(
                self.state.step, losses, lr=lr, images=self.plan.batch, waited=waited, seconds=seconds
            )
        if stopping:
            self._stop()

    def _gradients(
        self, step_model: nn.Module, micro_batches: list[Batch]
    ) -> tuple[dict[str, float], bool]:
        """Accumulate the gradient of the mean loss over the whole step.

        Returns:
            That loss by name, and whether a process was asked to stop; the same in every process.
        """
        shares = self._shares(micro_batches)
        sums: list[Tensor] = []
        names: list[str] = []
        for number, batch in enumerate(micro_batches, start=1):
            last = number == len(micro_batches)
            wait = not last and self.runtime.world_size > 1
            with step_model.no_sync() if wait else nullcontext():  # type: ignore[operator]
                with self.runtime.autocast():
                    named = step_model(batch)
                names, parts = list(named), list(named.values())
                if shares is not None:
                    parts = [part * shares[number - 1] for part in parts]
                done = [part.detach() for part in parts]
                sums = list(map(operator.add, sums, done)) if sums else done
                if last:  # On its way while the gradients are computed, so that the device need not wait.
                    readout = self._send(sums)
                self.scaler.scale(functools.reduce(operator.add, parts)).backward()
        *losses, stopping = readout.read()
        return dict(zip(names, losses, strict=True)), bool(stopping)

    def _shares(self, micro_batches: list[Batch]) -> Tensor | None:
        """Each micro-batch's share in the mean of the step; None where there is but one."""
        if self.runtime.world_size == len(micro_batches) == 1:
            return None
        weights = torch.stack([self.task.weight(batch).float() for batch in micro_batches])  # type: ignore[operator]
        total = self.runtime.sum(weights.sum())
        # DistributedDataParallel averages gradients over processes; these make that the exact mean.
        return weights * self.runtime.world_size / total.clamp(min=1e-12)

    def _send(self, losses: list[Tensor]) -> Readout:
        """The losses over all processes, and whether one of these was asked to stop, on their way to the CPU."""
        asked = losses[0].new_tensor(1.0 if self.stop.signal else 0.0)
        numbers = torch.stack([*losses, asked]).float()
        if self.runtime.world_size > 1:
            numbers[:-1] /= self.runtime.world_size
            self.runtime.sum(numbers)
        return Readout(numbers)

    def _update(self) -> None:
        if self.plan.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()

    def _refuse(self, losses: dict[str, float]) -> None:
        """End the run on a loss that is not finite, with what is needed to repeat the step.

        Weights and optimizer are those before the step. Running statistics have seen its batch already, but a
        training step does not read them.
        """
        step = self.state.step
        files = [file_of(self.feed.train_set, draw.index) for draw in self._draws()]
        kept = f"{self.run.replay} holds the state before the step"
        if self.runtime.is_main:
            tensors, metadata = state.capture(self)
            draws = [list(draw) for draw in self._draws()]
            try:
                checkpoint.write(
                    self.run.replay, tensors, {**metadata, "draws": draws, "files": files, "losses": losses}
                )
            except UserError as error:
                kept = str(error)
        named = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        some = ", ".join(files[:4]) + (f" and {len(files) - 4} more" if len(files) > 4 else "")
        raise UserError(
            f"the loss is not finite at step {step} ({named}) on {some}; {kept}; look at these files' labels, "
            "lower optimizer.lr or set trainer.clip"
        )

    def _stop(self) -> None:
        if self.state.saved_step != self.state.step:
            self.save()
        raise Stopped(
            f"stopped by {self.stop.signal or 'another process'} at step {self.state.step} of {self.steps}; "
            f"go on with resume={self.run.path}"
        )

    def _evaluation_due(self) -> bool:
        step, every = self.state.step, self.plan.eval_every
        return step > 0 and step != self.state.evaluated_step and (step % every == 0 or step == self.steps)

    def _evaluate(self) -> None:
        where = self.runtime
        share = self.feed.eval_batches(
            rank=where.rank, world_size=where.world_size, pin=where.device.type == "cuda"
        )
        asked = lambda: self.stop.signal is not None  # noqa: E731
        metrics = evaluate_until(self.inference_task, share, self.evaluator, where, stop=asked)
        if metrics is None:
            self._stop()
        ...

    def _save_due(self) -> bool:
        step = self.state.step
        return step not in (0, self.state.saved_step) and (
            step % self.plan.save_every == 0 or step == self.steps
        )
