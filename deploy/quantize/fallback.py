"""Keeps as many of the most sensitive layers in float as an accuracy budget requires."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.quantize.quantizer import Quantizer
from engine.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """The layers that stay float in the chosen file.

    float_layers: the most sensitive first. score: the file's score. tried: (number of float layers, score) of
    each file that was scored, in order.
    """

    float_layers: tuple[str, ...]
    score: float
    tried: tuple[tuple[int, float], ...]


def fall_back(
    quantizer: Quantizer,
    path: Path,
    *,
    order: Sequence[str],
    score: Callable[[Path], float],
    min_score: float,
    log: Callable[[str], None] = lambda text: None,
) -> Fallback:
    """Write the file to `path` with the fewest of the most sensitive layers in float that reach `min_score`.

    The number is found by bisection, assuming that more float layers never lower the score. The final file
    was always scored itself.

    Args:
        order: the layers, the most sensitive first.
        score: scores a file on labeled data; higher is better.
        log: called with a line for each file that was scored.

    Raises:
        UserError: if no file with 8-bit layers reaches `min_score`.
    """
    tried: dict[int, float] = {}

    def reaches(count: int) -> bool:
        quantizer.write(path, float_layers=order[:count])
        tried[count] = score(path)
        log(f"{len(order) - count} of {len(order)} layers in 8 bits: {tried[count]:.2f}")
        return tried[count] >= min_score

    low, high, step = -1, 0, 1  # `low` is too few, `high` is tried next
    while not reaches(high):
        if high == len(order) - 1:
            path.replace(path.with_name(f"{path.name}.rejected"))
            raise UserError(
                f"no layer can be in 8 bits: even a single one scores {tried[high]:.2f}, but the budget "
                f"requires {min_score:.2f}; increase the budget, or calibrate on more images "
                "(calibration.images)"
            )
        low, high, step = high, min(high + step, len(order) - 1), step * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    if list(tried)[-1] != high:
        quantizer.write(path, float_layers=order[:high])
    return Fallback(float_layers=tuple(order[:high]), score=tried[high], tried=tuple(tried.items()))
