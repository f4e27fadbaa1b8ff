"""Training in several processes equals training in one; signals and killed processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch

from engine import runtime
from engine.config.launch import run_job
from engine.data.loader import DataLoaders, WorkerKilled
from engine.errors import UserError
from engine.run import checkpoint
from engine.runtime import EXIT_STOPPED, Stopped, StopRequest
from engine.train import run_log
from engine.train.evaluation import evaluate_unless_stopped
from engine.train.learner import step_seed
from tests.engine.processes import free_port, in_processes
from tests.engine.toy import NoiseImages, make_trainer, weights

PLAN = {"steps": 8, "batch": 8, "eval_every": 4, "save_every": 4, "log_every": 1}


def numbers(trainer):
    return {name: tensor.tolist() for name, tensor in weights(trainer).items()}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_give_the_same_result_as_one(tmp_path, accumulate):
    frozen = {"norm": False, "dropout": 0.0, **PLAN}
    one = make_trainer(tmp_path / "one", **frozen)
    expected = one.fit()

    def fit(group):
        trainer = make_trainer(tmp_path / "two", runtime=group, accumulate=accumulate, ema=0.9, **frozen)
        trainer.fit()
        return (
            numbers(trainer),
            trainer.state.metrics,
            {k: v.tolist() for k, v in trainer.learner.average.model.state_dict().items()},
        )

    (first, metrics, average), (second, same_metrics, same_average) = in_processes(2, fit)
    assert first == second
    assert average == same_average
    assert metrics == same_metrics
    for name, tensor in weights(one).items():
        torch.testing.assert_close(torch.tensor(first[name]), tensor, rtol=0, atol=1e-6)
    assert metrics["seen"] == expected["seen"] == list(range(7))
    losses = [
        [row["loss"] for row in run_log.read_rows(tmp_path / n / "log.jsonl") if row["kind"] == "train"]
        for n in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_two_processes_evaluate_with_the_same_statistics(tmp_path):
    # Each process's BatchNorm sees its own half of the data; what is evaluated is what rank 0 saves.
    def statistics(group, folder, **options):
        trainer = make_trainer(tmp_path / folder, runtime=group, **PLAN, **options)
        trainer.fit()
        return trainer.inference_task.model.norm.running_mean.tolist(), trainer.state.metrics

    for folder, options in (("plain", {}), ("averaged", {"ema": 0.9})):
        first, second = in_processes(2, partial(statistics, folder=folder, **options))
        assert first == second
        saved, _ = checkpoint.inference_weights(tmp_path / folder / "checkpoints" / "last.safetensors")
        assert saved["norm.running_mean"].tolist() == first[0]


def test_two_processes_resume_bit_for_bit(tmp_path):
    def fit(group, folder, until=99):
        trainer = make_trainer(tmp_path / folder, runtime=group, ema=0.9, **PLAN)
        if checkpoint.exists(trainer.run.last):
            trainer.restore()
        update = trainer.learner.update
        trainer.learner.update = lambda: update() if trainer.state.step < until else 1 / 0
        with nullcontext() if until == 99 else pytest.raises(ZeroDivisionError):
            trainer.fit()

    in_processes(2, partial(fit, folder="whole"))
    in_processes(2, partial(fit, folder="killed", until=5))
    in_processes(2, partial(fit, folder="killed"))
    last = [tmp_path / name / "checkpoints" / "last.safetensors" for name in ("whole", "killed")]
    assert last[0].read_bytes() == last[1].read_bytes()


def test_processes_and_steps_have_different_random_numbers():
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(8)}
    assert len(seeds) == 3 * 50 * 8


@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path, asked):
    def fit(group):
        trainer = make_trainer(tmp_path, runtime=group, **PLAN)
        update = trainer.learner.update

        def ask():
            update()
            if group.rank == asked and trainer.state.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        trainer.learner.update = ask
        with pytest.raises(Stopped):
            trainer.fit()
        return trainer.state.step

    assert in_processes(2, fit) == [4, 4]
    assert checkpoint.step_of(tmp_path / "checkpoints" / "last.safetensors") == 4


def test_no_process_exits_before_the_checkpoint_is_written(tmp_path):
    def fit(group):
        trainer = make_trainer(tmp_path, runtime=group, **PLAN)
        save, update = trainer.save, trainer.learner.update
        trainer.save = lambda: (time.sleep(0.5 if group.is_main else 0.0), save())
        trainer.learner.update = lambda: (update(), setattr(trainer.stop, "signal", "SIGTERM"))
        with pytest.raises(Stopped):
            trainer.fit()
        return checkpoint.step_of(trainer.run.last)

    assert in_processes(2, fit) == [2, 2]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_without_workers_completes_the_current_step(tmp_path, lost):
    class BrokenBatches:
        def __next__(self):
            raise WorkerKilled("killed")

    def fit(group, folder, interrupted):
        trainer = make_trainer(tmp_path / folder, runtime=group, accumulate=2, workers=1, **PLAN)
        read = trainer._read

        def stop_at_step_2(batches):
            if interrupted and group.rank == lost and trainer.state.step == 2 and trainer.stop.signal is None:
                trainer.stop.signal, batches = "SIGTERM", BrokenBatches()
            return read(batches)

        trainer._read = stop_at_step_2
        if checkpoint.exists(trainer.run.last):
            trainer.restore()
        with pytest.raises(Stopped) if interrupted else nullcontext():
            trainer.fit()
        return trainer.state.step

    assert in_processes(2, partial(fit, folder="stopped", interrupted=True)) == [3, 3]
    in_processes(2, partial(fit, folder="stopped", interrupted=False))
    in_processes(2, partial(fit, folder="whole", interrupted=False))
    last = [tmp_path / name / "checkpoints" / "last.safetensors" for name in ("whole", "stopped")]
    assert last[0].read_bytes() == last[1].read_bytes()


def test_a_nonfinite_loss_in_one_process_stops_all(tmp_path):
    def fit(group):
        trainer = make_trainer(tmp_path, runtime=group, poison=3, **PLAN)
        with pytest.raises(UserError) as caught:
            trainer.fit()
        return str(caught.value)

    first, second = in_processes(2, fit)
    assert "not finite at step 0" in first
    assert first == second
    assert checkpoint.step_of(tmp_path / "replay.safetensors") == 0


def _rank_of_a_job(folder, rank, port, at_the_end):
    sys.stderr = open(folder / f"stderr{rank}", "w", buffering=1)  # noqa: SIM115  open until the process ends
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def job():
        group = runtime.start(device="cpu", channels_last=False)
        trainer = make_trainer(
            folder / "run", runtime=group, steps=9999, batch=4, eval_every=9999, save_every=9999
        )
        gradients = trainer.learner.compute_gradients

        def until_step_5(*arguments, **options):
            if rank == 1 and trainer.state.step == 5:
                at_the_end()
            return gradients(*arguments, **options)

        trainer.learner.compute_gradients = until_step_5
        trainer.fit()

    runtime.exit_process(run_job(job))


def _killed():
    os.kill(os.getpid(), signal.SIGKILL)


def _fails():
    raise UserError("image_3.png: cannot be read")


@pytest.mark.parametrize(("at_the_end", "status"), [(_killed, -signal.SIGKILL), (_fails, 1)])
def test_if_one_process_exits_the_others_exit_too(tmp_path, at_the_end, status):
    port = free_port()
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=_rank_of_a_job, args=(tmp_path, rank, port, at_the_end)) for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    try:
        ranks[1].join(30)
        ended = time.monotonic()
        ranks[0].join(15)
        assert time.monotonic() - ended < 10
        assert [rank.exitcode for rank in ranks] == [1, status]
    finally:
        for rank in ranks:
            rank.kill()
    (line,) = (tmp_path / "stderr0").read_text().splitlines()
    assert line.startswith(
        "error: another process of this run has exited or is not responding (this is process 0 of 2)"
    )
    assert "resume=" in line
    if status == 1:
        assert (tmp_path / "stderr1").read_text() == "error: image_3.png: cannot be read\n"


DOOMED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from engine import runtime
from engine.config.launch import run_job
from tests.engine.toy import make_trainer

def job():
    group = runtime.start(device="cpu", channels_last=False)
    length = dict(steps=9999, eval_every=9999, save_every=9999)
    trainer = make_trainer(Path(sys.argv[1]), runtime=group, batch=4, **length)
    update = trainer.learner.update
    def until_step_5():
        if trainer.state.step == 5 and group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        update()
    trainer.learner.update = until_step_5
    trainer.fit()

runtime.exit_process(run_job(job))
"""


