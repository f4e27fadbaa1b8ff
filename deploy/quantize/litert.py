"""LiteRT files in 8 bits, by Google's AI Edge Quantizer, which changes the float file itself.

Activations are signed and have one range per tensor; weights are signed and symmetric, with one scale per
output channel. As for ONNX, the ranges in front of a hard activation end where it is constant. The inputs and
outputs of the file stay as they are.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.binary_files import append_metadata, read_appended_metadata, write_bytes
from deploy.formats.litert import INSTALL
from deploy.libraries import require
from deploy.quantize.layers_by_weights import known_layers, layer_with, without_scales
from engine.io.progress import announced

SMALLEST_RANGE = 1e-6
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
BETWEEN = ("ADD", "MUL")
"""Also quantized if they are between layers with weights: a residual sum, a squeeze-and-excite."""
ACTIVE_RANGES = {"HARD_SWISH": (-3.0, np.inf)}
"""Outside this interval an activation's output is constant (h-swish above 3 is the identity)."""


class LiteRtQuantizer:
    """See `deploy.quantize.quantizer.Quantizer`; `batches` are images [N, 3, h, w] as the file takes them.

    The file's names are long paths of classes: a layer gets the name of the equal weights among PyTorch's
    `weights`. The last layers with weights stay float: with 256 steps many scores are equal, and the first
    class wins.
    """

    def __init__(
        self,
        source: Path,
        batches: Sequence[NDArray[Any]],
        *,
        per_channel: bool = True,
        weights: Mapping[str, NDArray[Any]] | None = None,
        raw_outputs: tuple[str, ...] = (),
    ) -> None:
        self._quantizer = require("ai_edge_quantizer.quantizer", INSTALL)
        self._types = require("ai_edge_quantizer.qtyping", INSTALL)
        self._files = require("ai_edge_litert.tools.flatbuffer_utils", INSTALL)
        self.raw_outputs, self._per_channel = raw_outputs, per_channel
        self._metadata = {**read_appended_metadata(source), "precision": "int8"}
        self._float = source.read_bytes()
        self._graph = Graph(self._float)
        self._layers = find_layers(self._graph, weights or {})
        self.layers = tuple(self._layers)
        self._ranges = self._calibrate(batches) if self.layers else {}

    def write(self, path: Path, *, float_layers: Collection[str], with_raw: bool = False) -> Path:
        """See `Quantizer.write`."""
        chosen = [index for layer, index in self._layers.items() if layer not in float_layers]
        content = self._float
        if chosen:
            with _quiet():
                content = bytes(self._with_recipe(chosen).quantize(self._ranges).quantized_model)
        names = json.loads(self._metadata["outputs"])
        kept = [name for name in names if with_raw or name not in self.raw_outputs]
        if kept != names:
            content = self._with_outputs(content, [names.index(name) for name in kept])
        write_bytes(path, content)
        append_metadata(path, {**self._metadata, "outputs": json.dumps(kept)})
        return path

    def _with_recipe(self, chosen: Collection[int]) -> Any:
        """The library's quantizer, for these operations in 8 bits."""
        quantizer, types = self._quantizer.Quantizer(bytearray(self._float)), self._types
        granularity = types.QuantGranularity["CHANNELWISE" if self._per_channel else "TENSORWISE"]
        for index in chosen:
            quantizer.add_static_config(
                f"^{re.escape(self._graph.scope(index))}$",
                types.TFLOperationName[self._graph.kind(index)],
                8,
                8,
                weight_granularity=granularity,
            )
        return quantizer

    def _calibrate(self, batches: Sequence[NDArray[Any]]) -> Any:
        """Minimum and maximum of each activation over the images, in the library's own type."""
        quantizer = self._with_recipe(list(self._layers.values()))
        interpreter = require("ai_edge_litert.interpreter", INSTALL).Interpreter(model_content=self._float)
        ((signature, description),) = interpreter.get_signature_list().items()
        (images,) = description["inputs"]
        inputs = [{images: batch} for batch in batches]
        with announced("calibrating"), _quiet():
            ranges = quantizer.calibrate({signature: inputs}, num_threads=1)
        for tensor, (lowest, highest) in active_ranges(self._graph).items():
            for side in ("min", "max"):
                if side in ranges.get(tensor, {}):
                    ranges[tensor][side] = np.clip(ranges[tensor][side], lowest, highest)
        for found in ranges.values():
            # LiteRT refuses a scale of zero, which a ReLU that is 0 for all of the images would get.
            if "max" in found and np.all(found["max"] - found["min"] < SMALLEST_RANGE):
                found["max"] = found["min"] + 1
        return ranges

    def _with_outputs(self, content: bytes, indices: Sequence[int]) -> bytes:
        model = self._files.read_model_from_bytearray(bytearray(content))
        graph = model.subgraphs[0]
        graph.outputs = [graph.outputs[index] for index in indices]
        for signature in model.signatureDefs or []:
            kept = [output for output in signature.outputs if output.tensorIndex in graph.outputs]
            signature.outputs = kept
        return bytes(self._files.convert_object_to_bytearray(model))


