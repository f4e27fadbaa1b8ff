"""ExecuTorch files in 8 bits: PT2E quantization of the captured graph, with XNNPACK's own quantizer.

Activations have one range per tensor; weights are signed and symmetric, with one scale per output channel. As
for ONNX, the ranges in front of a hard activation end where it is constant.

A `.pte` file cannot be changed, so the source is the captured graph, `.pt2`. Writing a file means lowering
the graph again (seconds); the effect of a layer is measured with simulated rounding in PyTorch instead.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch.fx import GraphModule, Node

from deploy.capture import quiet
from deploy.eager import array_function
from deploy.formats import executorch, open_session
from deploy.formats.executorch import INSTALL
from deploy.libraries import require
from deploy.quantize.quantizer import layer_name
from deploy.session import Session
from engine.io.progress import Progress

_ATEN = torch.ops.aten
WEIGHTED = (_ATEN.conv2d.default, _ATEN.linear.default)
BETWEEN = (_ATEN.add.Tensor, _ATEN.add_.Tensor, _ATEN.mul.Tensor, _ATEN.mul_.Tensor)
"""Also quantized if they are between layers with weights: a residual sum, a squeeze-and-excite."""
ACTIVE_RANGES = {
    **dict.fromkeys((_ATEN.hardswish.default, _ATEN.hardswish_.default), (-3.0, math.inf)),
    **dict.fromkeys((_ATEN.hardsigmoid.default, _ATEN.hardsigmoid_.default), (-3.0, 3.0)),
}
"""Outside this interval an activation's output is constant (h-swish above 3 is the identity)."""
PATTERNS = ("conv_relu", "conv", "linear_relu", "linear", "add_relu", "add", "mul_relu", "mul")
"""The library's patterns that are used; it has one more, `cat`, that ignores which layers stay float."""


class ExecuTorchQuantizer:
    """See `deploy.quantize.quantizer.Quantizer`; `batches` are images [N, 3, h, w] as the file takes them.

    source: `.pt2`. The last layers with weights stay float: with 256 steps many scores are equal, and the
    first class wins.
    """

    def __init__(
        self,
        source: Path,
        batches: Sequence[NDArray[Any]],
        *,
        per_channel: bool = True,
        raw_outputs: tuple[str, ...] = (),
    ) -> None:
        self._xnnpack = require("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", INSTALL)
        self._pt2e = require("torchao.quantization.pt2e.quantize_pt2e", INSTALL)
        self._config = self._configuration(per_channel)
        self.raw_outputs = raw_outputs
        self._metadata = {**open_session(source).metadata, "precision": "int8"}
        self._names: list[str] = json.loads(self._metadata["outputs"])
        self._example = torch.from_numpy(batches[0])
        with quiet(), torch.no_grad():
            graph = torch.export.load(source).module()
            # Preparing a graph without any layer only folds batch normalization.
            self._float: GraphModule = self._prepared(graph, lambda node: False)
            self._layers = find_layers(self._float)
            self._simulated = self._prepared(copy.deepcopy(self._float), self._in_8_bits(()))
            self._ranges = self._calibrate(batches)
        self.layers = tuple(self._layers)

    def write(self, path: Path, *, float_layers: Collection[str], with_raw: bool = False) -> Path:
        """See `Quantizer.write`."""
        with quiet(), torch.no_grad():
            graph = self._prepared(copy.deepcopy(self._float), self._in_8_bits(float_layers))
            graph(self._example)  # the ranges of the weights
            for node, rounding in _roundings(graph):
                if node.name in self._ranges:
                    _set_range(rounding, *self._ranges[node.name])
            graph = self._pt2e.convert_pt2e(graph)
            names = [name for name in self._names if with_raw or name not in self.raw_outputs]
            if names != self._names:
                _keep_outputs(graph, [self._names.index(name) for name in names])
            program = torch.export.export(graph, (self._example,))
            metadata = {**self._metadata, "outputs": json.dumps(names)}
            executorch.write(program, path, names=tuple(names), metadata=metadata, precision="int8")
        return path

    def simulate(self, *, float_layers: Collection[str], threads: int) -> Session:
        """See `Simulated.simulate`."""
        rounded = {node for layer, node in self._layers.items() if layer not in float_layers}
        enabled = {
            id(module)
            for node in self._simulated.graph.nodes
            if node.name in rounded
            for module in _roundings_of(node, self._simulated)
        }
        for module in _modules(self._simulated):
            module.enable_fake_quant(id(module) in enabled)
        return Session.described_by(
            self._metadata, run=array_function(self._simulated, threads), runtime="PyTorch, simulated"
        )

    def _configuration(self, per_channel: bool) -> Any:
        """XNNPACK's own, but with minima and maxima, and with rounding that can be switched on and off."""
        pt2e = require("torchao.quantization.pt2e", INSTALL)
        config = self._xnnpack.get_symmetric_quantization_config(is_per_channel=per_channel)

        def rounding(spec: Any, observer: Any) -> Any:
            kind = pt2e.FakeQuantize.with_args(observer=observer, eps=2**-12)
            return replace(spec, observer_or_fake_quant_ctr=kind)

        activation = rounding(config.input_activation, pt2e.MinMaxObserver)
        weight_observer = pt2e.PerChannelMinMaxObserver if per_channel else pt2e.MinMaxObserver
        weight = rounding(config.weight, weight_observer)
        return replace(config, input_activation=activation, output_activation=activation, weight=weight)

    def _prepared(self, graph: Any, in_8_bits: Callable[[Node], bool]) -> Any:
        quantizer = self._xnnpack.XNNPACKQuantizer().set_global(self._config)
        quantizer.set_filter_function(in_8_bits)
        patterns = [pattern for pattern in quantizer.SUPPORTED_PATTERNS if pattern.name in PATTERNS]
        quantizer.SUPPORTED_PATTERNS = patterns
        return self._pt2e.prepare_pt2e(graph, quantizer)

    def _in_8_bits(self, float_layers: Collection[str]) -> Callable[[Node], bool]:
        chosen = {node for layer, node in self._layers.items() if layer not in float_layers}

        def in_8_bits(node: Node) -> bool:  # also called with weights, biases and activations
            return node.target not in (*WEIGHTED, *BETWEEN) or node.name in chosen

        return in_8_bits

    def _calibrate(self, batches: Sequence[NDArray[Any]]) -> dict[str, tuple[float, float]]:
        """Name of each node whose output is rounded -> its range over the images."""
        for module in _modules(self._simulated):
            module.disable_fake_quant()
        progress = Progress(len(batches), unit="calibration image")
        for number, batch in enumerate(batches):
            progress.update(number)
            self._simulated(torch.from_numpy(batch))
        progress.close()
        ranges, active = {}, active_ranges(self._float)
        for node, rounding in _roundings(self._simulated):
            rounding.disable_observer()
            observer = rounding.activation_post_process
            if node.op == "get_attr":  # weights
                scale, zero_point = observer.calculate_qparams()
                rounding.scale.resize_(scale.shape).copy_(scale)
                rounding.zero_point.resize_(zero_point.shape).copy_(zero_point)
                continue
            lowest, highest = active.get(node.name, (-math.inf, math.inf))
            low, high = float(observer.min_val), float(observer.max_val)
            low, high = (min(max(side, lowest), highest) for side in (low, high))
            ranges[node.name] = (low, high)
            _set_range(rounding, low, high)
        return ranges


