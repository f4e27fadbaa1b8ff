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
@pytest.mark.parametrize("group", ["distill", "trainer", "data", "loader", "inference", None])
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
