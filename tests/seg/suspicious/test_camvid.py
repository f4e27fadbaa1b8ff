"""Wrong masks among real ones rank first, if the network is good but not perfect."""

import numpy as np
import pytest
import torch
from torch import nn

from engine.data.images import read_labels, write_png
from engine.data.loader import SampleKey, collate
from seg.data.masks import masks
from seg.report import SegmentationReporter
from seg.task import Segmentation
from tests.doctor.copies import copy_dataset

pytestmark = [pytest.mark.data, pytest.mark.slow]

ROAD, PAVEMENT, POLE, SIGN, BUILDING = 3, 4, 2, 6, 1
CELL = 8  # pixels; a network's output is coarse


class SeesTheTruth(nn.Module):
    """Images [N, 3, H, W] in 0..1 -> scores from the true masks: blurred, noisy, and blind to poles and
    signs, which are building to it. It recognizes an image by its mean."""

    def __init__(self, truths):
        super().__init__()
        self.truths = truths

    def forward(self, images):
        return torch.stack([self.scores(self.truths[mean_of(image)]) for image in images])

    def scores(self, truth):
        shown = torch.from_numpy(
            np.where((truth == POLE) | (truth == SIGN), BUILDING, truth).astype(np.int64)
        )
        one_hot = nn.functional.one_hot(shown.clamp(max=11), 12)[..., :11].permute(2, 0, 1)[None].float()
        coarse = nn.functional.avg_pool2d(one_hot, CELL)
        noise = torch.randn(coarse.shape, generator=torch.Generator().manual_seed(int(truth.sum())))
        return nn.functional.interpolate(6 * coarse + noise, truth.shape, mode="bilinear")[0]


def mean_of(image):
    return round(float(image.double().mean()), 7)


def test_planted_wrong_masks_and_swapped_classes_rank_first(data_folder, tmp_path):
    copy = copy_dataset(data_folder / "camvid", tmp_path / "data", "masks", most=24)
    data = masks(root=str(copy.root))
    model = SeesTheTruth({})
    task = Segmentation(model=model, classes=data.classes, pixels="unit")
    dataset = data.dataset("val", task.eval_transform)
    for index in range(len(dataset)):
        image = collate([dataset[SampleKey(index, 0)]])["image"]
        model.truths[mean_of(image[0] / 255)] = dataset.read(index)[1]
    assert len(model.truths) == len(dataset) == 24

    val, train = copy.samples["val"], copy.samples["train"]
    for at, other in ((3, 20), (11, 2), (19, 9)):  # the masks of frames of other videos
        write_png(val[at].label, read_labels(train[other].label))
    swapped = read_labels(val[7].label)
    road, pavement = swapped == ROAD, swapped == PAVEMENT
    swapped[road], swapped[pavement] = PAVEMENT, ROAD
    write_png(val[7].label, swapped)

    evaluator = task.evaluator(dataset)
    for index in range(len(dataset)):
        batch = collate([dataset[SampleKey(index, 0)]])
        evaluator.update(task.predict(batch), batch)
    suspicions = SegmentationReporter(task).suspicious(evaluator, dataset, 24)
    assert {each.index for each in suspicions[:4]} == {3, 7, 11, 19}
    (of_swapped,) = [each for each in suspicions if each.index == 7]
    assert of_swapped.places[0].text.startswith("label pavement, prediction road (")
    rest = [each.score for each in suspicions[4:]]
    assert min(each.score for each in suspicions[:4]) > 2 * max(rest, default=0)
