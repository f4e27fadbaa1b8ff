"""The interface of a quantizer, and what the implementations share."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Protocol, runtime_checkable

from deploy.formats import find, openvino
from deploy.libraries import not_installed
from deploy.session import Session
from engine.errors import UserError

SOURCES = {
    "onnx": "onnx",
    "web": "web",
    "openvino": "openvino",
    "executorch": "torch_export",
    "litert": "litert",
}
"""Formats that can be quantized -> the format of the float file that their quantizer reads."""
FORMATS = tuple(SOURCES)
REASONS = {
    "ncnn": "its Python packages contain no quantizer",
    "mnn": "its quantizer crashes on networks with squeeze-and-excite",
    "coreml": "its files cannot be run here, so their accuracy would be unknown",
}
"""Why files of some other formats cannot be quantized."""
_LIBRARIES = {
    "onnx": ("onnx", "onnxruntime"),
    "web": ("onnx", "onnxruntime"),
    "openvino": ("openvino", "nncf"),
    "executorch": ("executorch", "torchao"),
    "litert": ("ai-edge-litert", "ai-edge-quantizer"),
}


class Quantizer(Protocol):
    """A float file with the ranges of its activations, which can be written with any of its layers in 8 bits.

    layers: names of the layers that can be quantized, in the graph's order.
    raw_outputs: outputs of the float file that are the inputs of its post-processing, which stays float;
    empty if it has none.
    """

    layers: tuple[str, ...]
    raw_outputs: tuple[str, ...]

    def write(self, path: Path, *, float_layers: Collection[str], with_raw: bool = False) -> Path:
        """Write the file, all layers but `float_layers` in 8 bits; `with_raw`: also with `raw_outputs`."""
        ...


@runtime_checkable
class Simulated(Protocol):
    """The additional member of a quantizer whose files take long to write."""

    def simulate(self, *, float_layers: Collection[str], threads: int) -> Session:
        """What the file with these float layers computes, with `raw_outputs`; valid until the next call."""
        ...


def check_quantizable(format: str) -> None:
    """Raises: UserError if files of this format cannot be quantized."""
    if format not in FORMATS:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        reason = f" ({REASONS[format]})" if format in REASONS else ""
        raise UserError(f"precision=int8 needs format={known}, got {format}{reason}")


def check_installed(format: str) -> None:
    """Raises: UserError if a library is missing; quantizing would notice only after the float export."""
    if missing := not_installed(_LIBRARIES[format]):
        raise UserError(f"precision=int8 format={format}: {missing}; {find(format).INSTALL}")


def layer_name(weight: str) -> str:
    """The name of a weight's module: `module.model.backbone.stem.conv.weight` -> `backbone.stem.conv`."""
    return re.sub(r"^(module\.)*(model\.)?|\.(weight|bias)$", "", weight)


def file_bytes(path: Path) -> int:
    """Size of an exported file, including the `.bin` of an OpenVINO file."""
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == openvino.SUFFIX else 0)
