"""The experiment that a data format recommends is used unless something else chooses the network."""

import pytest
import yaml

from engine.config import overrides
from engine.config.compose import compose_config
from engine.config.instantiate import check_node
from engine.config.launch import hydra_arguments
from engine.config.overrides import CONF, experiment_options
from engine.config.training import _recipe
from engine.errors import UserError


def composed(*overrides, tool="train"):
    return compose_config(tool, list(overrides))


def refuses(call, message):
    with pytest.raises(UserError) as error:
        call()
    assert message in str(error.value)


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
        (("task=det", "data=voc", "data.recipe="), None),
        (("task=det", "data=voc", "init_from=null"), "det/panlite_small"),
        (("task=det", "data=seg/masks"), None),
        (("task=det", "data=voc", "model=ssdlite"), None),
        (("task=det", "data=voc", "loss=multibox"), None),
        (("task=det", "data=voc", "init_from=ssdlite_v3_large_coco"), None),
        (("experiment=seg/camvid", "data=masks"), "seg/camvid"),
        (("task=det", "data=voc", "experiment=null"), None),
        (("task=det", "data=voc", "experiment="), None),
        (("experiment=null", "debug=null"), None),
        (("experiment=seg/camvid",), "seg/camvid"),
        (("task=seg",), None),
        (("task=det", "data=streets"), None),
        (("task=seg", "data=cityscapes"), None),
        (("task=cls", "data=folders"), "cls/finetune"),
    ],
)
def test_a_data_format_brings_its_recipe(overrides, experiment):
    assert composed(*overrides).experiment == experiment


@pytest.mark.parametrize(
    ("overrides", "recipe"),
    [
        (("task=det", "data=voc"), "det/panlite_small"),
        (("task=det", "data=voc", "data.recipe=det/finetune"), "det/finetune"),
        (("experiment=det/panlite_small", "data=voc"), None),
        (("experiment=det/panlite_small",), None),
        (("task=det", "data=voc", "model=ssdlite"), None),
        (("task=det", "data=voc", "experiment=null"), None),
    ],
)
def test_a_typed_experiment_is_not_called_the_default(overrides, recipe):
    """Once, `recipe: ..., the default; data.recipe=null turns it off` was printed, which would not have."""
    config = composed(*overrides)
    assert config.data.recipe == recipe
    assert [line.partition(",")[0] for line in _recipe(config)] == (
        [f"recipe: experiment={recipe}"] if recipe else []
    )


def test_no_experiment_among_hydras_own_flags():
    """Hydra refuses null for a group with a traceback."""
    arguments, _ = hydra_arguments("train", ["--cfg", "job", "task=det", "data=voc", "experiment=null"])
    assert not [argument for argument in arguments if argument.startswith("experiment=")]
    for override in ("backbone=null", "experiment=null,det/finetune"):
        refuses(
            lambda override=override: hydra_arguments("train", ["-m", "task=det", override]),
            f"{override}: needs an option; choose one of ",
        )


def test_typed_keys_win_over_the_recipe():
    config = composed("task=det", "data=voc", "backbone=mobilenet_v3_large_dagger", "optimizer.lr=0.1")
    assert config.backbone._target_.endswith("mobilenet_v3_large")
    assert (config.optimizer.lr, config.trainer.epochs) == (0.1, 60)
    assert composed("task=seg", "data=masks").task.lovasz == 1.0
    assert composed("task=seg", "data=masks", "task.lovasz=0").task.lovasz == 0


def test_check_uses_the_recipe_too_and_sweeps_do():
    assert composed("task=det", "data=voc", tool="check").experiment == "det/panlite_small"
    arguments, _ = hydra_arguments("train", ["-m", "task=det", "data=voc", "optimizer.lr=0.1,0.2"])
    assert "experiment=det/panlite_small" in arguments
    arguments, _ = hydra_arguments("train", ["-m", "task=det", "data=voc,coco"])
    assert "experiment=det/panlite_small" in arguments
    refuses(
        lambda: hydra_arguments("train", ["-m", "task=det", "data=voc,streets"]),
        "data=: the formats have different recipes (voc: det/panlite_small, streets: none); set experiment=",
    )


