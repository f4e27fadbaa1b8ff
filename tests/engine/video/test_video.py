"""Damaged videos, live streams, and how they end."""

import contextlib
import functools
import json
import os
import signal
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from engine import prediction
from engine.data import media
from engine.errors import UserError
from engine.prediction import predict_files, predict_live
from engine.video import stream
from tests.engine.video import files

CODECS = {
    "mp4": "mp4v",
    "avi": "MJPG",
    "mkv": "mp4v",
    "wmv": "WMV2",
    "mpg": "MPG1",
    "ts": "MPG2",
    "flv": "FLV1",
}


def write_video(path, count=60, size=(96, 128)):
    """Noise that moves, so that every frame has several kB."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODECS[path.suffix[1:]]), 25, size[::-1])
    assert writer.isOpened()
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    for number in range(count):
        writer.write(np.roll(noise, 5 * number, axis=1))
    writer.release()
    return path


class Task:
    def predict_image(self, frame):
        return int(frame[0, 0, 0])


class SlowTask(Task):
    def __init__(self, seconds=0.05):
        self.seconds = seconds

    def predict_image(self, frame):
        time.sleep(self.seconds)
        return super().predict_image(frame)


class Reporter:
    def draw(self, image, value, *, legend=True, all_classes=False):
        return image

    def save_prediction(self, value, out, name):
        return {"value": value}


def frames_in(path):
    return sum(1 for _ in files.read_frames(path))


@pytest.mark.parametrize("kind", CODECS)
def test_whole_videos_of_all_kinds_are_read(tmp_path, kind):
    path = write_video(tmp_path / f"a.{kind}")
    assert media.find_media(str(tmp_path)) == [path]
    result = predict_files(Task(), Reporter(), [path], tmp_path / "out")
    assert result.failures == []
    (record,) = result.records
    assert record["frames"] == len(record["predictions"]) == 60
    assert "expected_frames" not in record
    assert frames_in(tmp_path / "out" / "overlays" / "a.mp4") == 60


@pytest.mark.parametrize("kind", ["avi", "mkv"])
def test_a_video_that_ends_early_is_reported_and_its_frames_are_kept(tmp_path, kind, capsys):
    path = write_video(tmp_path / f"a.{kind}")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    result = predict_files(Task(), Reporter(), [path], tmp_path / "out")
    (record,), (failure,) = result.records, result.failures
    assert 15 < record["frames"] < 45
    assert record["expected_frames"] == 60
    assert f"60 frames expected, {record['frames']} decoded" in failure["error"]
    assert f"incomplete: {path}: damaged: " in capsys.readouterr().out
    assert result.status == 1
    assert result.lines(1) == ["0 of 1 files predicted"]
    assert frames_in(tmp_path / "out" / "overlays" / "a.mp4") == record["frames"]


def test_a_wmv_file_that_ends_early_is_reported_by_its_size(tmp_path):
    path = write_video(tmp_path / "a.wmv")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    result = predict_files(Task(), Reporter(), [path], tmp_path / "out")
    (record,), (failure,) = result.records, result.failures
    assert 15 < record["frames"] < 45
    assert (
        f"damaged: only {len(data) // 2} of {len(data)} bytes, {record['frames']} frames" in failure["error"]
    )
    assert record["expected_frames"] is None
    assert result.status == 1


def test_damage_in_the_middle_of_an_mp4_is_reported(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    path.write_bytes(data)
    (failure,) = predict_files(Task(), Reporter(), [path], tmp_path / "out").failures
    assert "60 frames expected, " in failure["error"]


def test_a_limit_on_the_frames_is_no_damage(tmp_path):
    path = write_video(tmp_path / "a.avi")
    result = predict_files(Task(), Reporter(), [path], tmp_path / "out", frames=7)
    assert result.failures == []
    assert result.records[0]["frames"] == frames_in(tmp_path / "out" / "overlays" / "a.mp4") == 7


@pytest.fixture
def address(tmp_path):
    """Of a server for the files in `tmp_path`."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_video_file_behind_an_address(tmp_path, address):
    write_video(tmp_path / "drive.avi")
    assert stream.is_stream(f"{address}/drive.avi")
    result = predict_live(
        Task(), Reporter(), f"{address}/drive.avi", tmp_path / "out", legend=True, frames=None
    )
    (record,) = result.records
    assert (record["file"], record["frames"]) == (f"{address}/drive.avi", 60)
    assert result.status == 0
    assert frames_in(tmp_path / "out" / "overlays" / "drive.mp4") == 60


