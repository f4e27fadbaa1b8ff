"""Chooses the values of keys set to `auto`, and the steps for `trainer.minutes`.

They are chosen once, when a training starts, and stored in its configuration. A resumed run, and every tool
that works on the run, uses the stored values.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from engine.config.compose import compose_config
from engine.config.instantiate import build, plain, task_info
from engine.contracts import Choice
from engine.data.loader import DataLoaders
from engine.report.run import RunFacts, write_training_report
from engine.run.run_folder import RunFolder
from engine.runtime import Runtime
from engine.train import batch_size, rehearsal
from engine.train.trainer import Trainer, TrainerOptions

BATCH = "trainer.batch"
_MANY = 10**9  # steps


def with_defaults(config: DictConfig, keys: Sequence[str]) -> DictConfig:
    """A copy in which these keys have the values that the task and the experiment give them, instead of
    `auto`."""
    config = copy.deepcopy(config)
    of_task = [f"task={config.package}"]
    experiment = [f"experiment={config.experiment}"] if config.experiment else []
    sources = [compose_config("train", [*of_task, *experiment]), compose_config("train", of_task)]
    for key in keys:
        values = [OmegaConf.select(source, key) for source in sources]
        # An experiment can set a key to `auto` itself.
        OmegaConf.update(config, key, next((value for value in values if value != "auto"), None))
    return config


def choose_from_data(config: DictConfig, keys: Sequence[str], source: Any, here: Runtime) -> list[str]:
    """Choose the values of the task's own keys from its data; returns a line for each.

    Raises:
        UserError: if the data cannot be read, or do not allow a choice.
    """
    lines, choosers = [], task_info(config).automatic
    for key in keys:
        if key == BATCH:
            continue
        # All processes need the same value, so only one of them reads the data.
        choice = choosers[key](source, plain(config, "")) if here.is_main else None
        choice = here.broadcast(choice)
        OmegaConf.update(config, key, choice.value)
        lines.append(_line(key, choice))
    return lines


def choose_batch_and_steps(
    config: DictConfig,
    keys: Sequence[str],
    task: torch.nn.Module,
    data: DataLoaders,
    here: Runtime,
    make_trainer: Callable[..., Trainer],
    *,
    started: float,
) -> list[str]:
    """Set `trainer.batch` if it is automatic, and `trainer.steps` for `trainer.minutes`; returns a line for
    each.

    Args:
        make_trainer: called with `settings`, `task` and `run`.
        started: when the training was started, on `time.monotonic`.
    """
    lines = choose_batch(config, here, task, data) if BATCH in keys else []
    if config.trainer.minutes is not None:
        lines += choose_steps(
            config, task, make_trainer=make_trainer, elapsed=lambda: time.monotonic() - started
        )
    return lines


def choose_batch(config: DictConfig, here: Runtime, task: torch.nn.Module, data: DataLoaders) -> list[str]:
    """Set the batch to the largest power of two that fits into the device's memory, and scale the learning
    rate with it.

    Raises:
        UserError: if not even the smallest batch fits.
    """
    settings: TrainerOptions = build(config.trainer, key="trainer")
    default = settings.batch
    if here.device.type != "cuda":
        reason = f"the default, because auto fits batches to the memory of CUDA devices, not of {here.device}"
        return [_line(BATCH, Choice(value=default, reason=reason))]
    choice = batch_size.choose(
        data,
        default=default,
        micro_batches=settings.accumulate,
        runtime=here,
        fits=partial(_fits, config, settings, here, task, data),
    )
    config.trainer.batch = choice.value
    lines = [_line(BATCH, choice)]
    # `${linear:...}` follows the batch by itself.
    if choice.value != default and not OmegaConf.is_interpolation(config.optimizer, "lr"):
        old = config.optimizer.lr
        config.optimizer.lr = old * choice.value / default
        reason = f"{old:g} for a batch of {default}, scaled linearly"
        lines.append(_line("optimizer.lr", Choice(value=config.optimizer.lr, reason=reason)))
    return lines


def _fits(
    config: DictConfig,
    settings: TrainerOptions,
    here: Runtime,
    task: torch.nn.Module,
    data: DataLoaders,
    images: int,
) -> bool:
    trial = copy.deepcopy(task)
    optimizer = build(config.optimizer, key="optimizer", model=trial.model)
    return batch_size.fits(trial, optimizer, here, data, images=images, ema=settings.ema)


def choose_steps(
    config: DictConfig,
    task: torch.nn.Module,
    *,
    make_trainer: Callable[..., Trainer],
    elapsed: Callable[[], float],
) -> list[str]:
    """Replace `trainer.minutes` with the number of steps that fit into it; returns a line about it.

    Args:
        make_trainer: called with `settings`, `task` and `run`.
        elapsed: seconds since the training was started.

    Raises:
        UserError: if the time is too short.
    """
    settings: TrainerOptions = build(config.trainer, key="trainer")
    minutes, every = settings.minutes, settings.eval_every
    assert minutes is not None
    endless = replace(settings, minutes=None, steps=_MANY, save_every=_MANY, tensorboard=False, tracker=None)
    state, info = torch.get_rng_state(), task_info(config)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))

        def finish(trainer: Trainer) -> None:
            reporter, dataset = info.reporter(trainer.inference_task), trainer.data.eval_set
            reporter.save_samples(dataset, run.samples, count=config.samples)
            write_training_report(
                RunFacts(run=run, info=info, differences=(), batch=settings.batch),
                reporter=reporter,
                evaluator=trainer.evaluator,
                dataset=dataset,
                split=config.data.split,
                count=config.samples,
            )

        trainer = make_trainer(settings=endless, task=copy.deepcopy(task), run=run)
        trainer.schedule = _still  # a learning rate of 0: the copy cannot diverge
        chosen, line = rehearsal.steps_for(
            trainer, minutes=minutes, eval_every=every, elapsed=elapsed, finish=finish
        )
    torch.set_rng_state(state)
    config.trainer.update(minutes=None, steps=chosen.steps, eval_every=chosen.eval_every)
    return [line]


def _still(step: int) -> float:
    return 0.0


def _line(key: str, choice: Choice) -> str:
    value = str(choice.value).replace(" ", "")
    return (
        f"{key}=auto: {value} ({choice.reason})"
        if key != "optimizer.lr"
        else f"{key}={choice.value:g} ({choice.reason})"
    )
