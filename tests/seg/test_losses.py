"""Losses against values computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from seg.losses import CrossEntropy, Dice, Lovasz


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
    logits = torch.arange(12.0).view(1, 3, 2, 2).requires_grad_()
    labels = torch.full((1, 2, 2), 255)
    for loss in (CrossEntropy(), CrossEntropy(ohem=0.5), Dice()):
        value = loss(logits, labels)
        value.backward()
        assert value.item() == 0
        assert not logits.grad.any()


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
    below = CrossEntropy(ohem=0.25)(logits, labels).item()  # below 0.7, the default
    assert below == pytest.approx((math.log(2) - math.log(0.6)) / 2)


def test_a_probability_at_the_threshold_is_not_hard():
    logits = scores_for([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]])
    loss = CrossEntropy(ohem=0.01, ohem_threshold=0.5)
    assert loss(logits, torch.tensor([[[0, 0, 0]]])).item() == pytest.approx(math.log(4))


def test_dice_equals_a_computation_by_hand():
    logits = scores_for([[0.8, 0.2], [0.4, 0.6]])
    labels = torch.tensor([[[0, 1]]])
    first, second = 2 * 0.8 / (1 + 1.2), 2 * 0.6 / (1 + 0.8)
    assert Dice()(logits, labels).item() == pytest.approx(1 - (first + second) / 2)


def test_dice_does_not_count_ignored_pixels():
    """The third pixel, wherever its scores point, changes neither an overlap nor a size."""
    labels = torch.tensor([[[0, 1, 255]]])
    first, second = 2 * 0.8 / (1 + 1.2), 2 * 0.6 / (1 + 0.8)
    for ignored in ([0.99, 0.01], [0.01, 0.99]):
        logits = scores_for([[0.8, 0.2], [0.4, 0.6], ignored])
        assert Dice()(logits, labels).item() == pytest.approx(1 - (first + second) / 2)


def test_dice_is_the_mean_of_the_classes_in_the_batch():
    """The third class has no pixel: its scores add to no size of the others and it has no coefficient."""
    logits = scores_for([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]])
    first, second = 2 * 0.5 / (1 + 0.6), 2 * 0.6 / (1 + 0.8)
    assert Dice()(logits, torch.tensor([[[0, 1]]])).item() == pytest.approx(1 - (first + second) / 2)


def random_case():
    """Logits [2, 3, 4, 5] and labels [2, 4, 5], a quarter of them ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 3, 4, 5, generator=generator)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    labels[torch.rand(2, 4, 5, generator=generator) < 0.25] = 255
    return logits, labels


def one_by_one(logits, labels):
    """(the probabilities of the classes [K], the label) of each counted pixel."""
    probabilities = logits.double().numpy()
    probabilities = np.exp(probabilities) / np.exp(probabilities).sum(1, keepdims=True)
    for image, row, column in np.ndindex(*labels.shape):
        if labels[image, row, column] != 255:
            yield probabilities[image, :, row, column], int(labels[image, row, column])


def test_ohem_equals_a_loop_over_pixels():
    logits, labels = random_case()
    truths = sorted(float(pixel[label]) for pixel, label in one_by_one(logits, labels))
    for share, threshold in ((0.3, 0.0), (0.01, 0.7), (0.5, 0.2), (1.0, 0.0)):
        hard = sum(truth < threshold for truth in truths)
        hardest = truths[: max(int(share * len(truths)), hard, 1)]
        expected = -sum(map(math.log, hardest)) / len(hardest)
        loss = CrossEntropy(ohem=share, ohem_threshold=threshold)
        assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_dice_equals_a_loop_over_pixels():
    logits, labels = random_case()
    overlap, total = np.zeros(3), np.zeros(3)
    for pixel, label in one_by_one(logits, labels):
        overlap[label] += pixel[label]
        total += pixel
        total[label] += 1
    assert Dice()(logits, labels).item() == pytest.approx(1 - (2 * overlap / total).mean(), rel=1e-5)


def test_label_smoothing_moves_a_share_to_all_classes():
    """0.2 is spread over the two classes: the targets are 0.9 and 0.1."""
    loss = CrossEntropy(label_smoothing=0.2)(scores_for([[0.75, 0.25]]), torch.tensor([[[0]]]))
    assert loss.item() == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25))


@pytest.mark.parametrize(
    "loss",
    [CrossEntropy(), CrossEntropy(ohem=0.1), Dice(), Lovasz()],
    ids=["mean", "ohem", "dice", "lovasz"],
)
def test_losses_are_computed_in_float32(loss):
    logits = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.randint(0, 3, (1, 40, 40), generator=torch.Generator().manual_seed(1))
    value = loss(logits, labels)
    assert value.dtype == torch.float32
    assert value.item() == loss(logits.float(), labels).item()


