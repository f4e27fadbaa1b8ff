"""The losses by hand, against numpy in float64, against torchvision, and at extreme values."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BoxCoder as TorchvisionCoder
from torchvision.models.detection.ssd import SSD

from det.anchors.matcher import Targets
from det.losses import FocalLoss, MultiboxLoss, imitation

LOSSES = [FocalLoss(), FocalLoss(gamma=0.5, background=True), MultiboxLoss(), MultiboxLoss(min_negatives=2)]


def targets_of(labels, deltas=None):
    labels = torch.as_tensor(labels)
    deltas = torch.zeros(*labels.shape, 4) if deltas is None else torch.as_tensor(deltas).float()
    return Targets(labels, deltas, (labels > 0).sum(), torch.tensor(0))


def random_case(seed, images=3, anchors=60, classes=5):
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1, 0, 1, classes], p=[0.1, 0.8, 0.05, 0.05], size=(images, anchors))
    deltas, truth = rng.normal(0, 1.5, (2, images, anchors, 4)).astype(np.float32)
    scores = rng.normal(-1, 3, (images, anchors, classes + 1)).astype(np.float32)
    return deltas, scores, labels, truth


def localization_in_numpy(deltas, labels, truth, delta):
    error = np.abs(deltas.astype(np.float64) - truth)[labels > 0]
    return np.where(error <= delta, error**2 / 2, delta * (error - delta / 2)).sum()


def test_focal_by_hand():
    """One anchor with an object of class 0 and one without; all scores 0, so every probability is a half.

    Each of the 2 x 3 columns costs (1/2)^2 log 2, times 0.75 where it is to be 1 and 0.25 elsewhere: 2.0 in
    all, 2.5 where the background has a column that is to be 1 at the second anchor. The offsets are wrong by
    0.5 (0.125) and by 3 (2.5), and a quarter of the sum counts.
    """
    targets = targets_of([[1, 0]], [[[0.5, 0, 0, 3], [9, 9, 9, 9]]])
    losses = FocalLoss()(torch.zeros(1, 2, 4), torch.zeros(1, 2, 3), targets)
    assert losses["classification"].item() == pytest.approx(2.0 * math.log(2) / 4)
    losses = FocalLoss(background=True)(torch.zeros(1, 2, 4), torch.zeros(1, 2, 3), targets)
    assert losses["classification"].item() == pytest.approx(2.5 * math.log(2) / 4)
    assert losses["localization"].item() == pytest.approx((0.125 + 2.5) / 4)


def test_multibox_by_hand():
    """One match, and of five others the three with the largest loss: background scores 0, 1 and 2."""
    scores = torch.zeros(1, 6, 2)
    scores[0, 1:, 0] = torch.tensor([4.0, 2.0, 0.0, 3.0, 1.0])
    targets = targets_of([[1, 0, 0, 0, 0, 0]], torch.tensor([0.5, 0, 0, 3.0]).expand(1, 6, 4))
    losses = MultiboxLoss()(torch.zeros(1, 6, 4), scores, targets)
    expected = math.log(2) + sum(math.log(1 + math.exp(-score)) for score in (0, 1, 2))
    assert losses["classification"].item() == pytest.approx(expected)
    assert losses["localization"].item() == pytest.approx(0.125 + 2.5)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(("alpha", "gamma", "delta"), [(0.75, 2.0, 1.0), (0.25, 0.5, 0.3), (0.5, 0.0, 2.0)])
def test_focal_equals_numpy(alpha, gamma, delta, background):
    deltas, scores, labels, truth = random_case(seed=int(gamma * 10))
    probability = 1 / (1 + np.exp(-scores.astype(np.float64)))
    one = np.arange(scores.shape[2]) == labels[..., None]
    one[..., 0] &= background
    right = np.where(one, probability, 1 - probability)
    columns = np.where(one, alpha, 1 - alpha) * (1 - right) ** gamma * -np.log(right)
    matches = (labels > 0).sum()
    losses = FocalLoss(alpha=alpha, gamma=gamma, delta=delta, background=background)(
        torch.tensor(deltas), torch.tensor(scores), targets_of(labels, truth)
    )
    assert losses["classification"].item() == pytest.approx(columns[labels >= 0].sum() / matches, rel=1e-5)
    expected = localization_in_numpy(deltas, labels, truth, delta) / 4 / matches
    assert losses["localization"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("negatives", "least"), [(3, 0), (1, 0), (0.5, 4), (100, 0)])
def test_multibox_equals_numpy(negatives, least):
    deltas, scores, labels, truth = random_case(seed=3)
    labels[1][labels[1] > 0] = 0  # an image without matches
    wide = scores.astype(np.float64)
    of_truth = np.take_along_axis(wide, labels.clip(min=0)[..., None], 2)[..., 0]
    entropies = np.log(np.exp(wide).sum(2)) - of_truth
    total = entropies[labels > 0].sum()
    for row, label in zip(entropies, labels, strict=True):
        count = max(least, int(np.ceil(negatives * (label > 0).sum())))
        total += np.sort(row[label == 0])[::-1][:count].sum()
    losses = MultiboxLoss(negatives=negatives, min_negatives=least)(
        torch.tensor(deltas), torch.tensor(scores), targets_of(labels, truth)
    )
    matches = (labels > 0).sum()
    assert losses["classification"].item() == pytest.approx(total / matches, rel=1e-5)
    expected = localization_in_numpy(deltas, labels, truth, 1) / matches
    assert losses["localization"].item() == pytest.approx(expected, rel=1e-5)


def test_multibox_equals_torchvision():
    generator = torch.Generator().manual_seed(0)
    corner, side = torch.rand(2, 2, 2, 80, 2, generator=generator)
    boxes, anchors = torch.cat([corner, corner + side + 0.1], -1)  # each [2, 80, 4]
    owners = torch.where(torch.rand(2, 80, generator=generator) < 0.1, torch.arange(80), -1)
    classes = torch.randint(1, 7, (2, 80), generator=generator)
    deltas = torch.randn(2, 80, 4, generator=generator)
    scores = torch.randn(2, 80, 7, generator=generator) * 2
    coder = TorchvisionCoder((10.0, 10.0, 5.0, 5.0))
    expected = SSD.compute_loss(
        SimpleNamespace(box_coder=coder, neg_to_pos_ratio=3),
        [{"boxes": box, "labels": label} for box, label in zip(boxes, classes, strict=True)],
        {"bbox_regression": deltas, "cls_logits": scores},
        list(anchors),
        list(owners),
    )
    coded = torch.stack(
        [coder.encode_single(box, anchor) for box, anchor in zip(boxes, anchors, strict=True)]
    )
    labels = torch.where(owners >= 0, classes, 0)
    losses = MultiboxLoss()(deltas, scores, targets_of(labels, coded))
    assert (labels > 0).sum() > 8
    torch.testing.assert_close(losses["classification"], expected["classification"])
    torch.testing.assert_close(losses["localization"], expected["bbox_regression"])


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_gradients_come_only_from_counted_anchors(loss):
    deltas, scores = torch.zeros(1, 4, 4, requires_grad=True), torch.zeros(1, 4, 3, requires_grad=True)
    sum(loss(deltas, scores, targets_of([[2, 0, -1, 0]], torch.ones(1, 4, 4))).values()).backward()
    assert (scores.grad.abs().sum(2) > 0).tolist() == [[True, True, False, True]]
    assert (deltas.grad.abs().sum(2) > 0).tolist() == [[True, False, False, False]]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_batch_without_objects(loss):
    """Focal loss still learns the background; the SSD paper mines 3 x 0 anchors by default."""
    deltas, scores = torch.randn(2, 5, 4).requires_grad_(), torch.zeros(2, 5, 3, requires_grad=True)
    losses = loss(deltas, scores, targets_of(torch.zeros(2, 5, dtype=torch.int64)))
    sum(losses.values()).backward()
    assert losses["localization"].item() == 0
    assert deltas.grad.abs().max() == 0
    learns = loss is not LOSSES[2]  # the default of MultiboxLoss
    assert (losses["classification"].item() > 0) == learns
    assert bool(scores.grad[..., 1:].max() > 0) == learns


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_extreme_outputs_keep_losses_and_gradients_finite(loss):
    scores = torch.tensor([[[-1e4, 1e4, 0], [1e4, -1e4, 0], [-200, -200, -200.0]]]).requires_grad_()
    deltas = torch.full((1, 3, 4), 1e6).requires_grad_()
    losses = loss(deltas, scores, targets_of([[1, 1, 0]]))
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert scores.grad.isfinite().all()
    assert deltas.grad.isfinite().all()


@pytest.mark.parametrize("loss", [FocalLoss(), MultiboxLoss()], ids=str)
def test_float32_under_autocast(loss):
    deltas, scores, labels, truth = random_case(seed=5)
    rounded = [torch.tensor(part).bfloat16() for part in (deltas, scores)]
    exact = loss(*(part.float() for part in rounded), targets_of(labels, truth))
    with torch.autocast("cpu", torch.bfloat16):
        losses = loss(*rounded, targets_of(labels, truth))
    for name in exact:
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], exact[name])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FocalLoss(alpha=1.0), "alpha must be between"),
        (lambda: FocalLoss(alpha=0), "alpha must be between"),
        (lambda: FocalLoss(gamma=-1), "gamma must be"),
        (lambda: FocalLoss(delta=0), "delta must be"),
        (lambda: FocalLoss(gamma=math.nan), "gamma must be"),
        (lambda: FocalLoss(delta=math.nan), "delta must be"),
        (lambda: MultiboxLoss(negatives=math.nan), "negatives must be"),
        (lambda: MultiboxLoss(negatives=0), "negatives must be"),
        (lambda: MultiboxLoss(min_negatives=-1), "min_negatives must be"),
    ],
)
def test_arguments_out_of_range_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("background", [False, True])
def test_imitation_by_hand(background):
    """One anchor: the student is undecided, the teacher is sure to 3/4.

    Scores: cross entropy log 2, times (1/4)^2. Boxes: two squares of side 2, half a side apart, have
    IoU 2/6 within a hull of their union, so 1 - GIoU = 2/3, times 3/4.
    """
    certain = math.log(3)
    own, theirs = ([[[0.0, 0.0]]], [[[0.0, certain]]]) if background else ([[[0.0]]], [[[certain]]])
    box, moved = torch.tensor([[[0.0, 0.0, 2.0, 2.0]]]), torch.tensor([[[1.0, 0.0, 3.0, 2.0]]])
    options = {"activation": "softmax" if background else "sigmoid", "background_column": background}
    scores, teacher = torch.tensor(own), torch.tensor(theirs)
    of_scores = math.log(2) / 16
    assert imitation(scores, box, teacher, box, **options).item() == pytest.approx(of_scores)
    assert imitation(scores, box, teacher, moved, **options).item() == pytest.approx(of_scores + 0.5)


def test_a_perfect_copy_has_no_imitation_loss_and_anchors_add_up():
    scores = torch.tensor([[[0.3, -2.0], [1.0, 4.0]]])
    boxes = torch.tensor([[[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0]]])
    options = {"activation": "sigmoid", "background_column": False}
    assert imitation(scores, boxes, scores, boxes, **options).item() == pytest.approx(0, abs=1e-6)
    other = torch.zeros_like(scores)
    whole = imitation(scores, boxes, other, boxes.flip(1), **options)
    parts = [
        imitation(
            scores[:, i : i + 1], boxes[:, i : i + 1], other[:, :1], boxes.flip(1)[:, i : i + 1], **options
        )
        for i in (0, 1)
    ]
    torch.testing.assert_close(whole, sum(parts))
