"""The configuration of a training as the problem of a search: its task on other networks, its metric."""

from __future__ import annotations

import copy
import math
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
from engine.config.compose import (
    build,
    build_task,
    compose_config,
    load_config,
    plain,
    validate,
    with_backbone,
)
from engine.data.class_map import ClassMap
from engine.data.dataset_builder import DatasetBuilder
from engine.data.loader import TrainingData
from engine.data.sample_stream import Draw
from engine.errors import UserError
from engine.io.files import spread
from engine.run import checkpoint, run_folder
from engine.train.evaluation import evaluate
from engine.train.learner import Learner
from engine.train.optimizers import set_lr
from engine.train.trainer import step_seed

HELD_OUT = "held out"
"""Name of the split that is scored on: a part of train that no trial is trained on."""


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """Opens a run as the problem of NetAdapt, in any process.

    Args:
        run: run folder.
        overrides: `key=value` of its configuration.
        checkpoint: `best` or `last`.
        held_out: share of the training split that is scored on.
        lr_factor: factor on the run's learning rate, which is constant while a trial is fine-tuned.
        device: where trials run.

    Raises:
        ValueError: a share or a factor out of range.
    """

    run: str
    overrides: tuple[str, ...] = ()
    checkpoint: str = "best"
    held_out: float = 0.1
    lr_factor: float = 0.1
    device: str = "auto"

    def __post_init__(self) -> None:
        _check_factors(self.held_out, self.lr_factor)

    def __call__(self) -> Trained:
        run = run_folder.find(Path(self.run))
        config = load_config(run.config, list(self.overrides))
        return Trained(
            config=config,
            classes=ClassMap.read(run.classes),
            weights=run.checkpoint(self.checkpoint),
            held_out=self.held_out,
            lr_factor=self.lr_factor,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True)
class OpenTraining:
    """Opens what `tools/train.py` with these overrides would train, for short trainings from new weights.

    The learning rate follows the configuration's own schedule. Args and errors as for `OpenRun`.
    """

    overrides: tuple[str, ...] = ()
    held_out: float = 0.1
    lr_factor: float = 1.0
    device: str = "auto"

    def __post_init__(self) -> None:
        _check_factors(self.held_out, self.lr_factor)

    def __call__(self) -> Trained:
        config = compose_config("train", list(self.overrides))
        return Trained(
            config=config,
            held_out=self.held_out,
            lr_factor=self.lr_factor,
            own_schedule=True,
            device=self.device,
        )


