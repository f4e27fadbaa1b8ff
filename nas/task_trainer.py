"""Builds, trains and scores candidate networks in the task that a training configuration describes."""

from __future__ import annotations

import copy
import math
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from backbones.network import MobileNet
from backbones.spec import NetSpec
from deploy.latency_table.layers import head_name
from engine import runtime
from engine.config.compose import compose_config, with_backbone
from engine.config.instantiate import build, options, plain, task_info
from engine.config.options import Checkpoint, DataOptions
from engine.config.runs import TrainedRun
from engine.config.training import build_source, build_task, validate
from engine.contracts import Batch, Task, TaskInfo
from engine.data.class_map import ClassMap
from engine.data.dataset_builder import DatasetBuilder
from engine.data.loader import DataLoaders, SampleKey
from engine.data.preprocessing import refuse_incomplete
from engine.errors import UserError
from engine.io.files import evenly_spaced
from engine.io.progress import PATIENCE_S, Progress
from engine.run import checkpoint
from engine.train.evaluation import EvaluationProgress, evaluate
from engine.train.learner import Learner, step_seed
from engine.train.optimization import set_lr
from engine.train.trainer import TrainerOptions

HELD_OUT = "held out"
"""Name of the split that candidates are scored on: a part of train that is not used for training."""


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """How candidates are trained and scored.

    Attributes:
        held_out: share of the training split that is scored on instead.
        lr_factor: factor on the configuration's learning rate.
        device: where candidates are trained.

    Raises:
        ValueError: if a number is out of range.
    """

    held_out: float = 0.1
    lr_factor: float = 1.0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be a share of train between 0 and 1, got {self.held_out}")
        if not self.lr_factor > 0:
            raise ValueError(f"lr_factor must be positive, got {self.lr_factor}")


@dataclass(frozen=True, kw_only=True)
class RunTrainerFactory:
    """Makes the trainer of a run, in any process: candidates are fine-tuned at a constant learning rate.

    Args:
        run: run folder.
        overrides: `key=value` for its configuration.
        checkpoint: `best` or `last`.
    """

    run: str
    overrides: tuple[str, ...] = ()
    checkpoint: Checkpoint = "best"
    trials: TrialOptions = TrialOptions(lr_factor=0.1)

    def __call__(self) -> TaskTrainer:
        run = TrainedRun.open(self.run, overrides=self.overrides, checkpoint=self.checkpoint)
        return TaskTrainer(
            config=run.config,
            classes=run.classes,
            checkpoint_file=run.folder.checkpoint(self.checkpoint),
            trials=self.trials,
        )


@dataclass(frozen=True, kw_only=True)
class NewTrainerFactory:
    """Makes, in any process, a trainer for the training that `tools/train.py` would run with these overrides.

    Candidates are trained from new weights, with the configuration's learning rate schedule.
    """

    overrides: tuple[str, ...] = ()
    trials: TrialOptions = TrialOptions()

    def __call__(self) -> TaskTrainer:
        config = compose_config("train", list(self.overrides))
        validate(config)
        return TaskTrainer(config=config, trials=self.trials, follow_schedule=True)


