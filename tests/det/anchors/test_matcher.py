"""Matching by hand, against a loop in numpy, and against torchvision."""

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BoxCoder as TorchvisionCoder
from torchvision.models.detection._utils import SSDMatcher
from torchvision.ops import box_iou

from det.anchors.matcher import Matcher
from det.boxes import BoxCoder

# Four anchors in a row, of side 1, and one of twice the area around the first two.
ANCHORS = torch.tensor([[0, 0, 1, 1], [1, 0, 2, 1], [2, 0, 3, 1], [3, 0, 4, 1], [0, 0, 2, 1]]) / 4


def boxes_of(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4) / 4


def random_boxes(generator, count, smallest=0.02, largest=0.5):
    centers = torch.rand(count, 2, generator=generator)
    sides = smallest + torch.rand(count, 2, generator=generator) * (largest - smallest)
    return torch.cat([centers - sides / 2, centers + sides / 2], 1)


def matched_by_loop(iou, labels, matched, unmatched, force):
    """The rule as a loop over iou [M, A]: the box of each anchor, or -1 background, -2 not counted."""
    owners = []
    for column in iou.T:
        real = [(value, -box) for box, value in enumerate(column) if labels[box] >= 0]
        value, box = max(real, default=(0.0, 0))
        near_ignored = any(column[box] >= unmatched for box in range(len(labels)) if labels[box] < 0)
        owners.append(-box if value >= matched else -2 if value >= unmatched or near_ignored else -1)
    for box in reversed(range(len(labels))):  # the first box claims last, so it wins
        if force and labels[box] >= 0 and iou[box].max() > 0:
            owners[iou[box].argmax()] = box
    return owners


def test_by_hand():
    """IoU of (0.5, 0, 1.5, 1) with the anchors: 1/3, 1/3, 0, 0, 1/2. (2.1, 0, 3, 1): 0.9 with the third."""
    targets = Matcher()(ANCHORS, [boxes_of([0.5, 0, 1.5, 1], [2.1, 0, 3, 1])], [torch.tensor([4, 0])])
    assert targets.labels.tolist() == [[0, 0, 1, 0, 5]]
    assert targets.num_matched == 2
    assert targets.unmatched_objects == 0
    expected = torch.zeros(1, 5, 4)
    expected[0, 2] = torch.tensor([10 * 0.05, 0, 5 * np.log(0.9), 0])
    expected[0, 4] = torch.tensor([0, 0, 5 * np.log(0.5), 0])
    torch.testing.assert_close(targets.deltas, expected, atol=1e-5, rtol=0)


def test_a_box_claims_its_best_anchor_however_small_the_overlap():
    small = boxes_of([3.4, 0.4, 3.5, 0.5])
    targets = Matcher()(ANCHORS, [small], [torch.tensor([2])])
    assert targets.labels.tolist() == [[0, 0, 0, 3, 0]]
    unforced = Matcher(force=False)(ANCHORS, [small], [torch.tensor([2])])
    assert unforced.labels.tolist() == [[0] * 5]
    assert (unforced.num_matched, unforced.unmatched_objects) == (0, 1)
    outside = Matcher()(ANCHORS, [boxes_of([9, 9, 10, 10])], [torch.tensor([2])])
    assert outside.labels.tolist() == [[0] * 5]
    assert outside.unmatched_objects == 1


def test_the_first_of_two_boxes_gets_the_anchor_that_both_claim():
    both = boxes_of([3.4, 0.4, 3.5, 0.5], [3, 0, 4, 0.4])
    targets = Matcher()(ANCHORS, [both], [torch.tensor([0, 1])])
    assert targets.labels.tolist() == [[0, 0, 0, 1, 0]]
    assert (targets.num_matched, targets.unmatched_objects) == (1, 1)


def test_a_claim_takes_an_anchor_from_the_box_that_overlaps_it_more():
    both = boxes_of([0, 0, 2, 1], [0, 0, 2, 0.1])  # the second has an IoU of 0.1 with the last anchor
    targets = Matcher()(ANCHORS[4:], [both], [torch.tensor([7, 8])])
    assert targets.labels.tolist() == [[8]]  # claimed by both, and the first gets it
    swapped = Matcher()(ANCHORS[4:], [both.flip(0)], [torch.tensor([8, 7])])
    assert swapped.labels.tolist() == [[9]]


