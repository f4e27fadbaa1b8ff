"""Files are predicted one by one; one that fails does not end the others."""

import json
import time

import cv2
import numpy as np
import pytest
import torch

from engine import prediction
from engine.data.images import read_image, write_png
from engine.errors import UserError, out_of_memory
from engine.io import progress
from engine.prediction import SavedPredictions, predict_files
from engine.runtime import Runtime
from tests.refusals import refuses


class Reporter:
    def draw(self, image, value, *, legend=True, all_classes=False):
        return image

    def save_prediction(self, value, out, name):
        return {"value": value}


def photos(folder, count=3):
    for number in range(count):
        write_png(folder / f"{number}.png", np.full((4, 6, 3), number, np.uint8))
    return sorted(folder.glob("*.png"))


TORCH = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((1000, 1000), np.dtype(np.uint8)),
        RuntimeError(TORCH),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        cv2.error("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 7 bytes"),
        RuntimeError("bad allocation: std::bad_alloc"),
    ],
)
def test_out_of_memory_at_the_second_of_three_files(tmp_path, capsys, error):
    class Task:
        memory_remedy = "use smaller windows"

        def predict_image(self, image):
            if image.max() == 1:
                raise error
            return int(image.max())

    assert out_of_memory(error)
    files = photos(tmp_path)
    result = predict_files(Task(), Reporter(), files, tmp_path / "out")
    assert [record["value"] for record in result.records] == [0, 2]
    assert (result.status, result.lines(3)) == (1, ["2 of 3 files predicted"])
    (failure,) = result.failures
    assert failure["file"] == str(files[1])
    assert failure["error"] == f"{files[1]}: not enough memory to predict it; use smaller windows"
    assert f"skipped: {failure['error']}" in capsys.readouterr().out.splitlines()


def test_a_file_is_named_whatever_its_error_says(tmp_path):
    """An exported file refuses a size without knowing the file of the image."""

    class Task:
        def predict_image(self, image):
            raise UserError("the network takes 3x8x8" if image.max() else f"{files[0]}: odd")

    files = photos(tmp_path, 2)
    errors = [entry["error"] for entry in predict_files(Task(), Reporter(), files, tmp_path / "out").failures]
    assert errors == [f"{files[0]}: odd", f"{files[1]}: the network takes 3x8x8"]


def test_other_errors_are_not_hidden(tmp_path):
    class Task:
        def predict_image(self, image):
            raise RuntimeError("shapes differ")

    assert not out_of_memory(UserError("not enough memory in this file name"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        predict_files(Task(), Reporter(), photos(tmp_path, 1), tmp_path / "out")


def test_large_drawings_are_written_in_parts(tmp_path, monkeypatch):
    class Stacked(Reporter):
        def draw_onto(self, image, value, *, legend=True, all_classes=False):
            return [image, np.full((2, image.shape[1], 3), 200, np.uint8)] if legend else [image]

    class Task:
        def predict_image(self, image):
            return 0

    (file,) = photos(tmp_path, 1)
    for at_once in (1 << 24, 3):
        monkeypatch.setattr(prediction, "_ENCODED_AT_ONCE", at_once)
        predict_files(Task(), Stacked(), [file], tmp_path / f"out{at_once}")
        drawn = read_image(tmp_path / f"out{at_once}" / "overlays" / "0.png")
        assert drawn[:, 0, 0].tolist() == [0, 0, 0, 0, 200, 200]


def test_predictions_of_two_evaluations_are_not_mixed(tmp_path):
    (tmp_path / "predictions").mkdir()
    SavedPredictions(None, tmp_path / "predictions")
    (tmp_path / "predictions" / "summary.json").write_text("{}")
    refuses(lambda: SavedPredictions(None, tmp_path / "predictions"), "predictions: contains earlier", "out=")


def test_images_whose_names_differ_only_in_a_slash_do_not_overwrite_each_other(tmp_path):
    class Dataset:
        name = staticmethod(["a/x", "b", "a_x"].__getitem__)

        def __len__(self):
            return 3

    class Saves(Reporter):
        def per_image(self, outputs):
            return outputs

        def save_prediction(self, value, out, name):
            write_png(out / f"{name}.png", np.full((2, 2), value, np.uint8))
            return {"mask": f"{name}.png"}

    saved = SavedPredictions(Saves(), tmp_path / "out")
    saved.add(Dataset(), {"index": torch.tensor([2, 0])}, [12, 10])
    saved.add(Dataset(), {"index": torch.tensor([1])}, [11])
    saved.write_summary(Runtime(torch.device("cpu")))
    found = json.loads((tmp_path / "out/summary.json").read_text())["images"]
    files = {"a/x": "a_x.png", "a_x": "a_x_2.png", "b": "b.png"}
    assert {entry["image"]: entry["mask"] for entry in found} == files
    values = {name: int(read_image(tmp_path / "out" / file)[0, 0, 0]) for name, file in files.items()}
    assert values == {"a/x": 10, "a_x": 12, "b": 11}


def test_a_file_that_takes_long_is_announced(tmp_path, capsys, monkeypatch):
    """Reading, predicting and saving a large image take many seconds each."""
    monkeypatch.setattr(progress, "PATIENCE_S", 0.05)
    monkeypatch.setattr(progress, "_BESIDE_S", 0.0)  # earlier tests showed progress

    def slow(value):
        time.sleep(0.3)
        return value

    class Task:
        def predict_image(self, image):
            return slow(0)

    class SlowReporter(Reporter):
        def save_prediction(self, value, out, name):
            return slow({"value": value})

    (file,) = photos(tmp_path, 1)
    predict_files(Task(), SlowReporter(), [file], tmp_path / "out", read=lambda path: slow(read_image(path)))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ... ")[0] for line in lines if " ... " in line] == [
        "reading 0.png",
        "predicting 0.png",
        "saving 0",
    ]


def test_a_number_of_frames_without_a_video_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^frames: there is no video in input=; leave it out$"):
        predict_files(None, None, photos(tmp_path, 1), tmp_path / "out", frames=3)
