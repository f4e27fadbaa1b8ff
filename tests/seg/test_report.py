"""What a segmentation reporter writes."""

import json

import numpy as np
import pytest
from torch import nn

from engine.data.class_map import ClassMap
from engine.data.images import read_image, read_labels, write_png
from seg.data.masks import masks
from seg.report import SegmentationReporter
from seg.task import Segmentation

COLORS = ((128, 64, 128), (0, 0, 142), (255, 255, 0))
LABELS = np.array([[0, 1, 1, 2], [2, 2, 0, 0]], np.uint8)


def reporter(ids):
    classes = ClassMap(names=("road", "car", "sign"), ids=ids, colors=COLORS)
    return SegmentationReporter(Segmentation(model=nn.Identity(), classes=classes))


def test_masks_contain_ids_and_show_the_colors_of_the_classes(tmp_path):
    record = reporter((7, 26, 3)).save_prediction(LABELS, tmp_path, "a/b")
    assert record["classes"] == {"sign": 0.375, "road": 0.375, "car": 0.25}
    assert record["size"] == [2, 4]
    mask = tmp_path / record["mask"]
    np.testing.assert_array_equal(read_labels(mask), [[7, 26, 26, 3], [3, 3, 7, 7]])
    np.testing.assert_array_equal(read_image(mask), np.array(COLORS, np.uint8)[LABELS])


def test_ids_above_255_are_16_bit_gray(tmp_path):
    reporter((7, 1000, 3)).save_prediction(LABELS, tmp_path, "a")
    np.testing.assert_array_equal(
        read_labels(tmp_path / "masks" / "a.png"), [[7, 1000, 1000, 3], [3, 3, 7, 7]]
    )


@pytest.mark.parametrize("palette", ["auto", "ids", "colors"])
def test_predicted_masks_are_read_as_training_masks(tmp_path, palette):
    report = reporter((7, 26, 3))
    for split, turn in (("train", 1), ("val", 2)):
        folder = tmp_path / "images" / split
        write_png(folder / f"{split}.png", np.array([[[turn]], [[9]]], np.uint8).repeat(4, 1).repeat(3, 2))
        report.save_prediction(LABELS, tmp_path / split, split)
        (tmp_path / "masks").mkdir(exist_ok=True)
        (tmp_path / split / "masks").rename(tmp_path / "masks" / split)
    (tmp_path / "classes.json").write_text(json.dumps(report.classes.to_dict()))
    source = masks(root=str(tmp_path), palette=palette)
    label = source.dataset("val", lambda image, label, seed: (image, label)).read(0)[1]
    np.testing.assert_array_equal(label, LABELS)
