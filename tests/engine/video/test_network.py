"""Network streams: servers that end, fall silent, refuse, or send half of a file."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from engine.errors import UserError
from engine.prediction import predict_live
from engine.video import stream
from tests.engine.video import http_server, rtsp_server
from tests.engine.video.files import read_frames
from tests.engine.video.test_video import Reporter, SlowTask, Task, write_video


@pytest.fixture
def impatient(monkeypatch):
    """A source that sends nothing for 1.5 seconds is given up."""
    monkeypatch.setattr(stream, "_TIMEOUT_MS", 1500)


def predict(address, out, task=None, frames=None):
    return predict_live(task or Task(), Reporter(), address, out, legend=True, frames=frames)


def test_an_rtsp_stream_is_predicted_until_the_server_ends_it(tmp_path, capsys):
    with rtsp_server.served(frames=50) as address:
        result = predict(address, tmp_path)
    (record,) = result.records
    values = [json.loads(line)["value"] for line in (tmp_path / "frames/live.jsonl").read_text().splitlines()]
    assert record["frames"] + record["dropped_frames"] == 50
    assert len(values) == record["frames"] > 3
    assert values == sorted(values)
    assert values[-1] == pytest.approx(196, abs=2)  # the last frame, 4 times its number
    assert (record["ended_by"], result.status) == ("source", 0)
    assert result.lines(0)[0].endswith(", until the source ended")
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [f"opening {address}", f"predicting {address} until it ends or Ctrl-C"]


def test_a_recording_of_an_rtsp_server_is_a_stream(tmp_path):
    """It arrives in real time, however long it says it is: a slow prediction drops frames."""
    with rtsp_server.served(frames=20, duration=60) as address:
        result = predict(address, tmp_path, SlowTask())
    (record,) = result.records
    assert record["predictions"] == "frames/live.jsonl"
    assert record["dropped_frames"] > 0
    assert (result.status, result.failures) == (0, [])


def test_a_limit_ends_an_rtsp_stream(tmp_path, capsys):
    with rtsp_server.served(frames=200) as address:
        result = predict(address, tmp_path, frames=5)
    (record,) = result.records
    assert (record["frames"], record["ended_by"]) == (5, "limit")
    assert result.lines(0)[0].startswith(f"{address}: 5 frames predicted")
    assert "until the source" not in result.lines(0)[0]
    assert f"predicting {address} until it ends or Ctrl-C, at most 5 frames" in capsys.readouterr().out


def test_a_stream_that_falls_silent_is_given_up_with_its_frames(tmp_path, impatient, capsys):
    with rtsp_server.served(frames=40, then="silent") as address:
        started = time.monotonic()
        result = predict(address, tmp_path)
    assert time.monotonic() - started < 6  # one wait, not one for each frame that the decoder holds back
    (record,), (failure,) = result.records, result.failures
    assert (record["ended_by"], result.status) == ("silence", 1)
    assert failure["error"] == (
        f"{address}: sent nothing for 1.5 s; its {record['frames']} frames are kept; check the source and "
        "the network, and start again"
    )
    assert f"incomplete: {failure['error']}" in capsys.readouterr().out
    assert sum(1 for _ in read_frames(tmp_path / "overlays/live.mp4")) >= record["frames"]


def test_ctrl_c_ends_a_silent_stream_without_waiting_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_LAST_READ_S", 0.1)
    with rtsp_server.served(frames=40, then="silent") as address:
        threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        started = time.monotonic()
        result = predict(address, tmp_path)
    assert time.monotonic() - started < 4
    (record,) = result.records
    assert (record["ended_by"], result.status) == ("signal", 0)


@contextmanager
def silent_port():
    """A port that accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["rtsp", "http", "tcp"])
def test_a_server_that_never_answers_is_given_up(tmp_path, impatient, scheme):
    with silent_port() as port, pytest.raises(UserError) as caught:
        predict(f"{scheme}://me:secret@127.0.0.1:{port}/live", tmp_path)
    assert str(caught.value) == (
        f"input={scheme}://127.0.0.1:{port}/live: no answer within 1.5 s; check the address and the network"
    )


def test_a_server_that_answers_but_sends_nothing(tmp_path, impatient):
    with rtsp_server.served(frames=0, then="silent") as address:
        started = time.monotonic()
        with pytest.raises(UserError, match=f"^{address}: sends no frames; check that it works in another"):
            predict(address, tmp_path)
        assert time.monotonic() - started < 2.5  # opening it is the only wait


def test_a_wrong_path_and_a_refused_port(tmp_path):
    with rtsp_server.served(frames=5) as address:
        wrong = address.replace("/live", "/other")
        with pytest.raises(UserError, match=f"^input={wrong}: cannot be opened; check the address, "):
            predict(wrong, tmp_path)
    with pytest.raises(UserError, match=f"^input={address}: cannot be opened; check the address, "):
        predict(address, tmp_path)


