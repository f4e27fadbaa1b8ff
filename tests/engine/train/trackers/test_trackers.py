"""Weights & Biases, MLflow, Trackio and TensorBoard show the same numbers, configuration and images."""

import importlib.util
import json
import os
import struct

import numpy as np
import pytest
import yaml

from engine.data.images import write_png
from engine.run.run_folder import RunFolder
from engine.train.run_log import RunLog
from engine.train.trackers import opening
from engine.train.trackers.opening import Guarded, check_installed, track_samples
from engine.train.trackers.tracked_run import TrackedRun, caption, flat, scalars
from engine.train.trainer import TrainerOptions
from tests.refusals import refuses

CONFIG = {"seed": 3, "trainer": {"batch": 4, "steps": None}, "data": {"size": [64, 128]}}
ROWS = [
    (1, "train", {"loss": 2.5, "lr": 0.1}),
    (4, "eval", {"miou": 0.25, "iou/traffic light": 0.5, "note": "x"}),
]
NUMBERS = {
    "train/loss": (1, 2.5),
    "train/lr": (1, 0.1),
    "eval/miou": (4, 0.25),
    "eval/iou/traffic light": (4, 0.5),
}
COLORS = {"0_street": (255, 0, 0), "1_café": (0, 0, 255)}


def needs(name):
    """Skips a test if a tracker's package is not installed: .ci/extras installs them all."""
    spec = importlib.util.find_spec(name)
    return pytest.mark.skipif(spec is None or spec.origin is None, reason=f"needs the extra {name}")


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "streets" / "run_1")
    folder.samples.mkdir(parents=True)
    folder.config.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    for name, color in COLORS.items():
        write_png(str(folder.samples / f"{name}.png"), np.full((6, 9, 3), color, np.uint8))
    return TrackedRun(folder, CONFIG)


def track(name, run, rows=ROWS):
    """What a training does with a tracker."""
    (tracker,) = opening.open_trackers([name], run)
    log = RunLog(run.folder, step=99, evaluated_step=99, tensorboard=False, trackers=[tracker])
    for row in rows:
        log.row(*row)
    log.close()
    track_samples([tracker], run.folder, 4, [name])
    tracker.close()


