"""Runs of earlier versions, whose config.yaml lacks keys that came later; some lie in `old_runs/`."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from engine.config.compose import compose_config
from engine.config.instantiate import build
from engine.config.saved import load_config
from engine.config.training import build_source, build_task

CONFIGS = Path(__file__).parent / "old_runs"
SMALL = ("data.source.num_train=4", "data.source.num_val=2", "data.source.num_test=0")


@pytest.mark.parametrize("task", ["seg", "det", "cls"])
@pytest.mark.parametrize("group", ["distill", "trainer", "data", "loader", "inference", "augment", None])
def test_every_key_that_a_training_reads_has_a_value(task, group):
    old = load_config(CONFIGS / f"{task}.yaml", [])
    new = compose_config("train", [f"task={task}"])
    old, new = (config if group is None else OmegaConf.select(config, group) for config in (old, new))
    assert new is None or set(new) <= set(old)


@pytest.mark.parametrize("task", ["seg", "det", "cls"])
def test_its_data_task_and_trainer_can_be_built(task, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = load_config(CONFIGS / f"{task}.yaml", SMALL)
    source = build_source(config)
    assert build_task(config, source.classes).model is not None
    assert build(config.trainer, key="trainer").batch == config.trainer.batch


def test_options_of_the_own_augmentation_are_not_added_to_another_class(tmp_path):
    """Its constructor may not know them."""
    text = (CONFIGS / "seg.yaml").read_text()
    assert "mosaic" not in text
    own = load_config(CONFIGS / "seg.yaml", ["augment.mosaic=0.5"]).augment
    assert (own.mosaic, own.copy_paste, own.copy_paste_classes, own.noise) == (0.5, 0.0, None, 0.0)
    assert own.extra == []
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("seg.transforms.TrainTransform", "my_code.Crops"))
    assert "mosaic" not in load_config(path, []).augment
