"""Absent and rare classes, and shares that differ between train and val."""

import numpy as np
import pytest

from engine.data.labels.balance import absent, critical, differing, rare
from engine.data.labels.report import ClassAmounts


def amounts(rows):
    """From the amount of each class in each image [N, K]."""
    rows = np.array(rows, float)
    return ClassAmounts(
        images=len(rows), total=rows.sum(0), squares=(rows**2).sum(0), present=(rows > 0).sum(0)
    )


def test_shares_sum_to_one():
    assert amounts([[1, 3], [2, 2]]).shares.tolist() == [3 / 8, 5 / 8]
    assert amounts([[0, 0]]).shares.tolist() == [0, 0]


def test_a_class_in_no_image_is_absent():
    assert absent(amounts([[1, 0, 2], [0, 0, 1]])) == [1]


def test_a_class_with_less_than_a_hundredth_of_the_largest_is_rare():
    assert rare(amounts([[1000, 10, 9, 1, 0]])) == ([3, 2], 1000.0)
    assert rare(amounts([[0, 0]])) == ([], 1.0)


def test_critical_values_are_those_of_the_normal_distribution():
    assert critical(0.05) == pytest.approx(1.95996, abs=1e-4)
    assert critical(0.001) == pytest.approx(3.29053, abs=1e-4)


def test_shares_differ_if_the_factor_exceeds_two_and_the_difference_is_significant():
    train = amounts([[5, 1], [5, 3]] * 15)
    assert differing(train, amounts([[5, 5], [5, 7]] * 15)) == [1]  # three times as much
    assert differing(train, amounts([[5, 3], [5, 5]] * 15)) == []  # twice as much
    noisy = [[5, 0]] * 29 + [[5, 200]]  # 6.7 on average, but from a single image
    assert differing(train, amounts(noisy)) == []
    assert differing(train, amounts([[5, 6]] * 29)) == []  # too few images


def test_absent_classes_are_not_reported_as_different():
    assert differing(amounts([[5, 0]] * 30), amounts([[5, 9]] * 30)) == []
