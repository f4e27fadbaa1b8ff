"""data.exclude in training, evaluation and resumed runs: the same samples, whatever becomes of the file."""

import json

import pytest

from tests.tools.commands import run
from tests.tools.data.test_damaged_files import DATA, ONE_OF_THREE, SIZES, SMALL


@pytest.mark.slow
@pytest.mark.parametrize("task", ONE_OF_THREE)
def test_excluded_samples_are_left_out_of_training_evaluation_and_resumed_runs(task, tmp_path):
    make, arguments, _ = DATA[task]
    root = make(tmp_path / "data")
    shared = [*arguments, f"data.root={root}", *SIZES[task], *SMALL]
    run("train", *shared, "run=all", cwd=tmp_path)
    names = json.loads((tmp_path / "all/train_names.json").read_text())
    left_out = {"train": [names["train"][1]], "val": {names["val"][0]: "blurred"}}
    (tmp_path / "list.json").write_text(json.dumps({**left_out, "train": [names["train"][1], "nothing"]}))
    printed = run("train", *shared, "data.exclude=list.json", "run=r", cwd=tmp_path)
    train, val = len(names["train"]), len(names["val"])
    assert f"data.exclude: 1 of {train} train samples left out ({names['train'][1]})" in printed
    assert "data.exclude: 1 name matches no train sample (nothing)" in printed
    assert f"data.exclude: 1 of {val} val samples left out ({names['val'][0]})" in printed
    used = json.loads((tmp_path / "r/train_names.json").read_text())
    assert used["train"] == [name for name in names["train"] if name != names["train"][1]]
    assert used["val"] == names["val"][1:]

    (tmp_path / "list.json").unlink()
    evaluated = run("eval", "run=r", "data.workers=0", "worst=0", cwd=tmp_path)
    assert f"data.exclude: 1 of {val} val samples left out" in evaluated
    resumed = run("train", "resume=r", "trainer.steps=3", cwd=tmp_path)
    assert f"data.exclude: 1 of {train} train samples left out" in resumed
    assert json.loads((tmp_path / "r/train_names.json").read_text()) == used
    everything = run("eval", "run=r", "data.exclude=null", "data.workers=0", "worst=0", cwd=tmp_path)
    assert "data.exclude" not in everything


def test_excluding_everything_is_an_error(tmp_path):
    make, arguments, _ = DATA["seg"]
    root = make(tmp_path / "data")
    (tmp_path / "list.json").write_text(json.dumps({"val": [f"val{number}" for number in range(5)]}))
    shared = [*arguments, f"data.root={root}", *SIZES["seg"], *SMALL, "data.exclude=list.json"]
    printed = run("train", *shared, "run=r", cwd=tmp_path, status=1)
    assert "data.exclude: lists all 5 samples of val; remove some from the file" in printed
