"""The one training loop. `step` (an optimizer update) is its only clock: what data a step sees, its learning rate,
its random numbers, when to save and when to evaluate all follow from it."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from engine import checkpoint, log, run_folder
from engine.data import Feed
from engine.errors import UserError
from engine.evaluate import evaluate
from engine.optim import set_lr
from engine.run_folder import RunFolder
from engine.runtime import Runtime
from engine.schedule import Schedule
from engine.stop import Stopped, StopRequest
from engine.task import Batch, Evaluator


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how to train.

    Attributes:
        steps, epochs: the length of the run; exactly one is set, epochs become steps once (`resolved`).
        batch: images per step, over all processes and micro-batches.
        accumulate: micro-batches per step and process.
        eval_every, save_every: steps between evaluations and between checkpoints; default: a tenth of the run.
        log_every: steps between rows of the log.
        clip: largest norm of the gradient (None: no clipping).
        ema: decay of the averaged weights, which are then what is evaluated (None: no averaging).
        precision: fp32, bf16 or fp16 (autocast).
        compile: compile the model with torch.compile.
    """

    steps: int | None = None
    epochs: float | None = None
    batch: int = 8
    accumulate: int = 1
    eval_every: int | None = None
    save_every: int | None = None
    log_every: int = 20
    clip: float | None = None
    ema: float | None = None
    compile: bool = False
    device: str = "auto"
    precision: str = "fp32"
    channels_last: bool = True
    deterministic: bool = False
    tensorboard: bool = True

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"set one of steps and epochs, got steps={self.steps}, epochs={self.epochs}")
        for name in (
            "steps",
            "epochs",
            "batch",
            "accumulate",
            "eval_every",
            "save_every",
            "log_every",
            "clip",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must lie between 0 and 1 (0.999 is usual), got {self.ema}")

    def resolved(self, num_samples: int) -> "Plan":
        """The same plan in steps, for a training split of `num_samples`."""
        steps = self.steps
        if steps is None:
            assert self.epochs is not None
            steps = max(1, math.ceil(self.epochs * num_samples / self.batch))
        tenth = max(1, math.ceil(steps / 10))
        return replace(
            self,
            steps=steps,
            epochs=None,
            eval_every=self.eval_every or tenth,
            save_every=self.save_every or tenth,
        )


@dataclass
class State:
    """What changes while training, beside the tensors."""

    step: int = 0
    evaluated_step: int = 0
    saved_step: int = -1
    best: float | None = None
    best_step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)


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
        # What a checkpoint must agree with to be continued.
        self.identity = {"seed": feed.seed, "batch": plan.batch, "num_samples": len(feed.train_set)}
        self.steps = plan.steps
        self.state = State()
        self.average = _average(task, plan.ema) if plan.ema else None
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=plan.precision == "fp16")
        self.stop = StopRequest()

    @property
    def inference_task(self) -> nn.Module:
        """The task with the weights that are evaluated: the averaged ones, where there are any."""
        return self.average.module if self.average is not None else self.task

    def fit(self) -> dict[str, Any]:
        """Train up to the last step; returns the metrics of the last evaluation.

        Raises:
            Stopped: SIGTERM or SIGINT came; the run has saved itself.
            UserError: the loss is not finite, or a file cannot be read or written.
        """
        main = self.runtime.is_main
        self.log = (
            log.RunLog(self.run, step=self.state.step, tensorboard=self.plan.tensorboard) if main else None
        )
        self.progress = log.Progress(self.steps, first=self.state.step) if main else None
        self.meter = Meter()
        self.stop.install()
        try:
            self._loop()
        finally:
            self.stop.remove()
            for sink in (self.log, self.progress):
                if sink is not None:
                    sink.close()
        return self.state.metrics

    def _loop(self) -> None:
        step_model = self.runtime.parallel(self.task)
        if self.plan.compile:
            self.task.model.compile()  # type: ignore[operator]
        batches = self._train_batches() if self.state.step < self.steps else iter(())
        self.task.train()
        while True:
            if self._evaluation_due():
                self._evaluate()
            if self._save_due():
                self.save()
            if self.state.step == self.steps:
                return
            self._step(step_model, batches)
            if self.state.step % self.plan.log_every == 0 or self.state.step in (1, self.steps):
                self._report()
            if self.stopping:
                self.save()
                raise Stopped(f"stopped at step {self.state.step} of {self.steps}")

    def _train_batches(self) -> Iterator[Batch]:
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

        # Every process learns the weight of the whole step, and whether one of them was asked to stop.
        weights = torch.stack([self.task.weight(batch).float() for batch in micro_batches])  # type: ignore[operator]
        asked = weights.new_tensor(1.0 if self.stop.signal else 0.0)
        total, stopping = self.runtime.sum(torch.stack([weights.sum(), asked]))
        # DistributedDataParallel averages gradients over processes; these shares turn that into the exact mean.
        shares = weights * self.runtime.world_size / total.clamp(min=1e-12)

        torch.manual_seed(_step_seed(self.feed.seed, self.state.step, self.runtime.rank))
        set_lr(self.optimizer, self.schedule(self.state.step))
        losses: dict[str, Tensor] = {}
        for number, (batch, share) in enumerate(zip(micro_batches, shares, strict=True), start=1):
            last = number == len(micro_batches)
            with nullcontext() if last or self.runtime.world_size == 1 else step_model.no_sync():  # type: ignore[operator]
                with self.runtime.autocast():
                    parts = {name: loss * share for name, loss in step_model(batch).items()}
                self.scaler.scale(sum(parts.values())).backward()
            for name, part in parts.items():
                losses[name] = losses.get(name, torch.zeros_like(part)) + part.detach()
        self._check_finite(losses)
        self._update()
        self.state.step += 1
        self.stopping = bool(stopping)
        images = sum(len(batch["index"]) for batch in micro_batches) * self.runtime.world_size
        self.meter.add(losses, images=images, waited=waited, seconds=time.perf_counter() - started)

    def _update(self) -> None:
        self.scaler.unscale_(self.optimizer)
        if self.plan.clip:
            nn.utils.clip_grad_norm_(self.task.parameters(), self.plan.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.task)

    def _check_finite(self, losses: dict[str, Tensor]) -> None:
        if bool(torch.isfinite(torch.stack(list(losses.values())).sum())):
            return
        named = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
        raise UserError(
            f"the loss is not finite at step {self.state.step} ({named}); lower optimizer.lr, set trainer.clip, "
            f"or look at the labels; checkpoints up to step {max(self.state.saved_step, 0)} are in {self.run.path}"
        )

    def _report(self) -> None:
        numbers = self.meter.take()
        if self.log is None or self.progress is None:
            return
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        self.log.row(self.state.step, "train", {**numbers, "lr": lr})
        text = (
            f"loss {numbers['loss']:.3f}  lr {lr:.2g}  {numbers['images_per_s']:.1f} images/s  "
            f"data wait {numbers['data_wait']:.0%}"
        )
        self.progress.update(self.state.step, text)
        if numbers["data_wait"] > 0.3 and self.state.step > 1 and not self.meter.warned:
            self.meter.warned = True
            self.progress.print(
                "input-bound: the model waits for data; raise data.workers or lower data.crop"
            )

    def _evaluation_due(self) -> bool:
        step, every = self.state.step, self.plan.eval_every
        return step > 0 and step != self.state.evaluated_step and (step % every == 0 or step == self.steps)

    def _evaluate(self) -> None:
        pin = self.runtime.device.type == "cuda"
        share = self.feed.eval_batches(rank=self.runtime.rank, world_size=self.runtime.world_size, pin=pin)
        self.state.metrics = evaluate(self.inference_task, share, self.evaluator, self.runtime)
        self.state.evaluated_step = self.state.step
        score = self.state.metrics[self.evaluator.main_metric]
        better = not math.isnan(score) and (self.state.best is None or score > self.state.best)
        if better:
            self.state.best, self.state.best_step = score, self.state.step
        if self.log is None or self.progress is None:
            return
        self.log.row(self.state.step, "eval", self.state.metrics)
        run_folder.write_json(self.run.metrics, {**self.state.metrics, "step": self.state.step})
        if better:
            checkpoint.write(self.run.best, *self._inference_tensors())
        mark = "  (best)" if better else ""
        self.progress.print(f"step {self.state.step}: {self.evaluator.main_metric} {score:.4f}{mark}")

    def _save_due(self) -> bool:
        step = self.state.step
        if step == 0 or step == self.state.saved_step:
            return False
        return step % self.plan.save_every == 0 or step in (self.steps, self.state.evaluated_step)

    def save(self) -> None:
        """Write `last`, from which `restore` continues bit for bit."""
        self.state.saved_step = self.state.step
        if not self.runtime.is_main:
            return
        moments, numbers = checkpoint.optimizer_tensors(self.task.model, self.optimizer)  # type: ignore[arg-type]
        tensors = checkpoint.prefixed("model", self.task.model.state_dict())  # type: ignore[union-attr,operator]
        tensors |= checkpoint.prefixed("optimizer", moments)
        if self.average is not None:
            tensors |= checkpoint.prefixed("ema", self.average.module.model.state_dict())
        metadata = {
            **self._metadata(),
            "optimizer": numbers,
            "scaler": self.scaler.state_dict(),
            "ema_updates": int(self.average.n_averaged) if self.average is not None else 0,
        }
        checkpoint.write(self.run.last, tensors, metadata)

    def restore(self) -> str:
        """Continue from the run's last checkpoint; says from which step, and whether a damaged file was passed over.

        Raises:
            UserError: the checkpoint is unreadable or belongs to a run with other data, batch or seed.
        """
        path = self.run.last
        tensors, metadata, message = checkpoint.read_latest(path)
        for name, value in self.identity.items():
            if metadata["identity"].get(name) != value:
                raise UserError(
                    f"{path}: was trained with {name}={metadata['identity'].get(name)}, now {value}: that is no "
                    f"continuation; start a new run with init_from={self.run.path}"
                )
        checkpoint.load_strict(self.task.model, checkpoint.under("model", tensors))  # type: ignore[arg-type]
        moments, numbers = checkpoint.under("optimizer", tensors), metadata["optimizer"]
        checkpoint.load_optimizer(self.task.model, self.optimizer, moments, numbers)  # type: ignore[arg-type]
        if self.average is not None:
            checkpoint.load_strict(
                self.average.module.model,
                checkpoint.under("ema", tensors) or checkpoint.under("model", tensors),
            )
            self.average.n_averaged.fill_(metadata["ema_updates"])
        if metadata["scaler"]:
            self.scaler.load_state_dict(metadata["scaler"])
        self.state = State(**metadata["state"])
        return message or f"{path}, step {self.state.step} of {self.steps}"

    def _inference_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return checkpoint.prefixed("model", self.inference_task.model.state_dict()), self._metadata()  # type: ignore[union-attr,operator]

    def _metadata(self) -> dict[str, Any]:
        return {"format": 1, "state": vars(self.state), "identity": self.identity}


