"""Each layer's contribution to the error of an 8-bit file."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.formats import open_session
from deploy.quantize.quantizer import Quantizer, Simulated
from deploy.session import Arrays, Session, run_in_batches
from engine.io.progress import Progress

MAX_SNR_DB = 120.0
"""Signal-to-noise ratios are capped at this value, which stands for equal outputs."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The effect on the outputs if only one layer is in 8 bits.

    snr_db: power of the float file's outputs over that of the error, of the worst output.
    """

    layer: str
    snr_db: float


def sensitivities(
    quantizer: Quantizer, source: Path, images: Sequence[NDArray[Any]], *, threads: int = 1
) -> list[Sensitivity]:
    """The effect of each layer alone in 8 bits on the outputs for `images` [3, h, w]; the worst first.

    source: the float file that `quantizer` was opened with. If it has raw outputs, only these count: after
    post-processing, a small error can change the order of all detections.
    """
    reference = _outputs(open_session(source, threads=threads), images, quantizer.raw_outputs)
    measured = []
    progress = Progress(len(quantizer.layers), unit="layer")
    with tempfile.TemporaryDirectory(prefix="int8-") as folder:
        path = Path(folder) / f"one{source.suffix}"
        for layer in quantizer.layers:
            others = [name for name in quantizer.layers if name != layer]
            if isinstance(quantizer, Simulated):
                session = quantizer.simulate(float_layers=others, threads=threads)
            else:
                quantizer.write(path, float_layers=others, with_raw=True)
                session = open_session(path, threads=threads)
            snr = min(map(snr_db, reference, _outputs(session, images, quantizer.raw_outputs)))
            measured.append(Sensitivity(layer=layer, snr_db=snr))
            progress.update(len(measured), "sensitivity")
    progress.close()
    return sorted(measured, key=lambda entry: entry.snr_db)


def _outputs(session: Session, images: Sequence[NDArray[Any]], chosen: Collection[str] = ()) -> Arrays:
    """The chosen outputs, by default all."""
    runs = [run_in_batches(session, image[None]) for image in images]
    stacked = [np.stack(values) for values in zip(*runs, strict=True)]
    return [
        values
        for name, values in zip(session.output_names, stacked, strict=True)
        if not chosen or name in chosen
    ]


def snr_db(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """Signal-to-noise ratio in decibels, at most `MAX_SNR_DB`; -inf if a number is NaN or infinite."""
    exact, other = expected.astype(np.float64), actual.astype(np.float64)
    noise, signal = float(((exact - other) ** 2).sum()), float((exact**2).sum())
    if not np.isfinite(noise):
        return -float("inf")
    if noise <= signal * 10 ** (-MAX_SNR_DB / 10):
        return MAX_SNR_DB
    return 10 * float(np.log10(max(signal, 1e-300) / noise))
