"""The losses of PANLite by hand."""

import math

import pytest
import torch

from det.panlite.assignment import AlignedTargets
from det.panlite.losses import QualityLoss, distribution_focal
from tests.det.panlite.logits import distance_logits


def targets_of(labels, quality, distances, objects):
    return AlignedTargets(
        labels=torch.tensor([labels]),
        deltas=torch.tensor([distances], dtype=torch.float32),
        quality=torch.tensor([quality]),
        num_objects=torch.tensor(objects),
    )


TWO_CELLS = targets_of([2, 0], [0.8, 0.0], [[1, 1, 3, 1], [0, 0, 0, 0]], 2)
"""The first cell has an object of the second of two classes."""


def test_by_hand():
    """All scores are 1/2, so each cross entropy is log 2. The predicted box is half of the true one."""
    deltas = torch.zeros(1, 2, 16)
    deltas[0, 0] = distance_logits([[1, 1, 1, 1.0]])[0]
    deltas[0, 0].clamp_(min=-5)
    losses = QualityLoss()(deltas, torch.zeros(1, 2, 2), TWO_CELLS)
    expected = math.log(2) * (0.3**2 + 3 * 0.5**2) / 2
    assert losses["classification"].item() == pytest.approx(expected, rel=1e-6)
    # Bins 0, 1, 2, 3 have the logits -5, 0, -5, -5: a mean of 1 + 2 * e^-5 / (1 + 3 * e^-5) for all sides.
    rest = 3 * math.exp(-5)
    side = (1 + 5 * math.exp(-5)) / (1 + rest)
    iou = (1 + side) * 2 / (4 * 2 + 2 * side * 2 * side - (1 + side) * 2)
    hull = (side + 3) * 2 * side
    giou = iou - (hull - (4 * 2 + 2 * side * 2 * side - (1 + side) * 2)) / hull
    assert losses["localization"].item() == pytest.approx(2 * 0.8 * (1 - giou) / 2, rel=1e-4)
    cross_entropy = (3 * math.log(1 + rest) + 5 + math.log(1 + rest)) / 4
    assert losses["distribution"].item() == pytest.approx(0.5 * 0.8 * cross_entropy / 2, rel=1e-5)


def test_the_box_loss_of_half_a_box():
    """(-1, -1, 1, 1) is half of (-1, -1, 3, 1), which is also the hull: GIoU = IoU = 1/2."""
    deltas = distance_logits([[1, 1, 1, 1.0], [0, 0, 0, 0]])[None]
    loss = QualityLoss(box_weight=3.0)(deltas, torch.zeros(1, 2, 2), TWO_CELLS)["localization"]
    assert loss.item() == pytest.approx(3 * 0.8 * 0.5 / 2)


def test_options_are_factors():
    deltas, scores = torch.randn(1, 2, 16), torch.randn(1, 2, 2)
    plain = QualityLoss()(deltas, scores, TWO_CELLS)
    other = QualityLoss(gamma=0.0, box_weight=4.0, distribution_weight=0.25)(deltas, scores, TWO_CELLS)
    assert other["localization"] == pytest.approx(2 * plain["localization"].item())
    assert other["distribution"] == pytest.approx(plain["distribution"].item() / 2)
    truth = torch.tensor([[[0, 0.8], [0, 0]]])
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(scores, truth, reduction="sum")
    torch.testing.assert_close(other["classification"], entropy / 2)


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        (0.0, math.log(4)),
        (0.25, 0.75 * math.log(4) + 0.25 * math.log(2)),
        (1.0, math.log(2)),
        (1.5, 0.5 * math.log(2) + 0.5 * math.log(4)),
        (2.0, math.log(4)),
        (7.0, math.log(4)),
        (-1.0, math.log(4)),
    ],
)
def test_distribution_focal_loss(distance, expected):
    """Shares of 1/4, 1/2 and 1/4 in the bins 0, 1 and 2; the other three sides are uniform."""
    logits = torch.zeros(1, 12)
    logits[0, 3 * 2 + 1] = math.log(2)
    distances = torch.tensor([[0.5, 1.0, distance, 2.0]])
    loss = distribution_focal(logits, distances)
    assert loss.tolist() == pytest.approx([(3 * math.log(3) + expected) / 4], rel=1e-6)


def test_ignored_cells_do_not_count():
    deltas, scores = torch.randn(1, 3, 16), torch.randn(1, 3, 2)
    zero = [0, 0, 0, 0]
    three = targets_of([2, 0, -1], [0.8, 0, 0], [[1, 1, 3, 1], zero, zero], 2)
    with_ignored = QualityLoss()(deltas, scores, three)
    without = QualityLoss()(deltas[:, :2], scores[:, :2], TWO_CELLS)
    for name, value in without.items():
        torch.testing.assert_close(with_ignored[name], value)


def test_images_without_objects_have_gradients_of_scores_only():
    deltas = torch.randn(1, 2, 16, requires_grad=True)
    scores = torch.randn(1, 2, 2, requires_grad=True)
    nothing = targets_of([0, 0], [0.0, 0.0], [[0] * 4] * 2, 0)
    losses = QualityLoss()(deltas, scores, nothing)
    assert losses["localization"] == losses["distribution"] == 0
    sum(losses.values()).backward()
    assert deltas.grad is not None
    assert not deltas.grad.any()
    assert scores.grad.all()


def test_a_perfect_prediction_has_no_loss():
    deltas = distance_logits([[1, 1, 3, 1.0], [0, 0, 0, 0]])[None]
    scores = torch.tensor([[[-99, 0.8], [-99, -99]]])
    scores[0, 0, 1] = math.log(0.8 / 0.2)
    losses = QualityLoss()(deltas, scores, TWO_CELLS)
    assert sum(losses.values()).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", ["gamma", "box_weight", "distribution_weight"])
def test_options_out_of_range_are_rejected(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0"):
        QualityLoss(**{name: -0.1})
