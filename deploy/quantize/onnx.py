"""ONNX files in 8 bits: QuantizeLinear and DequantizeLinear around the layers, by ONNX Runtime's own tool.

Activations are unsigned and have one range per tensor; weights are signed and symmetric, with one scale per
output channel: the only combination that ONNX Runtime runs fast on x86 (with signed activations it takes 2.3
times as long as float32). The export has already folded batch normalization into the convolutions.

Ranges in front of a hard activation are clipped to the interval in which the activation is not constant.
h-swish maps outputs of a convolution below -3 to 0, and the minimum and maximum over images would spend most
of the 256 steps on them: this is one of two reasons why MobileNetV3 collapses in 8 bits. The other one, a few
channels with ranges a hundred times as large as the rest of their tensor, shows in the sensitivities and is
solved by float layers.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.formats.onnx import INSTALL, onnxruntime
from deploy.libraries import require
from deploy.quantize.quantizer import layer_name
from deploy.session import INPUT
from engine.io.progress import Progress

WEIGHTED = ("Conv", "Gemm", "MatMul")
BETWEEN = ("Add", "Mul")
"""Also quantized if they are between layers with weights: a residual sum, a squeeze-and-excite."""
ACTIVE_RANGES = {"Relu": (0.0, np.inf), "HardSwish": (-3.0, np.inf), "HardSigmoid": (-3.0, 3.0)}
"""Outside this interval an activation's output is constant (h-swish above 3 is the identity)."""
SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata key under which PyTorch's exporter stores the modules that a node comes from."""


class OnnxQuantizer:
    """See `deploy.quantize.quantizer.Quantizer`; `batches` are images [N, 3, h, w] as the file takes them.

    The last layers with weights stay float: with 256 steps many scores are equal, and the first class wins.

    Args:
        reduce_range: 7-bit weights. x86 CPUs without VNNI add pairs of 8-bit products in 16 bits, which can
            saturate with 8-bit weights. WebAssembly runs on such CPUs too.
    """

    def __init__(
        self,
        source: Path,
        batches: Sequence[NDArray[Any]],
        *,
        per_channel: bool = True,
        reduce_range: bool = False,
        raw_outputs: tuple[str, ...] = (),
    ) -> None:
        self._onnx = require("onnx", INSTALL)
        onnxruntime()
        self._tool = require("onnxruntime.quantization", INSTALL)
        self.per_channel, self.reduce_range, self.raw_outputs = per_channel, reduce_range, raw_outputs
        properties = self._onnx.load(str(source)).metadata_props
        self._metadata = {entry.key: entry.value for entry in properties} | {"precision": "int8"}
        with tempfile.TemporaryDirectory(prefix="int8-") as folder, _quiet():
            prepared = Path(folder) / "prepared.onnx"
            # Only shapes are missing, and its optimizer would split h-swish into parts.
            self._tool.shape_inference.quant_pre_process(
                str(source), str(prepared), skip_optimization=True, skip_symbolic_shape=True
            )
            self._model = self._onnx.load(str(prepared))
            self._layers = find_layers(self._model)
            self._ranges = self._calibrate(prepared, batches)
        self.layers = tuple(self._layers)

    def write(self, path: Path, *, float_layers: Collection[str], with_raw: bool = False) -> Path:
        """See `Quantizer.write`."""
        nodes = [node for layer, node in self._layers.items() if layer not in float_layers]
        model = self._onnx.ModelProto()
        model.CopyFrom(self._model)
        if nodes:  # to the library, an empty list means all nodes
            with _quiet():
                quantizer = self._tool.qdq_quantizer.QDQQuantizer(
                    model,
                    self.per_channel,
                    self.reduce_range,
                    self._tool.QuantType.QInt8,
                    self._tool.QuantType.QUInt8,
                    self._ranges,
                    nodes,
                    [],
                    [*WEIGHTED, *BETWEEN],
                    {},
                )
                quantizer.quantize_model()
            model = quantizer.model.model
        if self.raw_outputs and not with_raw:
            kept = [output for output in model.graph.output if output.name not in self.raw_outputs]
            model.graph.ClearField("output")
            model.graph.output.extend(kept)
        self._onnx.helper.set_model_props(model, self._metadata)
        path.write_bytes(model.SerializeToString())
        return path

    def _calibrate(self, prepared: Path, batches: Sequence[NDArray[Any]]) -> Any:
        """Minimum and maximum of each activation over the images, in the library's own type."""
        calibrator = self._tool.calibrate.create_calibrator(
            prepared,
            [*WEIGHTED, *BETWEEN],
            augmented_model_path=str(prepared.with_name("augmented.onnx")),
            calibrate_method=self._tool.CalibrationMethod.MinMax,
        )
        progress = Progress(len(batches), unit="calibration image")
        calibrator.collect_data(_Reader(batches, progress))
        progress.close()
        ranges = calibrator.compute_data()
        kind = self._tool.calibrate.TensorData
        for tensor, interval in active_ranges(self._model).items():
            if tensor in ranges:
                sides = [np.asarray(side, np.float32) for side in ranges[tensor].range_value]
                low, high = (np.clip(side, *interval).astype(np.float32) for side in sides)
                ranges[tensor] = kind(lowest=low, highest=high)
        return ranges


