"""The commands of docs/tutorials/from-labelme.md, as printed there, lead from photos to a prediction."""

import json

import pytest

from engine.data.images import read_labels
from tests.docs.documented import ROOT, page_commands
from tests.doctor.layouts import examples
from tests.tools.commands import run

PAGE = ROOT / "docs/tutorials/from-labelme.md"
SHORT = ["trainer.steps=2", "trainer.eval_every=2", "trainer.batch=2", "data.workers=0", "data.crop=32"]
SHORT += ["trainer.tensorboard=false"]


def commands():
    """(tool, arguments) of each command of a tool, in the order of the page."""
    words = [command.words for command in page_commands(PAGE) if not command.is_fragment]
    return [
        (words[1].split("/")[1][:-3], list(words[2:])) for words in words if words[1].startswith("tools/")
    ]


def test_the_page_goes_from_the_photos_to_a_prediction():
    tools = [tool for tool, _ in commands()]
    assert [tool for tool in tools if tool != "check"] == ["convert", "train", "eval", "predict"]


@pytest.mark.weekly
def test_every_command_works_after_the_one_before(tmp_path):
    examples.labelme(tmp_path / "my_photos")
    for tool, arguments in commands():
        if tool == "train":  # without the download
            arguments = [a for a in arguments if not a.startswith(("weights=", "task.pixels="))] + SHORT
        printed = run(tool, *arguments, cwd=tmp_path)
        if tool == "convert":
            text = PAGE.read_text(encoding="utf-8")
            assert printed.strip() in text  # what the page shows
    summary = json.loads((tmp_path / "my_run/predict/summary.json").read_text())
    assert len(summary["files"]) == 6
    masks = sorted((tmp_path / "my_run/predict/masks").iterdir())
    assert len(masks) == 6
    assert read_labels(masks[0]).shape == examples.SIZE
