"""The run folder: its contents and its errors."""

import json
import multiprocessing
import os
import signal
import time

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


def test_default_names_never_collide(tmp_path, monkeypatch):
    """Trainings that start in the same second get folders of their own, whoever looked first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder.time, "strftime", lambda form: "now")
    path = run_folder.default_path("seg", "streets")
    assert path == run_folder.default_path("seg", "streets")  # three processes see the same free name
    claims = [run_folder.claim(path, renames=True) for _ in range(3)]
    assert [str(claim.path) for claim in claims] == [
        "runs/seg/streets/now",
        "runs/seg/streets/now_2",
        "runs/seg/streets/now_3",
    ]


def test_a_claimed_folder_is_refused_until_it_is_released(tmp_path):
    first = run_folder.claim(tmp_path / "out", key="out")
    with pytest.raises(UserError, match=r"out: another process is writing .*choose another out=$"):
        run_folder.claim(tmp_path / "out", key="out")
    (tmp_path / "out" / "file").touch()
    first.release()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]  # nothing of ours is left
    with run_folder.claim(tmp_path / "out", key="out") as path:
        assert path == tmp_path / "out"


def test_a_run_in_progress_cannot_be_resumed_and_its_folder_not_reused(tmp_path):
    run = RunFolder(tmp_path / "run")
    training = run_folder.claim_run(run, resumes=False, renames=False)
    run_folder.create(run, config="", environment={})
    with pytest.raises(UserError, match=r"run: another process is writing .*wait .*or stop it first$"):
        run_folder.claim_run(run, resumes=True, renames=False)
    with pytest.raises(UserError, match="another process is writing"):
        run_folder.claim_run(run, resumes=False, renames=False)
    training.release()
    run_folder.claim_run(run, resumes=True, renames=False).release()
    with pytest.raises(UserError, match="already contains a run; continue it with resume="):
        run_folder.claim_run(run, resumes=False, renames=False)
    run_folder.claim_run(run, resumes=True, renames=False).release()  # the refusal holds no lock


def test_a_run_that_cannot_be_written_is_resumed_in_another_way(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_folder, "hold", denied)
    with pytest.raises(UserError, match=r"\(Permission denied\); get write access, or resume a copy of the"):
        run_folder.claim_run(RunFolder(tmp_path), resumes=True, renames=False)
    with pytest.raises(UserError, match=r"\(Permission denied\); choose another run=$"):
        run_folder.claim_run(RunFolder(tmp_path), resumes=False, renames=False)


def test_a_claimed_folder_that_stays_empty_is_removed_with_its_parents(tmp_path):
    run_folder.claim(tmp_path / "runs" / "seg" / "now").release()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    run_folder.claim(tmp_path / "mine").release()
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def test_a_killed_process_leaves_no_claim_even_if_its_workers_survive(tmp_path):
    fork = multiprocessing.get_context("fork")
    ready, workers = fork.Event(), fork.Queue()

    def train():
        claim = run_folder.claim(tmp_path / "run")
        worker = os.fork()
        if worker == 0:
            time.sleep(60)
            os._exit(0)
        workers.put(worker)
        ready.set()
        time.sleep(60)
        claim.release()

    training = fork.Process(target=train)
    training.start()
    worker = workers.get(timeout=10)
    try:
        assert ready.wait(10)
        with pytest.raises(UserError, match="another process"):
            run_folder.claim(tmp_path / "run")
        training.kill()
        training.join()
        run_folder.claim(tmp_path / "run").release()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_best_is_last_if_the_run_was_never_evaluated(tmp_path):
    run = RunFolder(tmp_path)
    assert run.checkpoint("best") == run.last
    run.best.parent.mkdir()
    run.best.touch()
    assert run.checkpoint("best") == run.best
    with pytest.raises(UserError, match="must be best or last"):
        run.checkpoint("first")
