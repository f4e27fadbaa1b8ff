"""What the training transforms of all tasks take from albumentations."""

from typing import Any

import engine.environment  # noqa: F401  (keeps albumentations from asking the package index)


def import_albumentations() -> Any:
    """albumentations, imported late: it takes two seconds, and evaluation does without it."""
    import albumentations

    return albumentations


def flip_and_jitter(flip: float, color: float) -> list[Any]:
    """A horizontal mirror with probability `flip`, and a jitter of brightness, contrast and saturation of
    strength `color` (a fifth of it for hue); each only where it is above 0.

    Raises: ValueError for a value outside of 0..1.
    """
    if not 0 <= flip <= 1:
        raise ValueError(f"flip must be a probability in 0..1, got {flip}")
    if not 0 <= color <= 1:
        raise ValueError(f"color must be a strength in 0..1, got {color}")
    albumentations = import_albumentations()
    steps = [albumentations.HorizontalFlip(p=flip)] if flip else []
    if color:
        span, hue = (max(0.0, 1 - color), 1 + color), (-color / 5, color / 5)
        steps.append(
            albumentations.ColorJitter(brightness=span, contrast=span, saturation=span, hue=hue, p=1)
        )
    return steps
