"""The kit's run.py in odd situations, with a runtime that answers with the mean colors of the image.

What it predicts is tested in tests/docs/test_use_exported_files.py.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.tools.commands import ROOT

RUNTIME = """
import numpy as np

def load(path, *, threads):
    path.read_bytes()
    if {seg}:
        return lambda images: [np.eye(3, dtype=np.float32)[images.argmax(1)].transpose(0, 3, 1, 2)]
    return lambda images: [images.mean((2, 3)) / 50]
"""
CLASSES = [{"id": 3, "name": "röd", "color": [200, 0, 0]}, {"id": 5, "name": "green", "color": [0, 200, 0]},
           {"id": 7, "name": "blue", "color": [0, 0, 200]}]  # fmt: skip


def kit(folder, task="cls", runtime=RUNTIME):
    device = ROOT / "deploy/device"
    folder.mkdir()
    for file in (device / "run.py", device / "image.py", ROOT / task / "decode.py"):
        shutil.copyfile(file, folder / file.name)
    (folder / "runtime.py").write_text(runtime.format(seg=task == "seg"))
    (folder / "model.made_up").write_bytes(b"")
    about = {
        "file": "model.made_up",
        "task": task,
        "output": "logits",
        "outputs": ["logits"],
        "classes": {"classes": CLASSES},
        "input": {"shape": [1, 3, 8, 8], "dtype": "uint8"},
        "preprocessing": {
            "upright": True,
            "pixel_range": None,
            "in_graph": True,
            "resize": {"mode": "to_size", "size": [8, 8]},
        },
        "decoding": {"align_corners": False},
    }
    (folder / "preprocess.json").write_text(json.dumps(about))
    return folder


def image(path, color):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((10, 12, 3), color, np.uint8)).save(path)
    return path.name


def start(folder, *words, **variables):
    command = [sys.executable, str(folder / "run.py"), *map(str, words)]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done


def enormous(path):
    """A PNG file whose header states 30000 x 30000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT")
    return path.name


def test_an_image_that_cannot_be_read_does_not_stop_the_others(tmp_path):
    place = kit(tmp_path / "kit")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    images = [image(tmp_path / "a.png", [100, 0, 0]), "cut.png", "none.jpg", enormous(tmp_path / "huge.png")]
    images += ["kit", image(tmp_path / "b.png", [0, 0, 100])]
    done = start(place, *images, "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    best = [(each["file"], each["classes"][0]["id"]) for each in result["files"]]
    assert best == [("a.png", 3), ("b.png", 7)]
    probability = np.exp(2) / (np.exp(2) + 2)
    assert result["files"][0]["classes"][0]["probability"] == pytest.approx(probability, abs=1e-6)
    assert [each["file"] for each in result["failed"]] == images[1:5]
    errors = [each["error"] for each in result["failed"]]
    assert done.stderr.splitlines() == errors
    assert all(name in error for name, error in zip(images[1:5], errors, strict=True))
    assert "cannot be read" in errors[2]
    assert "is a folder; pass its images" in errors[3]
    done = start(place, *images)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 4)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["a.png:"] * 3 + ["b.png:"] * 3


def test_names_of_classes_are_printed_on_any_console(tmp_path):
    done = start(kit(tmp_path / "kit"), image(tmp_path / "a.png", [100, 0, 0]), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout.split()[0]) == (0, "r\\xf6d")


def test_two_images_do_not_get_the_same_label_map(tmp_path):
    place = kit(tmp_path / "kit", "seg")
    images = [image(tmp_path / "a/x.png", [100, 0, 0]), image(tmp_path / "b/x.bmp", [0, 100, 0])]
    assert images == ["x.png", "x.bmp"]
    done = start(place, "a/x.png", "b/x.bmp", "--out", "masks")
    assert (done.returncode, (tmp_path / "masks").exists()) == (2, False)
    assert "a/x.png and b/x.bmp would both become x.png" in done.stderr
    done = start(place, "a/x.png", "./a/x.png", "--out", "masks")  # the same image
    assert (done.returncode, done.stderr) == (0, "")
    mask = np.asarray(Image.open(tmp_path / "masks/x.png"))
    assert (mask.shape, np.unique(mask).tolist()) == ((10, 12), [3])


def test_options_that_cannot_work_are_refused_before_anything_is_predicted(tmp_path):
    place, name = kit(tmp_path / "kit"), image(tmp_path / "a.png", [1, 2, 3])
    for words, message in (
        (["--out", "masks"], "--out is for label maps"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
    ):
        done = start(place, name, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
    done = start(kit(tmp_path / "seg", "seg"), name, "--out", "a.png")
    assert done.returncode == 2
    assert "--out a.png: cannot be created (File exists)" in done.stderr


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("preprocess.json", "preprocess.json: cannot be read"),
        ("model.made_up", "model.made_up: cannot be loaded ([Errno 2] No such file"),
        ("image.py", "requirements.txt"),
    ],
)
def test_a_kit_that_was_copied_in_part_is_named_in_one_line(tmp_path, missing, message):
    place = kit(tmp_path / "kit")
    (place / missing).unlink()
    done = start(place, image(tmp_path / "a.png", [1, 2, 3]))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert message in done.stderr


def test_a_runtime_that_is_not_installed_is_named_with_the_command(tmp_path):
    place = kit(tmp_path / "kit", runtime="import no_such_runtime")
    done = start(place, image(tmp_path / "a.png", [1, 2, 3]))
    line = f"No module named 'no_such_runtime'; run: pip install -r {place}/requirements.txt\n"
    assert (done.returncode, done.stderr) == (1, line)


def test_golden_images_that_are_missing_are_named(tmp_path):
    done = start(kit(tmp_path / "kit"), "--check")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "golden/expected.json" in done.stderr
