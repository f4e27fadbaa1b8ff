"""What a quantizer is, and what both of them share."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from deploy.formats import openvino
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
