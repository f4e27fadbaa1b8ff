"""Every config file in conf/ can be composed and built."""

import pytest
import torch

from engine.config.compose import compose_config
from engine.config.help import readable_help
from engine.config.instantiate import build
from engine.config.overrides import groups, options_by_task
from engine.config.training import validate
from engine.data.class_map import ClassMap

CLASSES = ClassMap(names=tuple(f"class {i}" for i in range(11)))  # as many as seg/camvid has weights for
ROOT = "data.root=/nowhere"


PROTOCOLS = ("seg/cityscapes_protocol", "det/coco_protocol", "cls/imagenet_protocol")
"""Recipes shared by several experiments."""
TASKS = ("cls", "seg", "det")


NEEDS = {"loss=det/quality": ["model=det/panlite"]}
"""Options that do not work with the defaults of the other groups."""


def options(group):
    return [option for option in groups()[group] if option not in PROTOCOLS]


def tasks_of(group):
    """[(task, option)]: the options of each task for groups with one folder per task; otherwise all pairs."""
    grouped = options_by_task(group, options(group))
    if grouped:
        return [(task, name) for task, names in grouped.items() for name in names]
    return [(task, option) for task in TASKS for option in options(group)]


def build_all(overrides):
    """Build everything except the dataset, with the model on the meta device."""
    config = compose_config("train", overrides)
    validate(config)
    trainer = build(config.trainer, key="trainer").in_steps(1000)
    with torch.device("meta"):
        model = build(config.model, key="model", num_classes=len(CLASSES))
    build(config.augment, key="augment")
    optimizer = build(config.optimizer, key="optimizer", model=model)
    schedule = build(config.schedule, key="schedule", steps=trainer.steps)
    assert 0 <= schedule(trainer.steps - 1) <= schedule(max(config.schedule.warmup_steps, 0)) <= 1
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    return config, build(config.task, key="task", model=model, classes=CLASSES)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment(experiment):
    config, task = build_all([f"experiment={experiment}", ROOT])
    with torch.device("meta"):
        if config.package == "seg":
            assert task.model.eval()(torch.rand(1, 3, 65, 129)).shape[1] == len(CLASSES)
        elif config.package == "cls":
            assert task.model.eval()(torch.rand(2, 3, *task.eval_transform.crop)).shape == (2, len(CLASSES))
        else:
            deltas, scores = task.model.eval()(torch.rand(1, 3, *task.eval_transform.size))
            count, background = len(task.model.anchors), int(task.model.background_column)
            assert deltas.shape[1] == count
            assert task.matcher.coder.decode(deltas, task.model.anchors).shape == (1, count, 4)
            assert scores.shape[1:] == (count, len(CLASSES) + background)


GROUPS = [group for group in groups() if group not in ("experiment", "task", "loader")]


@pytest.mark.parametrize(
    ("task", "group", "option"),
    [(task, group, option) for group in GROUPS for task, option in tasks_of(group)],
)
def test_every_option(task, group, option):
    full = next((name for name in groups()[group] if name in (option, f"{task}/{option}")), option)
    build_all([f"task={task}", f"{group}={option}", *NEEDS.get(f"{group}={full}", []), ROOT])


def test_every_option_is_in_the_help():
    text = readable_help("train", "Examples:")
    assert all(option.rpartition("/")[2] in text for names in groups().values() for option in names)
