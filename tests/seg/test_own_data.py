"""Own images without any preparation: no classes.json, no splits, masks with a suffix."""

import json
import shutil

import numpy as np
import pytest

from engine.data.images import write_png
from tests.tools.commands import run

SHORT = ["trainer.steps=2", "trainer.eval_every=2", "trainer.batch=2", "data.workers=0", "samples=1"]
SHORT += ["trainer.tensorboard=false"]
LOUD = "data.split=train: evaluated on the training images"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for number in range(8):
        image, mask = random.integers(0, 120, (64, 80, 3), dtype=np.uint8), np.zeros((64, 80), np.uint8)
        mask[8:40, 8:40] = 255
        image[mask > 0] += 100
        write_png(folder / f"photos/images/{number}.png", image)
        write_png(folder / f"photos/masks/{number}_mask.png", mask)
    return folder


def test_images_and_masks_as_they_are_lead_to_a_scored_run(folder):
    output = run("train", "data=masks", "data.root=photos", "data.crop=64", *SHORT, "run=a", cwd=folder)
    assert "no splits; " in output
    assert "classes.json: created, with the values of 8 masks" in output
    assert LOUD not in output
    assert json.loads((folder / "photos/classes.json").read_text())["classes"][1]["id"] == 255
    assert json.loads((folder / "a/metrics.json").read_text())["num_images"] in (1, 2, 3)


def test_the_classes_that_were_written_are_named_even_if_the_weights_are_damaged(folder, tmp_path):
    """Otherwise the next run finds a classes.json that nobody was told about."""
    shutil.copytree(folder / "photos/images", tmp_path / "p/images")
    shutil.copytree(folder / "photos/masks", tmp_path / "p/masks")
    (tmp_path / "damaged.pth").write_text("damaged")  # a missing file is reported before the data are read
    output = run("train", "data=masks", "data.root=p", "weights=damaged.pth", *SHORT, cwd=tmp_path, status=1)
    assert "damaged.pth" in output
    assert "p/classes.json: created, with the values of 8 masks" in output


@pytest.mark.slow
def test_a_run_that_is_evaluated_on_its_training_images_says_so_before_and_after(folder):
    output = run(
        "train", "data=masks", "data.root=photos", "data.split=train", "data.crop=64", *SHORT, cwd=folder
    )
    assert output.count(LOUD) == 2


@pytest.mark.slow
def test_a_limit_evaluates_a_part_of_the_split_and_says_so(folder):
    """In a training, data.limit is about the training split; as an override, about the one evaluated."""
    if not (folder / "a").exists():
        pytest.skip("needs the run of the first test")
    output = run("eval", "run=a", "data.split=train", "data.limit=2", "worst=0", "out=few", cwd=folder)
    assert "data.limit=2: 2 evenly spaced images of train are evaluated" in output
    assert json.loads((folder / "few/metrics.json").read_text())["num_images"] == 2
    assert "next: python tools/export.py run=a" in output
