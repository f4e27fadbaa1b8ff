"""Task-aligned assignment by hand, and against a loop."""

import numpy as np
import pytest
import torch

from det.anchors.generators import place_in_cells
from det.boxes import DistanceCoder, pairwise_iou
from det.panlite.assignment import TaskAligned, centers_inside
from tests.det.panlite.logits import distance_logits

ROW = torch.tensor([[0, 0, 1, 1], [1, 0, 2, 1], [2, 0, 3, 1], [3, 0, 4, 1.0]])
"""Four cells next to each other, with centers at x = 0.5, 1.5, 2.5 and 3.5."""

LEFT, RIGHT = [0, 0, 2, 1], [1, 0, 4, 1.0]
"""Contain the centers of the cells 0 and 1, and of the cells 1 to 3."""

# Boxes (0, 0, 2, 1), (1, 0, 2, 1), (1, 0, 4, 1) and (3, 0, 4, 1). The first two have IoU 1 and 1/2 with LEFT,
# the last three 1/3, 1 and 1/3 with RIGHT.
PREDICTED = distance_logits([[0.5, 0.5, 1.5, 0.5], [0.5] * 4, [1.5, 0.5, 1.5, 0.5], [0.5] * 4])[None]

# Of class 0, which RIGHT is, and of class 1, which LEFT is.
SCORES = torch.tensor([[0.1, 0.5], [0.9, 0.8], [0.4, 0.1], [0.6, 0.1]]).logit()[None]


def assigned(*rows, labels, scores=SCORES, **options):
    assignment = TaskAligned(**options)(ROW, [torch.tensor(rows)], [torch.tensor(labels)])
    return assignment, assignment.given(PREDICTED, scores)


def test_by_hand():
    """Alignments: 1/2 and 0.8 / 2 with LEFT; 0.9 / 3, 0.4 and 0.6 / 3 with RIGHT. LEFT gets cell 1."""
    assignment, targets = assigned(LEFT, RIGHT, labels=[1, 0], beta=1.0)
    assert targets.labels.tolist() == [[2, 2, 1, 1]]
    torch.testing.assert_close(targets.quality, torch.tensor([[1, 0.8, 1, 0.5]]))
    expected = [[0.5, 0.5, 1.5, 0.5], [1.5, 0.5, 0.5, 0.5], [1.5, 0.5, 1.5, 0.5], [2.5, 0.5, 0.5, 0.5]]
    torch.testing.assert_close(targets.deltas, torch.tensor([expected]))
    assert assignment.weight == targets.num_objects == 2


@pytest.mark.parametrize(
    ("options", "labels", "quality"),
    [
        ({"beta": 1.0, "topk": 2}, [2, 2, 1, 0], [1, 0.8, 1, 0]),  # RIGHT's second cell goes to LEFT
        ({"beta": 1.0, "topk": 1}, [2, 0, 1, 0], [1, 0, 1, 0]),
        ({"beta": 2.0}, [2, 2, 1, 1], [1, 0.4, 1, 1 / 6]),  # alignments 0.5, 0.2; 0.4, 0.6 / 9
        ({"alpha": 2.0, "beta": 1.0}, [2, 2, 1, 1], [0.25 / 0.32, 1, 1, 0.75]),  # 0.25, 0.32; 0.16, 0.12
        ({"alpha": 0.0, "beta": 1.0}, [2, 2, 1, 1], [1, 0.5, 1, 1 / 3]),
    ],
)
def test_options(options, labels, quality):
    _, targets = assigned(LEFT, RIGHT, labels=[1, 0], **options)
    assert targets.labels.tolist() == [labels]
    torch.testing.assert_close(
        targets.quality, torch.tensor([quality], dtype=torch.float32), atol=1e-6, rtol=1e-6
    )


def test_the_highest_quality_of_an_object_is_its_highest_overlap():
    """(0, 0, 1, 1) has IoU 1/2 with the box that cell 0 predicts, its only candidate."""
    _, targets = assigned([0, 0, 1, 1.0], labels=[1])
    assert targets.labels.tolist() == [[2, 0, 0, 0]]
    torch.testing.assert_close(targets.quality, torch.tensor([[0.5, 0, 0, 0]]))


def test_an_object_between_the_centers_gets_the_nearest_cell():
    _, targets = assigned([2.7, 0.2, 2.8, 0.3], labels=[0])
    assert targets.labels.tolist() == [[0, 0, 1, 0]]
    torch.testing.assert_close(targets.deltas[0, 2], torch.tensor([-0.2, 0.3, 0.3, -0.2]))
    assert targets.quality[0, 2].item() == pytest.approx(0.01 / 3, rel=1e-4)  # in the box (1, 0, 4, 1)


def test_boxes_without_overlap_are_learned_with_quality_0():
    """A cell whose box misses its object: its distances would be meaningless, but nothing divides by 0."""
    _, targets = assigned([3.6, 0.1, 3.9, 0.3], labels=[0])
    assert targets.quality.isfinite().all()
    _, targets = assigned([9, 9, 10, 10.0], labels=[0])
    assert targets.labels.tolist() == [[0, 0, 0, 1]]
    assert targets.quality.tolist() == [[0, 0, 0, 0]]


