"""Quantizes a file within an accuracy budget, and fills in its report card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.formats import open_session
from deploy.quantize.fallback import fall_back
from deploy.quantize.quantizer import Quantizer, file_bytes
from deploy.quantize.report_card import ReportCard
from deploy.quantize.sensitivity import sensitivities
from deploy.timing.latency import Latency, Ratio, Rounds, clocked, take_rounds
from engine.errors import counted


@dataclass(frozen=True, kw_only=True)
class AccuracyBudget:
    """How much accuracy a file may lose.

    score: scores a file, in points of 100, by `metric` on `split`. points: how many it may lose compared with
    the float file.
    """

    score: Callable[[Path], float]
    metric: str
    split: str
    points: float


def quantize_within_budget(
    quantizer: Quantizer,
    source: Path,
    path: Path,
    *,
    budget: AccuracyBudget,
    images: Sequence[NDArray[Any]],
    calibration: Mapping[str, Any],
    threads: int = 1,
    rounds: Rounds | None = None,
    probed: Path | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> ReportCard:
    """Choose the layers that stay float, and write the file to `path`.

    Args:
        source: the float file.
        probed: the float file that `quantizer` was opened with; by default, `source`.
        images: [3, h, w] each, to measure sensitivities; the first one is used for timing.
        calibration: notes for the card.
        rounds: rounds of the timing; None: no timing.
        log: called with lines about the progress.

    Raises:
        UserError: if no file with 8-bit layers is within the budget.
    """
    log(f"scoring the float32 file on {budget.split}")
    before = budget.score(source)
    log(f"float32: {budget.metric} {before:.2f}")
    log(f"sensitivity of {counted(len(quantizer.layers), 'layer')}, on {counted(len(images), 'image')}")
    ranking = sensitivities(quantizer, probed or source, images, threads=threads)
    order = [entry.layer for entry in ranking]
    min_score = before - budget.points
    fallback = fall_back(quantizer, path, order=order, score=budget.score, min_score=min_score, log=log)
    image = images[0][None]
    if rounds is not None:
        log(f"timing both files, for about {rounds.budget_s:g} s")
    latency, ratio = (None, None) if rounds is None else time_both(source, path, image, threads, rounds)
    return ReportCard(
        runtime=open_session(path, threads=threads).runtime,
        threads=threads,
        metric=budget.metric,
        split=budget.split,
        before=before,
        budget=budget.points,
        calibration={**calibration, "probes": len(images)},
        layers=len(order),
        sensitivity=ranking,
        fallback=fallback,
        bytes_before=file_bytes(source),
        bytes_after=file_bytes(path),
        input=list(image.shape),
        latency=latency,
        ratio=ratio,
    )


def time_both(
    source: Path, path: Path, image: NDArray[Any], threads: int, rounds: Rounds
) -> tuple[dict[str, Latency], Ratio]:
    """Time the float file and the 8-bit file in turns, on one image [1, 3, h, w]."""
    sessions = {"float32": open_session(source, threads=threads), "int8": open_session(path, threads=threads)}
    batches = {name: np.repeat(image, session.shape[0] or 1, axis=0) for name, session in sessions.items()}
    calls = {name: clocked(partial(session, batches[name])) for name, session in sessions.items()}
    seconds = take_rounds(calls, rounds)
    return (
        {name: Latency.of(values) for name, values in seconds.items()},
        Ratio.of(seconds["int8"], seconds["float32"]),
    )
