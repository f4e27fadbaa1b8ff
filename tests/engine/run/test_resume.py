"""A resumed run ends with bit-identical results, however it was interrupted."""

import errno
import json
import multiprocessing
import os
import signal

import pytest
import torch

from engine.errors import UserError
from engine.run import checkpoint
from engine.runtime import Stopped
from engine.train import run_log
from engine.train.learner import Learner
from engine.train.run_log import RunLog
from tests.engine.toy import OPTIMIZERS, Accuracy, make_trainer, weights

RATES = ("time", "images_per_s", "data_wait")


def resume_to_end(folder, **options):
    """Resume a run like tools/train.py, to its last step."""
    trainer = make_trainer(folder, **options)
    if checkpoint.exists(trainer.run.last):
        trainer.restore()
    trainer.fit()
    return trainer


def traces(trainer):
    """All results of a run that must not depend on interruptions."""
    rows = [{k: v for k, v in row.items() if k not in RATES} for row in run_log.read_rows(trainer.run.log)]
    return {
        "last": trainer.run.last.read_bytes(),
        "best": trainer.run.best.read_bytes(),
        "metrics": trainer.run.metrics.read_text(),
        "log": [row for row in rows if row["kind"] == "eval" or row["step"] % trainer.options.log_every == 0],
    }


def stop_at(trainer, step):
    """Abort a run after `step`, as if it were killed."""

    class Killed(Exception):
        pass

    update, taken = trainer.learner.update, []

    def counted():
        if trainer.state.step + 1 > step:
            raise Killed
        update()
        taken.append(1)

    trainer.learner.update = counted
    with pytest.raises(Killed):
        trainer.fit()


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_killed_run_resumes_bit_for_bit(tmp_path, optimizer, ema):
    options = {"optimizer": optimizer, "ema": ema, "accumulate": 2, "clip": 1.0}
    whole = resume_to_end(tmp_path / "whole", **options)
    stop_at(make_trainer(tmp_path / "killed", **options), step=7)
    assert checkpoint.read(tmp_path / "killed" / "checkpoints" / "last.safetensors")[1]["state"]["step"] == 6
    resumed = resume_to_end(tmp_path / "killed", **options)
    assert traces(resumed) == traces(whole)
    assert resumed.state == whole.state


def test_a_run_resumes_with_another_number_of_workers(tmp_path):
    whole = resume_to_end(tmp_path / "whole")
    stop_at(make_trainer(tmp_path / "killed", workers=2), step=5)
    assert traces(resume_to_end(tmp_path / "killed", workers=1)) == traces(whole)


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path):
    whole = resume_to_end(tmp_path / "whole", log_every=1)
    stop_at(make_trainer(tmp_path / "killed", log_every=1), step=2)
    assert traces(resume_to_end(tmp_path / "killed", log_every=1)) == traces(whole)


def test_the_test_network_uses_dropout_and_batch_norm(tmp_path):
    # Otherwise the tests above would say nothing about random numbers and buffers.
    with_dropout = resume_to_end(tmp_path / "a", dropout=0.5)
    without = resume_to_end(tmp_path / "b", dropout=0.0)
    assert not torch.equal(weights(with_dropout)["conv.weight"], weights(without)["conv.weight"])
    assert weights(without)["norm.running_mean"].abs().sum() > 0


EVENTS = [(os, "fsync"), (os, "replace"), (Learner, "update"), (Accuracy, "update"), (RunLog, "row")]
SHORT = {"steps": 4, "eval_every": 2, "save_every": 1, "eval_size": 1, "ema": 0.9, "log_every": 1}


