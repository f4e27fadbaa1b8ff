"""Expected calibration errors worked out by hand."""

import numpy as np
import pytest

from cls.eval.calibration import calibration


def test_error_by_hand():
    # Two bins: (0, .5] has probabilities .3 and .5, one of two right; (.5, 1] has .9 and 1, both right.
    result = calibration(np.array([0.3, 0.5, 0.9, 1.0]), np.array([True, False, True, True]), bins=2)
    assert result.probability == pytest.approx([0.4, 0.95])
    assert result.accuracy == pytest.approx([0.5, 1.0])
    assert result.counts.tolist() == [2, 2]
    assert result.ece == pytest.approx((2 * 0.1 + 2 * 0.05) / 4)


def test_a_calibrated_network_has_no_error():
    probabilities = np.repeat(0.75, 8)
    assert calibration(probabilities, np.arange(8) < 6).ece == pytest.approx(0)


def test_without_images_the_error_is_unknown():
    result = calibration(np.array([np.nan]), np.array([True]))
    assert np.isnan(result.ece)
    assert len(result.counts) == 0
