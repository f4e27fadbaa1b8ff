"""Every config file is composed and built: a file in conf/ that cannot be used fails here."""

import importlib

import pytest
import torch
import yaml

from engine.config.compose import build, compose_config, validate
from engine.config.help import CONF, groups, readable_help
from engine.data.class_map import ClassMap

CLASSES = ClassMap(names=tuple(f"class {i}" for i in range(11)))  # as many as seg/camvid has weights for
ROOT = "data.root=/nowhere"


# What rows share, no rows themselves.
PROTOCOLS = ("seg/cityscapes_protocol", "det/coco_protocol", "cls/imagenet_protocol")
ROOMS = ("cls", "seg", "det")


def options(group):
    return [option for option in groups()[group] if option not in PROTOCOLS]


def rooms_of(group, option):
    """The tasks that an option of a group is for: all, or that whose code its target names."""
    target = yaml.safe_load((CONF / group / f"{option}.yaml").read_text()).get("_target_", "")
    if group == "data":
        target = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())["source"]["_target_"]
        name = target.rpartition(".")[2]
        return [room for room in ROOMS if hasattr(importlib.import_module(f"{room}.data"), name)]
    if group in ("augment", "inference", "loss") and not target:  # options on top of another one
        target = option
    return [room for room in ROOMS if target.startswith(room)] or list(ROOMS)


def build_all(overrides):
    """Build everything but the data set, the model on the meta device."""
    config = compose_config("train", overrides)
    validate(config)
    plan = build(config.trainer, key="trainer").resolved(1000)
    with torch.device("meta"):
        model = build(config.model, key="model", num_classes=len(CLASSES))
    build(config.augment, key="augment")
    optimizer = build(config.optimizer, key="optimizer", model=model)
    schedule = build(config.schedule, key="schedule", steps=plan.steps)
    assert 0 <= schedule(plan.steps - 1) <= schedule(max(config.schedule.warmup_steps, 0)) <= 1
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    return config, build(config.task, key="task", model=model, classes=CLASSES)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment(experiment):
    config, task = build_all([f"experiment={experiment}", ROOT])
    with torch.device("meta"):
        if config.room == "seg":
            assert task.model.eval()(torch.rand(1, 3, 65, 129)).shape[1] == len(CLASSES)
        elif config.room == "cls":
            assert task.model.eval()(torch.rand(2, 3, *task.eval_transform.crop)).shape == (2, len(CLASSES))
        else:
            deltas, scores = task.model.eval()(torch.rand(1, 3, *task.eval_transform.size))
            assert deltas.shape[1:] == task.model.anchors.shape
            assert scores.shape[1:] == (len(task.model.anchors), len(CLASSES) + 1)


GROUPS = [group for group in groups() if group not in ("experiment", "task")]
CASES = [
    (room, group, option)
    for group in GROUPS
    for option in options(group)
    for room in rooms_of(group, option)
    if (room, group) not in {("det", "inference"), ("seg", "loss"), ("cls", "inference"), ("cls", "loss")}
]


@pytest.mark.parametrize(("room", "group", "option"), CASES)
def test_every_option(room, group, option):
    build_all([f"task={room}", f"{group}={option}", ROOT])


def test_every_option_is_in_the_help():
    text = readable_help("train", "Examples:")
    assert all(option in text for names in groups().values() for option in names)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_an_experiment_says_what_it_is(experiment):
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# ")
