"""The training loop and its options.

Everything depends only on `step`, the number of optimizer updates: the data of a step, its learning rate and
random numbers, and when to save and evaluate. Therefore a checkpoint consists of tensors and a few numbers,
and a resumed run is identical to an uninterrupted one.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, NoReturn, cast

from torch import nn
from torch.optim import Optimizer

from engine.contracts import Batch, Evaluator, Task
from engine.data.loader import DataLoaders, WorkerKilled, without_gaps
from engine.errors import UserError, some
from engine.io.files import write_json
from engine.io.progress import Progress, announced
from engine.run import checkpoint
from engine.run.run_folder import RunFolder
from engine.run.training_state import RunIdentity, TrainingState
from engine.runtime import Runtime, Stopped, StopRequest
from engine.train.evaluation import EvaluationProgress, evaluate_unless_stopped
from engine.train.learner import Learner, StepResult, step_seed
from engine.train.optimization import Schedule, set_lr
from engine.train.run_log import RunLog, Tracker, TrainingMonitor

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]

_LENGTHS = ("steps", "epochs", "minutes")
_POSITIVE = (*_LENGTHS, "batch", "accumulate", "eval_every", "save_every", "log_every", "clip", "patience")


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """The options of `conf/trainer`.

    Attributes:
        steps, epochs, minutes: length of the run. Exactly one is set; `in_steps` converts epochs, and
            `engine.train.rehearsal` minutes. If a run is resumed with more steps, schedules that decay
            toward the end (poly, cosine) follow the new length, so the learning rate rises at that point.
        batch: images per step, over all processes and micro-batches.
        accumulate: micro-batches per step and process.
        eval_every, save_every: steps between evaluations and between checkpoints; default: a tenth of the
            run.
        log_every: steps between rows of the log.
        patience: the run ends after this many evaluations in a row without a better score (None: it does
            not).
        clip: maximum gradient norm (None: no clipping).
        ema: decay of the averaged weights, which are used for evaluation (None: no averaging).
        precision: fp32, bf16 or fp16 (autocast).
        compile: compile the model with torch.compile.
        sync_bn: compute BatchNorm statistics over the images of all processes (CUDA only).
        tensorboard, tracker: where the log is shown: in TensorBoard, and in other trackers.

    Raises:
        ValueError: if a number is not positive, not exactly one of steps, epochs and minutes is set, or a
            batch cannot be divided evenly into micro-batches.
    """

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    batch: int = 8
    accumulate: int = 1
    eval_every: int | None = None
    save_every: int | None = None
    log_every: int = 20
    patience: int | None = None
    clip: float | None = None
    ema: float | None = None
    compile: bool = False
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    deterministic: bool = False
    sync_bn: bool = False
    tensorboard: bool = True
    tracker: TrackerName | Sequence[TrackerName] | None = None

    def __post_init__(self) -> None:
        lengths = {name: getattr(self, name) for name in _LENGTHS}
        if sum(value is not None for value in lengths.values()) != 1:
            got = ", ".join(f"{name}={value}" for name, value in lengths.items())
            raise ValueError(f"set exactly one of steps, epochs and minutes, got {got}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.batch % self.accumulate:
            raise ValueError(f"batch={self.batch} must be a multiple of accumulate={self.accumulate}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must be between 0 and 1 (0.999 is usual), got {self.ema}")

    @property
    def trackers(self) -> list[str]:
        """The names of all trackers, each once."""
        own = [self.tracker] if isinstance(self.tracker, str) else list(self.tracker or ())
        return list(dict.fromkeys([*(["tensorboard"] if self.tensorboard else []), *own]))

    def in_steps(self, num_samples: int) -> "TrainerOptions":
        """A copy with `epochs` converted to `steps` and the dependent defaults filled in. Raises: ValueError
        if the length is in minutes."""
        if self.minutes is not None:
            raise ValueError(f"minutes={self.minutes} can only be used to start a training; set steps")
        steps = self.steps
        if steps is None:
            assert self.epochs is not None
            steps = max(1, math.ceil(self.epochs * num_samples / self.batch))
        tenth = max(1, math.ceil(steps / 10))
        eval_every, save_every = self.eval_every or tenth, self.save_every or tenth
        return replace(self, steps=steps, epochs=None, eval_every=eval_every, save_every=save_every)


class Trainer:
    """Trains one task.

    Args:
        options: options with the length in steps (`TrainerOptions.in_steps`).
        task: a `Task`, on the runtime's device.
        schedule: step -> factor on the learning rate.

    Attributes:
        trackers: receive the rows of the log, in the main process.

    Raises:
        UserError: if the evaluation split has no labels.
    """

    def __init__(
        self,
        *,
        options: TrainerOptions,
        task: nn.Module,
        optimizer: Optimizer,
        schedule: Schedule,
        runtime: Runtime,
        run: RunFolder,
        data: DataLoaders,
    ) -> None:
        assert options.steps is not None
        assert options.eval_every is not None
        assert options.save_every is not None
        self.options, self.schedule, self.runtime, self.run = options, schedule, runtime, run
        self.data, self.optimizer, self.task = data, optimizer, task
        self.steps, self.eval_every, self.save_every = options.steps, options.eval_every, options.save_every
        self.identity = RunIdentity(
            seed=data.seed,
            batch=options.batch,
            num_samples=len(data.train_set),
            optimizer=type(optimizer).__name__,
            steps=options.steps,
        )
        self.learner = Learner(
            task=task,
            optimizer=optimizer,
            runtime=runtime,
            clip=options.clip,
            ema=options.ema,
            scale_loss=options.precision == "fp16",
            sync_bn=options.sync_bn,
        )
        self.state, self.stop = TrainingState(), StopRequest()
        self._best_scores: dict[str, Any] | None = None
        self.monitor: TrainingMonitor | None = None
        self.trackers: Sequence[Tracker] = ()
        if not data.eval_set.has_labels:
            cast(Task, task).evaluator(data.eval_set)  # raises a UserError that says what is missing

    @cached_property
    def evaluator(self) -> Evaluator:
        """The evaluator of the evaluation split, built on first use."""
        return cast(Task, self.task).evaluator(self.data.eval_set)

    @property
    def inference_task(self) -> nn.Module:
        """The task with the weights used for evaluation: the averaged weights, if there are any."""
        return self.learner.inference_task

    @property
    def finished(self) -> bool:
        """Whether there is nothing left for `fit` to do."""
        state = self.state
        return state.step == state.evaluated_step and (state.step == self.steps or self.out_of_patience)

    @property
    def out_of_patience(self) -> bool:
        """Whether the last `patience` evaluations have not improved the score."""
        patience = self.options.patience
        return patience is not None and self.state.without_improvement >= patience

    def fit(self) -> dict[str, Any]:
        """Train to the last step; returns the metrics of the last evaluation.

        Raises:
            Stopped: on SIGTERM or SIGINT, after saving a checkpoint.
            UserError: if the loss or its gradient is not finite, a file cannot be read or written, or another
                process has exited or a DataLoader worker was killed.
        """
        if self.finished:
            return self.state.metrics
        self.stop.install()
        try:
            if self.runtime.is_main:
                self.monitor = self._open_monitor()
            self._loop()
        finally:
            self.stop.remove()
            if self.monitor is not None:
                self.monitor.close()
        return self.state.metrics

    def _open_monitor(self) -> TrainingMonitor:
        step, evaluated = self.state.step, self.state.evaluated_step
        tensorboard = "tensorboard" in self.options.trackers
        log = RunLog(
            self.run, step=step, evaluated_step=evaluated, tensorboard=tensorboard, trackers=self.trackers
        )
        progress = Progress(self.steps, first=step)
        return TrainingMonitor(log, progress, last=self.steps, every=self.options.log_every)

    def _loop(self) -> None:
        self.learner.start(compile=self.options.compile)
        batches = self.batches(self.data) if self.state.step < self.steps else iter(())
        first = self.state.step
        while True:
            if self._save_due():
                self.save()
            if self._evaluation_due():
                self.evaluate()
            if self.finished:
                return
            with self._announced("the first step") if self.state.step == first else nullcontext():
                self.take_step(batches)

    def _announced(self, what: str) -> AbstractContextManager[Any]:
        """Announce something slow, in the process that prints."""
        return (
            nullcontext() if self.monitor is None else announced(what, print_line=self.monitor.progress.print)
        )

    def batches(self, data: DataLoaders) -> Iterator[Batch]:
        """This process's micro-batches from the current step on."""
        return data.train_batches(
            self.state.step,
            batch=self.options.batch,
            micro_batches=self.options.accumulate,
            rank=self.runtime.rank,
            world_size=self.runtime.world_size,
            pin=self.runtime.device.type == "cuda",
        )

    def _read(self, batches: Iterator[Batch]) -> list[Batch]:
        try:
            return [self.runtime.move(next(batches)) for _ in range(self.options.accumulate)]
        except WorkerKilled:
            if self.stop.signal is None:
                raise
            # Some schedulers signal every process of a job, including the workers. Other ranks may already
            # have started this step, so this rank reads the data without workers, and all ranks stop after
            # the step.
            return self._read(self.batches(replace(self.data, workers=0)))

    def take_step(self, batches: Iterator[Batch]) -> None:
        """One step: read its micro-batches, update the weights, report."""
        started = time.perf_counter()
        micro_batches = self._read(batches)
        waited = time.perf_counter() - started

        step = self.state.step
        # Random generators (for dropout etc.) are seeded at each step, so their state is not saved.
        self.runtime.seed(step_seed(self.data.seed, step, self.runtime.rank))
        lr = set_lr(self.optimizer, self.schedule(step))
        result = self.learner.compute_gradients(micro_batches, stop=self.stop.signal is not None)
        self._check_finite(result)
        self.learner.update()
        self.state.step = step = step + 1

        if self.monitor is not None:
            seconds, images = time.perf_counter() - started, self.options.batch
            self.monitor.step(step, result.losses, lr=lr, images=images, waited=waited, seconds=seconds)
        if result.stop:
            self._stop()

    def _check_finite(self, result: StepResult) -> None:
        if not all(map(math.isfinite, result.losses.values())):
            self._fail(result, "loss")
        if not math.isfinite(result.gradient_norm) and not self.learner.can_lower_loss_scale():
            self._fail(result, "gradient")

    def _fail(self, result: StepResult, what: str) -> NoReturn:
        """End the run and write a replay file, to repeat the step.

        Weights and optimizer are still in the state before the step. Running statistics already include its
        batch, but a training step does not use them.
        """
        from engine.train import failed_step

        keys = self.data.step_samples(self.state.step, batch=self.options.batch)
        keys = without_gaps(self.data.train_set, keys)
        files = [self.data.train_set.image_path(key.index) for key in keys]
        hint = f"python tools/train.py replay={self.run.replay} repeats the step"
        if self.runtime.is_main:
            tensors, metadata = self._capture()
            metadata |= {"not_finite": what, "samples": [list(key) for key in keys], "files": files}
            metadata |= {"processes": self.runtime.world_size, "accumulate": self.options.accumulate}
            try:
                failed_step.write(self.run.replay, tensors, metadata, result)
            except UserError as error:
                hint = str(error)
        losses = ", ".join(f"{name} {value:g}" for name, value in result.losses.items())
        raise UserError(
            f"the {what} is not finite at step {self.state.step} ({losses}), on {some(files)}; check their "
            f"labels, lower optimizer.lr or set trainer.clip; {hint}"
        )

    def _stop(self) -> NoReturn:
        if self.state.saved_step != self.state.step:
            self.save()
        # A launcher may kill all processes as soon as one exits, so no process exits before rank 0 has saved.
        self.runtime.gather(None)
        raise Stopped(
            f"stopped by {self.stop.signal or 'another process'} at step {self.state.step} of {self.steps}; "
            f"continue with resume={self.run.path}"
        )

    def _evaluation_due(self) -> bool:
        step = self.state.step
        if step in (0, self.state.evaluated_step):
            return False
        return step % self.eval_every == 0 or step == self.steps

    def evaluate(self) -> None:
        """Score the weights, and save them."""
        runtime, state, metric = self.runtime, self.state, self.evaluator.main_metric
        batches = self.data.eval_batches(
            rank=runtime.rank, world_size=runtime.world_size, pin=runtime.device.type == "cuda"
        )
        progress = EvaluationProgress(self.data.num_eval_batches(runtime.world_size), shown=runtime.is_main)
        with progress:
            metrics = evaluate_unless_stopped(
                self.inference_task,
                batches,
                self.evaluator,
                runtime,
                on_batch=progress.on_batch,
                stop=lambda: self.stop.signal is not None,
            )
        if metrics is None:
            self._stop()
        state.evaluated_step, state.metrics = state.step, metrics
        score = metrics[metric]
        better = not math.isnan(score) and (state.best is None or score > state.best)
        if better:
            state.best, state.best_step = score, state.step
            state.without_improvement = 0
            self._best_scores = self.evaluator.state() if runtime.is_main else None
        else:
            state.without_improvement += 1
        early = self.out_of_patience and state.step < self.steps
        state.stopped_early = state.why_stopped(metric, self.steps) if early else ""
        if self.monitor is not None:
            self.monitor.evaluation(state.step, metrics, metric=metric, better=better)
            if state.stopped_early:
                self.monitor.progress.print(f"stopped early: {state.stopped_early}")
            write_json(self.run.metrics, state.results(metric) | dict(self.data.extra_metrics))
        self.save()

    def results(self) -> str:
        """The table of the best evaluation and its step; that of the last one, if the best was before this
        process resumed the run."""
        state, last = self.state, "last"
        if state.best_step in (0, state.step):
            return f"{self.evaluator.table()}\nweights: {last}{' and best' if state.best_step else ''}"
        if self._best_scores is None:
            best = f"the best are from step {state.best_step}; score them with tools/eval.py"
            return f"{self.evaluator.table()}\nweights: {last}; {best}"
        self.evaluator.merge([self._best_scores])
        best = f"best, from step {state.best_step} of {self.steps}"
        return f"{self.evaluator.table()}\nweights: {best} (checkpoint=best, the default of all tools)"

    def load_best(self) -> None:
        """Load the best weights, and what their evaluation chose, into `inference_task` after training."""
        task: Any = self.inference_task
        metrics = self.state.metrics
        if self.run.best.exists():
            tensors, metadata = checkpoint.inference_weights(self.run.best)
            checkpoint.load_strict(cast(Task, task).model, tensors)
            metrics = metadata["state"]["metrics"]
        if hasattr(task, "use_metrics"):
            task.use_metrics(metrics)

    def _save_due(self) -> bool:
        step = self.state.step
        if step in (0, self.state.saved_step):
            return False
        return step % self.save_every == 0 or step == self.steps

    def save(self) -> None:
        """Write `last`, which `restore` resumes bit for bit, and `best`, if this step is the best."""
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
        """Resume from the run's last checkpoint; returns a description of it and any warnings.

        Raises:
            UserError: if the checkpoint is unreadable, is past the end of this run, or belongs to a run with
                different data, batch, seed or optimizer.
        """
        path = self.run.last
        tensors, metadata, damage = checkpoint.read_latest(path)
        try:
            state, identity = TrainingState(**metadata["state"]), metadata["identity"]
        except (KeyError, TypeError):
            raise UserError(f"{path}: not a training checkpoint") from None
        change = self.identity.check(identity, state, path)
        if len(set(self.runtime.gather(state.step))) > 1:
            raise UserError(
                f"{path}: the processes read different checkpoints; put it on a shared file system"
            )
        self.learner.load(tensors, metadata)
        self.state = state
        if self.runtime.is_main:
            if damage:
                checkpoint.mark_damaged(path)
            # The run may have been killed between writing `last` and writing `best`.
            if state.is_best and checkpoint.step_of(self.run.best) != state.step:
                self._save_best()
        where = f"{path}, step {state.step} of {self.steps}"
        return "; ".join(part for part in (damage, where, change) if part)