@pytest.mark.parametrize("source", ["77", "{address}/nothing.mp4", "rtsp://user:secret@127.0.0.1:9/live"])
def test_a_source_that_cannot_be_opened_is_one_line_without_its_password(tmp_path, address, source, capfd):
    source = source.format(address=address)
    reason = "the server answers 404 .*; check" if source.endswith("mp4") else "check"
    with pytest.raises(UserError, match=rf"^input=[^\n]*: cannot be opened; {reason} ") as caught:
        predict_live(Task(), Reporter(), source, tmp_path / "out", legend=True, frames=None)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["ts", "mpg", "wmv"])
def test_all_frames_of_a_file_behind_an_address_are_read_also_if_their_number_is_unknown(
    tmp_path, address, kind
):
    write_video(tmp_path / f"drive.{kind}")
    source = f"{address}/drive.{kind}"
    result = predict_live(SlowTask(0.01), Reporter(), source, tmp_path / "out", legend=True, frames=None)
    assert result.records[0]["frames"] == 60
    assert "dropped_frames" not in result.records[0]


@pytest.fixture
def cutting_address(tmp_path):
    """Of a server that ends each connection after half of the file."""

    class Cutting(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def copyfile(self, source, outputfile):
            data = source.read()
            with contextlib.suppress(OSError):
                outputfile.write(data[: len(data) // 2])
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Cutting, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kind", ["avi", "mkv", "flv"])
@pytest.mark.parametrize("query", ["", "?token=1"])
def test_a_connection_that_ends_early_is_reported(tmp_path, cutting_address, kind, query, capsys):
    write_video(tmp_path / f"drive.{kind}")
    source = f"{cutting_address}/drive.{kind}{query}"
    result = predict_live(Task(), Reporter(), source, tmp_path / "out", legend=True, frames=None)
    (record,), (failure,) = result.records, result.failures
    about = "" if kind == "avi" else "about "
    assert (
        f": damaged or cut off: {about}60 frames expected, {record['frames']} decoded; " in failure["error"]
    )
    assert failure["error"].endswith(
        "the readable part is kept; try again, or download the file and restore or convert it"
    )
    assert 15 < record["frames"] < 45
    assert result.status == 1
    assert "token" not in failure["error"]


@pytest.mark.parametrize("served", ["address", "cutting_address"])
def test_an_mp4_without_its_end_behind_an_address_is_no_wrong_address(tmp_path, served, request):
    path = write_video(tmp_path / "drive.mp4")
    if served == "address":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = f"{request.getfixturevalue(served)}/drive.mp4"
    with pytest.raises(UserError, match="the server answers, but its file cannot be read as a video"):
        predict_live(Task(), Reporter(), source, tmp_path / "out", legend=True, frames=None)


class Camera:
    """An endless source of 100 frames per second, or of `count` frames."""

    def __init__(self, count=10**9):
        self.count, self.read_frames = count, 0

    def isOpened(self):
        return True

    def get(self, key):
        return {cv2.CAP_PROP_FPS: 25.0}.get(key, 0.0)

    def read(self):
        time.sleep(0.01)
        self.read_frames += 1
        return self.read_frames <= self.count, np.full((48, 64, 3), self.read_frames % 250, np.uint8)

    def release(self):
        pass


def test_a_camera_is_read_until_its_limit_and_late_frames_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_open", lambda text: Camera())
    result = predict_live(SlowTask(), Reporter(), "0", tmp_path, legend=True, frames=6)
    (record,) = result.records
    assert (record["file"], record["frames"]) == ("camera 0", 6)
    assert record["dropped_frames"] > 10  # about 5 arrive per prediction
    rows = [json.loads(line) for line in (tmp_path / "frames" / "camera_0.jsonl").read_text().splitlines()]
    values = [row["value"] for row in rows]
    assert len(values) == 6
    assert values == sorted(set(values))
    assert f"{record['dropped_frames']} dropped" in result.lines(0)[0]


def test_a_video_of_a_camera_plays_as_long_as_it_was_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_open", lambda text: Camera(count=60))  # 0.6 s: 15 frames at 25 per second
    predict_live(SlowTask(), Reporter(), "0", tmp_path, legend=True, frames=None)
    assert 12 <= frames_in(tmp_path / "overlays" / "camera_0.mp4") <= 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_stream_with_a_summary_and_a_playable_video(tmp_path, monkeypatch, number):
    monkeypatch.setattr(stream, "_open", lambda text: Camera())
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    result = predict_live(SlowTask(), Reporter(), "0", tmp_path, legend=True, frames=None)
    (record,) = result.records
    assert result.status == 0
    assert 2 < record["frames"] < 30
    assert frames_in(tmp_path / "overlays" / "camera_0.mp4") >= record["frames"]
    assert not any(thread.name == "reader" for thread in threading.enumerate())


def test_ctrl_c_in_a_video_file_keeps_what_is_written(tmp_path):
    path = write_video(tmp_path / "a.avi")
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    result = predict_files(SlowTask(), Reporter(), [path, path], tmp_path / "out")
    (record,) = result.records
    assert result.interrupted
    assert result.status == 130
    assert 0 < record["frames"] < 60
    assert frames_in(tmp_path / "out" / "overlays" / "00000_a.avi.mp4") == record["frames"]


def test_a_stream_without_frames_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_open", lambda text: Camera(count=0))
    with pytest.raises(UserError, match="camera 0: sends no frames"):
        predict_live(Task(), Reporter(), "0", tmp_path, legend=True, frames=None)


def test_names_of_streams():
    names = ["0", "rtsp://a:b@10.0.0.7:554/cam/main?x=1", "http://host/drive.mp4", "udp://239.0.0.1:1234"]
    found = [stream.output_name(name) for name in names]
    assert found == ["camera_0", "main", "drive", "239.0.0.1_1234"]
    assert not stream.is_stream("photos/0")
    assert prediction.output_name("http://host/") == "host"


def test_a_file_called_0_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "0").touch()
    monkeypatch.chdir(tmp_path)
    assert not stream.is_stream("0")
    assert stream.is_stream("1")


def test_results_are_not_mixed_with_earlier_ones(tmp_path):
    with prediction.claim_results(tmp_path / "new", renames=False) as out:
        (out / "overlays").mkdir()
    with pytest.raises(
        UserError, match=r"out=.*new: contains earlier predictions \(overlays\); choose another"
    ):
        prediction.claim_results(tmp_path / "new", renames=False)
    with prediction.claim_results(tmp_path / "new", renames=True) as out:
        assert out.name == "new_2"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with prediction.claim_results(tmp_path / "other", renames=False) as out:
        assert out == tmp_path / "other"


@pytest.mark.parametrize(
    ("address", "printed"),
    [
        ("rtsp://admin:a/b@c@10.0.0.7:554/live", "rtsp://10.0.0.7:554/live"),
        ("http://host/a.mp4?token=secret", "http://host/a.mp4?..."),
        ("0", "0"),
    ],
)
def test_passwords_and_tokens_are_not_printed(address, printed):
    assert stream.without_password(address) == printed
