"""Planted wrong masks rank first; edges that are drawn differently are no contradictions."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from engine.data.class_map import ClassMap
from engine.data.images import write_png
from engine.data.loader import SampleKey, collate
from seg.data.masks import masks
from seg.report import SegmentationReporter
from seg.suspicious.confidence import confidence
from seg.suspicious.regions import contradicted_regions
from seg.task import Inference, Segmentation

HEIGHT, WIDTH, STEP = 96, 128, 80  # STEP: gray levels between classes


class ReadsTheColor(nn.Module):
    """Gray images, in 0..1 -> scores: class k has the gray level k * STEP."""

    def forward(self, images):
        levels = torch.arange(3).view(1, 3, 1, 1) * STEP
        return -(255 * images[:, :1] - levels).abs() / 4


def truth(index):
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    rng = np.random.default_rng(index)
    top, left = rng.integers(4, 40), rng.integers(4, 60)
    label[top : top + 40, left : left + 50] = 1
    label[70:90, 10 : 30 + 4 * index] = 2
    return label


@pytest.fixture
def data(tmp_path):
    """Ten images; in the masks of all, objects are a pixel smaller, and three are wrong."""
    given = {index: truth(index) for index in range(10)}
    for label in given.values():
        edges = (label != np.roll(label, 1, 0)) | (label != np.roll(label, 1, 1))
        label[edges] = 0
    given[3][70:90, 10:42][given[3][70:90, 10:42] == 2] = 1  # a region of another class
    given[7] = truth(2)[::-1].copy()  # the mask of another frame
    for split in ("train", "val"):
        for index, label in given.items():
            image = (truth(index) * STEP)[..., None].repeat(3, 2)
            image[0, 0] = 10 * (split == "val") + index  # no two images are the same
            write_png(tmp_path / "images" / split / f"{split}{index}.png", image)
            write_png(tmp_path / "masks" / split / f"{split}{index}.png", label)
    classes = ClassMap(names=("ground", "house", "car")).to_dict()
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    return masks(root=str(tmp_path))


@pytest.mark.parametrize("inference", [Inference(), Inference(flip=True, window=[64, 64])])
def test_planted_wrong_masks_rank_first(data, inference):
    task = Segmentation(model=ReadsTheColor(), classes=data.classes, pixels="unit", inference=inference)
    dataset = data.dataset("val", task.eval_transform)
    evaluator = task.evaluator(dataset)
    for index in range(10):
        batch = collate([dataset[SampleKey(index, 0)]])
        evaluator.update(task.predict(batch), batch)
    suspicions = SegmentationReporter(task).suspicious(evaluator, dataset, 20)
    assert [each.name for each in suspicions] == ["val7", "val3"]
    (place,) = suspicions[1].places
    assert place.text.startswith("label house, prediction car (")
    assert place.box == pytest.approx((10, 70, 42, 90), abs=2)
    assert suspicions[1].score == pytest.approx(32 * 20 / (HEIGHT * WIDTH), rel=0.15)
    drawing = suspicions[1].draw()
    assert drawing.shape[1] == 3 * 4 * WIDTH
    assert (drawing == (255, 0, 200)).all(2).any()


def test_confidences_are_the_probabilities_of_the_label_and_the_prediction(data):
    task = Segmentation(model=ReadsTheColor(), classes=data.classes, pixels="unit")
    image = torch.full((1, 3, 8, 8), STEP, dtype=torch.uint8)
    label = torch.zeros(1, 8, 8, dtype=torch.uint8)
    label[0, 0, 0] = 255
    (found,) = confidence(task, {"image": image, "label": label})
    shares = torch.tensor([-20.0, 0, -20]).softmax(0)
    assert (found.predicted == 1).all()
    np.testing.assert_allclose(found.of_prediction, float(shares[1]), rtol=1e-5)
    np.testing.assert_allclose(found.of_label[1:], float(shares[0]), rtol=1e-4)
    assert found.of_label[0, 0] == 0


def test_regions_are_connected_have_one_label_and_one_prediction_and_are_not_thin():
    label, predicted = np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.uint8)
    predicted[10:30, 10:30] = 1
    predicted[60:80, 10:30] = 1
    predicted[60:80, 30:40] = 2
    predicted[:, 90:92] = 1  # thin
    label[95:, :] = 255
    ones = np.ones((100, 100), np.float32)
    regions = contradicted_regions(label, predicted, 0.9 * ones, 0.8 * ones)
    assert [(r.label, r.predicted, r.box) for r in regions] == [
        (0, 1, (10, 10, 30, 30)), (0, 1, (10, 60, 30, 80)), (0, 2, (30, 60, 40, 80)),
    ]  # fmt: skip
    assert regions[2].share == pytest.approx(0.02, rel=0.1)
    assert regions[0].sure == pytest.approx(0.9)
    assert regions[0].margin == pytest.approx(0.8)