def test_every_recipe_exists_and_is_for_the_task_of_its_format():
    for task in ("seg", "det", "cls"):
        for file in (CONF / "data" / task).glob("[!_]*.yaml"):
            recipe = yaml.safe_load(file.read_text(encoding="utf-8")).get("recipe")
            assert recipe is None or (recipe in experiment_options() and recipe.startswith(f"{task}/"))


def test_a_run_of_the_recipe_is_continued_with_it(tmp_path):
    """Otherwise its weights do not fit (det), or are used with other pixels (seg)."""
    folder = tmp_path / "it's, a=run"
    folder.mkdir()
    config = folder / "config.yaml"
    config.write_text("seed: 0\nexperiment: det/panlite_small\n", encoding="utf-8")
    start = ("task=det", f"init_from={folder}")
    assert composed(*start, "data=coco").experiment == "det/panlite_small"
    file = folder / "checkpoints" / "best.safetensors"
    assert composed("task=det", "data=voc", f"init_from={file}").experiment == "det/panlite_small"
    assert composed(*start, "data=coco", "data.recipe=det/panlite").experiment is None
    assert composed(*start, "data=streets").experiment is None
    config.write_text("experiment: null\n", encoding="utf-8")
    assert composed(*start, "data=coco").experiment is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.recipe=panlite", "data.recipe=panlite: no such experiment; did you mean 'det/panlite'?"),
        ("data.recipe=false", "data.recipe=false: no such experiment"),
        (
            "data.recipe=seg/own_masks",
            "data.recipe=seg/own_masks: is for task=seg; choose another, or data.re",
        ),
        (
            "task.matcher.matched=0.5",
            "unknown key 'task.matcher.matched'; data=voc starts from experiment=det/panlite_small, which "
            "lacks it; it is for model=ssdlite or model=ssdlite_torchvision",
        ),
        ("model.head.extras=[256]", "which lacks it; it is for model=ssdlite or model=ssdlite_torchvision"),
        ("model.head.extra=[256]", "unknown key 'model.head.extra'; did you mean"),
        (
            "data.min_scale=0.1",
            "data.min_scale has no effect on model=panlite; leave it out, or choose model=ssdlite",
        ),
    ],
)
def test_messages_name_the_recipe(override, message):
    refuses(lambda: composed("task=det", "data=voc", override), message)


def test_keys_of_ssdlite_are_accepted_with_it():
    config = composed(
        "task=det", "data=voc", "model=ssdlite", "data.min_scale=0.1", "task.matcher.matched=0.5"
    )
    assert config.model.anchors.min_scale == 0.1


@pytest.mark.parametrize("backbone", ["torchvision", "timm"])
@pytest.mark.parametrize("task", ["seg data=masks", "det data=voc"])
def test_backbones_from_elsewhere_fit_the_recipes(task, backbone):
    name, data = task.split()
    config = composed(f"task={name}", data, "data.root=unused", f"backbone={backbone}")
    check_node(config.backbone, "backbone")


def test_a_format_that_includes_another_has_its_recipe(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "det"
    folder.mkdir(parents=True)
    (folder / "voc.yaml").write_text("recipe: det/panlite_small\n", encoding="utf-8")
    own = folder / "mine.yaml"
    monkeypatch.setattr(overrides, "CONF", tmp_path)
    for text, expected in [
        (
            "defaults: ['/loader@_here_: default', /data/det/voc@_here_, _self_]\nroot: ???\n",
            "det/panlite_small",
        ),
        ("defaults: [/data/det/voc@_here_, _self_]\nrecipe: null\n", None),
        ("defaults: [/data/det/_input@_here_, {/loader@_here_: default}]\n", None),
    ]:
        own.write_text(text, encoding="utf-8")
        overrides.read_yaml.cache_clear()
        assert overrides._read_recipe("det/mine") == expected
    overrides.read_yaml.cache_clear()
