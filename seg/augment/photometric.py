"""Random grayscale, blur and noise, for cameras and lighting that the training images do not show."""

from collections.abc import Sequence
from typing import Any

import albumentations
import numpy as np

BLUR_SIGMA = (0.5, 2.0)
"""Range of the standard deviation of the Gaussian blur, in pixels of the crop."""

NOISE_STD = (0.01, 0.05)
"""Range of the standard deviation of the Gaussian noise, as a fraction of 255."""


def photometric(*, gray: float, blur: float, noise: float) -> list[Any]:
    """Albumentations transforms with these probabilities; 0 leaves a transform out."""
    steps = [
        albumentations.ToGray(p=gray),
        albumentations.GaussianBlur(sigma_limit=BLUR_SIGMA, p=blur),
        albumentations.GaussNoise(std_range=NOISE_STD, p=noise),
    ]
    return [step for step in steps if step.p]


def seed_separately(steps: Sequence[Any], seed: int) -> None:
    """Give each transform a random stream of its own.

    A pipeline starts all of its transforms with the same numbers: two with the same probability would always
    be applied to the same images.
    """
    streams = np.random.SeedSequence([seed, 4]).generate_state(len(steps))
    for step, stream in zip(steps, streams, strict=True):
        step.set_random_seed(int(stream))
