"""Progress of a long job."""

import contextlib
import io
import math
import sys

import pytest

from engine.errors import UserError
from engine.io import progress as progress_module
from engine.io.progress import PartProgress, Progress, announced, counted_off, with_progress


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress_module.time, "monotonic", lambda: self.now)


def test_lines_are_printed_at_the_first_step_every_ten_seconds_and_at_the_end(monkeypatch):
    clock, lines = Clock(monkeypatch), []
    progress = Progress(100, print_line=lines.append)
    for step in range(1, 101):
        clock.now += 1.0
        progress.update(step, "loss 1.0")
    steps = [int(line.split()[1].partition("/")[0]) for line in lines]
    assert steps == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]
    assert lines[1] == "step 11/100  loss 1.0  ETA 0:01:29"
    assert lines[-1] == "step 100/100  loss 1.0  ETA 0:00:00"


def test_the_eta_of_a_resumed_run_uses_only_its_own_steps(monkeypatch):
    clock, lines = Clock(monkeypatch), []
    progress = Progress(7300, first=3600, unit="batch", print_line=lines.append)
    clock.now += 100.0
    progress.update(3700)
    assert lines == ["batch 3700/7300  ETA 1:00:00"]


def test_a_job_with_a_time_limit_ends_by_then(monkeypatch):
    clock, lines = Clock(monkeypatch), []
    progress = Progress(300, unit="round", at_most_s=60, print_line=lines.append)
    clock.now += 2.0
    progress.update(1)
    clock.now += 60.0
    progress.update(31)
    assert lines == ["round 1/300  ETA 0:00:58", "round 31/300  ETA 0:00:00"]


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress(2)
    progress.update(1, "loss 0.5  lr 0.1")
    progress.print("step 1: miou 0.5")
    progress.update(2, "loss 0.4  lr 0.1")
    progress.close()
    out, err = capsys.readouterr()
    assert "step 1: miou 0.5" in out + err
    assert "2/2" in err
    assert "loss 0.4  lr 0.1" in err


def test_lines_are_flushed():
    assert Progress(1).print_line.keywords == {"flush": True}


def test_a_value_error_becomes_a_user_error():
    def work(progress):
        progress(1, 2)
        raise ValueError("size must be positive")

    with pytest.raises(UserError, match="size must be positive"):
        with_progress(work, 2, unit="scene")
    assert with_progress(lambda progress: "result", 2, unit="scene") == "result"


def test_parts_are_shown_only_if_they_take_long(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr("engine.io.progress.time.monotonic", lambda: clock[0])
    progress = PartProgress(unit="window")
    for done in range(1, 5):  # 4 windows of 0.5 s each
        clock[0] += 0.5
        progress(done, 4)
    assert capsys.readouterr().out == ""
    for done in range(1, 21):  # 20 windows of 1 s: 20 s in all, of which the first has passed
        clock[0] += 1
        progress(done, 20)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("window 1/20")
    assert lines[-1] == "window 20/20  ETA 0:00:00"
    assert 3 <= len(lines) <= 4  # the first, one each 10 s, the last


def test_a_short_job_shows_nothing_and_a_longer_one_starts_after_a_moment(monkeypatch):
    clock, lines = Clock(monkeypatch), []
    progress = Progress(10, after=1.5, print_line=lines.append)
    for step in range(1, 11):
        clock.now += 0.1
        progress.update(step)
    assert lines == []
    progress = Progress(10, after=1.5, print_line=lines.append)
    for step in range(1, 11):
        clock.now += 1.0
        progress.update(step)
    assert lines == ["step 2/10  ETA 0:00:08", "step 10/10  ETA 0:00:00"]


def test_slow_work_is_announced_until_it_ends_or_other_progress_begins(monkeypatch):
    lines = []
    monkeypatch.setattr(progress_module, "PATIENCE_S", 0.02)
    with announced("the first step", print_line=lines.append):
        progress_module.time.sleep(0.2)
    assert lines == ["the first step ... 0 s"]
    with announced("evaluation", print_line=lines.append) as end:
        end()
        progress_module.time.sleep(0.1)
    with announced("quick", print_line=lines.append):
        pass
    assert len(lines) == 1


def test_work_is_not_announced_beside_progress_that_advances(monkeypatch):
    """Reading annotations may draw masks or scenes, with a bar of its own."""
    monkeypatch.setattr(progress_module, "PATIENCE_S", 0.02)
    for advances in (True, False):
        lines = []
        monkeypatch.setattr(progress_module, "_BESIDE_S", 1000.0)
        monkeypatch.setattr(progress_module, "_active_at", [-math.inf])
        progress = Progress(9, print_line=[].append)
        with announced("reading", print_line=lines.append):
            if advances:
                progress.update(1)
            progress_module.time.sleep(0.2)
        assert bool(lines) != advances


def test_work_within_work_of_the_same_name_is_announced_once(monkeypatch):
    monkeypatch.setattr(progress_module, "PATIENCE_S", 0.02)
    lines = []
    with announced("reading", print_line=lines.append), announced("reading", print_line=lines.append):
        progress_module.time.sleep(0.2)
    assert lines == ["reading ... 0 s"]


def test_slow_items_are_announced_until_the_first_is_done_and_then_counted(monkeypatch, capsys):
    monkeypatch.setattr(progress_module, "PATIENCE_S", 0.02)
    monkeypatch.setattr(progress_module, "_active_at", [-math.inf])
    seen = []
    for item in counted_off(["a", "b"], what="drawing", unit="drawn"):
        seen.append(item)
        progress_module.time.sleep(0.2)
    assert seen == ["a", "b"]
    assert capsys.readouterr().out.splitlines() == [
        "drawing ... 0 s",
        "drawn 1/2  ETA 0:00:00",
        "drawn 2/2  ETA 0:00:00",
    ]
    monkeypatch.setattr(progress_module, "PATIENCE_S", 100.0)
    assert list(counted_off("ab", what="drawing", unit="drawn")) == ["a", "b"]
    assert capsys.readouterr().out == ""


def test_work_that_hides_what_others_print_is_announced(monkeypatch, capsys):
    """As exporters do: a capture while they print must not take the announcement."""
    monkeypatch.setattr(progress_module, "PATIENCE_S", 0.02)
    with announced("writing model.onnx"), contextlib.redirect_stdout(io.StringIO()):
        print("other")
        progress_module.time.sleep(0.2)
    assert capsys.readouterr().out == "writing model.onnx ... 0 s\n"