def test_class_weights_can_be_integers_or_below_1_and_are_not_saved():
    logits, labels = scores_for([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([[[0, 1]]])
    expected = (3 * math.log(2) + math.log(4 / 3)) / 4
    for weights in ([3, 1], [0.75, 0.25]):
        assert CrossEntropy(class_weights=weights)(logits, labels).item() == pytest.approx(expected)
    assert CrossEntropy(class_weights=[1, 0])(logits, labels).item() == pytest.approx(math.log(2))
    assert CrossEntropy(class_weights=[1, 0]).state_dict() == {}
    assert CrossEntropy().weight(labels).dtype == torch.float32


@pytest.mark.parametrize(
    "options",
    [
        {"ohem": 0.0},
        {"ohem": 1.5},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"class_weights": [-1.0, 1.0, 1.0]},  # the loss fell without end
        {"class_weights": [0.0, 0.0, 0.0]},
        {"class_weights": [float("nan"), 1.0]},
        {"class_weights": [float("inf"), 1.0]},
    ],
)
def test_bad_options_are_rejected(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CrossEntropy(**options)


def test_lovasz_equals_a_computation_by_hand():
    # Two classes, three counted pixels of classes 0, 0, 1 with p(0) = 0.9, 0.4, 0.3.
    # Class 0: errors 0.1, 0.6, 0.3 of pixels of 0, 0, 1. Sorted: 0.6 (0), 0.3 (1), 0.1 (0).
    #   Jaccard loss after each: 1 - 1/2 = 1/2;  1 - 1/3 = 2/3;  1 - 0/3 = 1.
    #   Loss: 0.6 * 1/2 + 0.3 * (2/3 - 1/2) + 0.1 * (1 - 2/3) = 0.3 + 0.05 + 0.03333.
    # Class 1: errors 0.1, 0.6, 0.3 of pixels of 0, 0, 1. Sorted: 0.6 (0), 0.3 (1), 0.1 (0).
    #   Jaccard loss: 1 - 1/2 = 1/2;  1 - 0/2 = 1;  1 - 0/3 = 1.  Loss: 0.6 * 1/2 + 0.3 * 1/2 = 0.45.
    first = torch.tensor([0.9, 0.4, 0.3, 0.01])
    logits = torch.stack([first, 1 - first]).log()[None, :, None]
    labels = torch.tensor([[[0, 0, 1, 255]]])
    expected = (0.3 + 0.05 + 0.1 / 3 + 0.45) / 2
    assert Lovasz()(logits, labels).item() == pytest.approx(expected, abs=1e-6)


def test_lovasz_is_the_mean_of_the_classes_that_occur():
    # Two pixels of class 0 with p(0) = 0.5: errors 0.5, 0.5; Jaccard loss after each: 1/2 and 1.
    logits = scores_for([[0.5, 0.3, 0.2]] * 2)
    assert Lovasz()(logits, torch.tensor([[[0, 0]]])).item() == pytest.approx(0.5 * 1 / 2 + 0.5 * 1 / 2)


def test_lovasz_of_hard_predictions_is_one_minus_the_iou():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 9, 11), generator=generator)
    guesses = torch.randint(0, 3, (2, 9, 11), generator=generator)
    logits = 1000.0 * F.one_hot(guesses, 3).permute(0, 3, 1, 2)
    ious = [((labels == k) & (guesses == k)).sum() / ((labels == k) | (guesses == k)).sum() for k in range(3)]
    assert Lovasz()(logits, labels).item() == pytest.approx(1 - sum(ious).item() / 3, abs=1e-6)


def test_lovasz_of_a_batch_without_counted_pixels_is_zero_and_differentiable():
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    loss = Lovasz()(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize(("most", "every"), [(100, 1), (99, 3), (40, 3), (34, 3), (20, 5), (1, 101)])
def test_lovasz_of_many_pixels_uses_every_nth_counted_one(most, every):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 10, 12, generator=generator)
    labels = torch.randint(0, 3, (1, 10, 12), generator=generator)
    labels[:, :, 10:] = 255  # 100 pixels are counted
    counted = labels[0] != 255
    kept = logits[0][:, counted][None, :, ::every, None]
    expected = Lovasz(max_pixels=10**6)(kept, labels[0][counted][None, ::every, None])
    assert Lovasz(max_pixels=most)(logits, labels).item() == pytest.approx(expected.item(), abs=1e-6)


def test_lovasz_needs_a_pixel():
    with pytest.raises(ValueError, match="max_pixels must be at least 1, got 0"):
        Lovasz(max_pixels=0)
