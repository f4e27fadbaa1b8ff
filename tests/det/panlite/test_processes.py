"""Two processes compute the gradient of one, although the assignment depends on the predictions."""

import pytest
import torch
from torch import nn

from det.anchors.generators import Cells
from det.boxes import DistanceCoder
from det.panlite.assignment import TaskAligned
from det.panlite.losses import QualityLoss
from det.postprocess import Postprocess
from det.task import Detection
from det.transforms import EvalTransform
from engine import runtime
from engine.data.class_map import ClassMap
from engine.train.learner import Learner
from tests.engine.processes import in_processes


class FourCells(nn.Module):
    """Four cells of an image of 64 x 64, without batch norm."""

    def __init__(self):
        super().__init__()
        self.predict = nn.Conv2d(3, 4 * 4 + 2, 32, stride=32)
        self.register_buffer("anchors", Cells(maps=1)([(2, 2)], (64, 64)), persistent=False)

    def forward(self, images):
        rows = self.predict(images).flatten(2).mT
        return rows[..., :16], rows[..., 16:]


def learner_of(group):
    torch.manual_seed(0)
    task = Detection(
        model=FourCells(),
        classes=ClassMap(names=("cat", "dog")),
        eval_transform=EvalTransform(size=64),
        loss=QualityLoss(),
        matcher=TaskAligned(),
        postprocess=Postprocess(coder=DistanceCoder(), background_column=False),
    )
    learner = Learner(task=task, optimizer=torch.optim.SGD(task.parameters(), lr=0.1), runtime=group)
    learner.start(compile=False)
    return learner


def images_with_boxes(first, last):
    """Four images with one to four objects."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (4, 3, 64, 64), generator=generator, dtype=torch.uint8)
    corners = [torch.rand(count, 2, generator=generator) * 30 for count in range(1, 5)]
    boxes = [torch.cat([corner, corner + 20 + corner.flip(1) / 3], 1) for corner in corners]
    labels = [torch.arange(count) % 2 for count in range(1, 5)]
    return {"image": images[first:last], "boxes": boxes[first:last], "labels": labels[first:last]}


def step(learner, *batches):
    result = learner.compute_gradients(list(batches))
    learner.update()
    return result.losses, result.gradient_norm, learner.model.predict.weight.detach().flatten()[:50].tolist()


@pytest.mark.slow
def test_two_processes_and_micro_batches_take_the_step_of_one():
    alone = runtime.start(device="cpu", channels_last=False)
    losses, norm, weights = step(learner_of(alone), images_with_boxes(0, 4))
    in_parts = step(learner_of(alone), images_with_boxes(0, 1), images_with_boxes(1, 4))

    def of_one_rank(group):
        return step(learner_of(group), images_with_boxes(2 * group.rank, 2 * group.rank + 2))

    for other, other_norm, other_weights in (in_parts, *in_processes(2, of_one_rank)):
        assert other == pytest.approx(losses, rel=1e-4)
        assert other_norm == pytest.approx(norm, rel=1e-4)
        assert other_weights == pytest.approx(weights, rel=1e-4, abs=1e-6)
