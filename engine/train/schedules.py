"""The learning rate as a pure function of the step: no scheduler, so no scheduler state in a checkpoint.

Each builder returns `factor(step)`, which multiplies every group's base learning rate; `steps` is the length
of the run. During the first `warmup_steps` the factor rises linearly from `warmup_factor` times its later
value.

A run that is resumed with another length follows the schedule of that length from then on: poly and cosine
then jump to a higher factor, or to a lower one if the run was shortened.
"""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def poly(
    *, steps: int, power: float = 0.9, warmup_steps: int = 0, warmup_factor: float = 0.1, end: float = 0.0
) -> Schedule:
    """(1 - step/steps)^power, the DeepLab schedule (Chen et al. 2017, section 4.1), down to `end`."""
    _check(steps, warmup_steps, warmup_factor, end)
    if power <= 0:
        raise ValueError(f"power must be positive, got {power}")

    def factor(step: int) -> float:
        decayed: float = end + (1 - end) * (1 - min(step, steps) / steps) ** power
        return decayed * _warmup(step, warmup_steps, warmup_factor)

    return factor


def cosine(*, steps: int, warmup_steps: int = 0, warmup_factor: float = 0.1, end: float = 0.0) -> Schedule:
    """Half a cosine from 1 to `end`, after the warm-up (Loshchilov & Hutter 2017)."""
    _check(steps, warmup_steps, warmup_factor, end)

    def factor(step: int) -> float:
        progress = min(max(step - warmup_steps, 0) / max(steps - warmup_steps, 1), 1.0)
        decayed = end + (1 - end) * 0.5 * (1 + math.cos(math.pi * progress))
        return decayed * _warmup(step, warmup_steps, warmup_factor)

    return factor


def exponential(
    *, steps: int, rate: float = 0.99, every_steps: int, warmup_steps: int = 0, warmup_factor: float = 0.1
) -> Schedule:
    """A staircase: times `rate` every `every_steps` steps (Howard et al. 2019, section 6.1.1)."""
    _check(steps, warmup_steps, warmup_factor)
    if every_steps < 1 or not 0 < rate <= 1:
        raise ValueError(f"every_steps must be >= 1 and rate in (0, 1], got {every_steps} and {rate}")

    def factor(step: int) -> float:
        return rate ** (step // every_steps) * _warmup(step, warmup_steps, warmup_factor)

    return factor


def constant(*, steps: int, warmup_steps: int = 0, warmup_factor: float = 0.1) -> Schedule:
    """1 throughout, after the warm-up."""
    _check(steps, warmup_steps, warmup_factor)
    return lambda step: _warmup(step, warmup_steps, warmup_factor)


def _warmup(step: int, warmup_steps: int, warmup_factor: float) -> float:
    if step >= warmup_steps:
        return 1.0
    return warmup_factor + (1 - warmup_factor) * step / warmup_steps


def _check(steps: int, warmup_steps: int, warmup_factor: float, end: float = 0.0) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if warmup_steps < 0 or not 0 <= warmup_factor <= 1:
        raise ValueError(
            f"warmup_steps must be >= 0 and warmup_factor in [0, 1], got {warmup_steps}, {warmup_factor}"
        )
    if not 0 <= end <= 1:
        raise ValueError(f"end is a factor on the learning rate and must be in [0, 1], got {end}")
