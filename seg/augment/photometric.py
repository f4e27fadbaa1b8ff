"""Random grayscale, blur and noise, for cameras and lighting that are missing from the training images."""

from typing import Any

import albumentations

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
