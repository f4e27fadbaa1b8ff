"""What a run writes down and says."""

import errno
import json
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine import plots
from engine.errors import UserError
from engine.io.files import write_json
from engine.io.progress import Progress
from engine.run import run_folder
from engine.run.run_folder import RunFolder
from engine.train import run_log
from engine.train.run_log import INPUT_BOUND, Meter, TrainingMonitor
from tests.engine.toy import trainer


def test_rows_are_json_lines_without_nan(tmp_path):
    made = run_log.RunLog(RunFolder(tmp_path), tensorboard=False)
    made.row(3, "train", {"loss": 1.5, "lr": float("inf")})
    made.row(3, "eval", {"miou": float("nan"), "protocol": "full"})
    rows = [
        json.loads(line, parse_constant=pytest.fail)
        for line in (tmp_path / "log.jsonl").read_text().splitlines()
    ]
    assert [{k: v for k, v in row.items() if k != "time"} for row in rows] == [
        {"step": 3, "kind": "train", "loss": 1.5, "lr": None},
        {"step": 3, "kind": "eval", "miou": None, "protocol": "full"},
    ]


def test_rows_after_the_checkpoint_and_cut_off_lines_are_dropped_on_resume(tmp_path):
    made = run_log.RunLog(RunFolder(tmp_path), tensorboard=False)
    for step in (1, 2, 3):
        made.row(step, "train", {"loss": step})
        made.row(step, "eval", {"miou": step})
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


def test_a_line_that_is_no_row_ends_the_reading(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(
        b'{"step": 1, "kind": "train"}\n\xff\xfe\n{"step": 2, "kind": "train"}\n'
    )
    assert [row["step"] for row in run_log.read_rows(tmp_path / "log.jsonl")] == [1]


def scalars(folder, tag):
    events = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=True)
    events.Reload()
    return [(event.step, round(event.value, 4)) for event in events.Scalars(tag)]


def test_tensorboard_shows_each_step_once_after_a_kill(tmp_path):
    first = trainer(tmp_path, tensorboard=True, log_every=1, steps=8, eval_every=4, save_every=2)
    update = first.learner.update
    first.learner.update = lambda: update() if first.state.step < 7 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        first.fit()
    time.sleep(1)  # TensorBoard orders its files by the second in which they were opened
    second = trainer(tmp_path, tensorboard=True, log_every=1, steps=8, eval_every=4, save_every=2)
    second.restore()
    second.fit()
    rows = run_log.read_rows(second.run.log)
    train = [(row["step"], round(row["loss"], 4)) for row in rows if row["kind"] == "train"]
    assert [step for step, _ in train] == list(range(1, 9))
    assert scalars(tmp_path, "train/loss") == train
    assert [step for step, _ in scalars(tmp_path, "eval/accuracy")] == [4, 8]


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(run_log.time, "monotonic", lambda: self.now)


def test_lines_come_soon_then_now_and_then_and_at_the_end(monkeypatch):
    clock, lines = Clock(monkeypatch), []
    progress = Progress(100, say=lines.append)
    for step in range(1, 101):
        clock.now += 1.0
        progress.update(step, "loss 1.0")
    said = [int(line.split()[1].partition("/")[0]) for line in lines]
    assert said == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]
    assert lines[1] == "step 11/100  loss 1.0  ETA 0:01:29"
    assert lines[-1] == "step 100/100  loss 1.0  ETA 0:00:00"


def test_the_eta_counts_from_where_the_run_resumed(monkeypatch):
    clock, lines = Clock(monkeypatch), []
    progress = Progress(7300, first=3600, unit="batch", say=lines.append)
    clock.now += 100.0
    progress.update(3700)
    assert lines == ["batch 3700/7300  ETA 1:00:00"]


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


def test_lines_are_written_at_once():
    assert Progress(1).say.keywords == {"flush": True}


