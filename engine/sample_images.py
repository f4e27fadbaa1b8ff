"""Saves drawings of samples: some samples of a split, or the worst ones of an evaluation."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from engine.contracts import Image
from engine.data.images import write_png
from engine.io.files import evenly_spaced, flat_name

DrawSample = Callable[[Any, int], Image]
"""(dataset, index) -> drawing [H, W, 3]."""


def save_samples(draw: DrawSample, dataset: Any, folder: Path, *, count: int) -> None:
    """Draw `count` evenly spaced samples of `dataset`, as `<name>.png`."""
    for index in evenly_spaced(len(dataset), count) if count else []:
        write_png(folder / f"{flat_name(dataset.name(index))}.png", draw(dataset, index))


def save_worst(draw: DrawSample, dataset: Any, folder: Path, worst: Iterable[tuple[str, int, float]]) -> None:
    """Draw the samples (name, index, score) in an evaluator's `worst`, as `<rank>_<score>_<name>.png`."""
    for rank, (name, index, score) in enumerate(worst, start=1):
        write_png(folder / f"{rank:02d}_{score:.3f}_{flat_name(name)}.png", draw(dataset, index))
