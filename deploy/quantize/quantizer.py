"""A file in 8 bits, made from an exported float file after training.

The file's own graph is quantized, not the network's Python: `deploy.quantize.onnx` and
`deploy.quantize.openvino` know how.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.formats import open_session, openvino
from engine.errors import UserError

FORMATS = ("onnx", "openvino")
"""Formats that can be quantized."""


class Quantizer(Protocol):
    """A float file with the ranges of its activations, ready to be written with any of its layers in 8 bits.

    layers: names of those that can be quantized, in the graph's order.
    """

    layers: tuple[str, ...]

    def write(self, path: Path, *, float_layers: Collection[str]) -> Path:
        """Write the file with all layers but `float_layers` in 8 bits."""
        ...


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
        images: [3, h, w] each, as the file takes them; the ranges of activations are measured on these.
        format: one of `FORMATS`.
        per_channel: a scale for each output channel of a layer's weights; False: one for the whole layer,
            which makes MobileNetV3 collapse (the option exists to show that).
        weights: PyTorch's, by name; layers of a file without names are named after these.

    Raises:
        UserError: if the format cannot be quantized, if there are no images, if a library is not installed,
            or if the file has no layer to quantize.
    """
    check_quantizable(format)
    if not images:
        raise UserError("calibration needs images; set calibration.images to at least 1")
    count = open_session(source).shape[0] or 1
    batches = [np.repeat(image[None], count, axis=0) for image in images]
    # Imported late: what each of them needs is an extra.
    if format == "onnx":
        from deploy.quantize.onnx import OnnxQuantizer

        quantizer: Quantizer = OnnxQuantizer(source, batches, per_channel=per_channel)
    else:
        from deploy.quantize.openvino import OpenVinoQuantizer

        quantizer = OpenVinoQuantizer(source, batches, per_channel=per_channel, weights=weights)
    if not quantizer.layers:
        raise UserError(f"{source}: has no layer that can be quantized")
    return quantizer


def check_quantizable(format: str) -> None:
    """Raises: UserError if files of this format cannot be quantized."""
    if format not in FORMATS:
        raise UserError(f"precision=int8 is for format={' and format='.join(FORMATS)}, not {format}")


def layer_name(weight: str) -> str:
    """The module of a weight: `module.model.backbone.stem.conv.weight` -> `backbone.stem.conv`."""
    return re.sub(r"^(module\.)*(model\.)?|\.(weight|bias)$", "", weight)


def file_bytes(path: Path) -> int:
    """Size of an exported file, with OpenVINO's weights beside it."""
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == openvino.SUFFIX else 0)
