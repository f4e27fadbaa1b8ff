"""Post-processing: equal to a plain loop over classes, and correct at its limits."""

import numpy as np
import pytest
import torch

from det import postprocess
from det.boxes import BoxCoder, pairwise_iou
from det.postprocess import Postprocess
from engine.errors import UserError


def outputs(seed, *, images=2, anchors=120, classes=5, spread=2.0):
    """Deltas, scores, anchors and sizes; for the seeds used here no two scores are equal."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(anchors, 2, generator=generator) * 0.8
    boxes = torch.cat([corner, corner + 0.1 + 0.3 * torch.rand(anchors, 2, generator=generator)], dim=1)
    deltas = torch.randn(images, anchors, 4, generator=generator)
    scores = torch.randn(images, anchors, classes + 1, generator=generator) * spread
    sizes = torch.tensor([[100, 200], [90, 50]])[:images]
    return deltas, scores, boxes, sizes


def plain(deltas, scores, anchors, size, *, threshold, iou, per_class, most, softmax, candidates):
    """One image, class by class: greedy suppression in numpy, as the released graph does it."""
    scores = (scores.softmax(-1) if softmax else scores.sigmoid()).numpy()
    height, width = size.tolist()
    boxes = BoxCoder().decode(deltas, anchors).clamp(0, 1) * torch.tensor([width, height, width, height])
    overlap = pairwise_iou(boxes, boxes).numpy()
    detections = []
    for label in range(scores.shape[1] - 1):
        column = scores[:, label + 1]
        order = [i for i in np.argsort(-column) if column[i] > threshold][:candidates]
        kept = []
        for i in order:
            if all(overlap[i, j] <= iou for j in kept):
                kept.append(i)
        detections += [(float(column[i]), label, boxes[i].tolist()) for i in kept[:per_class]]
    return sorted(detections, reverse=True)[:most]


@pytest.mark.parametrize("first_look", [7, 1000])
@pytest.mark.parametrize(
    ("per_class", "candidates", "most", "threshold"),
    [(100, None, 100, 1e-8), (3, None, 100, 0.3), (None, 10, 300, 0.001), (2, 20, 5, 0.0), (1, 1, 1, 0.01)],
)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_equals_a_plain_loop(monkeypatch, first_look, per_class, candidates, most, threshold, activation):
    monkeypatch.setattr(postprocess, "FIRST_LOOK", first_look)
    deltas, scores, anchors, sizes = outputs(seed=most + 1)
    process = Postprocess(
        score_threshold=threshold,
        iou_threshold=0.4,
        per_class=per_class,
        max_detections=most,
        activation=activation,
        candidates=candidates,
    )
    for index, detections in enumerate(process(deltas, scores, anchors, sizes)):
        expected = plain(
            deltas[index],
            scores[index],
            anchors,
            sizes[index],
            threshold=threshold,
            iou=0.4,
            per_class=per_class,
            most=most,
            softmax=activation == "softmax",
            candidates=candidates,
        )
        assert detections.labels.tolist() == [label for _, label, _ in expected]
        torch.testing.assert_close(detections.scores, torch.tensor([score for score, _, _ in expected]))
        boxes = torch.tensor([box for _, _, box in expected]).reshape(-1, 4)
        torch.testing.assert_close(detections.boxes, boxes)
        assert tuple(part.dtype for part in detections) == (
            torch.float32,
            torch.float32,
            torch.int64,
        )


def test_boxes_are_in_pixels_of_each_image_and_within_it():
    per_image = Postprocess()(*outputs(seed=1))
    for (boxes, scores, _), (height, width) in zip(per_image, [(100, 200), (90, 50)], strict=True):
        assert boxes.min() >= 0
        assert (boxes[:, 2].max(), boxes[:, 3].max()) <= (width, height)
        assert boxes[:, 2].max() > 0.6 * width
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)


def test_no_detections():
    deltas, _, anchors, sizes = outputs(seed=0)
    first, _ = Postprocess()(deltas, torch.full((2, 120, 6), -20.0), anchors, sizes)
    assert [tuple(part.shape) for part in first] == [(0, 4), (0,), (0,)]


def test_background_is_never_detected():
    scores = torch.full((1, 1, 3), -20.0)
    scores[..., 0], scores[..., 2] = 20.0, 5.0
    (detections,) = Postprocess()(
        torch.zeros(1, 1, 4), scores, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[10, 20]])
    )
    assert detections.labels.tolist() == [1]  # column 2
    assert detections.boxes.tolist() == [[0.0, 0.0, 20.0, 10.0]]


def test_boxes_outside_the_image_are_dropped():
    anchors = torch.tensor([[0.4, 0.4, 0.6, 0.6], [0.4, 0.4, 0.6, 0.6]])
    deltas = torch.tensor([[[-100.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    (detections,) = Postprocess()(deltas, torch.ones(1, 2, 2), anchors, torch.tensor([[10, 20]]))
    assert detections.boxes.tolist() == [pytest.approx([8, 4, 12, 6])]


def test_half_precision_outputs():
    deltas, scores, anchors, sizes = outputs(seed=3)
    (detections, _) = Postprocess()(deltas.bfloat16(), scores.bfloat16(), anchors, sizes)
    (expected, _) = Postprocess()(deltas.bfloat16().float(), scores.bfloat16().float(), anchors, sizes)
    assert detections.boxes.dtype == torch.float32
    torch.testing.assert_close(detections.boxes, expected.boxes)


def test_scores_that_are_nan_give_no_detections():
    deltas, scores, anchors, sizes = outputs(seed=3)
    (detections, _) = Postprocess()(deltas, scores * torch.nan, anchors, sizes)
    assert len(detections.scores) == 0


def test_outputs_of_another_size_are_rejected():
    deltas, scores, anchors, sizes = outputs(seed=3)
    with pytest.raises(UserError, match=r"120 boxes but has 100 anchors; set only data\.size.*input_size"):
        Postprocess()(deltas, scores, anchors[:100], sizes)


def test_a_score_at_the_threshold_is_dropped_and_an_overlap_at_it_is_kept():
    """The upper half of a box overlaps it by exactly one half."""
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0], [8.0, 8.0, 9.0, 9.0]])
    scores = torch.tensor([[0.9], [0.8], [0.5]])
    kept = Postprocess(score_threshold=0.5, iou_threshold=0.5).select(boxes, scores)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.8])
    kept = Postprocess(score_threshold=0.49, iou_threshold=0.49).select(boxes, scores)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.5])


def test_the_defaults_are_those_of_the_released_configuration():
    """iou .6, 100 of a class and 100 in all; the score threshold is higher."""
    process = Postprocess()
    assert (process.score_threshold, process.iou_threshold) == (0.01, 0.6)
    assert (process.per_class, process.max_detections, process.candidates) == (100, 100, None)
    assert (process.activation, process.coder.scales) == ("sigmoid", (10, 10, 5, 5))
    assert str(process) == "score > 0.01, IoU <= 0.6, at most 100 boxes"
    assert Postprocess(coder=BoxCoder(scales=(1, 1, 1, 1))).coder.scales == (1, 1, 1, 1)


def test_values_at_the_limits_are_accepted():
    process = Postprocess(score_threshold=0, iou_threshold=1, per_class=1, max_detections=1, candidates=1)
    assert (process.score_threshold, process.iou_threshold, process.candidates) == (0, 1, 1)
    assert Postprocess(per_class=None).per_class is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"iou_threshold": -0.1}, "iou_threshold"),
        ({"score_threshold": 1.1}, "score_threshold"),
        ({"activation": "tanh"}, "activation must be sigmoid or softmax"),
        ({"iou_threshold": 1.5}, "iou_threshold must be in"),
        ({"score_threshold": -0.1}, "score_threshold"),
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"max_detections": 0}, "max_detections"),
    ],
)
def test_values_out_of_range_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        Postprocess(**options)
