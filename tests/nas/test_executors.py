"""All executors give the same outcomes; trials that fail, and processes that are killed, are reported."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.errors import UserError
from nas.executors import (
    ExecutorOptions,
    ProcessExecutor,
    RayExecutor,
    SerialExecutor,
    make_executor,
)

ROOT = Path(__file__).resolve().parents[2]


def trial(job):
    """Job: a number to square, or what goes wrong."""
    if job == "crash":
        raise RuntimeError("out of\nluck")
    if job == "refuse":
        raise UserError("lower lr_factor")
    if job == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "threads":
        return {"metric": torch.get_num_threads()}
    if job == "process":
        return {"metric": os.getpid()}
    return {"metric": job**2}


@pytest.fixture(scope="module")
def processes():
    return ProcessExecutor(workers=2)


@pytest.mark.slow
def test_processes_give_the_outcomes_of_serial_trials(processes):
    jobs = [3, "crash", 4, "refuse", 5]
    outcomes = dict(processes(trial, jobs))
    assert outcomes == dict(SerialExecutor()(trial, jobs))
    assert [outcomes[index].get("metric") for index in range(5)] == [9, None, 16, None, 25]
    assert outcomes[1] == {"status": "failed", "error": "RuntimeError: out of luck"}
    assert outcomes[3] == {"status": "failed", "error": "lower lr_factor"}


@pytest.mark.slow
def test_processes_are_others_and_are_kept(processes):
    used = [{outcome["metric"] for _, outcome in processes(trial, ["process"] * 8)} for _ in range(2)]
    assert os.getpid() not in set.union(*used)
    assert len(set.union(*used)) <= 2


@pytest.mark.slow
def test_processes_use_as_many_threads_as_this_one():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        ((_, outcome),) = ProcessExecutor(workers=1)(trial, ["threads"])
    finally:
        torch.set_num_threads(before)
    assert outcome["metric"] == 3


@pytest.mark.weekly
def test_a_killed_process_ends_the_search_in_one_line_and_the_next_call_works():
    executor = ProcessExecutor(workers=1)
    outcomes = executor(trial, [2, "kill", 3])
    assert next(outcomes) == (0, {"status": "done", "metric": 4})
    with pytest.raises(UserError, match=r"a worker process .* ended abruptly .* out= to resume it") as caught:
        list(outcomes)
    assert "\n" not in str(caught.value)
    assert dict(executor(trial, [3])) == {0: {"status": "done", "metric": 9}}


@pytest.mark.slow
def test_an_executor_without_jobs_does_nothing(processes):
    assert list(processes(trial, [])) == list(SerialExecutor()(trial, [])) == []


@pytest.mark.slow
def test_processes_end_when_this_one_is_killed(tmp_path):
    """A pool of the standard library would wait for work forever."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal\n"
        "from nas.executors import ProcessExecutor\n"
        "from tests.nas.test_executors import trial\n"
        "if __name__ == '__main__':\n"
        "    outcomes = dict(ProcessExecutor(workers=1)(trial, ['process']))\n"
        "    print(outcomes[0]['metric'], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    assert parent.wait(30) == -signal.SIGKILL
    parent.stdout.close()
    for _ in range(100):
        if not _runs(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent by 10 seconds")


def _runs(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(("name", "value"), [("workers", 0), ("cpus", 0), ("gpus", -1)])
def test_options_are_checked(name, value):
    with pytest.raises(ValueError, match=name):
        ExecutorOptions(**{name: value})


def test_the_options_name_the_executor():
    assert isinstance(make_executor(ExecutorOptions()), SerialExecutor)
    executor = make_executor(ExecutorOptions(executor="processes", workers=3))
    assert isinstance(executor, ProcessExecutor)
    assert executor.workers == 3


def test_a_cluster_that_does_not_start_is_one_line(monkeypatch):
    """Ray raises a plain Exception if a node needs too long."""

    def init(**_):
        raise Exception("The current node timed out during startup.\nMore lines.")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(UserError, match=r"^executor=ray: Ray failed to start \(The current node timed .*\)$"):
        RayExecutor()


@pytest.mark.parametrize(("cpus", "gpus", "room"), [(1, 0, 9), (2, 0, 4), (2, 0.5, 3), (2, 1, 1), (20, 0, 1)])
def test_ray_runs_as_many_trials_as_the_cluster_has_room_for(cpus, gpus, room, monkeypatch):
    cluster = SimpleNamespace(is_initialized=lambda: True, cluster_resources=lambda: {"CPU": 9.0, "GPU": 1.5})
    monkeypatch.setitem(sys.modules, "ray", cluster)
    assert RayExecutor(cpus=cpus, gpus=gpus).parallel == room


def test_without_ray_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"executor=ray needs Ray: pip install .* or use executor=processes"):
        RayExecutor()