@pytest.mark.parametrize("then", ["close", "silent"])
def test_a_video_over_http_that_stops_in_the_middle(tmp_path, impatient, then):
    path = write_video(tmp_path / "drive.avi")
    with http_server.cut(path, path.stat().st_size // 2, then=then) as address:
        started = time.monotonic()
        result = predict(address, tmp_path / "out")
    assert time.monotonic() - started < 4
    (record,), (failure,) = result.records, result.failures
    assert 20 < record["frames"] < 40
    assert failure["error"] == (
        f"{address}: damaged or cut off: 60 frames expected, {record['frames']} decoded; the readable part "
        "is kept; try again, or download the file and restore or convert it"
    )
    assert result.status == 1


def test_a_video_over_http_that_does_not_count_its_frames(tmp_path):
    """Nothing shows that it is cut off, so the line says what ended it."""
    path = write_video(tmp_path / "drive.ts")
    with http_server.cut(path, path.stat().st_size // 2) as address:
        result = predict(address, tmp_path / "out")
    (record,) = result.records
    assert 5 < record["frames"] < 40
    assert result.lines(0) == [f"{address}: {record['frames']} frames predicted, until the source ended"]
    with http_server.cut(path, path.stat().st_size // 2) as address:
        limited = predict(address, tmp_path / "limited", frames=5)
    assert limited.lines(0) == [f"{address}: 5 frames predicted"]
    path = write_video(tmp_path / "drive.avi")
    with http_server.cut(path, path.stat().st_size) as address:
        counted = predict(address, tmp_path / "counted")
    assert counted.lines(0) == [f"{address}: 60 frames predicted"]


@pytest.mark.parametrize("headers", [(), ("Last-Modified",), ("ETag",)])
def test_a_file_without_a_length_is_not_a_live_stream(tmp_path, headers):
    path = write_video(tmp_path / "drive.ts")
    with http_server.cut(path, path.stat().st_size, headers=headers) as address:
        result = predict(address, tmp_path / "out", SlowTask())
    (record,) = result.records
    assert (record["frames"], record["ended_by"]) == (60, "source")
    assert "dropped_frames" not in record


def test_what_may_be_a_live_stream_says_so(tmp_path, impatient, monkeypatch, capsys):
    """It neither has a length nor ends while it is probed."""
    monkeypatch.setattr(stream, "_PROBE_S", 0.2)
    path = write_video(tmp_path / "drive.ts")
    with http_server.cut(path, path.stat().st_size, then="silent", headers=()) as address:
        (record,) = predict(address, tmp_path / "out").records
    assert record["ended_by"] == "silence"
    assert (
        f"{address}: the server gives no length, so this is read as a live stream, and frames that arrive "
        "during a prediction are dropped; if it is a file, download it to predict all frames\n"
    ) in capsys.readouterr().out


GSTREAMER = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
assert all(Gst.ElementFactory.find(name) for name in ("videotestsrc", "x264enc", "h264parse", "rtph264pay"))
server, factory = GstRtspServer.RTSPServer(address="127.0.0.1", service="0"), GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=180,framerate=25/1 ! x264enc "
    "tune=zerolatency speed-preset=ultrafast key-int-max=25 ! h264parse ! rtph264pay name=pay0 pt=96 )"
)
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


@pytest.fixture
def gstreamer():
    """A process of GStreamer's RTSP server, which needs the system's Python, and its address."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no /usr/bin/python3")
    process = subprocess.Popen([python, "-c", GSTREAMER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    port = process.stdout.readline().decode().strip()
    if not port:
        process.wait()
        pytest.skip(
            "needs gir1.2-gst-rtsp-server-1.0, python3-gi and gstreamer1.0-plugins-{base,good,bad,ugly}"
        )
    yield process, f"rtsp://127.0.0.1:{port}/live"
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "ended_by", "status"), [(signal.SIGKILL, "source", 0), (signal.SIGSTOP, "silence", 1)]
)
def test_h264_of_gstreamers_server(tmp_path, gstreamer, impatient, number, ended_by, status):
    process, address = gstreamer
    threading.Timer(5.0, process.send_signal, (number,)).start()
    started = time.monotonic()
    result = predict(address, tmp_path, BallTask())
    assert time.monotonic() - started < 12
    (record,) = result.records
    assert (record["ended_by"], result.status) == (ended_by, status)
    values = [json.loads(line)["value"] for line in (tmp_path / "frames/live.jsonl").read_text().splitlines()]
    assert len(values) == record["frames"] > 20
    assert 200 < np.mean(values) < 4000  # a white ball on black, 320 x 180
    with pytest.raises(UserError, match=r"cannot be opened|no answer"):
        predict(address.replace("live", "other"), tmp_path)


class BallTask(Task):
    def predict_image(self, frame):
        return int((frame > 128).all(-1).sum())