class Trained:
    """What `nas.netadapt.trials.Problem` asks for, out of the configuration of a training.

    Args:
        classes: of the data set; None: what the data have.
        weights: checkpoint of the seed (None: there is none).
        own_schedule: whether the learning rate follows the configuration's schedule; else it is constant.

    Attributes:
        config, spec: the configuration, and its network.

    Raises:
        UserError: the configuration is not valid.
    """

    def __init__(
        self,
        *,
        config: Any,
        classes: ClassMap | None = None,
        weights: Path | None = None,
        held_out: float,
        lr_factor: float,
        own_schedule: bool = False,
        device: str = "auto",
    ) -> None:
        validate(config)
        self.config, self.held_out, self.lr_factor = config, held_out, lr_factor
        self.own_schedule, self._weights, self._classes = own_schedule, weights, classes
        self.spec: NetSpec = build(config.backbone, key="backbone")
        self.plan = build(config.trainer, key="trainer")
        self.where = runtime.start(
            device=device,
            precision=self.plan.precision,
            channels_last=self.plan.channels_last,
            deterministic=self.plan.deterministic,
        )

    @cached_property
    def data(self) -> Any:
        return build(self.config.data.source, key="data.source")

    @cached_property
    def classes(self) -> ClassMap:
        found: ClassMap = self.data.classes if self._classes is None else self._classes
        return found

    def make_model(self, spec: NetSpec) -> nn.Module:
        node = with_backbone(self.config, spec.to_dict()).model
        return cast(nn.Module, build(node, key="model", num_classes=len(self.classes)))

    def make_task(self, spec: NetSpec) -> nn.Module:
        task = build_task(with_backbone(self.config, spec.to_dict()), self.classes)
        return self.where.place(task)

    def weights(self) -> dict[str, Tensor]:
        assert self._weights is not None
        return checkpoint.inference_weights(self._weights)[0]

    def finetune(self, task: nn.Module, steps: int, seed: int) -> None:
        """Train as the configuration says, without averaged weights.

        Raises:
            ValueError: the loss is not finite.
        """
        if steps == 0:
            return
        optimizer = build(self.config.optimizer, key="optimizer", model=task.model)
        schedule = build(self.config.schedule, key="schedule", steps=steps) if self.own_schedule else None
        plan = replace(self.plan, ema=None, steps=steps, epochs=None)
        learner = Learner(task=task, optimizer=optimizer, plan=plan, runtime=self.where)
        learner.start(compile=False)
        batches = self._batches(seed)
        for step in range(steps):
            self.where.seed(step_seed(seed, step, 0))
            set_lr(optimizer, self.lr_factor * (schedule(step) if schedule else 1.0))
            found = learner.gradients([self.where.move(next(batches)) for _ in range(plan.accumulate)])
            if not all(map(math.isfinite, [*found.losses.values(), found.norm])):
                raise ValueError(f"the loss is not finite at step {step}: lower lr_factor")
            learner.update()

    def score(self, task: nn.Module) -> float:
        evaluator = cast(Any, task).evaluator(self._feed.eval_set)
        pin = self.where.device.type == "cuda"
        metrics = evaluate(
            task, self._feed.eval_batches(rank=0, world_size=1, pin=pin), evaluator, self.where
        )
        return float(metrics[evaluator.main_metric])

    @cached_property
    def metric(self) -> str:
        """The name of the score."""
        name: str = cast(Any, self.make_task(self.spec)).evaluator(self._feed.eval_set).main_metric
        return name

    def taps(self, spec: NetSpec) -> tuple[str, ...]:
        """The features of a network that the model reads."""
        with torch.device("meta"):
            model = self.make_model(spec)
        return cast(MobileNet, model.backbone).taps

    @cached_property
    def head(self) -> str:
        """The name, in a latency table, of what the model does with them."""
        with torch.device("meta"):
            model = self.make_model(self.spec)
        return head_name(model, plain(self.config.model, "model"), len(self.classes))

    def input_size(self) -> tuple[int, int]:
        """(height, width) of the first picture that is scored, as the network gets it."""
        height, width = self._feed.eval_set[Draw(0, 0)]["image"].shape[-2:]
        return int(height), int(width)

    def _batches(self, seed: int) -> Iterator[dict[str, Any]]:
        plan, feed = self.plan, replace(self._feed, seed=seed)
        pin = self.where.device.type == "cuda"
        return feed.train_batches(
            0, batch=plan.batch, micro_batches=plan.accumulate, rank=0, world_size=1, pin=pin
        )

    @cached_property
    def _feed(self) -> TrainingData:
        options = self.config.data
        task = build_task(self.config, self.classes)
        task.check_classes(self.data.classes)
        augment = build(self.config.augment, key="augment")
        data = with_held_out(self.data, self.held_out)
        intake = DatasetBuilder.of(options, runtime=self.where)
        return TrainingData(
            train_set=intake.dataset(data, "train", augment, seed=self.config.seed),
            eval_set=intake.dataset(data, HELD_OUT, task.eval_transform),
            workers=options.workers,
            eval_batch=options.eval_batch,
        )


def _check_factors(held_out: float, lr_factor: float) -> None:
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is a share of train between 0 and 1, got {held_out}")
    if not lr_factor > 0:
        raise ValueError(f"lr_factor must be positive, got {lr_factor}")


def with_held_out(data: Any, share: float) -> Any:
    """`data` with a part of its train split, evenly spread, as the split `HELD_OUT` and no longer in train.

    Raises:
        UserError: there are fewer than two samples.
    """
    train = data.splits["train"]
    if len(train) < 2:
        raise UserError(f"train has {len(train)} samples, and a part of it must be held out")
    held = spread(len(train), min(max(1, round(share * len(train))), len(train) - 1))
    kept = sorted(set(range(len(train))) - set(held))
    divided = copy.copy(data)
    divided.splits = {**data.splits, "train": train.without(held), HELD_OUT: train.without(kept)}
    return divided