@pytest.mark.slow
def test_torchrun_exits_soon_after_a_process_is_killed(tmp_path):
    (tmp_path / "doomed.py").write_text(DOOMED)
    command = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "doomed.py"), str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "Signal 9 (SIGKILL)" in done.stderr
    ours = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    # Whichever reaches the survivor first, torchrun's SIGTERM or the broken connection: one line at most.
    assert len(ours) <= 1
    assert "terminate called" not in done.stderr


def test_processes_without_a_master_address_are_rejected(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="WORLD_SIZE=2 is set without MASTER_ADDR and MASTER_PORT"):
        runtime.start(device="cpu")


def test_waiting_for_missing_processes_times_out(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setattr(runtime, "TIMEOUT", timedelta(seconds=1))
    with pytest.raises(UserError, match=r"process 1 of 2 could not reach the others at 127\.0\.0\.1:\d+"):
        runtime.start(device="cpu")


def test_gather_broadcast_and_sum():
    def collect(group):
        total = group.sum(torch.tensor([group.rank + 1.0])).item()
        return group.gather(group.rank), group.broadcast(f"from {group.rank}"), total

    assert in_processes(2, collect) == [([0, 1], "from 0", 3.0)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision must be one of fp32, bf16, fp16"),
        ({"device": "gpu"}, "device=gpu: no such device"),
        ({"device": "cpu", "precision": "fp16"}, "needs a CUDA device"),
    ],
)
def test_invalid_runtime_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        runtime.start(**options)


