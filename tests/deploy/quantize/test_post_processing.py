"""8-bit files with post-processing: it stays float, and layers are ranked by the outputs before it."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from deploy.export.module import export_module
from deploy.formats import find, open_session
from deploy.quantize.calibration import open_quantizer
from deploy.quantize.sensitivity import sensitivities
from tests.deploy.quantize.test_quantize import LIBRARIES, colored


class Sorted(nn.Module):
    """Two convolutions; scaled scores and their order as the post-processing."""

    names: tuple[str, ...] = ("best", "order")
    raw_names: tuple[str, ...] = ()

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        with torch.no_grad():
            self.first.weight[0] *= 300  # one scale per tensor: the other channels get few steps

    def forward(self, images):
        scores = self.last(self.first(images.float() / 255).relu().log1p()).flatten(1)
        weighted = (scores * torch.linspace(1, 2, scores.shape[1]) + 0.5).sigmoid()
        outputs = weighted.topk(20)
        return (*outputs, scores) if self.raw_names else tuple(outputs)


def with_raw_outputs():
    module = Sorted().eval()
    module.raw_names, module.names = ("raw",), ("best", "order", "raw")
    return module


@pytest.fixture(params=list(LIBRARIES))
def written(request, tmp_path):
    """(float file with raw outputs, quantizer)"""
    for library in LIBRARIES[request.param]:
        pytest.importorskip(library)
    path = tmp_path / f"float{find(request.param).SUFFIX}"
    module = with_raw_outputs()
    example = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    export_module(module, example, path, format=request.param, names=module.names, metadata={"a": "b"})
    return path, open_quantizer(path, list(colored(8)[0]), format=request.param, raw_outputs=["raw"])


def operations_after(path, raw):
    """Types of the operations between the raw outputs and the others."""
    if path.suffix == ".onnx":
        import onnx

        graph = onnx.load(path).graph
        known, found = set(raw), Counter()
        for node in graph.node:
            if known & set(node.input):
                known |= set(node.output)
                found[node.op_type] += 1
        return found
    import openvino

    found, known = Counter(), set()
    for node in openvino.Core().read_model(path).get_ordered_ops():
        inputs = [entry.get_source_output() for entry in node.inputs()]
        if any(o.get_node().get_friendly_name() in known or o.get_names() & set(raw) for o in inputs):
            known.add(node.get_friendly_name())
            found[node.get_type_name()] += 1
    return found


def test_the_post_processing_stays_float(written, tmp_path):
    source, quantizer = written
    raw = quantizer.write(tmp_path / f"raw{source.suffix}", float_layers=[], with_raw=True)
    assert not {"QuantizeLinear", "DequantizeLinear", "FakeQuantize"} & set(operations_after(raw, ["raw"]))
    assert operations_after(raw, ["raw"])
    images = colored(1, seed=3)[0]
    *_, scores = open_session(raw)(images)
    expected = torch.from_numpy(scores) * torch.linspace(1, 2, scores.shape[1]) + 0.5
    path = quantizer.write(tmp_path / f"all{source.suffix}", float_layers=[])
    session = open_session(path)
    assert session.output_names == ("best", "order")
    np.testing.assert_allclose(session(images)[0], expected.sigmoid().topk(20)[0], atol=1e-6)


def test_layers_are_ranked_by_the_raw_outputs(written, tmp_path):
    """The order of the scores changes with the smallest error; their own signal-to-noise ratio is high."""
    source, quantizer = written
    images = list(colored(4, seed=5)[0])
    by_raw = sensitivities(quantizer, source, images)
    assert min(entry.snr_db for entry in by_raw) > 20
    quantizer.raw_outputs = ()
    by_all = sensitivities(quantizer, source, images)
    assert min(entry.snr_db for entry in by_all) < 15
