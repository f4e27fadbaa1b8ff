"""OpenVINO files in 8 bits, by NNCF: signed weights with a scale per output channel, unsigned activations.

NNCF knows which operations OpenVINO fuses, and quantizes nothing between a convolution and its h-swish. The
inputs of depthwise convolutions get a range per channel, and biases are corrected for the rounding of the
weights. The two convolutions of a squeeze-and-excite stay float: their input is a single pixel.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from deploy.formats.openvino import INSTALL, core, load_library, metadata_of, set_metadata
from deploy.libraries import require
from deploy.quantize.layers_by_weights import known_layers, layer_with, without_scales
from engine.io.progress import Progress

WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")


class OpenVinoQuantizer:
    """See `deploy.quantize.quantizer.Quantizer`; `batches` are images [N, 3, h, w] as the file takes them.

    The file has no module names: a layer gets the name of the equal weights among PyTorch's `weights`.
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
        # NNCF decides on import whether to send usage data to its authors; this is its only switch.
        os.environ.setdefault("NNCF_CI", "1")
        self._ov = load_library()
        nncf = require("nncf", INSTALL)
        self._float, self.raw_outputs = core().read_model(source), raw_outputs
        advanced = nncf.AdvancedQuantizationParameters()
        if not per_channel:
            kind = nncf.quantization.advanced_parameters.QuantizationParameters
            advanced.weights_quantization_params = kind(per_channel=False)
            advanced.activations_quantization_params = kind(per_channel=False)
        progress = Progress(len(batches), unit="calibration image")
        done = itertools.count()

        def as_input(batch: NDArray[Any]) -> NDArray[Any]:
            if (number := next(done)) < len(batches):  # NNCF reads some of them again to correct biases
                progress.update(number)
            return batch

        with _quiet(nncf) as screen:
            progress.print_line = partial(print, file=screen, flush=True)
            self._quantized = nncf.quantize(
                self._float,
                nncf.Dataset(list(batches), as_input),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(batches),
                ignored_scope=nncf.IgnoredScope(names=self._after_raw_outputs(), validate=False),
                advanced_parameters=advanced,
            )
        progress.close()
        self._operations = {node.get_friendly_name(): node for node in self._float.get_ordered_ops()}
        self._layers = self._find_layers(weights or {})
        self.layers = tuple(self._layers)

    def write(self, path: Path, *, float_layers: Collection[str], with_raw: bool = False) -> Path:
        """See `Quantizer.write`."""
        model = self._quantized.clone()
        for result in [] if with_raw else model.get_results():
            if result.input_value(0).get_names() & set(self.raw_outputs):
                model.remove_result(result)
        nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
        for layer in self.layers:
            if layer in float_layers:
                self._revert(nodes[self._layers[layer]])
        model.validate_nodes_and_infer_types()
        set_metadata(model, metadata_of(self._float) | {"precision": "int8"})
        self._ov.save_model(model, path, compress_to_fp16=False)
        return path

    def _after_raw_outputs(self) -> list[str]:
        """Names of the post-processing operations."""
        found: dict[str, Any] = {}
        results = [
            r for r in self._float.get_results() if r.input_value(0).get_names() & set(self.raw_outputs)
        ]
        waiting = [result.input_value(0).get_node() for result in results]
        while waiting:
            for output in waiting.pop().outputs():
                readers = [entry.get_node() for entry in output.get_target_inputs()]
                new = [node for node in readers if node.get_friendly_name() not in found]
                found |= {node.get_friendly_name(): node for node in new}
                waiting += new
        return [name for name, node in found.items() if node.get_type_name() != "Result"]

    def _find_layers(self, weights: Mapping[str, NDArray[Any]]) -> dict[str, str]:
        """Name of each layer with an 8-bit input -> name of its operation."""
        known = known_layers(weights)
        layers: dict[str, str] = {}
        for node in self._quantized.get_ordered_ops():
            operation = node.get_friendly_name()
            in_8_bits = any(_rounds(source) or _unpacks(source) for source in _sources(node))
            if operation not in self._operations or not in_8_bits:
                continue
            name = operation.partition("/")[0]
            if node.get_type_name() in WEIGHTED:
                constant = self._operations[operation].input_value(1).get_node()
                if _is_constant(constant):
                    name = layer_with(without_scales(constant.data), known) or name
            layers[f"{name} ({operation})" if name in layers else name] = operation
        return layers

    def _revert(self, node: Any) -> None:
        """Restore an operation's inputs and bias from the float file."""
        origin = self._operations[node.get_friendly_name()]
        for place, source in enumerate(_sources(node)):
            if _rounds(source):
                node.input(place).replace_source_output(source.input_value(0))
            elif _unpacks(source):
                node.input(place).replace_source_output(self._copy(origin.input_value(place).get_node()))
        if node.get_type_name() not in WEIGHTED:
            return
        for reader in (entry.get_node() for entry in node.output(0).get_target_inputs()):
            twin = self._operations.get(reader.get_friendly_name())
            for place, source in enumerate(_sources(reader)):
                if reader.get_type_name() == "Add" and twin is not None and _is_constant(source):
                    bias = twin.input_value(place).get_node()
                    reader.input(place).replace_source_output(self._copy(bias))

    def _copy(self, constant: Any) -> Any:
        # A node belongs to one model, but its values can be copied into another.
        return self._ov.op.Constant(np.array(constant.data)).output(0)


def _sources(node: Any) -> list[Any]:
    return [entry.get_source_output().get_node() for entry in node.inputs()]


def _rounds(node: Any) -> bool:
    """Whether an operation rounds activations to 256 steps."""
    return bool(node.get_type_name() == "FakeQuantize")


def _unpacks(node: Any) -> bool:
    """Whether an operation is the last one (the scaling) that turns NNCF's 8-bit weights into floats."""
    if node.get_type_name() not in ("Multiply", "Subtract"):
        return False
    inner = _sources(node)[0]
    if inner.get_type_name() == "Convert":
        stored = _sources(inner)[0]
        return _is_constant(stored) and stored.get_element_type().get_type_name() in ("i8", "u8")
    return _unpacks(inner)


def _is_constant(node: Any) -> bool:
    return bool(node.get_type_name() == "Constant")


@contextlib.contextmanager
def _quiet(nncf: Any) -> Iterator[TextIO]:
    """Suppress NNCF's progress bars and notes; returns a stream that is still shown."""
    level, screen = logging.getLogger("nncf").level, sys.stdout
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield screen
    finally:
        nncf.set_log_level(level or logging.INFO)
