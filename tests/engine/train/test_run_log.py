"""The log of a training."""

import errno
import json
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.errors import UserError
from engine.io.progress import Progress
from engine.run.run_folder import RunFolder
from engine.train import run_log
from engine.train.run_log import INPUT_BOUND, IntervalStats, TrainingMonitor
from tests.engine.toy import make_trainer


def test_rows_are_json_lines_without_nan(tmp_path):
    log = run_log.RunLog(RunFolder(tmp_path), tensorboard=False)
    log.row(3, "train", {"loss": 1.5, "lr": float("inf")})
    log.row(3, "eval", {"miou": float("nan"), "protocol": "full"})
    rows = [
        json.loads(line, parse_constant=pytest.fail)
        for line in (tmp_path / "log.jsonl").read_text().splitlines()
    ]
    assert [{k: v for k, v in row.items() if k != "time"} for row in rows] == [
        {"step": 3, "kind": "train", "loss": 1.5, "lr": None},
        {"step": 3, "kind": "eval", "miou": None, "protocol": "full"},
    ]


def test_rows_after_the_checkpoint_and_truncated_lines_are_dropped_on_resume(tmp_path):
    log = run_log.RunLog(RunFolder(tmp_path), tensorboard=False)
    for step in (1, 2, 3):
        log.row(step, "train", {"loss": step})
        log.row(step, "eval", {"miou": step})
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 2, "ki')
    run_log.RunLog(RunFolder(tmp_path), step=2, evaluated_step=1, tensorboard=False).row(3, "train", {})
    rows = run_log.read_rows(tmp_path / "log.jsonl")
    assert [(row["step"], row["kind"]) for row in rows] == [
        (1, "train"),
        (1, "eval"),
        (2, "train"),
        (3, "train"),
    ]


def test_reading_stops_at_the_first_invalid_line(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(
        b'{"step": 1, "kind": "train"}\n\xff\xfe\n{"step": 2, "kind": "train"}\n'
    )
    assert [row["step"] for row in run_log.read_rows(tmp_path / "log.jsonl")] == [1]


def scalars(folder, tag):
    events = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=True)
    events.Reload()
    return [(event.step, round(event.value, 4)) for event in events.Scalars(tag)]


def test_tensorboard_shows_each_step_once_after_a_kill(tmp_path):
    first = make_trainer(tmp_path, tensorboard=True, log_every=1, steps=8, eval_every=4, save_every=2)
    update = first.learner.update
    first.learner.update = lambda: update() if first.state.step < 7 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        first.fit()
    time.sleep(1)  # TensorBoard orders its files by the second in which they were opened
    second = make_trainer(tmp_path, tensorboard=True, log_every=1, steps=8, eval_every=4, save_every=2)
    second.restore()
    second.fit()
    rows = run_log.read_rows(second.run.log)
    train = [(row["step"], round(row["loss"], 4)) for row in rows if row["kind"] == "train"]
    assert [step for step, _ in train] == list(range(1, 9))
    assert scalars(tmp_path, "train/loss") == train
    assert [step for step, _ in scalars(tmp_path, "eval/accuracy")] == [4, 8]


def test_interval_stats_are_means_over_time():
    stats = IntervalStats()
    stats.add({"a": 1.0, "b": 2.0}, images=4, waited=0.1, seconds=0.5)
    stats.add({"a": 3.0, "b": 2.0}, images=4, waited=0.4, seconds=0.5)
    assert stats.pop() == pytest.approx(
        {"loss": 4.0, "loss/a": 2.0, "loss/b": 2.0, "images_per_s": 8.0, "data_wait": 0.5}
    )
    stats.add({"a": 5.0}, images=1, waited=0.0, seconds=2.0)
    assert stats.pop() == {"loss": 5.0, "images_per_s": 0.5, "data_wait": 0.0}


def console_lines(folder, waits):
    lines = []
    monitor = TrainingMonitor(
        run_log.RunLog(RunFolder(folder), tensorboard=False),
        Progress(99, print_line=lines.append),
        last=99,
        every=1,
    )
    for step, waited in enumerate(waits, start=1):
        monitor.step(step, {"a": 1.0}, lr=0.1, images=1, waited=waited, seconds=1.0)
    return lines


@pytest.mark.parametrize(
    ("waits", "warnings"),
    [
        ([0.9, 0.5, 0.5], 0),  # The first step waits for the workers to start: it does not count.
        ([0.9, 0.5, 0.5, 0.5], 1),
        ([0.9, 0.5, 0.5, 0.1, 0.5, 0.5], 0),
        ([0.9] * 20, 1),
    ],
)
def test_the_input_bound_warning_is_printed_once_and_only_if_it_applies(tmp_path, waits, warnings):
    assert console_lines(tmp_path, waits).count(INPUT_BOUND) == warnings


def test_the_first_console_line_is_complete(tmp_path):
    assert console_lines(tmp_path, [0.25])[0] == (
        "step 1/99  loss 1.000  lr 0.1  1.0 images/s  data wait 25%  ETA 0:00:00"
    )


def test_a_full_disk_is_reported_in_one_line(tmp_path, monkeypatch):
    log = run_log.RunLog(RunFolder(tmp_path), tensorboard=False)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(
        UserError, match=r"log\.jsonl: cannot be written \(No space left on device\); free some space"
    ):
        log.row(1, "train", {})


def test_metrics_are_printed_as_the_tables_print_them():
    assert [run_log.percent(value) for value in (0.4437, 1.0, 0.0, -0.5, 12.3)] == [
        "44.37%", "100.00%", "0.00%", "-0.5000", "12.3000",
    ]  # fmt: skip


def test_the_first_damaged_line_is_known_but_an_incomplete_last_line_is_no_damage(tmp_path):
    file, row = tmp_path / "log.jsonl", '{"step": 1, "kind": "train"}\n'
    assert run_log.damaged_line(file) is None
    for content, line in ((row * 2, None), (row * 2 + '{"st', None), (row + "\0\n" + row, 2), ("\0", 1)):
        file.write_text(content)
        assert run_log.damaged_line(file) == line
        assert len(run_log.read_rows(file)) == content.partition("\0")[0].count(row)
