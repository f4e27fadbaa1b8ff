"""The run folder: its contents and its errors."""

import json

import pytest

from engine.errors import UserError
from engine.run import run_folder
from engine.run.run_folder import RunFolder


def test_a_run_saves_its_configuration_and_is_not_overwritten(tmp_path):
    run = RunFolder(tmp_path / "runs" / "a")
    run_folder.create(run, config="seed: 1\n", environment={"torch": "2"})
    assert run.config.read_text() == "seed: 1\n"
    assert json.loads((run.path / "environment.json").read_text()).keys() == {"torch", "git"}
    assert run_folder.find(run.path) == run
    with pytest.raises(UserError, match="already contains a run; continue it with resume="):
        run_folder.create(run, config="", environment={})
    run_folder.update(run, config="seed: 2\n", environment={})
    assert run.config.read_text() == "seed: 2\n"


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot create the run folder .*choose another run="):
        run_folder.create(RunFolder(tmp_path / "file" / "run"), config="", environment={})
    with pytest.raises(UserError, match="not a run folder"):
        run_folder.find(tmp_path / "nowhere")


def test_default_paths_are_unique(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder.time, "strftime", lambda form: "now")
    names = []
    for _ in range(3):
        path = run_folder.default_path("seg", "streets")
        path.mkdir(parents=True)
        names.append(str(path))
    assert names == ["runs/seg/streets/now", "runs/seg/streets/now_2", "runs/seg/streets/now_3"]


def test_best_is_last_if_the_run_was_never_evaluated(tmp_path):
    run = RunFolder(tmp_path)
    assert run.checkpoint("best") == run.last
    run.best.parent.mkdir()
    run.best.touch()
    assert run.checkpoint("best") == run.best
    with pytest.raises(UserError, match="must be best or last"):
        run.checkpoint("first")