def test_equal_anchors_and_equal_boxes_go_to_the_first():
    anchors = ANCHORS[[0, 0, 1]]
    twins = boxes_of([0, 0, 1, 0.4], [0, 0, 1, 0.4])
    assert Matcher()(anchors, [twins], [torch.tensor([5, 6])]).labels.tolist() == [[6, 0, 0]]
    same = boxes_of([0, 0, 1, 1], [0, 0, 1, 1])
    assert Matcher(force=False)(anchors, [same], [torch.tensor([5, 6])]).labels.tolist() == [[6, 6, 0]]


def test_between_the_thresholds_nothing_is_counted():
    """(0, 0, 1, 0.45) has an IoU of 0.45 with the first anchor and 0.225 with the last."""
    matcher = Matcher(matched=0.5, unmatched=0.4, force=False)
    targets = matcher(ANCHORS, [boxes_of([0, 0, 1, 0.45])], [torch.tensor([0])])
    assert targets.labels.tolist() == [[-1, 0, 0, 0, 0]]
    assert (targets.num_matched, targets.unmatched_objects) == (0, 1)
    assert targets.deltas.abs().max() == 0


def test_anchors_near_ignored_boxes_are_not_counted_unless_matched():
    boxes = boxes_of([0, 0, 2, 1], [2, 0, 3, 0.9], [2, 0, 3, 1])
    targets = Matcher()(ANCHORS, [boxes], [torch.tensor([-1, 3, -1])])
    # The first two anchors have an IoU of exactly 0.5 with the first box.
    assert targets.labels.tolist() == [[-1, -1, 4, 0, -1]]
    assert (targets.num_matched, targets.unmatched_objects) == (1, 0)


def test_images_without_boxes_and_with_more_boxes_than_anchors():
    nothing, many = torch.empty(0, 4), random_boxes(torch.Generator().manual_seed(0), 40)
    targets = Matcher()(ANCHORS, [nothing, many], [torch.empty(0, dtype=torch.int64), torch.arange(40)])
    assert targets.labels.shape == (2, 5)
    assert targets.labels[0].tolist() == [0] * 5
    assert targets.num_matched == (targets.labels > 0).sum()
    assert targets.unmatched_objects == 40 - len(targets.labels[1][targets.labels[1] > 0].unique())
    empty = Matcher()(ANCHORS, [nothing], [torch.empty(0, dtype=torch.int64)])
    assert empty.labels.tolist() == [[0] * 5]
    assert (empty.num_matched, empty.unmatched_objects) == (0, 0)


def test_empty_inverted_and_non_finite_boxes_match_nothing():
    broken = boxes_of([1, 0, 1, 1], [2, 1, 1, 0], [np.nan, 0, 1, 1], [0, 0, np.inf, 1], [3, 0, 4, 1])
    targets = Matcher()(ANCHORS, [broken], [torch.arange(5)])
    assert targets.labels.tolist() == [[0, 0, 0, 5, 0]]
    assert targets.unmatched_objects == 4
    assert targets.deltas.isfinite().all()


@pytest.mark.parametrize(("matched", "unmatched"), [(0.5, 0.5), (0.5, 0.35), (0.3, 0.3)])
@pytest.mark.parametrize("force", [True, False])
def test_random_batches_equal_the_loop(matched, unmatched, force):
    generator = torch.Generator().manual_seed(int(matched * 10))
    anchors = random_boxes(generator, 300, smallest=0.2)
    boxes = [random_boxes(generator, count, smallest=0.2) for count in (0, 1, 7, 30, 3)]
    labels = [torch.randint(-1, 5, (len(image_boxes),), generator=generator) for image_boxes in boxes]
    targets = Matcher(matched=matched, unmatched=unmatched, force=force)(anchors, boxes, labels)
    unmatched_objects = excluded = 0
    for image, (image_boxes, classes) in enumerate(zip(boxes, labels, strict=True)):
        iou = box_iou(image_boxes, anchors).numpy()
        owners = matched_by_loop(iou, classes.tolist(), matched, unmatched, force)
        expected = [int(classes[owner]) + 1 if owner >= 0 else owner + 1 for owner in owners]
        assert targets.labels[image].tolist() == expected
        unmatched_objects += len({box for box in range(len(image_boxes)) if classes[box] >= 0} - set(owners))
        excluded += owners.count(-2)
    assert targets.unmatched_objects == unmatched_objects
    assert targets.num_matched == (targets.labels > 0).sum() > 20
    assert excluded > 0


