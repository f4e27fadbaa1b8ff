"""tools/publish.py: published folders can be used as run folders."""

import json

import cv2
import numpy as np
import pytest
import torch
import yaml
from torchvision import models

from engine.config.compose import compose_config
from engine.config.instantiate import tool_options
from engine.data.class_map import ClassMap
from engine.data.images import write_png
from engine.errors import UserError
from seg.data.cityscapes import CITYSCAPES_CLASSES
from tests.engine.run_folders import make_run
from tests.tools.commands import run
from tools.publish import publish

STREETS = [f"data.source.num_{split}=2" for split in ("train", "val", "test")]
SMALL = ["data.source.size=[64,128]", "data.crop=[64,96]", "data.workers=0", *STREETS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("publish")
    make_run(folder / "run", "task=seg", *SMALL, names=CITYSCAPES_CLASSES.names)
    (folder / "run" / "classes.json").write_text(json.dumps(CITYSCAPES_CLASSES.to_dict()))
    return folder


@pytest.mark.slow
def test_eval_and_predict_accept_a_published_folder(folder):
    output = run("publish", "run=run", "out=model", 'description="Drawn streets."', cwd=folder)
    assert "out: model" in output
    assert "license=<identifier>" in output
    assert "Drawn streets." in (folder / "model" / "README.md").read_text()
    assert yaml.safe_load((folder / "model" / "config.yaml").read_text())["run"] is None
    assert "out: scores" in run("eval", "run=model", "out=scores", cwd=folder)
    assert json.loads((folder / "scores" / "metrics.json").read_text())["num_images"] == 2
    cv2.imwrite(str(folder / "p.png"), np.zeros((40, 60, 3), np.uint8))
    assert "1 of 1 files predicted" in run("predict", "run=model", "input=p.png", "out=seen", cwd=folder)
    summary = json.loads((folder / "seen" / "summary.json").read_text())
    assert len(summary["files"]) == 1
    assert ClassMap.read(folder / "model" / "classes.json") == CITYSCAPES_CLASSES


def test_a_user_error_is_printed_as_one_line(folder):
    output = run("publish", "run=run", "out=run", cwd=folder, status=1)
    assert output.strip().endswith("choose another folder")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run=run"], "set out=<folder>, repo=<user>/<name>, or both"),
        (["out=model"], "run is not set"),
        (["run=nowhere", "out=x"], "nowhere: neither a run folder nor a Hub repository"),
        (["run=run", "out=y", "checkpoint=worst"], "checkpoint must be one of best, last"),
        (["run=run", "out=y", "trainer.steps=3"], r"only training reads this key; leave it out"),
    ],
)
def test_user_errors(folder, monkeypatch, arguments, expected):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=expected):
        publish(tool_options(compose_config("publish", arguments)))
    assert not (folder / "y").exists()


@pytest.mark.slow
def test_a_run_is_prepared_without_data(tmp_path):
    """The second example of `prepare.py --help`: data.root is asked for where data are read."""
    torch.save(models.mobilenet_v2(weights=None).state_dict(), tmp_path / "w.pth")
    run("prepare", "experiment=cls/mobilenet_v2_torchvision", "init_from=w.pth", "run=v2", cwd=tmp_path)
    write_png(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8))
    assert "1 of 1 files predicted" in run("predict", "run=v2", "input=a.png", cwd=tmp_path)
    message = run("eval", "run=v2", cwd=tmp_path, status=1)
    assert "data.root is not set in this run; pass data.root=<folder>" in message
