"""The built-in street scenes as detection data."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from det.data.streets import streets
from det.transforms import EvalTransform
from engine.errors import UserError


def test_streets_have_the_boxes_of_their_instances(tmp_path):
    options = {"num_train": 4, "num_val": 2, "num_test": 0, "size": (64, 128), "seed": 3}
    data = streets(root=str(tmp_path / "s"), **options)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 4, "val": 2}
    assert data.classes.names[:5] == ("traffic light", "traffic sign", "person", "rider", "car")
    assert data.classes.ids == (19, 20, 24, 25, 26, 27, 28, 31, 32, 33)
    assert data.description.startswith("built-in street scenes at")
    dataset = data.dataset("train", EvalTransform(size=64))
    boxes_seen = 0
    for index in range(4):
        path = Path(dataset.image_path(index))
        mask = Path(str(path).replace("leftImg8bit", "gtFine").removesuffix(".png") + "_instanceIds.png")
        ids = np.asarray(Image.open(mask))
        boxes, labels, _ = data.splits["train"].objects(index)
        for (x1, y1, x2, y2), label in zip(boxes.astype(int), labels, strict=True):
            inside = ids[y1:y2, x1:x2]
            # every side of a tight box touches a pixel of the class (instances as id * 1000 + n, lone as id)
            of_class = (inside // 1000 == data.classes.ids[label]) | (inside == data.classes.ids[label])
            assert of_class.any(axis=0)[[0, -1]].all()
            assert of_class.any(axis=1)[[0, -1]].all()
            boxes_seen += 1
    assert boxes_seen > 20
    written = json.loads((tmp_path / "s/annotations/instances_train.json").read_text())
    assert boxes_seen <= len(written["annotations"])


def test_streets_are_drawn_once_and_rejected_where_something_else_is(tmp_path):
    options = {"num_train": 1, "num_val": 1, "num_test": 0, "size": (64, 128)}
    streets(root=str(tmp_path / "s"), **options)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.png")}
    streets(root=str(tmp_path / "s"), **options)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.png")}
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("precious")
    with pytest.raises(UserError, match="not a folder of the built-in street scenes") as caught:
        streets(root=str(tmp_path / "other"), **options)
    assert not re.search(r"\n", str(caught.value))
    with pytest.raises(UserError, match="size must be"):
        streets(size=(8, 8))