def can_overflow() -> bool:
    """Whether sums of 8-bit products can saturate here: an x86 CPU without VNNI (detected only on Linux)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return flags is not None and not {"avx512_vnni", "avx_vnni"} & set(flags[1].split())


class _Reader:
    """The library's source of calibration images."""

    def __init__(self, batches: Sequence[NDArray[Any]], progress: Progress) -> None:
        self._batches, self._progress, self._read = iter(batches), progress, 0

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The network's next input; None at the end."""
        batch = next(self._batches, None)
        self._progress.update(self._read)  # those before this one are done
        self._read += 1
        return None if batch is None else {INPUT: batch}


def find_layers(model: Any) -> dict[str, str]:
    """Name of each layer that can be quantized -> name of its node, in the graph's order."""
    weights = {constant.name for constant in model.graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, []).append(node)
    before_weights: dict[str, bool] = {}  # by node: whether a layer with weights follows
    for node in reversed(model.graph.node):  # the graph is in topological order
        after = [reader for tensor in node.output for reader in readers.get(tensor, [])]
        before_weights[node.name] = any(
            _has_weights(reader, weights) or before_weights[reader.name] for reader in after
        )
    layers: dict[str, str] = {}
    for node in model.graph.node:
        if before_weights[node.name] and (_has_weights(node, weights) or node.op_type in BETWEEN):
            name = _name(node, weights)
            layers[f"{name} ({node.name})" if name in layers else name] = node.name
    return layers


def active_ranges(model: Any) -> dict[str, tuple[float, float]]:
    """Tensors that only hard activations read -> the interval outside which all of them are constant."""
    by_tensor: dict[str, list[tuple[float, float] | None]] = {}
    for node in model.graph.node:
        for tensor in node.input:
            by_tensor.setdefault(tensor, []).append(ACTIVE_RANGES.get(node.op_type))
    for output in model.graph.output:
        by_tensor.setdefault(output.name, []).append(None)
    return {
        tensor: (min(low for low, _ in intervals), max(high for _, high in intervals))
        for tensor, readers in by_tensor.items()
        if len(intervals := [interval for interval in readers if interval is not None]) == len(readers)
    }


def _has_weights(node: Any, weights: Collection[str]) -> bool:
    return node.op_type in WEIGHTED and node.input[1] in weights


def _name(node: Any, weights: Collection[str]) -> str:
    if _has_weights(node, weights) and node.input[1].endswith(".weight"):
        return layer_name(node.input[1])
    for entry in node.metadata_props:
        if entry.key == SCOPES:  # the modules around the node, then its own name
            return f"{layer_name(ast.literal_eval(entry.value)[-2])}.{node.name}"
    return str(node.name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the library's notes, such as the advice to preprocess a model that was just preprocessed."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
