"""Losses against values computed by hand."""

import math

import pytest
import torch

from seg.losses import CrossEntropy, Dice


def scores_for(probabilities):
    """[K] probabilities per pixel, [pixels][K] -> logits [1, K, 1, pixels]"""
    return torch.tensor(probabilities).log().T[None, :, None, :]


def test_ignored_pixels_do_not_count():
    logits = scores_for([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]])
    labels = torch.tensor([[[0, 0, 255]]])
    expected = (math.log(2) + math.log(4)) / 2
    assert CrossEntropy()(logits, labels).item() == pytest.approx(expected)
    assert CrossEntropy().weight(labels).item() == 2


def test_a_batch_without_counted_pixels_is_zero_and_differentiable():
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    labels = torch.full((1, 2, 2), 255)
    for loss in (CrossEntropy(), CrossEntropy(ohem=0.5), Dice()):
        value = loss(logits, labels)
        value.backward()
        assert value.item() == 0
        assert logits.grad.isfinite().all()


def test_class_weights_weigh_the_mean():
    logits = scores_for([[0.5, 0.5], [0.25, 0.75]])
    labels = torch.tensor([[[0, 1]]])
    loss = CrossEntropy(class_weights=[3.0, 1.0])
    assert loss(logits, labels).item() == pytest.approx((3 * math.log(2) + math.log(4 / 3)) / 4)
    assert loss.weight(labels).item() == 4
    with pytest.raises(ValueError, match="2 class_weights for 3 classes"):
        loss(torch.zeros(1, 3, 1, 2), labels)


def test_ohem_keeps_the_hardest_pixels_and_every_hard_one():
    logits = scores_for([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.5, 0.5]])
    labels = torch.tensor([[[0, 0, 0, 0]]])
    hardest = CrossEntropy(ohem=0.25, ohem_threshold=0.0)(logits, labels).item()
    assert hardest == pytest.approx(math.log(2))
    below = CrossEntropy(ohem=0.25, ohem_threshold=0.7)(logits, labels).item()
    assert below == pytest.approx((math.log(2) - math.log(0.6)) / 2)


def test_dice_equals_a_computation_by_hand():
    logits = scores_for([[0.8, 0.2], [0.4, 0.6]])
    labels = torch.tensor([[[0, 1]]])
    first, second = 2 * 0.8 / (1 + 1.2), 2 * 0.6 / (1 + 0.8)
    assert Dice()(logits, labels).item() == pytest.approx(1 - (first + second) / 2)


@pytest.mark.parametrize(
    "options",
    [
        {"ohem": 0.0},
        {"ohem": 1.5},
        {"label_smoothing": 1.0},
        {"class_weights": [-1.0, 1.0, 1.0]},  # the loss fell without end
        {"class_weights": [0.0, 0.0, 0.0]},
        {"class_weights": [float("nan"), 1.0]},
        {"class_weights": [float("inf"), 1.0]},
    ],
)
def test_bad_options_are_rejected(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CrossEntropy(**options)