class Meter:
    """Sums what happened since the last report."""

    def __init__(self) -> None:
        self.warned = False
        self._clear()

    def _clear(self) -> None:
        self.losses: dict[str, Tensor] = {}
        self.steps = self.images = 0
        self.waited = self.seconds = 0.0

    def add(self, losses: dict[str, Tensor], *, images: int, waited: float, seconds: float) -> None:
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, torch.zeros_like(loss)) + loss
        self.steps += 1
        self.images += images
        self.waited += waited
        self.seconds += seconds

    def take(self) -> dict[str, float]:
        """Mean losses, images/s and the share of time spent waiting for data since the last call."""
        means = {name: float(loss) / self.steps for name, loss in self.losses.items()}
        numbers = {
            "loss": sum(means.values()),
            **({f"loss/{name}": value for name, value in means.items()} if len(means) > 1 else {}),
            "images_per_s": self.images / self.seconds,
            "data_wait": self.waited / self.seconds,
        }
        self._clear()
        return numbers


def _average(task: nn.Module, decay: float) -> AveragedModel:
    def update(averaged: Any, current: Any, count: Tensor) -> None:
        # The decay rises with the number of updates (as TensorFlow's), so that short runs are not all initialisation.
        rate = min(decay, (1 + int(count)) / (10 + int(count)))
        if torch.is_floating_point(averaged[0]):
            torch._foreach_lerp_(averaged, current, 1 - rate)
        else:
            for target, value in zip(averaged, current, strict=True):
                target.copy_(value)

    return AveragedModel(task, multi_avg_fn=update, use_buffers=True)


def _step_seed(seed: int, step: int, rank: int) -> int:
    # Dropout and the like draw from a generator that is seeded anew each step: no random state in a checkpoint.
    return (seed * 1_000_003 + step * 4_099 + rank) % 2**63
