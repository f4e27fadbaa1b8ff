"""Compares the classes of splits: absent and rare classes, and shares that differ between train and val."""

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from engine.data.class_map import ClassMap
from engine.data.labels.report import ClassAmounts
from engine.errors import some

RARE = 0.01
"""A class is rare if its amount is less than this share of the most frequent one's."""

FACTOR = 2.0
"""Smaller ratios of two shares are not reported."""

SIGNIFICANCE = 0.001
"""Probability that any class of a dataset is reported although both splits have the same distribution."""

LEAST_IMAGES = 30
"""Splits with fewer images are not compared."""


def absent(amounts: ClassAmounts) -> list[int]:
    """The classes that occur in no image."""
    return [int(index) for index in np.flatnonzero(amounts.present == 0)]


def rare(amounts: ClassAmounts) -> tuple[list[int], float]:
    """The rare classes, the rarest first, and the ratio of the most frequent class to the rarest."""
    total = amounts.total
    present = np.flatnonzero(amounts.present)
    if not len(present):
        return [], 1.0
    order = present[np.argsort(total[present], kind="stable")]
    largest = float(total.max())
    chosen = [int(index) for index in order if total[index] < RARE * largest]
    return chosen, largest / float(total[order[0]])


def differing(train: ClassAmounts, val: ClassAmounts) -> list[int]:
    """The classes of which an image of val has, on average, less than half or more than twice as much as one
    of train, where the difference is significant: Welch's t test of the means per image, at `SIGNIFICANCE`
    divided by the number of classes. The largest differences come first."""
    if min(train.images, val.images) < LEAST_IMAGES:
        return []
    (one, spread), (other, other_spread) = _means(train), _means(val)
    error = np.sqrt(spread / train.images + other_spread / val.images)
    ratio = np.maximum(one, other) / np.maximum(np.minimum(one, other), 1e-12)
    found = (np.abs(one - other) > critical(SIGNIFICANCE / len(one)) * error) & (ratio > FACTOR)
    both = (train.present > 0) & (val.present > 0)  # absent classes are reported as such
    chosen = np.flatnonzero(found & both)
    return [int(index) for index in chosen[np.argsort(-ratio[chosen], kind="stable")]]


def balance_lines(classes: ClassMap, amounts: Mapping[str, ClassAmounts], unit: str) -> list[str]:
    """Lines to show before training about rare classes, and about shares that differ between train and val.

    unit: what the amounts count: pixels, boxes or images.
    """
    lines = []
    if "train" in amounts and (found := rare(amounts["train"]))[0]:
        names = [classes.names[index] for index in found[0]]
        verb = "has" if len(names) == 1 else "have"
        lines.append(f"train: {some(names)} {verb} less than 1% as many {unit} as the most frequent class")
    if {"train", "val"} <= amounts.keys():
        train, val = amounts["train"], amounts["val"]
        shares = [
            f"{classes.names[index]} {train.shares[index]:.1%} and {val.shares[index]:.1%}"
            for index in differing(train, val)
        ]
        if shares:
            lines.append(f"train and val differ in the shares of {unit} per class: {some(shares, 3)}")
    return lines


def critical(probability: float) -> float:
    """The value that a standard normal variable exceeds, on either side, with this probability."""
    return -NormalDist().inv_cdf(probability / 2)


def _means(amounts: ClassAmounts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance per image of each class's amount."""
    means = amounts.total / amounts.images
    return means, np.maximum(amounts.squares / amounts.images - means**2, 0.0)
