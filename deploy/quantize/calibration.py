"""Post-training quantization of an exported float file.

The file's own graph is quantized, not the network's Python code, by the module of `deploy.quantize` with the
format's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.formats import open_session
from deploy.quantize.executorch import ExecuTorchQuantizer
from deploy.quantize.litert import LiteRtQuantizer
from deploy.quantize.onnx import OnnxQuantizer
from deploy.quantize.openvino import OpenVinoQuantizer
from deploy.quantize.quantizer import Quantizer, check_quantizable
from engine.errors import UserError


def open_quantizer(
    source: Path,
    images: Sequence[NDArray[Any]],
    *,
    format: str,
    per_channel: bool = True,
    reduce_range: bool = False,
    weights: Mapping[str, NDArray[Any]] | None = None,
    raw_outputs: Sequence[str] = (),
) -> Quantizer:
    """Calibrate an exported float file.

    Args:
        source: a float file of the format `SOURCES[format]`.
        images: [3, h, w] each, as the file takes them; used to measure the ranges of activations.
        format: one of `FORMATS`.
        per_channel: one scale per output channel of a layer's weights; False: one for the whole layer, which
            makes MobileNetV3's accuracy collapse (the option exists to show that).
        reduce_range: see `OnnxQuantizer`; for ONNX files.
        weights: PyTorch's weights by name, to name the layers of a file without names.
        raw_outputs: see `Quantizer`.

    Raises:
        UserError: if the format cannot be quantized, there are no images, a library is not installed,
            or the file has no layer to quantize.
    """
    check_quantizable(format)
    if not images:
        raise UserError("calibration needs images; set calibration.images to at least 1")
    count = open_session(source).shape[0] or 1
    batches = [np.repeat(image[None], count, axis=0) for image in images]
    if format in ("onnx", "web"):
        quantizer: Quantizer = OnnxQuantizer(
            source,
            batches,
            per_channel=per_channel,
            reduce_range=reduce_range,
            raw_outputs=tuple(raw_outputs),
        )
    elif format == "executorch":
        quantizer = ExecuTorchQuantizer(
            source, batches, per_channel=per_channel, raw_outputs=tuple(raw_outputs)
        )
    elif format == "litert":
        quantizer = LiteRtQuantizer(
            source, batches, per_channel=per_channel, weights=weights, raw_outputs=tuple(raw_outputs)
        )
    else:
        quantizer = OpenVinoQuantizer(
            source, batches, per_channel=per_channel, weights=weights, raw_outputs=tuple(raw_outputs)
        )
    if not quantizer.layers:
        raise UserError(f"{source}: has no layers that can be quantized")
    return quantizer