def find_layers(graph: GraphModule) -> dict[str, str]:
    """Name of each layer that can be quantized -> name of its node, in the graph's order."""
    before_weights: set[Node] = set()
    for node in reversed(graph.graph.nodes):
        if any(_has_weights(reader) or reader in before_weights for reader in node.users):
            before_weights.add(node)
    after_weights: set[Node] = set()
    for node in graph.graph.nodes:
        if any(_has_weights(source) or source in after_weights for source in node.all_input_nodes):
            after_weights.add(node)
    layers: dict[str, str] = {}
    for node in graph.graph.nodes:
        between = node.target in BETWEEN and all(
            isinstance(source, Node) and source in after_weights for source in node.args[:2]
        )
        if node in before_weights and (_has_weights(node) or between):
            name = _name(node)
            layers[f"{name} ({node.name})" if name in layers else name] = node.name
    return layers


def active_ranges(graph: GraphModule) -> dict[str, tuple[float, float]]:
    """Nodes that only hard activations read -> the interval outside which all of these are constant."""
    found = {}
    for node in graph.graph.nodes:
        intervals = [ACTIVE_RANGES.get(reader.target) for reader in node.users]
        known = [interval for interval in intervals if interval is not None]
        if known and len(known) == len(intervals):
            found[node.name] = (min(low for low, _ in known), max(high for _, high in known))
    return found


def _has_weights(node: Node) -> bool:
    return node.target in WEIGHTED and isinstance(node.args[1], Node) and node.args[1].op == "get_attr"


def _name(node: Node) -> str:
    if _has_weights(node):
        return layer_name(str(node.args[1].target))  # type: ignore[union-attr]
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    module = layer_name(f"{stack[-1]}.").rstrip(".") if stack else ""  # `module.` alone is the wrapper
    return f"{module}.{node.name}" if module else node.name


def _modules(graph: GraphModule) -> list[Any]:
    return [module for _, module in _roundings(graph)]


def _roundings(graph: GraphModule) -> Iterator[tuple[Node, Any]]:
    """The nodes whose outputs are rounded, and the modules that do it."""
    for node in graph.graph.nodes:
        if _rounds(node, graph):
            yield node.args[0], graph.get_submodule(node.target)


def _roundings_of(node: Node, graph: GraphModule) -> list[Any]:
    """The modules that round a layer's inputs, weights and output."""
    last = node
    while len(last.users) == 1 and (reader := next(iter(last.users))).target is _ATEN.relu.default:
        last = reader  # one layer with its ReLU
    around = [*node.all_input_nodes, *last.users]
    return [graph.get_submodule(str(each.target)) for each in around if _rounds(each, graph)]


def _rounds(node: Node, graph: GraphModule) -> bool:
    return node.op == "call_module" and hasattr(
        graph.get_submodule(str(node.target)), "activation_post_process"
    )


def _set_range(rounding: Any, low: float, high: float) -> None:
    observer = rounding.activation_post_process
    observer.min_val.fill_(low)
    observer.max_val.fill_(high)
    scale, zero_point = observer.calculate_qparams()
    rounding.scale.copy_(scale)
    rounding.zero_point.copy_(zero_point)


def _keep_outputs(graph: GraphModule, indices: Sequence[int]) -> None:
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    listed = output.args[0]
    output.args = (tuple(listed[index] for index in indices),)
    # The graph's signature still has all outputs; a plain one returns what the node says.
    graph.graph.set_codegen(torch.fx.graph.CodeGen())
    graph.graph.eliminate_dead_code()
    graph.recompile()