def _run_until(folder, event):
    """Train, and exit at event number `event`: before a file is synced or renamed, in an evaluation ..."""
    left = [event]

    def deadly(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return function(*arguments, **options)

        return call

    for owner, name in EVENTS:
        setattr(owner, name, deadly(getattr(owner, name)))
    resume_to_end(folder, **SHORT)
    os._exit(0)


@pytest.mark.slow
def test_a_run_can_be_resumed_after_a_kill_at_any_point(tmp_path):
    whole = traces(resume_to_end(tmp_path / "whole", **SHORT))
    fork = multiprocessing.get_context("fork")
    for event in range(1000):
        folder = tmp_path / str(event)
        child = fork.Process(target=_run_until, args=(folder, event))
        child.start()
        child.join(30)
        assert child.exitcode in (0, 9)
        assert traces(resume_to_end(folder, **SHORT)) == whole, f"killed at event {event}"
        if child.exitcode == 0:
            break
    assert event > 30


def test_if_a_checkpoint_is_damaged_the_previous_one_is_used(tmp_path):
    whole = resume_to_end(tmp_path / "whole")
    stop_at(make_trainer(tmp_path / "killed"), step=9)
    trainer = make_trainer(tmp_path / "killed")
    content = bytearray(trainer.run.last.read_bytes())
    content[-1] ^= 1
    trainer.run.last.write_bytes(content)
    message = trainer.restore()
    assert "do not match their hash" in message
    assert "continuing from last.previous.safetensors" in message
    # It must not become the one before when the next is written.
    assert trainer.run.last.with_name("last.damaged.safetensors").read_bytes() == bytes(content)
    assert not trainer.run.last.exists()
    trainer.fit()
    assert traces(trainer) == traces(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_the_run(tmp_path, number):
    whole = resume_to_end(tmp_path / "whole")
    trainer = make_trainer(tmp_path / "stopped")
    update = trainer.learner.update

    def signal_in_step_4():
        if trainer.state.step == 4:
            os.kill(os.getpid(), number)
        update()

    trainer.learner.update = signal_in_step_4
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=rf"stopped by {number.name} at step 6 of 12; continue with resume="):
        trainer.fit()
    assert signal.getsignal(number) is before
    assert checkpoint.read(trainer.run.last)[1]["state"]["step"] == 6
    assert traces(resume_to_end(tmp_path / "stopped")) == traces(whole)


def test_a_signal_aborts_an_evaluation(tmp_path, monkeypatch):
    whole = resume_to_end(tmp_path / "whole")
    trainer, update, seen = make_trainer(tmp_path / "stopped"), Accuracy.update, []

    def signal_at_the_third(self, outputs, batch):
        seen.append(1)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        update(self, outputs, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Accuracy, "update", signal_at_the_third)
        with pytest.raises(Stopped, match="at step 6 of 12"):
            trainer.fit()
    assert 3 <= len(seen) < 7  # predicted batches may still be scored
    assert trainer.state.evaluated_step == 0
    assert traces(resume_to_end(tmp_path / "stopped")) == traces(whole)


@pytest.mark.parametrize("room", range(2, 8))
def test_a_full_disk_ends_the_run_with_one_line_and_an_intact_checkpoint(tmp_path, monkeypatch, room):
    whole = resume_to_end(tmp_path / "whole")
    trainer, fsync, calls = make_trainer(tmp_path / "full"), os.fsync, []

    def full(handle):
        calls.append(1)
        if len(calls) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            UserError, match=r"^.*(last|best)\.safetensors: cannot write .*No space left.*resume$"
        ):
            trainer.fit()
    assert checkpoint.read_latest(trainer.run.last)[1]["state"]["step"] in (4, 6, 8)
    assert traces(resume_to_end(tmp_path / "full")) == traces(whole)


def test_an_unwritable_log_is_reported_in_one_line(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.run.log.mkdir()
    with pytest.raises(UserError, match="log"):
        trainer.fit()


def test_resuming_a_finished_run_does_nothing(tmp_path):
    trainer = resume_to_end(tmp_path)
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    again = make_trainer(tmp_path)
    assert not again.finished
    again.restore()
    assert again.finished
    assert again.fit() == trainer.state.metrics
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == times


def test_a_run_can_be_extended(tmp_path):
    resume_to_end(tmp_path)
    trainer = make_trainer(tmp_path, steps=16)
    assert trainer.restore().endswith(
        "step 12 of 16; the run had 12 steps; the learning rate now follows the schedule of 16"
    )
    trainer.fit()
    assert trainer.state.step == trainer.state.evaluated_step == 16
    rows = run_log.read_rows(trainer.run.log)
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [6, 12, 16]
    # The schedule is that of the longer run from here on: (1 - 15 / 16) ** 0.9 at the last step.
    assert rows[-2]["lr"] == pytest.approx(0.2 * (1 / 16) ** 0.9)


def test_a_run_cannot_be_resumed_with_fewer_steps_than_it_has(tmp_path):
    resume_to_end(tmp_path)
    with pytest.raises(
        UserError, match=r"already at step 12, past trainer\.steps=\d+; increase trainer\.steps"
    ):
        make_trainer(tmp_path, steps=8).restore()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 11}, "num_samples=10, now 11"),
        ({"batch": 2}, "batch=4, now 2"),
        ({"optimizer": "adamw"}, "optimizer=SGD, now AdamW"),
    ],
)
def test_a_run_cannot_be_resumed_with_other_settings(tmp_path, options, message):
    resume_to_end(tmp_path)
    with pytest.raises(UserError, match=rf"{message}; .*init_from={tmp_path}"):
        make_trainer(tmp_path, **options).restore()


def test_averaging_can_be_turned_on_when_resuming(tmp_path):
    stop_at(make_trainer(tmp_path), step=8)
    trainer = make_trainer(tmp_path, ema=0.9)
    trainer.restore()
    assert trainer.learner.average.updates == 0
    averaged = trainer.learner.average.model.state_dict()
    assert all(torch.equal(averaged[name], tensor) for name, tensor in weights(trainer).items())
    trainer.fit()
    assert trainer.learner.average.updates == 4


def test_averaging_can_be_turned_off_when_resuming(tmp_path):
    stop_at(make_trainer(tmp_path, ema=0.9), step=8)
    trainer = resume_to_end(tmp_path)
    assert trainer.inference_task is trainer.learner.task


def test_metrics_json_contains_the_last_and_the_best_score(tmp_path):
    scores = iter([0.5, 0.75, 0.25, float("nan")])
    trainer = make_trainer(tmp_path, eval_every=3)
    trainer.evaluator.compute = lambda: {"accuracy": next(scores)}
    trainer.fit()
    metrics = json.loads(trainer.run.metrics.read_text())
    assert metrics == {"accuracy": None, "step": 12, "best_accuracy": 0.75, "best_step": 6}
    assert checkpoint.read(trainer.run.best)[1]["state"]["step"] == 6
