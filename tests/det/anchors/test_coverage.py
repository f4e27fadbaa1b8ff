"""Coverage of objects by anchors: counted by hand, and reported with the remedy."""

import numpy as np
import pytest
import torch

from det.anchors import coverage
from det.anchors.coverage import Coverage, anchor_coverage, anchor_report, cell_report
from det.anchors.matcher import Matcher
from tests.det.eval.scenes import annotate

# Four anchors: the quarters of the image.
QUARTERS = torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]])
SIZE = (480, 640)  # of the images: a quarter is 320 x 240


def test_a_case_counted_by_hand():
    """Of five objects two fit (IoU 1 and .75), two claim one quarter with less, and one is ignored."""
    boxes = [[[0, 0, 320, 240], [320, 0, 640, 180]], [[0, 0, 100, 100], [0, 0, 60, 60]], [], [[0, 0, 50, 50]]]
    annotations = annotate(
        boxes, [[0, 1], [0, 0], [], [0]], difficult=np.array([False] * 4 + [True]), size=SIZE
    )
    coverage = anchor_coverage(annotations, QUARTERS, (48, 64), Matcher())
    assert coverage.num_objects == 4
    assert coverage.overlapping == 2 / 4
    assert coverage.reached == 3 / 4  # of two that claim one anchor, the first gets it
    assert coverage.too_small == 2 / 4  # less than half of a quarter's area
    assert coverage.tiny == 1 / 4  # at a tenth of their size: 32 x 24, 32 x 18, 10 x 10 and 6 x 6 pixels
    assert anchor_coverage(annotations, QUARTERS, (48, 64), Matcher(force=False)).reached == 2 / 4


def test_the_input_size_decides_what_is_tiny_and_nothing_else():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 300, (200, 2))
    boxes = np.hstack([corners, corners + rng.uniform(10, 160, (200, 2))])
    annotations = annotate(np.split(boxes, 20), np.split(np.zeros(200, int), 20), size=SIZE)
    small, large = (
        anchor_coverage(annotations, QUARTERS, size, Matcher()) for size in ((96, 128), (960, 1280))
    )
    assert small.tiny > 0.05
    assert large.tiny == 0
    assert small._replace(tiny=0) == large
    expected = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1) * 0.2**2) < 8
    assert small.tiny == pytest.approx(expected.mean())


def test_large_splits_are_sampled():
    boxes = [[[0, 0, 320, 240]] * 10] * 3000
    coverage = anchor_coverage(annotate(boxes, [[0] * 10] * 3000, size=SIZE), QUARTERS, (48, 64), Matcher())
    assert coverage.num_objects == 10_000
    assert coverage.overlapping == 1
    assert coverage.reached == pytest.approx(0.1)  # ten objects, one anchor


def test_the_report_names_the_share_and_the_remedy():
    fits = annotate([[[0, 0, 320, 240]]], [[0]], size=SIZE)
    lines = anchor_report(fits, QUARTERS, (320, 320), Matcher())
    assert len(lines) == 1
    assert "anchors at 320x320: 100.0% of 1 objects overlap an anchor with IoU >= 0.5" in lines[0]
    small = annotate([[[0, 0, 12, 12], [300, 200, 312, 212]]], [[0, 0]], size=SIZE)
    lines = anchor_report(small, QUARTERS, (240, 320), Matcher())
    assert "0.0% of 2 objects" in lines[0]
    assert "100.0% are smaller than 8 pixels" in lines[0]
    assert "data.size above 240x320" in lines[1]
    assert "tiles" in lines[1]
    assert "smaller anchors" in lines[1]
    thin = annotate([[[0, 0, 640, 60], [0, 100, 640, 160]]], [[0, 0]], size=SIZE)
    assert "other scales and aspect ratios" in anchor_report(thin, QUARTERS, (480, 640), Matcher())[1]
    assert anchor_report(annotate([[]], [[]]), QUARTERS, (320, 320), Matcher()) == [
        "anchors: this split has no objects to train on"
    ]


