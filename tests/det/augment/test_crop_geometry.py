"""The random windows of both crops, drawn many times, match the papers' descriptions."""

import numpy as np
import pytest

from det.augment import crop_geometry

BOXES = np.array([[10, 10, 60, 90], [70, 20, 150.5, 100], [0, 0, 20, 15], [100, 90, 160, 120]], np.float32)


def shown_windows(rule, boxes, scale=(0.1, 1.0), draws=400):
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        yield rule(rng, boxes, (120, 160), (0, 0, 160, 120), scale)


@pytest.mark.parametrize("rule", [crop_geometry.covering_crop, crop_geometry.overlapping_crop])
def test_windows_have_the_area_and_aspect_ratio_of_the_paper(rule):
    """SSD, section 2.2: size in [0.1, 1] of the original image, aspect ratio between 1/2 and 2."""
    areas, aspects, whole = [], [], 0
    for (left, top, right, bottom), _ in shown_windows(rule, BOXES, draws=1000):
        assert 0 <= left < right <= 160
        assert 0 <= top < bottom <= 120
        if (right - left, bottom - top) == (160, 120):
            whole += 1
            continue
        areas.append((right - left) * (bottom - top) / (160 * 120))
        aspects.append((right - left) / (bottom - top))
    assert 0.09 < min(areas) < 0.15
    assert max(areas) > 0.8
    assert 0.48 < min(aspects) < 0.6
    assert 1.8 < max(aspects) < 2.05
    # ssd: 15 of 100 untouched and 0 to 7 by chance; iou: one of seven thresholds, and where none is reached
    assert 0.12 < whole / 1000 < 0.3


def overlap_with(window):
    """The share of each of BOXES that is in the window, and their IoU."""
    low, high = np.maximum(BOXES[:, :2], window[:2]), np.minimum(BOXES[:, 2:], window[2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = (BOXES[:, 2:] - BOXES[:, :2]).prod(axis=1)
    return shared / areas, shared / (areas + (window[2] - window[0]) * (window[3] - window[1]) - shared)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9, 1.0])
def test_the_released_crop_covers_an_object_and_drops_what_it_covers_less(monkeypatch, threshold):
    """`min_object_covered` and `overlap_thresh` of ssd_random_crop are the same seven numbers."""
    monkeypatch.setattr(crop_geometry, "THRESHOLDS", (threshold,))
    dropped = 0
    for window, kept in shown_windows(crop_geometry.covering_crop, BOXES):
        covered, _ = overlap_with(window)
        np.testing.assert_array_equal(kept, covered >= threshold - 1e-6)
        assert kept.any()
        dropped += (~kept).sum()
    assert dropped > 200


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.5])
def test_the_papers_crop_has_an_iou_and_keeps_the_boxes_whose_center_it_holds(monkeypatch, threshold):
    """SSD, section 2.2: "if the center of it is in the sampled patch"."""
    monkeypatch.setattr(crop_geometry, "THRESHOLDS", (threshold, 1.0))
    centers, least = (BOXES[:, :2] + BOXES[:, 2:]) / 2, []
    for window, kept in shown_windows(crop_geometry.overlapping_crop, BOXES):
        inside = ((centers > window[:2]) & (centers < window[2:])).all(axis=1)
        np.testing.assert_array_equal(kept, inside)
        assert kept.any()
        if window != (0, 0, 160, 120):
            least.append(overlap_with(window)[1][inside].max())
    assert 120 < len(least) < 280  # the others are the whole image
    assert threshold <= min(least) < threshold + 0.2


def test_all_seven_thresholds_are_in_use():
    """SSD's five, a random patch and the whole image."""
    assert crop_geometry.THRESHOLDS == (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