class TaskTrainer:
    """A `nas.candidates.PretrainedTrainer` for the configuration of a training.

    Args:
        config: validated.
        classes: of the model; None: those of the data.
        checkpoint_file: weights of the network to start from; None if there is none.
        follow_schedule: whether training follows the configuration's learning rate schedule; by default the
            learning rate is constant.

    Attributes:
        config, spec: the configuration, and its network.
        runtime: where candidates are trained.

    Raises:
        UserError: if the configuration's backbone is not described by a `NetSpec`.
    """

    def __init__(
        self,
        *,
        config: Any,
        trials: TrialOptions,
        classes: ClassMap | None = None,
        checkpoint_file: Path | None = None,
        follow_schedule: bool = False,
    ) -> None:
        self.config, self.trials, self.follow_schedule = config, trials, follow_schedule
        self._checkpoint_file, self._classes = checkpoint_file, classes
        self.spec = _net_spec(config)
        self.options: TrainerOptions = build(config.trainer, key="trainer")
        self.runtime = runtime.start(
            device=trials.device,
            precision=self.options.precision,
            channels_last=self.options.channels_last,
            deterministic=self.options.deterministic,
        )

    @property
    def info(self) -> TaskInfo:
        return task_info(self.config)

    @cached_property
    def source(self) -> Any:
        source = build_source(self.config)
        if self._classes is not None:
            self._classes.check_same_names(source.classes)
        return source

    @cached_property
    def classes(self) -> ClassMap:
        classes: ClassMap = self.source.classes if self._classes is None else self._classes
        return classes

    def make_model(self, spec: NetSpec) -> nn.Module:
        node = with_backbone(self.config, spec.to_dict()).model
        return cast(nn.Module, build(node, key="model", num_classes=len(self.classes)))

    def make_task(self, spec: NetSpec) -> nn.Module:
        task = build_task(with_backbone(self.config, spec.to_dict()), self.classes)
        return self.runtime.place(task)

    def weights(self) -> dict[str, Tensor]:
        assert self._checkpoint_file is not None
        return checkpoint.inference_weights(self._checkpoint_file)[0]

    def train(self, task: nn.Module, steps: int, seed: int) -> None:
        """Train as configured, but without weight averaging.

        Raises:
            UserError: if the loss or its gradient is not finite.
        """
        if steps == 0:
            return
        optimizer = build(self.config.optimizer, key="optimizer", model=task.model)
        schedule = build(self.config.schedule, key="schedule", steps=steps) if self.follow_schedule else None
        learner = Learner(
            task=task,
            optimizer=optimizer,
            runtime=self.runtime,
            clip=self.options.clip,
            scale_loss=self.options.precision == "fp16",
            sync_bn=self.options.sync_bn,
        )
        learner.start(compile=False)
        batches = self._batches(seed)
        progress = _progress(steps, "training step")
        for step in range(steps):
            self.runtime.seed(step_seed(seed, step, 0))
            set_lr(optimizer, self.trials.lr_factor * (schedule(step) if schedule else 1.0))
            micro_batches = [self.runtime.move(next(batches)) for _ in range(self.options.accumulate)]
            result = learner.compute_gradients(micro_batches)
            if not all(map(math.isfinite, [*result.losses.values(), result.gradient_norm])):
                raise UserError(f"the loss is not finite at step {step}; lower lr_factor")
            learner.update()
            progress.update(step + 1)
        progress.close()

    def score(self, task: nn.Module) -> float:
        evaluator = cast(Task, task).evaluator(self._loaders.eval_set)
        batches = self._loaders.eval_batches(rank=0, world_size=1, pin=self._pin)
        with EvaluationProgress(self._loaders.num_eval_batches(1), shown=_prints()) as progress:
            metrics = evaluate(task, batches, evaluator, self.runtime, on_batch=progress.on_batch)
        return float(metrics[evaluator.main_metric])

    @cached_property
    def metric(self) -> str:
        """The name of the score."""
        task = cast(Task, self.make_task(self.spec))
        return task.evaluator(self._loaders.eval_set).main_metric

    def taps(self, spec: NetSpec) -> tuple[str, ...]:
        """The features of a network that the model reads."""
        with torch.device("meta"):
            model = self.make_model(spec)
        return cast(MobileNet, model.backbone).taps

    @cached_property
    def head(self) -> str:
        """The name of the model's head in a latency table."""
        with torch.device("meta"):
            model = self.make_model(self.spec)
        return head_name(model, plain(self.config.model, "model"), len(self.classes))

    def input_size(self) -> tuple[int, int]:
        """(height, width) of the first image that is scored, as fed to the network."""
        height, width = self._loaders.eval_set[SampleKey(0, 0)]["image"].shape[-2:]
        return int(height), int(width)

    @property
    def _pin(self) -> bool:
        return self.runtime.device.type == "cuda"

    def _batches(self, seed: int) -> Iterator[Batch]:
        return replace(self._loaders, seed=seed).train_batches(
            0,
            batch=self.options.batch,
            micro_batches=self.options.accumulate,
            rank=0,
            world_size=1,
            pin=self._pin,
        )

    @cached_property
    def _loaders(self) -> DataLoaders:
        data = options(DataOptions, self.config.data, "data")
        task = build_task(self.config, self.classes)
        task.check_classes(self.source.classes)
        augment = build(self.config.augment, key="augment")
        builder = DatasetBuilder.from_config(data, runtime=self.runtime)
        source = with_held_out(builder.without_excluded(self.source, "train"), self.trials.held_out)
        train_set = builder.dataset(source, "train", augment, seed=self.config.seed)
        eval_set = builder.dataset(source, HELD_OUT, task.eval_transform)
        if data.on_error == "fail" and data.cache is None:
            refuse_incomplete((train_set, eval_set), runtime=self.runtime, budget=data.error_budget)
        return DataLoaders(
            train_set=train_set, eval_set=eval_set, workers=data.workers, eval_batch=data.eval_batch
        )


def _prints() -> bool:
    """Whether this is the process of the search, not that of a trial."""
    return multiprocessing.parent_process() is None


def _progress(total: int, unit: str) -> Progress:
    return Progress(total, unit=f"  {unit}", after=PATIENCE_S, print_line=None if _prints() else _silent)


def _silent(_: str) -> None:
    pass


def _net_spec(config: Any) -> NetSpec:
    spec = build(config.backbone, key="backbone")
    if isinstance(spec, NetSpec):
        return spec
    raise UserError(
        f"backbone: a search needs a network described by a backbones.spec.NetSpec, not {type(spec).__name__}"
    )


def with_held_out(source: Any, share: float) -> Any:
    """`source` with a part of its train split, evenly spread, moved into the split `HELD_OUT`.

    Raises:
        UserError: if there is no train split, or it has fewer than two samples.
    """
    if "train" not in source.splits:
        raise UserError(f"{source.description}: a search needs a train split; set data.root to data with one")
    train = source.splits["train"]
    if len(train) < 2:
        raise UserError(f"train has {len(train)} samples; at least 2 are needed to hold out a part of it")
    held_out = evenly_spaced(len(train), min(max(1, round(share * len(train))), len(train) - 1))
    trained_on = sorted(set(range(len(train))) - set(held_out))
    divided = copy.copy(source)
    divided.splits = {
        **source.splits,
        "train": train.without(held_out),
        HELD_OUT: train.without(trained_on),
    }
    return divided