@pytest.mark.parametrize(
    ("overlapping", "too_small", "tiny", "remedies"),
    [
        (0.8, 0.1, 0.05, []),
        (0.79, 0.1, 0.05, ["anchors with other scales and aspect ratios"]),
        (0.79, 0.11, 0.05, ["smaller anchors, or tiles (11% of the objects are too small for all)"]),
        (0.9, 0.25, 0.05, ["smaller anchors, or tiles (25% of the objects are too small for all)"]),
        (0.9, 0.0, 0.06, ["a data.size above 240x320, or cutting the images into tiles"]),
        (
            0.5,
            0.0,
            0.5,
            [
                "a data.size above 240x320, or cutting the images into tiles",
                "anchors with other scales and aspect ratios",
            ],
        ),
    ],
)
def test_remedies_by_share(monkeypatch, overlapping, too_small, tiny, remedies):
    found = Coverage(num_objects=40, overlapping=overlapping, reached=0.975, too_small=too_small, tiny=tiny)
    monkeypatch.setattr(coverage, "anchor_coverage", lambda *_: found)
    first, *rest = anchor_report(
        annotate([[]], [[]]), QUARTERS, (240, 320), Matcher(matched=0.4, unmatched=0.4)
    )
    assert first == (
        f"anchors at 240x320: {overlapping:.1%} of 40 objects overlap an anchor with IoU >= 0.4, 97.5% are "
        f"matched to an anchor (best possible recall), {tiny:.1%} are smaller than 8 pixels"
    )
    assert rest == ([f"many objects are hard to learn; consider {'; '.join(remedies)}"] if remedies else [])


def test_objects_at_the_limits():
    """An IoU of exactly the threshold overlaps, and a side of exactly 8 pixels is not tiny."""
    half = annotate([[[0, 0, 320, 120], [320, 240, 400, 320]]], [[0, 0]], size=SIZE)
    found = anchor_coverage(half, QUARTERS, (48, 64), Matcher())
    assert found.num_objects == 2
    assert found.overlapping == 1 / 2  # (0, 0, 320, 120) is one half of a quarter
    assert found.too_small == 1 / 2
    assert found.tiny == 0  # 80 pixels at a tenth of their size
    assert anchor_coverage(half, QUARTERS, (47, 64), Matcher()).tiny == 1 / 2


def test_boxes_without_an_area_and_ignored_ones_are_not_objects():
    boxes = [[[0, 0, 320, 240], [50, 50, 50, 90], [60, 60, 90, 60], [9, 9, 8, 8]], [[0, 0, 320, 240]]]
    truth = annotate(boxes, [[0] * 4, [0]], difficult=np.array([False] * 4 + [True]), size=SIZE)
    found = anchor_coverage(truth, QUARTERS, (48, 64), Matcher())
    assert (found.num_objects, found.overlapping, found.reached) == (1, 1, 1)
    nothing = annotate(boxes[1:], [[0]], difficult=np.array([True]), size=SIZE)
    assert anchor_coverage(nothing, QUARTERS, (48, 64), Matcher()) is None


def test_images_of_several_sizes_and_more_than_a_batch():
    """20 images of 480 x 640 and 100 x 50 in turns; in each the first quarter, but for one of a sixteenth."""
    boxes = [[[0, 0, 320, 240]] if index % 2 == 0 else [[0, 0, 25, 50]] for index in range(20)]
    boxes[13] = [[0, 0, 12.5, 25]]
    truth = annotate(boxes, [[0]] * 20, size=SIZE)
    truth.sizes[1::2] = (100, 50)
    found = anchor_coverage(truth, QUARTERS.double(), (480, 640), Matcher())
    assert found == Coverage(
        num_objects=20, overlapping=pytest.approx(0.95), reached=1, too_small=pytest.approx(0.05), tiny=0
    )


def test_cells_and_objects():
    """Four cells with centers at 160 and 480, 120 and 360; one object lies between them, one is tiny."""
    boxes = [[[0, 0, 320, 240]], [[200, 0, 400, 480], [470, 350, 490, 370]]]
    truth = annotate(boxes, [[0], [0, 0]], size=SIZE)
    assert cell_report(truth, QUARTERS, (48, 64)) == [
        "cells at 48x64: 66.7% of 3 objects contain the center of a cell, 33.3% are smaller than 8 pixels",
        "many objects are hard to learn; consider a data.size above 48x64, or cutting the images into tiles",
    ]
    assert len(cell_report(truth, QUARTERS, (480, 640))) == 1
    assert cell_report(annotate([[]], [[]]), QUARTERS, (48, 64)) == [
        "cells: this split has no objects to train on"
    ]