def test_equal_to_torchvisions_matcher_and_coder():
    """If no two boxes claim one anchor: it goes to the last in torchvision, to the first in TensorFlow."""
    generator = torch.Generator().manual_seed(1)
    compared = 0
    for _ in range(60):
        anchors, boxes = random_boxes(generator, 400), random_boxes(generator, 6)
        iou = box_iou(boxes, anchors)
        if len(iou.argmax(1).unique()) < 6:
            continue
        owners = SSDMatcher(0.5)(iou)
        labels = torch.randint(0, 9, (6,), generator=generator)
        targets = Matcher()(anchors, [boxes], [labels])
        torch.testing.assert_close(
            targets.labels[0], torch.where(owners >= 0, labels[owners.clamp(min=0)] + 1, 0)
        )
        own = owners >= 0
        deltas = TorchvisionCoder((10.0, 10.0, 5.0, 5.0)).encode_single(boxes[owners[own]], anchors[own])
        torch.testing.assert_close(targets.deltas[0][own], deltas, rtol=1e-4, atol=1e-4)
        compared += 1
    assert compared > 30


def test_a_batch_equals_its_images_one_by_one():
    generator = torch.Generator().manual_seed(2)
    anchors = random_boxes(generator, 200)
    boxes = [random_boxes(generator, count) for count in (5, 0, 12)]
    labels = [torch.arange(len(image_boxes)) for image_boxes in boxes]
    together = Matcher()(anchors, boxes, labels)
    alone = [
        Matcher()(anchors, [image_boxes], [classes])
        for image_boxes, classes in zip(boxes, labels, strict=True)
    ]
    torch.testing.assert_close(together.labels, torch.cat([one.labels for one in alone]))
    torch.testing.assert_close(together.deltas, torch.cat([one.deltas for one in alone]))
    assert together.num_matched == sum(one.num_matched for one in alone)
    assert together.unmatched_objects == sum(one.unmatched_objects for one in alone)


def test_deltas_are_float32_and_thresholds_are_those_of_the_released_configuration():
    double = Matcher()(ANCHORS.double(), [boxes_of([0, 0, 1, 1])], [torch.tensor([0])])
    assert double.deltas.dtype == torch.float32
    assert (Matcher().matched, Matcher().unmatched, Matcher().force) == (0.5, 0.5, True)
    assert Matcher().coder.scales == (10, 10, 5, 5)
    assert Matcher(coder=BoxCoder(scales=(1, 2, 3, 4))).coder.scales == (1, 2, 3, 4)


def test_targets_have_no_gradient():
    assert not Matcher()(
        ANCHORS.clone().requires_grad_(), [ANCHORS[:1]], [torch.tensor([0])]
    ).deltas.requires_grad


@pytest.mark.parametrize(
    "thresholds", [(0.4, 0.5), (1.1, 0.5), (0.5, 0.0), (0.5, -0.1)], ids=lambda pair: "{}, {}".format(*pair)
)
def test_thresholds_out_of_order_are_rejected(thresholds):
    matched, unmatched = thresholds
    with pytest.raises(ValueError, match="unmatched <= matched <= 1"):
        Matcher(matched=matched, unmatched=unmatched)
    assert Matcher(matched=1.0, unmatched=1.0).matched == 1


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="image 1 of the batch has 1 boxes but 2 labels"):
        Matcher()(ANCHORS, [ANCHORS, ANCHORS[:1]], [torch.arange(5), torch.arange(2)])
