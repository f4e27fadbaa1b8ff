"""Charts are written as PNG files."""

import numpy as np
import pytest
from PIL import Image

from engine.data.class_map import ClassMap
from engine.plots import save_confusion_matrix, save_curves

CLASSES = ClassMap(names=tuple(f"class {number}" for number in range(19)))


@pytest.mark.parametrize("extra", [0, 1])
def test_a_confusion_matrix_is_drawn(tmp_path, extra):
    matrix = np.eye(19, 19 + extra, dtype=np.int64) * 90
    matrix[0, -1] = 10
    matrix[3] = 0  # a class without labels
    save_confusion_matrix(matrix, CLASSES, tmp_path / "new" / "confusion.png", of="pixels")
    with Image.open(tmp_path / "new" / "confusion.png") as chart:
        assert min(chart.size) > 900
        assert len(set(chart.convert("RGB").get_flattened_data())) > 20
    with pytest.raises(ValueError, match="matrix must be"):
        save_confusion_matrix(matrix[:5], CLASSES, tmp_path / "a.png", of="pixels")


def test_curves_are_drawn(tmp_path):
    rows = [{"step": s, "kind": "train", "loss": 1 / s} for s in (1, 2, 3)]
    save_curves(
        [*rows, {"step": 3, "kind": "eval", "miou": 0.5}, {"step": 3, "kind": "eval", "miou": None}],
        "miou",
        tmp_path / "c.png",
    )
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_curves_are_in_percent_as_in_the_report(tmp_path, monkeypatch):
    texts = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.annotate", lambda axis, text, point, **_: texts.append((text, point))
    )
    scores = [{"step": s, "kind": "eval", "miou": score} for s, score in ((1, 0.5), (2, 0.7), (3, 0.625))]
    save_curves(scores, "miou", tmp_path / "c.png")
    assert texts == [("best 70.0%", (2, 70.0)), ("last 62.5%", (3, 62.5))]