@pytest.mark.slow
@needs("mlflow")
def test_mlflow_in_a_local_database(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    track("mlflow", run)
    assert "continues without it" not in capsys.readouterr().out
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("mobilenet-dense")
    (record,) = client.search_runs([experiment.experiment_id])
    assert record.info.run_name == "streets/run_1"
    assert record.info.status == "FINISHED"
    assert record.data.params == {
        "seed": "3", "trainer.batch": "4", "trainer.steps": "None", "data.size": "[64, 128]"
    }  # fmt: skip
    found = {name: client.get_metric_history(record.info.run_id, name) for name in record.data.metrics}
    assert {name: [(m.step, m.value) for m in history] for name, history in found.items()} == {
        name: [number] for name, number in NUMBERS.items()
    }
    files = [item.path for item in client.list_artifacts(record.info.run_id, "samples")]
    assert files == ["samples/0_street.png", "samples/1_café.png"]
    assert "config.yaml" in [item.path for item in client.list_artifacts(record.info.run_id)]

    # A resumed run continues the same record.
    track("mlflow", TrackedRun(run.folder, CONFIG), rows=[(5, "train", {"loss": 1.5})])
    (record,) = client.search_runs([experiment.experiment_id])
    losses = client.get_metric_history(record.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in losses] == [(1, 2.5), (5, 1.5)]


@pytest.mark.slow
@needs("trackio")
def test_trackio_in_a_local_folder(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    track("trackio", run)
    track("trackio", TrackedRun(run.folder, CONFIG), rows=[(5, "train", {"loss": 1.5})])
    assert "continues without it" not in capsys.readouterr().out
    from trackio import Api

    (record,) = Api().runs("mobilenet-dense")
    assert record.name == f"streets/run_1-{run.id}"
    assert flat(CONFIG).items() <= record.config.items()
    from trackio.sqlite_storage import SQLiteStorage

    logs = SQLiteStorage.get_logs("mobilenet-dense", record.name)
    for name, number in NUMBERS.items():
        assert next((log["step"], log[name]) for log in logs if name in log) == number
    assert [(log["step"], log["train/loss"]) for log in logs if "train/loss" in log] == [(1, 2.5), (5, 1.5)]
    assert len(list((tmp_path / "trackio").rglob("*.png"))) >= 2


@pytest.mark.slow
@needs("wandb")
def test_wandb_offline(run, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    track("wandb", run)
    track("wandb", TrackedRun(run.folder, CONFIG), rows=[(5, "train", {"loss": 1.5})])
    assert "continues without it" not in capsys.readouterr().out
    parts = sorted((run.folder.path / "wandb").glob(f"offline-run-*-{run.id}"))
    assert len(parts) == 2  # of one run: `wandb sync` joins them
    records = [record for part in parts for record in wandb_records(next(part.glob("*.wandb")))]
    history = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    for name, number in NUMBERS.items():
        assert next((row["step"], row[name]) for row in history if name in row) == number
    assert [(row["step"], row["train/loss"]) for row in history if "train/loss" in row] == [
        (1, 2.5),
        (5, 1.5),
    ]
    names = {record.run.run_id for record in records if record.WhichOneof("record_type") == "run"}
    assert names == {run.id}
    assert len(list(parts[0].rglob("*.png"))) == 2
    saved = [record.run.config.update for record in records if record.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in saved[0] if item.key}
    assert config["trainer"] == {"batch": 4, "steps": None}
    assert config["data"] == {"size": [64, 128]}


def wandb_records(path):
    """The records of an offline run's file, in the log format of LevelDB."""
    from wandb.proto import wandb_internal_pb2

    content, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:  # a header does not cross the end of a block
            position += 32768 - position % 32768
        length, kind = struct.unpack_from("<HB", content, position + 4)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def test_tensorboard_shows_the_configuration_and_the_images(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(run.folder)
    for row in ROWS:
        log.row(*row)
    log.close()
    track_samples([], run.folder, 4, ["tensorboard"])
    events = EventAccumulator(str(run.folder.path / "tensorboard")).Reload()
    shown = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert shown == {name: [(step, pytest.approx(value))] for name, (step, value) in NUMBERS.items()}
    assert sorted(events.Tags()["images"]) == ["samples/0_street", "samples/1_café"]
    (image,) = events.Images("samples/0_street")
    assert (image.step, image.height, image.width) == (4, 6, 9)
    (text,) = events.Tensors("config/text_summary")
    assert b"batch: 4" in text.tensor_proto.string_val[0]


class Broken:
    """A tracker whose network fails at the call number `at`."""

    def __init__(self, at):
        self.at, self.calls = at, []

    def __call__(self, run):
        self._call("open")
        return self

    def _call(self, name):
        self.calls.append(name)
        if len(self.calls) == self.at:
            raise ConnectionError("no route to host\nstack trace")

    def row(self, row):
        self._call("row")

    def images(self, step, paths):
        self._call("images")

    def close(self):
        self._call("close")


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_a_tracker_that_fails_is_left_out_with_one_line(run, capsys, at):
    broken = Broken(at)
    tracker = Guarded("wandb", broken, run)
    for step in (1, 2):
        tracker.row({"step": step, "kind": "train"})
    tracker.images(2, [])
    tracker.close()
    assert broken.calls == ["open", "row", "row", "images", "close"][:at]
    line = "trainer.tracker=wandb: ConnectionError (no route to host); training continues without it\n"
    assert capsys.readouterr().out == line


def test_a_tracker_without_its_package_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: None)
    refuses(lambda: check_installed(["wandb"]), "trainer.tracker=wandb", r"pip install -e '\.\[wandb\]'")
    monkeypatch.undo()
    (tmp_path / "nowhere_tracker").mkdir()  # such as wandb/, which offline runs leave behind
    monkeypatch.syspath_prepend(tmp_path)
    refuses(lambda: check_installed(["nowhere_tracker"]), "not installed")
    check_installed(["json"])


def test_the_names_of_trackers():
    def names(**options):
        return TrainerOptions(steps=1, **options).trackers

    assert names() == ["tensorboard"]
    assert names(tensorboard=False) == []
    assert names(tracker="wandb") == ["tensorboard", "wandb"]
    assert names(tracker=["tensorboard", "mlflow"], tensorboard=False) == ["tensorboard", "mlflow"]
    assert names(tracker="tensorboard") == ["tensorboard"]


def test_what_is_recorded(run):
    row = {"step": 2, "kind": "eval", "time": 5.0, "miou": 0.5, "protocol": "x", "iou/a": None, "big": 1e301}
    assert scalars(row) == {"eval/miou": 0.5}
    assert caption(run.folder.path / "a(b)/c?d.png") == "c_d"
    assert run.name == "streets/run_1"
    same = TrackedRun(run.folder, CONFIG)
    assert same.id == run.id
    assert os.path.getsize(run.folder.path / "tracker.json") > 0
