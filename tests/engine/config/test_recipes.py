"""The experiment that a data format recommends is used unless something else chooses the network."""

import pytest
import yaml

from engine.config.compose import compose_config
from engine.config.launch import hydra_arguments
from engine.config.overrides import CONF, experiment_options


def composed(*overrides, tool="train"):
    return compose_config(tool, list(overrides))


@pytest.mark.parametrize(
    ("overrides", "experiment"),
    [
        (("task=seg", "data=masks"), "seg/own_masks"),
        (("data=masks",), "seg/own_masks"),
        (("task=seg", "data=coco"), "seg/own_masks"),
        *[
            (("task=det", f"data={name}"), "det/panlite_small")
            for name in ("voc", "coco", "yolo", "labelme", "cvat")
        ],
        (("task=det", "data=voc", "backbone=mobilenet_v3_large_dagger"), "det/panlite_small"),
        (("task=det", "data=voc", "data.recipe=det/finetune"), "det/finetune"),
        (("task=det", "data=voc", "data.recipe=null"), None),
        (("task=det", "data=voc", "model=ssdlite"), None),
        (("task=det", "data=voc", "loss=multibox"), None),
        (("task=det", "data=voc", "init_from=ssdlite_v3_large_coco"), None),
        (("experiment=seg/camvid", "data=masks"), "seg/camvid"),
        (("experiment=seg/camvid",), "seg/camvid"),
        (("task=seg",), None),
        (("task=det", "data=streets"), None),
        (("task=seg", "data=cityscapes"), None),
        (("task=cls", "data=folders"), None),
    ],
)
def test_a_data_format_brings_its_recipe(overrides, experiment):
    assert composed(*overrides).experiment == experiment


def test_typed_keys_win_over_the_recipe():
    config = composed("task=det", "data=voc", "backbone=mobilenet_v3_large_dagger", "optimizer.lr=0.1")
    assert config.backbone._target_.endswith("mobilenet_v3_large")
    assert (config.optimizer.lr, config.trainer.epochs) == (0.1, 60)
    assert composed("task=seg", "data=masks").task.lovasz == 0.5
    assert composed("task=seg", "data=masks", "task.lovasz=0").task.lovasz == 0


def test_check_uses_the_recipe_too_and_sweeps_do():
    assert composed("task=det", "data=voc", tool="check").experiment == "det/panlite_small"
    arguments, _ = hydra_arguments("train", ["-m", "task=det", "data=voc", "optimizer.lr=0.1,0.2"])
    assert "experiment=det/panlite_small" in arguments
    arguments, _ = hydra_arguments("train", ["-m", "task=det", "data=voc,coco"])
    assert not any(argument.startswith("experiment=") for argument in arguments)


def test_every_recipe_exists_and_is_for_the_task_of_its_format():
    for task in ("seg", "det", "cls"):
        for file in (CONF / "data" / task).glob("[!_]*.yaml"):
            recipe = yaml.safe_load(file.read_text(encoding="utf-8")).get("recipe")
            assert recipe is None or (recipe in experiment_options() and recipe.startswith(f"{task}/"))