LONG = {"steps": 60, "ema": 0.9, "eval_every": 20, "save_every": 5}


def _train(folder, workers, slow):
    os.setsid()
    trainer = make_trainer(folder, workers=workers, **LONG)
    sys.stderr = open(folder / "stderr", "w", buffering=1)  # noqa: SIM115  open until the process ends
    if checkpoint.exists(trainer.run.last):
        trainer.restore()
    update = trainer.learner.update
    trainer.learner.update = lambda: (time.sleep(slow), update())
    runtime.exit_process(run_job(lambda: trainer.fit() and 0))


def start(folder, *, workers=0, slow=0.0):
    """Train in a new process with its own process group."""
    child = multiprocessing.get_context("fork").Process(target=_train, args=(folder, workers, slow))
    child.start()
    return child


def wait_for_a_save(path, child):
    before, end = checkpoint.step_of(path), time.monotonic() + 30
    while checkpoint.step_of(path) == before:
        assert child.is_alive()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_or_stopped_run_can_be_resumed(tmp_path):
    folder, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.safetensors"
    killed = start(folder, slow=0.03)
    wait_for_a_save(last, killed)
    time.sleep(0.05)
    killed.kill()
    killed.join(10)
    assert killed.exitcode == -signal.SIGKILL

    # Slurm and terminals ask the whole group, the workers too.
    stopped = start(folder, workers=2, slow=0.03)
    wait_for_a_save(last, stopped)
    os.killpg(stopped.pid, signal.SIGTERM)
    stopped.join(20)
    assert stopped.exitcode == EXIT_STOPPED == 75
    errors = (folder / "stderr").read_text()
    assert errors.startswith("stopped by SIGTERM at step")
    assert len(errors.splitlines()) == 1

    ended = start(folder)
    ended.join(30)
    assert ended.exitcode == 0
    whole = make_trainer(tmp_path / "whole", **LONG)
    whole.fit()
    assert last.read_bytes() == whole.run.last.read_bytes()
    assert (folder / "metrics.json").read_text() == whole.run.metrics.read_text()


def children_of(pid):
    """The DataLoader workers of a training."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc to find the workers")
@pytest.mark.parametrize("asked", [True, False])
def test_killed_workers_stop_a_run_cleanly(tmp_path, asked):
    # `scancel --full` signals every process of the job, in any order. A system that is out of memory kills
    # one worker.
    folder, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.safetensors"
    child = start(folder, workers=2, slow=0.02)
    wait_for_a_save(last, child)
    workers = children_of(child.pid)
    assert len(workers) == 2
    for worker in workers if asked else workers[:1]:
        os.kill(worker, signal.SIGTERM if asked else signal.SIGKILL)
    if asked:
        time.sleep(0.1)
        os.kill(child.pid, signal.SIGTERM)
    child.join(20)
    (line,) = (folder / "stderr").read_text().splitlines()
    if asked:
        assert child.exitcode == EXIT_STOPPED
        assert line.startswith("stopped by SIGTERM at step")
    else:
        assert child.exitcode == 1
        assert line.startswith("error: a DataLoader worker was killed (Killed), usually because memory")

    ended = start(folder)
    ended.join(30)
    assert ended.exitcode == 0
    whole = make_trainer(tmp_path / "whole", **LONG)
    whole.fit()
    assert last.read_bytes() == whole.run.last.read_bytes()


class KillsItsReader(NoiseImages):
    """A dataset whose sample 4 kills the process that reads it."""

    def __getitem__(self, key):
        if key.index == 4:
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(key)


@pytest.mark.parametrize("asked", [True, False])
def test_a_worker_killed_during_an_evaluation(tmp_path, asked):
    def evaluation():
        trainer = make_trainer(tmp_path)
        data = DataLoaders(train_set=NoiseImages(), eval_set=KillsItsReader(9), workers=2)
        batches = data.eval_batches(rank=0, world_size=1, pin=False)
        return evaluate_unless_stopped(
            trainer.inference_task, batches, trainer.evaluator, trainer.runtime, stop=lambda: asked
        )

    if asked:
        assert evaluation() is None
    else:
        with pytest.raises(WorkerKilled, match=r"killed \((Killed|cause unknown)\).*data\.workers"):
            evaluation()


def test_a_killed_worker_is_reported_at_the_next_batch():
    data = DataLoaders(train_set=NoiseImages(), eval_set=KillsItsReader(9), workers=1)
    batches = data.eval_batches(rank=0, world_size=1, pin=False)
    assert int(next(batches)["index"]) == 0
    time.sleep(1.0)  # The worker reads ahead and dies meanwhile: no error here.
    with pytest.raises(WorkerKilled, match=r"killed \(Killed\)"):
        next(batches)


def test_a_second_signal_kills_the_process(monkeypatch):
    def impatient():
        request = StopRequest()
        request.install()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # The same request, passed on by a terminal and by torchrun.
        assert request.signal == "SIGTERM"
        monkeypatch.setattr("engine.runtime.SAME_REQUEST_S", 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=impatient)
    child.start()
    child.join(10)
    assert child.exitcode == -signal.SIGTERM