class Graph:
    """The operations of a file, by index."""

    def __init__(self, content: bytes) -> None:
        files = require("ai_edge_litert.tools.flatbuffer_utils", INSTALL)
        self._helpers = require("ai_edge_quantizer.utils.tfl_flatbuffer_utils", INSTALL)
        self._model = files.read_model_from_bytearray(bytearray(content))
        self._graph = self._model.subgraphs[0]
        self.operations = range(len(self._graph.operators))
        self.outputs = {int(tensor) for tensor in self._graph.outputs}

    def kind(self, index: int) -> str:
        """The library's name of an operation's kind; empty if it knows none."""
        code = self._model.operatorCodes[self._graph.operators[index].opcodeIndex].builtinCode
        kind = self._helpers.TFL_OP_CODE_TO_NAME.get(code)
        return "" if kind is None else str(kind.name)

    def scope(self, index: int) -> str:
        """The name by which the library's recipes find an operation."""
        return str(self._helpers.get_op_scope(self._graph.operators[index], self._graph.tensors))

    def reads(self, index: int) -> list[int]:
        return [int(tensor) for tensor in self._graph.operators[index].inputs if tensor >= 0]

    def writes(self, index: int) -> list[int]:
        return [int(tensor) for tensor in self._graph.operators[index].outputs]

    def name(self, tensor: int) -> str:
        return str(self._helpers.get_tensor_name(self._graph.tensors[tensor]))

    def constant(self, tensor: int) -> NDArray[Any] | None:
        """The values of a constant; None for an activation."""
        values: NDArray[Any] | None = self._helpers.get_tensor_data(
            self._graph.tensors[tensor], self._model.buffers
        )
        return values


def find_layers(graph: Graph, weights: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Name of each layer that can be quantized -> index of its operation, in the graph's order."""
    known = known_layers(weights)
    after, before = set[int](), set[int]()  # tensors after and before layers with weights
    for index in graph.operations:
        if _has_weights(graph, index) or after & set(graph.reads(index)):
            after.update(graph.writes(index))
    for index in reversed(graph.operations):
        if _has_weights(graph, index) or before & set(graph.writes(index)):
            before.update(graph.reads(index))
    layers: dict[str, int] = {}
    for index in graph.operations:
        weighted = _has_weights(graph, index)
        between = graph.kind(index) in BETWEEN and set(graph.reads(index)) <= after
        if before & set(graph.writes(index)) and (weighted or between):
            name = f"{graph.kind(index).lower()}_{index}"
            if weighted:
                name = layer_with(without_scales(_weights(graph, index)), known) or name
            layers[f"{name} ({index})" if name in layers else name] = index
    return layers


def active_ranges(graph: Graph) -> dict[str, tuple[float, float]]:
    """Tensors that only hard activations read -> the interval outside which all of these are constant."""
    readers: dict[int, list[str]] = {}
    for index in graph.operations:
        for tensor in graph.reads(index):
            readers.setdefault(tensor, []).append(graph.kind(index))
    found = {}
    for tensor, kinds in readers.items():
        if tensor not in graph.outputs and all(kind in ACTIVE_RANGES for kind in kinds):
            intervals = [ACTIVE_RANGES[kind] for kind in kinds]
            found[graph.name(tensor)] = (min(low for low, _ in intervals), max(high for _, high in intervals))
    return found


def _has_weights(graph: Graph, index: int) -> bool:
    return graph.kind(index) in WEIGHTED and graph.constant(graph.reads(index)[1]) is not None


def _weights(graph: Graph, index: int) -> NDArray[Any]:
    """[out, ...], in PyTorch's order. Files have [out, h, w, in], and [1, h, w, out] for depthwise layers."""
    values = graph.constant(graph.reads(index)[1])
    assert values is not None
    if values.ndim < 4:
        return values
    depthwise = graph.kind(index) == "DEPTHWISE_CONV_2D"
    return values.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the library's progress bars and reports."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(io.StringIO()):
            yield
