"""An exported file in 8 bits, after training: which layers bear it is measured, the others stay float.

The file's own graph is quantized, not the network's Python: `onnx_quantize` and `openvino_quantize` know how.
Here is what both have in common: each layer's share of the error, and as many of the worst layers in float as
a budget on labeled data asks for.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.artifact import in_batches
from deploy.formats.runtimes import SUFFIXES, Arrays, open_session
from engine.errors import UserError

FORMATS = ("onnx", "openvino")
"""Formats that can be quantized."""


CEILING_DB = 120.0
"""A signal-to-noise ratio above this is that of equal outputs."""


class Quantizer(Protocol):
    """A file with the ranges of its activations, ready to be written with any of its layers in 8 bits.

    layers: names of those that can be, in the graph's order.
    """

    layers: tuple[str, ...]

    def write(self, path: Path, *, floating: Collection[str]) -> Path:
        """Write the file with all layers but `floating` in 8 bits."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What one layer alone in 8 bits does to the outputs.

    snr_db: power of the float file's outputs over that of the difference, of the worst output.
    """

    layer: str
    snr_db: float


@dataclass(frozen=True, kw_only=True)
class FallBack:
    """The file that was chosen.

    floating: layers that stay float, the most sensitive first. score: of the file. tried: (number of floating
    layers, score) of every file that was scored, in that order.
    """

    floating: tuple[str, ...]
    score: float
    tried: tuple[tuple[int, float], ...]


def open_quantizer(
    source: Path,
    images: Sequence[NDArray[Any]],
    *,
    format: str,
    per_channel: bool = True,
    weights: Mapping[str, NDArray[Any]] | None = None,
) -> Quantizer:
    """Calibrate an exported float file.

    Args:
        source: `.onnx`, or `.xml` with its `.bin`.
        images: [3, h, w] each, as the file takes them; the ranges of activations are taken over these.
        format: one of `FORMATS`.
        per_channel: a scale for each output channel of a layer's weights; else one for the whole layer, with
            which MobileNetV3 collapses and which is here to show that.
        weights: PyTorch's by name, to call the layers of a file that has no names by.

    Raises:
        UserError: another format, no images, a library that is not installed, or nothing to quantize.
    """
    if format not in FORMATS:
        raise UserError(f"precision=int8 is for format=onnx and format=openvino, not {format}")
    if not images:
        raise UserError("calibration needs images; set calibration.images to at least 1")
    count = open_session(source).shape[0] or 1
    batches = [np.repeat(image[None], count, axis=0) for image in images]
    # Each imports this module, and what it needs is an extra.
    if format == "onnx":
        from deploy.quantize.onnx import OnnxQuantizer

        quantizer: Quantizer = OnnxQuantizer(source, batches, per_channel=per_channel)
    else:
        from deploy.quantize.openvino import OpenVinoQuantizer

        quantizer = OpenVinoQuantizer(source, batches, per_channel=per_channel, weights=weights)
    if not quantizer.layers:
        raise UserError(f"{source}: has no layer that could be quantized")
    return quantizer


def sensitivities(
    quantizer: Quantizer, source: Path, images: Sequence[NDArray[Any]], *, threads: int = 1
) -> list[Sensitivity]:
    """Each layer alone in 8 bits, run over `images` and compared with the float file; the worst first."""
    reference = _outputs(source, images, threads)
    found = []
    with tempfile.TemporaryDirectory(prefix="int8-") as folder:
        path = Path(folder) / f"one{source.suffix}"
        for layer in quantizer.layers:
            quantizer.write(path, floating=[name for name in quantizer.layers if name != layer])
            snr = min(map(snr_db, reference, _outputs(path, images, threads)))
            found.append(Sensitivity(layer=layer, snr_db=snr))
    return sorted(found, key=lambda entry: entry.snr_db)


def _outputs(path: Path, images: Sequence[NDArray[Any]], threads: int) -> Arrays:
    session = open_session(path, threads=threads)
    runs = [in_batches(session, image[None]) for image in images]
    return [np.stack(values) for values in zip(*runs, strict=True)]


def snr_db(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Signal-to-noise ratio in decibels, at most `CEILING_DB`; -inf where something is no number."""
    exact, other = expected.astype(np.float64), found.astype(np.float64)
    noise, signal = float(((exact - other) ** 2).sum()), float((exact**2).sum())
    if not np.isfinite(noise):
        return -float("inf")
    if noise <= signal * 10 ** (-CEILING_DB / 10):
        return CEILING_DB
    return 10 * float(np.log10(max(signal, 1e-300) / noise))


def fall_back(
    quantizer: Quantizer,
    path: Path,
    *,
    order: Sequence[str],
    score: Callable[[Path], float],
    least: float,
    say: Callable[[str], None] = lambda text: None,
) -> FallBack:
    """Write the file to `path` with the fewest of the worst layers in float whose score is at least `least`.

    How many is found by bisection, as if more float layers never lowered the score; the file that is left
    was scored itself, whatever the others say.

    Args:
        order: the layers, the most sensitive first.
        score: of a file, on labeled data; higher is better.
        say: told of each file that was scored.

    Raises:
        UserError: the budget holds for no file that has a layer in 8 bits.
    """
    tried: dict[int, float] = {}

    def holds(count: int) -> bool:
        quantizer.write(path, floating=order[:count])
        tried[count] = score(path)
        say(f"{len(order) - count} of {len(order)} layers in 8 bits: {tried[count]:.2f}")
        return tried[count] >= least

    low, high, step = -1, 0, 1  # `low` is too few; `high` is the next to be tried
    while not holds(high):
        if high == len(order) - 1:
            path.replace(path.with_name(f"{path.name}.rejected"))
            raise UserError(
                f"no layer can be 8 bit: even one alone scores {tried[high]:.2f}, the budget asks for "
                f"{least:.2f}; allow more, or calibrate on more images (calibration.images)"
            )
        low, high, step = high, min(high + step, len(order) - 1), step * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    if list(tried)[-1] != high:
        quantizer.write(path, floating=order[:high])
    return FallBack(floating=tuple(order[:high]), score=tried[high], tried=tuple(tried.items()))


def layer_name(weight: str) -> str:
    """The module a weight belongs to: `backbone.stem.conv` of `module.model.backbone.stem.conv.weight`."""
    return re.sub(r"^(module\.)*(model\.)?|\.(weight|bias)$", "", weight)


def file_bytes(path: Path) -> int:
    """Size of an exported file with what belongs to it."""
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == SUFFIXES["openvino"] else 0)
