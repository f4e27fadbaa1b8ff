"""A step of training by hand, its state, and averaged weights."""

import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from engine.runtime import Runtime
from engine.train.learner import Learner, WeightAverage, step_seed


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


class LinearTask(nn.Module):
    """Losses 1 x mean and 0.5 x mean of w x; a batch weighs as much as it has rows."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.model.weight[:] = torch.tensor([[1.0, 2.0]])

    def forward(self, batch):
        mean = self.model(batch["x"]).mean()
        return {"whole": mean, "half": 0.5 * mean}

    def weight(self, batch):
        return torch.tensor(len(batch["x"]))


def batch_of(*rows):
    return {"x": torch.tensor(rows, dtype=torch.float32)}


def learner_of(*, lr=1.0, momentum=0.0, **options):
    task = LinearTask()
    optimizer = torch.optim.SGD(task.model.parameters(), lr=lr, momentum=momentum)
    learner = Learner(task=task, optimizer=optimizer, runtime=Runtime(torch.device("cpu")), **options)
    learner.start(compile=False)
    return learner


def test_losses_and_the_gradient_norm_by_hand():
    """The mean of (3, 4) and (1, 0) is (2, 2), with the losses 6 and 3; the gradient is 1.5 x (2, 2)."""
    learner = learner_of()
    result = learner.compute_gradients([batch_of([3, 4], [1, 0])])
    assert result.losses == pytest.approx({"whole": 6.0, "half": 3.0})
    assert result.gradient_norm == pytest.approx(math.hypot(3, 3))
    assert result.stop is False
    assert learner.compute_gradients([batch_of([0, 0])], stop=True).stop is True
    learner.update()
    assert learner.model.weight[0].tolist() == pytest.approx([1 - 3, 2 - 3])
    assert learner.model.weight.grad is None


def test_micro_batches_count_by_their_weight():
    """Rows (3, 4), (1, 0) and (2, 8): the mean is (2, 4), not the mean of (2, 2) and (2, 8)."""
    learner = learner_of()
    result = learner.compute_gradients([batch_of([3, 4], [1, 0]), batch_of([2, 8])])
    assert result.losses == pytest.approx({"whole": 10.0, "half": 5.0})
    learner.update()
    assert learner.model.weight[0].tolist() == pytest.approx([1 - 3, 2 - 6])


@pytest.mark.parametrize(("clip", "factor"), [(None, 1), (1.0, 0.2), (10.0, 1), (2.5, 0.5)])
def test_gradients_are_clipped_to_a_norm(clip, factor):
    """The gradient (3, 4) has a norm of 5, which is reported as it was before."""
    learner = learner_of(clip=clip)
    assert learner.compute_gradients([batch_of([2, 8 / 3])]).gradient_norm == pytest.approx(5)
    learner.update()
    change = torch.tensor([1.0, 2.0]) - learner.model.weight[0].detach()
    assert change.tolist() == pytest.approx([3 * factor, 4 * factor], rel=1e-4)


def test_a_model_without_gradients_has_a_norm_of_zero():
    learner = learner_of()
    learner.model.requires_grad_(False)
    bias = torch.zeros((), requires_grad=True)
    learner.task.forward = lambda batch: {"only": bias * 2}
    assert learner.compute_gradients([batch_of([1, 1])]).gradient_norm == 0


def test_evaluation_uses_the_averaged_weights_if_there_are_any():
    plain, averaged = learner_of(), learner_of(ema=0.5)
    for learner in (plain, averaged):
        learner.compute_gradients([batch_of([2, 2])])
        learner.update()
    assert plain.average is None
    assert plain.inference_task is plain.task
    assert plain.inference_tensors()["model/weight"][0].tolist() == [-2, -1]
    # After the first update, the decay is min(0.5, 1 / 10): 0.1 (1, 2) + 0.9 (-2, -1).
    assert averaged.inference_task is averaged.average.task
    expected = pytest.approx([-1.7, -0.7])
    assert averaged.inference_tensors()["model/weight"][0].tolist() == expected
    assert averaged.average.model.weight[0].tolist() == expected
    assert averaged.model.weight[0].tolist() == [-2, -1]
    assert not averaged.can_lower_loss_scale()


@pytest.mark.parametrize("ema", [None, 0.5])
def test_what_is_captured_and_loaded_continues_alike(ema):
    """Weights, momentum, averaged weights and the number of their updates."""
    learner, other = (learner_of(lr=0.1, momentum=0.9, ema=ema) for _ in range(2))
    for step in range(2):
        learner.compute_gradients([batch_of([step, 1])])
        learner.update()
    tensors, metadata = learner.capture()
    names = {"model/weight", "optimizer/weight/momentum_buffer"} | ({"ema/weight"} if ema else set())
    assert set(tensors) == names
    assert metadata["ema_updates"] == (2 if ema else 0)
    other.load({name: tensor.clone() for name, tensor in tensors.items()}, metadata)
    for one in (learner, other):
        one.compute_gradients([batch_of([5, 7])])
        one.update()
    ours, theirs = learner.capture(), other.capture()
    assert all(torch.equal(theirs[0][name], ours[0][name]) for name in names)
    assert theirs[1] == ours[1]


def test_an_average_that_was_not_saved_starts_from_the_weights():
    learner, other = learner_of(), learner_of(ema=0.9)
    learner.compute_gradients([batch_of([2, 2])])
    learner.update()
    other.load(*learner.capture())
    assert other.average.model.weight[0].tolist() == [-2, -1]
    assert other.average.updates == 0


def test_synchronized_norms_are_plain_ones_in_a_single_process():
    assert learner_of(sync_bn=True).task.training


def test_the_seed_of_a_step():
    """It must not change between versions: a resumed run draws what it would have drawn."""
    assert step_seed(0, 0, 0) == 0
    assert step_seed(2, 3, 1) == 2_000_006 + 12_297 + 1
    assert 0 <= step_seed(2**62, 10**6, 7) < 2**63
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(8)}
    assert len(seeds) == 3 * 50 * 8


def test_the_average_shares_no_memory_with_the_task():
    task = Task()
    average = WeightAverage(task, 0.9)
    before = average.model[0].weight.clone()
    with torch.no_grad():
        task.model[0].weight += 1
    assert torch.equal(average.model[0].weight, before)
    assert not any(parameter.requires_grad for parameter in average.task.parameters())
    assert all(parameter.requires_grad for parameter in task.parameters())