def test_a_meter_takes_means_over_time():
    meter = Meter()
    meter.add({"a": 1.0, "b": 2.0}, images=4, waited=0.1, seconds=0.5)
    meter.add({"a": 3.0, "b": 2.0}, images=4, waited=0.4, seconds=0.5)
    assert meter.take() == pytest.approx(
        {"loss": 4.0, "loss/a": 2.0, "loss/b": 2.0, "images_per_s": 8.0, "data_wait": 0.5}
    )
    meter.add({"a": 5.0}, images=1, waited=0.0, seconds=2.0)
    assert meter.take() == {"loss": 5.0, "images_per_s": 0.5, "data_wait": 0.0}


def lines_of(folder, waits):
    lines = []
    report = TrainingMonitor(
        run_log.RunLog(RunFolder(folder), tensorboard=False),
        Progress(99, say=lines.append),
        last=99,
        every=1,
    )
    for step, waited in enumerate(waits, start=1):
        report.step(step, {"a": 1.0}, lr=0.1, images=1, waited=waited, seconds=1.0)
    return lines


@pytest.mark.parametrize(
    ("waits", "said"),
    [
        ([0.9, 0.5, 0.5], 0),  # The first step waits for the workers to start, and does not count.
        ([0.9, 0.5, 0.5, 0.5], 1),
        ([0.9, 0.5, 0.5, 0.1, 0.5, 0.5], 0),
        ([0.9] * 20, 1),
    ],
)
def test_input_bound_is_said_once_and_when_it_is_so(tmp_path, waits, said):
    assert lines_of(tmp_path, waits).count(INPUT_BOUND) == said


def test_the_first_line_tells_all(tmp_path):
    assert lines_of(tmp_path, [0.25])[0] == (
        "step 1/99  loss 1.000  lr 0.1  1.0 images/s  data wait 25%  ETA 0:00:00"
    )


def test_a_log_on_a_full_disk_is_one_line(tmp_path, monkeypatch):
    made = run_log.RunLog(RunFolder(tmp_path), tensorboard=False)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(
        UserError, match=r"log\.jsonl: cannot be written \(No space left on device\); free space"
    ):
        made.row(1, "train", {})


def test_curves_are_drawn(tmp_path):
    rows = [{"step": s, "kind": "train", "loss": 1 / s} for s in (1, 2, 3)]
    plots.draw_curves(
        [*rows, {"step": 3, "kind": "eval", "miou": 0.5}, {"step": 3, "kind": "eval", "miou": None}],
        "miou",
        tmp_path / "c.png",
    )
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": float("nan"), "b": [1, float("inf")], 3: "ü"})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"a": None, "b": [1, None], "3": "ü"}

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match=r"metrics\.json: cannot be written \(No space left"):
        write_json(path, {})
    assert "ü" in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_a_new_run_describes_itself_and_is_not_written_over(tmp_path):
    run = RunFolder(tmp_path / "runs" / "a")
    run_folder.create(run, config="seed: 1\n", environment={"torch": "2"})
    assert run.config.read_text() == "seed: 1\n"
    assert json.loads((run.path / "environment.json").read_text()).keys() == {"torch", "git"}
    assert run_folder.find(run.path) == run
    with pytest.raises(UserError, match="already holds a run; go on with resume="):
        run_folder.create(run, config="", environment={})
    run_folder.update(run, config="seed: 2\n", environment={})
    assert run.config.read_text() == "seed: 2\n"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make the run folder .*choose another run="):
        run_folder.create(RunFolder(tmp_path / "file" / "run"), config="", environment={})
    with pytest.raises(UserError, match="no run folder"):
        run_folder.find(tmp_path / "nowhere")


def test_default_paths_are_not_taken_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder.time, "strftime", lambda form: "now")
    names = []
    for _ in range(3):
        path = run_folder.default_path("seg", "streets")
        path.mkdir(parents=True)
        names.append(str(path))
    assert names == ["runs/seg/streets/now", "runs/seg/streets/now_2", "runs/seg/streets/now_3"]


def test_best_is_last_where_there_was_no_evaluation(tmp_path):
    run = RunFolder(tmp_path)
    assert run.checkpoint("best") == run.last
    run.best.parent.mkdir()
    run.best.touch()
    assert run.checkpoint("best") == run.best
    with pytest.raises(UserError, match="must be best or last"):
        run.checkpoint("first")
