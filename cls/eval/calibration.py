"""Calibration: whether predictions with a probability of 80% are right 80% of the time.

As in Guo et al., "On Calibration of Modern Neural Networks" (2017): the probabilities of the predicted
classes are sorted into bins of equal width, and the expected calibration error (ECE) is the mean distance
between accuracy and mean probability of the bins, weighted by their numbers of images.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_BINS = 15


class Calibration(NamedTuple):
    """ece: 0..1, NaN without images. Per bin that has images: mean probability, accuracy, number."""

    ece: float
    probability: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    counts: NDArray[np.int64]


def calibration(
    probabilities: NDArray[np.float64], correct: NDArray[np.bool_], *, bins: int = _BINS
) -> Calibration:
    """probabilities [N]: of the predicted classes; correct [N]. Probabilities that are not numbers are left
    out."""
    known = np.isfinite(probabilities)
    probabilities, correct = probabilities[known], correct[known]
    places = np.clip(np.ceil(probabilities * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    used = counts > 0
    sums = (np.bincount(places, values, minlength=bins)[used] for values in (probabilities, correct))
    mean, accuracy = (values / counts[used] for values in sums)
    ece = float((counts[used] * np.abs(accuracy - mean)).sum() / len(probabilities)) if used.any() else np.nan
    return Calibration(ece, mean, accuracy, counts[used])
