"""The quickly exported graph of a layer computes what the layer does, with the operators of the export."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from backbones.mobilenet_v3 import mobilenet_v3_large
from backbones.mobilenet_v4 import mobilenet_v4_small
from deploy.latency_table import layer_graph as quick
from deploy.latency_table.layer_graph import layer_graph
from deploy.latency_table.layer_timing import input_sizes
from deploy.latency_table.layers import layers_of, module_of
from deploy.latency_table.measurers import onnx_graph

LAYERS = {
    layer.name: layer
    for spec in (mobilenet_v3_large(padding="same"), mobilenet_v4_small())
    for layer in layers_of(spec, size=(64, 96))
}


@pytest.fixture(scope="module")
def onnx():
    for library in ("onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    return pytest.importorskip("onnx")


def module_and_input(layer):
    module = module_of(layer)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.running_mean.uniform_(-1, 1)
            child.running_var.uniform_(0.5, 2)
    return module, torch.rand(1, *input_sizes(layer)[0])


def operators(onnx, graph, folder):
    """What is left for a runtime once it has folded constants, such as the sizes of a padding."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    same = {"GlobalAveragePool": "ReduceMean"}
    nodes = [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]
    return Counter(same.get(name, name) for name in nodes if name not in ("Identity", "Constant"))


@pytest.mark.parametrize("name", LAYERS)
def test_the_graph_computes_the_layer(onnx, name):
    import onnxruntime

    module, image = module_and_input(LAYERS[name])
    session = onnxruntime.InferenceSession(layer_graph(module, [image]), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(output, module(image).numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in LAYERS if name.startswith(("stem", "last")) or " se" in name][:4]
)
def test_the_operators_are_those_of_the_export(onnx, name, tmp_path):
    module, image = module_and_input(LAYERS[name])
    assert operators(onnx, layer_graph(module, [image]), tmp_path) == operators(
        onnx, onnx_graph(module, (image,)), tmp_path
    )


def test_what_cannot_be_traced_is_exported_as_usual(monkeypatch):
    monkeypatch.setattr(quick, "onnx_graph", lambda module, inputs: b"as usual")
    monkeypatch.setattr(quick, "_traced", lambda *_: (_ for _ in ()).throw(TypeError("no such exporter")))
    assert layer_graph(nn.Identity(), [torch.zeros(1)]) == b"as usual"
