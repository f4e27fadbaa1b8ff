"""Grayscale, blur and noise: their strengths, and random streams of their own."""

import numpy as np
import pytest

from seg.transforms import TrainTransform

LABEL = np.indices((64, 64)).sum(axis=0).astype(np.uint8) % 5


def build(**options):
    return TrainTransform(crop=64, scale=(1, 1), **{"flip": 0, **options})


def plain(color):
    return np.full((64, 64, 3), color, np.uint8)


def test_grayscale_is_luma_and_leaves_the_label():
    image, label = build(gray=1)(plain((255, 0, 0)), LABEL, 0)
    assert (image == 76).all()  # 0.299 * 255
    np.testing.assert_array_equal(label, LABEL)
    assert (build(gray=1)(plain((0, 255, 0)), None, 0)[0] == 150).all()  # 0.587 * 255 = 149.7


def test_blur_spreads_a_point_over_one_half_to_two_pixels():
    point = plain(0)
    point[32, 32] = 255
    spreads = []
    for seed in range(60):
        image, label = build(blur=1)(point, LABEL, seed)
        np.testing.assert_array_equal(label, LABEL)
        weights = image[..., 0].astype(float)
        rows = weights.sum(axis=1) / weights.sum()
        spreads.append(np.sqrt((rows * (np.arange(64) - 32) ** 2).sum()))
    # Rounding to 8 bits cuts the tails.
    assert 0.4 <= min(spreads) < 0.7
    assert 1.5 < max(spreads) <= 2.0
    assert (build(blur=1)(plain(90), None, 0)[0] == 90).all()


def test_noise_has_a_standard_deviation_of_1_to_5_percent():
    deviations = []
    for seed in range(60):
        image, label = build(noise=1)(plain(128), LABEL, seed)
        np.testing.assert_array_equal(label, LABEL)
        assert image.mean() == pytest.approx(128, abs=1)
        assert (image[..., 0] != image[..., 1]).any()
        deviations.append(image.std())
    assert 2.4 <= min(deviations) < 4
    assert 11.5 < max(deviations) <= 13.1  # 1% and 5% of 255: 2.55 and 12.75, and rounding


def test_transforms_are_drawn_independently():
    """One seed for all would apply those with the same probability to the same images."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 8:16] = (255, 0, 0)
    transform = build(flip=0.5, gray=0.5, blur=0.5, noise=0.5)
    drawn = []
    for seed in range(400):
        result = transform(image, None, seed)[0].astype(float)
        flipped = result[:, 48:56].mean() > result[:, 8:16].mean()
        bar = result[:, 48:56] if flipped else result[:, 8:16]
        noisy = result[:, 28:36].std() > 0.5
        edge = bar[:, 0, 0].mean() / bar[:, 4, 0].mean()
        drawn.append((flipped, bar[..., 1].mean() > 40, edge < 0.95, noisy))
    drawn = np.array(drawn)
    assert drawn.mean(axis=0) == pytest.approx([0.5] * 4, abs=0.08)
    correlations = np.corrcoef(drawn.T)[~np.eye(4, dtype=bool)]
    assert np.abs(correlations).max() < 0.2


def test_a_combined_sample_is_changed_as_a_whole():
    samples = [(plain(color), LABEL) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0))]
    image, _ = build(mosaic=1, gray=1).combine(samples, 0)
    assert [image[0, 0, 0], image[0, -1, 0], image[-1, 0, 0], image[-1, -1, 0]] == [76, 150, 29, 0]
