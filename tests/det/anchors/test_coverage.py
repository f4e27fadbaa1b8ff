"""Coverage of objects by anchors: counted by hand, and reported with the remedy."""

import numpy as np
import pytest
import torch

from det.anchors.coverage import anchor_coverage, anchor_report
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
