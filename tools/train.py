"""Train a model for a task on a dataset.

Usage: python tools/train.py [group=option ...] [key=value ...]

Examples:
  python tools/train.py task=seg                                            built-in scenes, no data needed
  python tools/train.py task=seg data=masks data.root=my_data               images/, masks/, classes.json
  python tools/train.py data=cityscapes data.root=/data/cityscapes experiment=seg/lraspp_v3_large
  python tools/train.py experiment=seg/camvid data.root=camvid trainer.epochs=20 seed=1
  python tools/train.py task=seg data=masks data.root=my_data init_from=lraspp_v3_large_cityscapes
  python tools/train.py task=cls                                            built-in images of road users
  python tools/train.py resume=runs/seg/streets/2026-11-24_12-00-00         resume a run that was stopped
  python tools/train.py replay=<run folder>/replay.safetensors              repeat a step that failed
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from backbones.weights import catalog
from engine.config.launch import launch
from engine.config.runs import find_teacher
from engine.config.training import open_training
from engine.published import find_run, with_network

find_run_of_teacher = partial(find_run, published=catalog.find, parent=None, key="distill.teacher=")
find_teacher_by_name = partial(find_teacher, find_run=find_run_of_teacher)


def complete(overrides: Sequence[str]) -> Sequence[str]:
    """The overrides; for `init_from=<published name>`, with the network of those weights."""
    if not any(override.lstrip("+").startswith("init_from=") for override in overrides):
        return overrides
    return with_network(overrides, published=catalog.find)


def train(config: DictConfig) -> Path:
    """Train a model; returns the run folder."""
    if config.replay is not None:
        return replay(config)
    training = open_training(config, published=catalog.find, find_teacher=find_teacher_by_name)
    training.fit()
    return training.run.path


def replay(config: DictConfig) -> Path:
    """Repeat the step at which the loss or gradient was not finite, and print where it happened."""
    from engine.train import failed_step

    failed = failed_step.read(Path(config.replay))
    training = open_training(config, published=catalog.find, find_teacher=find_teacher_by_name)
    trainer = training.trainer
    print(
        failed.repeat(
            trainer.learner, trainer.data.train_set, trainer.identity, compile=trainer.options.compile
        )
    )
    return training.run.path


if __name__ == "__main__":
    launch(train, "train", __doc__, complete=complete)
