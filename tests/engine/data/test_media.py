"""The input of `predict`: files, folders, globs, videos."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.data import media
from engine.errors import UserError
from tests.engine.video import files


def write_video(path, size, count=3, rate=12.5):
    """`size` is (height, width)."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, size[::-1])
    for number in range(count):
        writer.write(np.full((*size, 3), 60 * number + 40, np.uint8))
    writer.release()


def test_find_media_accepts_files_folders_and_globs(tmp_path, monkeypatch):
    for name in ("b.PNG", "a [1].jpg", "notes.txt", "c.MP4", ".hidden.png", "._c.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "sub.png").mkdir()
    monkeypatch.chdir(tmp_path)
    assert media.find_media("a [1].jpg") == [Path("a [1].jpg")]  # an existing file, not a pattern
    assert [path.name for path in media.find_media(str(tmp_path))] == ["a [1].jpg", "b.PNG", "c.MP4"]
    for nothing in ("*.tif", "none.png"):
        with pytest.raises(UserError, match=r"no image or video found"):
            media.find_media(nothing)


def test_earlier_predictions_in_a_folder_are_left_out(tmp_path):
    for name in ("a.png", "seen/summary.json", "seen/overlays/a.png", "b/summary.json", "b/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    said = []
    found = media.find_media(str(tmp_path), say=said.append)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.png", "b/c.png"]
    assert "2 paths left out: b/summary.json, seen/ (earlier predictions)" in said[0]
    inside = media.find_media(str(tmp_path / "seen"), say=said.append)  # given itself, it is read
    assert [path.name for path in inside] == ["a.png"]


def test_output_names_are_unique():
    files = [Path(p) for p in ("x/a.png", "x/a.jpg", "x/b.png", "y/a.png", "y/c.png")]
    names = media.output_names(files)
    assert names == ["x/a.png", "x/a.jpg", "x/b", "y/a", "y/c"]
    assert media.output_names([Path("x/a.png"), Path("x/b.mp4")]) == ["a", "b"]
    assert media.output_names([Path("x/a.png"), Path("x/a.png")]) == ["00000_a.png", "00001_a.png"]


@pytest.mark.parametrize("legend", [4, 5])
def test_map_video_keeps_frame_rate_length_and_all_pixels(tmp_path, legend):
    """The format requires even sides; without padding, OpenCV crops the last row and column of odd images."""
    write_video(tmp_path / "in.avi", (38, 42))
    counted = []

    def draw(frame):
        assert frame.shape == (38, 42, 3)
        return np.pad(frame, ((0, legend), (0, legend), (0, 0)), mode="edge")

    assert files.map_video(tmp_path / "in.avi", tmp_path / "new" / "out.mp4", draw, counted.append) == 3
    assert counted == [1, 2, 3]
    written = list(files.read_frames(tmp_path / "new" / "out.mp4"))
    assert written[0].shape == (38 + legend + legend % 2, 42 + legend + legend % 2, 3)
    assert [round(float(frame[-1, -1].mean()) / 10) for frame in written] == [4, 10, 16]
    capture = cv2.VideoCapture(str(tmp_path / "new" / "out.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    capture.release()


def test_the_error_for_an_unreadable_video_suggests_a_remedy(tmp_path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(
        UserError,
        match=r"empty\.mp4: cannot be read as a video; restore it if it is incomplete .*, or convert it",
    ):
        list(files.read_frames(tmp_path / "empty.mp4"))
    assert files.num_frames(tmp_path / "empty.mp4") == 0


def test_an_address_that_is_not_read_is_named_without_its_password():
    with pytest.raises(UserError) as caught:
        media.find_media("ftp://me:secret@host/drive.mp4")
    assert str(caught.value) == (
        "input=ftp://...: not a supported kind of address (rtsp, rtmp, http, udp, tcp, srt or mms); download "
        "the file and pass its path"
    )