def test_cells_in_ignored_boxes_are_ignored_unless_assigned():
    assignment, targets = assigned(LEFT, RIGHT, labels=[1, -1])
    assert targets.labels.tolist() == [[2, 2, -1, -1]]
    assert assignment.weight == 1


def test_unusable_boxes_are_not_objects():
    bad = [[1, 1, 1, 2.0], [2, 0, 1, 1.0], [0, 0, float("nan"), 1], [0, 0, float("inf"), 1]]
    assignment, targets = assigned(*bad, labels=[0] * 4)
    assert targets.labels.tolist() == [[0, 0, 0, 0]]
    assert not targets.quality.any()
    assert (targets.num_objects, assignment.weight) == (0, 1)


def test_images_without_objects_and_of_different_numbers():
    boxes = [torch.tensor([LEFT, RIGHT]), torch.zeros(0, 4), torch.tensor([RIGHT])]
    labels = [torch.tensor([1, 0]), torch.zeros(0, dtype=torch.int64), torch.tensor([0])]
    targets = TaskAligned()(ROW, boxes, labels).given(PREDICTED.expand(3, -1, -1), SCORES.expand(3, -1, -1))
    assert targets.labels.tolist() == [[2, 2, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1]]
    assert targets.num_objects == 3
    with pytest.raises(ValueError, match="image 0 of the batch has 1 boxes but 2 labels"):
        TaskAligned()(ROW, [torch.zeros(1, 4)], [torch.zeros(2, dtype=torch.int64)])


def loop(anchors, boxes, labels, predicted, scores, *, topk, alpha, beta):
    """The rule for one image, cell by cell: labels [A] and quality [A]."""
    iou = pairwise_iou(boxes, predicted).double().numpy()
    probabilities = scores.double().sigmoid().numpy()
    wanted = [[] for _ in anchors]
    alignment = np.zeros(iou.shape)
    for number, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        alignment[number] = probabilities[:, labels[number]] ** alpha * iou[number] ** beta
        x, y = anchors[:, 0::2].mean(1).tolist(), anchors[:, 1::2].mean(1).tolist()
        inside = [i for i in range(len(anchors)) if x1 < x[i] < x2 and y1 < y[i] < y2]
        if not inside:
            center = ((x1 + x2) / 2, (y1 + y2) / 2)
            far = [(x[i] - center[0]) ** 2 + (y[i] - center[1]) ** 2 for i in range(len(anchors))]
            inside = [int(np.argmin(far))]
        for cell in sorted(inside, key=lambda cell, number=number: -alignment[number, cell])[:topk]:
            wanted[cell].append(number)
    owner = [
        max(each, key=lambda number: iou[number, cell], default=None) for cell, each in enumerate(wanted)
    ]
    quality = np.zeros(len(anchors))
    for cell, number in enumerate(owner):
        if number is not None:
            own = [other for other, each in enumerate(owner) if each == number]
            best = max(alignment[number, own].max(), 1e-38)
            quality[cell] = alignment[number, cell] / best * iou[number, own].max()
    return [0 if number is None else labels[number] + 1 for number in owner], quality


def test_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    sizes = [(8, 6), (4, 3), (2, 2)]
    anchors = place_in_cells([np.array([[1 / w, 1 / h]]) for h, w in sizes], sizes)
    for _ in range(5):
        corner = torch.rand(7, 2, generator=generator) * 0.7
        boxes = torch.cat([corner, corner + 0.02 + 0.3 * torch.rand(7, 2, generator=generator)], 1)
        labels = torch.randint(0, 3, (7,), generator=generator)
        logits = torch.randn(1, len(anchors), 4 * 5, generator=generator)
        scores = torch.randn(1, len(anchors), 3, generator=generator)
        options = {"topk": 4, "alpha": 1.0, "beta": 3.0}
        targets = TaskAligned(**options)(anchors, [boxes], [labels]).given(logits, scores)
        predicted = DistanceCoder().decode(logits[0], anchors)
        expected, quality = loop(anchors, boxes, labels.tolist(), predicted, scores[0], **options)
        assert targets.labels[0].tolist() == expected
        np.testing.assert_allclose(targets.quality[0], quality, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"topk": 0}, "topk must be at least 1"), ({"alpha": -1.0}, "alpha and beta"), ({"beta": -1.0}, "beta")],
)
def test_options_out_of_range_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        TaskAligned(**options)


def test_a_center_on_an_edge_is_not_inside():
    boxes = torch.tensor([[[0, 0, 1.5, 1], [1.5, 0, 4, 1], [0, 0.5, 4, 1], [0, 0, 4, 0.5], [0, 0, 1.6, 1]]])
    inside = centers_inside(ROW, boxes)[0].int().tolist()
    assert inside == [[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
