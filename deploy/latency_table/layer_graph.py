"""The ONNX file of a layer, quickly: other devices measure hundreds of them."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from deploy.latency_table.layers import HeadOf
from deploy.latency_table.measurers import onnx_graph

_OPSET = 17


class LayerGraphs:
    """The ONNX files of modules, each written once."""

    def __init__(self) -> None:
        self._graphs: WeakKeyDictionary[nn.Module, bytes] = WeakKeyDictionary()

    def __call__(self, module: nn.Module, inputs: Sequence[Tensor]) -> bytes:
        if module not in self._graphs:
            self._graphs[module] = layer_graph(module, inputs)
        return self._graphs[module]


def layer_graph(module: nn.Module, inputs: Sequence[Tensor]) -> bytes:
    """The ONNX file of a module in eval mode.

    The graph exporter takes most of a second, however small the module is. PyTorch's older, tracing exporter
    takes a hundredth of that for a layer, and writes the same convolutions and activations. Heads, whole
    networks and layers with TensorFlow's padding are exported as users export them.
    """
    module = module.eval()
    parts = list(module.modules())
    pads = any(getattr(part, "pad_at_run", False) for part in parts)  # traced, an operator more
    if pads or any(isinstance(part, HeadOf) or hasattr(part, "backbone") for part in parts):
        return onnx_graph(module, tuple(inputs))
    try:
        return _traced(module, inputs)
    except Exception:  # a release of PyTorch without this exporter, or a module that it cannot trace
        return onnx_graph(module, tuple(inputs))


def _traced(module: nn.Module, inputs: Sequence[Tensor]) -> bytes:
    file: Any = io.BytesIO()  # its annotation knows only paths
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter says that it is the older one
            torch.onnx.export(module, tuple(inputs), file, dynamo=False, opset_version=_OPSET)
    finally:
        logger.setLevel(level)
    graph: bytes = file.getvalue()
    return graph
