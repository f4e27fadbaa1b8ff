"""Averaged weights."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from engine.train.learner import WeightAverage


def test_the_decay_increases_as_in_tensorflow():
    model = nn.Module()
    model.model = nn.BatchNorm2d(1)
    average, expected = WeightAverage(model, 0.5), 1.0
    for count, value in enumerate([3.0, -1.0, 4.0, 2.0, 8.0, 5.0, 0.0, 9.0, 7.0, 6.0]):
        with torch.no_grad():
            model.model.weight.fill_(value)
            model.model.num_batches_tracked.fill_(count)
        average.update()
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * value
    assert average.model.weight.item() == pytest.approx(expected)
    assert average.model.num_batches_tracked.item() == 9
    assert average.updates == 10
    assert not average.model.weight.requires_grad


class Task(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))


def torchs_average(task, decay):
    """torch's own average, which copies the weights at its first update, so its counter starts at one."""

    @torch.no_grad()
    def update(averaged, current, count):
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - min(decay, int(count) / (9 + int(count))))
        else:
            torch._foreach_copy_(averaged, current)

    average = AveragedModel(task, multi_avg_fn=update, use_buffers=True)
    average.n_averaged.fill_(1)
    return average


def test_the_average_equals_torchs_bit_for_bit():
    torch.manual_seed(0)
    task = Task()
    ours, torchs = WeightAverage(task, 0.7), torchs_average(task, 0.7)
    for _ in range(30):
        with torch.no_grad():
            task.model(torch.randn(2, 3, 8, 8))  # updates the buffers
            for parameter in task.model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        ours.update()
        torchs.update_parameters(task)
    expected = torchs.module.model.state_dict()
    assert list(ours.model.state_dict()) == list(expected)
    for name, tensor in ours.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert ours.updates == int(torchs.n_averaged) - 1 == 30
