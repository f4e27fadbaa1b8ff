"""8-bit LiteRT files, in LiteRT's runtime: contents, results, and the layers that stay float."""

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_quantizer")

from deploy.export.module import export_module
from deploy.formats import litert, open_session
from deploy.quantize.calibration import open_quantizer
from deploy.quantize.fallback import fall_back
from deploy.quantize.litert import Graph, active_ranges
from deploy.quantize.sensitivity import sensitivities, snr_db
from tests.deploy.quantize.test_post_processing import with_raw_outputs
from tests.deploy.quantize.test_quantize import accuracy, answers, colored, net, wild

__all__ = ["net"]  # the fixture

pytestmark = pytest.mark.slow  # the libraries take ten seconds to import


def opened(module, folder, *, names=("logits",), raw=()):
    """(float file, quantizer)"""
    example, metadata = torch.zeros(1, 3, 16, 16, dtype=torch.uint8), {"precision": "fp32", "a": "b"}
    source = folder / "float.tflite"
    export_module(module, example, source, format="litert", names=names, metadata=metadata)
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    options = {"format": "litert", "weights": weights, "raw_outputs": raw}
    return source, open_quantizer(source, list(colored(32)[0]), **options)


@pytest.fixture(scope="module")
def quantized(net, tmp_path_factory):
    """(float file, quantizer, file with all layers in 8 bits)"""
    folder = tmp_path_factory.mktemp("int8")
    source, quantizer = opened(net, folder)
    return source, quantizer, quantizer.write(folder / "all.tflite", float_layers=[])


def weights_in(path):
    """Type of each layer's weights, in the graph's order: CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED."""
    graph = Graph(path.read_bytes())
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    layers = [index for index in graph.operations if graph.kind(index) in kinds]
    return [graph.constant(graph.reads(index)[1]).dtype.name for index in layers]


def test_layers_are_named_after_their_modules(quantized):
    """Those of the squeeze-and-excite too; the classifier, the last layer, stays float."""
    names = [name for name in quantized[1].layers if not name.startswith(("add_", "mul_"))]
    assert names == ["stem.0", "mid.1", "mid.se", "mid.2"]
    assert len(quantized[1].layers) == 6  # and one product and one sum, not those of the normalization


def test_the_file_stores_weights_in_8_bits(quantized, tmp_path):
    source, quantizer, path = quantized
    assert weights_in(source) == ["float32"] * 5
    assert weights_in(path) == ["int8"] * 4 + ["float32"]
    other = quantizer.write(tmp_path / "one.tflite", float_layers=["mid.se"])
    assert weights_in(other) == ["int8", "int8", "float32", "int8", "float32"]


def test_a_trained_network_keeps_its_answers(quantized):
    source, _, path = quantized
    assert accuracy(source) > 97
    assert accuracy(path) > accuracy(source) - 2
    images = colored(50, seed=2)[0]
    assert 20 < snr_db(answers(source, images), answers(path, images)) < 80  # 8 bits, and not float32


def test_the_metadata_are_those_of_the_float_file(quantized):
    source, _, path = quantized
    session = open_session(path)
    assert dict(session.metadata) == {**open_session(source).metadata, "precision": "int8"}
    assert (session.output_names, session.dtype) == (("logits",), "uint8")


def test_with_all_layers_in_float_it_is_the_float_file(quantized, tmp_path):
    source, quantizer, _ = quantized
    path = quantizer.write(tmp_path / "none.tflite", float_layers=quantizer.layers)
    images = colored(4, seed=3)[0]
    np.testing.assert_allclose(answers(path, images), answers(source, images), atol=1e-5)


def test_ranges_end_where_the_activation_is_constant(quantized):
    """h-swish is 0 up to -3 (paper, section 5.2: x ReLU6(x + 3) / 6)."""
    ranges = active_ranges(Graph(quantized[0].read_bytes()))
    assert sorted(ranges.values()) == [(-3.0, np.inf), (-3.0, np.inf)]


def test_the_fallback_chooses_the_layer_that_was_made_sensitive(net, tmp_path):
    """The outputs of `mid.1` have 256 steps, and two channels take all but one of them."""
    source, quantizer = opened(wild(net), tmp_path)
    worst = [entry.layer for entry in sensitivities(quantizer, source, list(colored(8)[0]))]
    assert set(worst) == set(quantizer.layers)
    probes, path = colored(20, seed=5)[0], tmp_path / "model.tflite"

    def score(file):
        return snr_db(answers(source, probes), answers(file, probes))

    all_in_8_bits = score(quantizer.write(path, float_layers=[]))
    chosen = fall_back(quantizer, path, order=worst, score=score, min_score=all_in_8_bits + 3)
    assert "mid.1" in chosen.float_layers
    assert 0 < len(chosen.float_layers) < len(worst)
    assert score(path) == pytest.approx(chosen.score)


class Dead(nn.Module):
    """A ReLU that is always 0, as some of a network's are for a few images."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        nn.init.constant_(self.first.weight, -1)

    def forward(self, images):
        images = images.float() / 255
        return self.last(self.second((self.first(images) - 1).relu()) + images).mean((2, 3))


def test_a_layer_that_returns_only_zeros_can_be_in_8_bits(tmp_path):
    module = Dead().eval()
    source, quantizer = opened(module, tmp_path)
    path = quantizer.write(tmp_path / "all.tflite", float_layers=[])
    image = colored(1, seed=3)[0]
    assert snr_db(answers(source, image), answers(path, image)) > 30


def test_the_post_processing_stays_float(tmp_path):
    module = with_raw_outputs()
    _, quantizer = opened(module, tmp_path, names=module.names, raw=["raw"])
    assert quantizer.layers == ("first",)
    image = colored(1, seed=3)[0]
    both = open_session(quantizer.write(tmp_path / "raw.tflite", float_layers=[], with_raw=True))
    assert both.output_names == ("best", "order", "raw")
    *_, scores = both(image)
    expected = (torch.from_numpy(scores) * torch.linspace(1, 2, scores.shape[1]) + 0.5).sigmoid().topk(20)
    session = open_session(quantizer.write(tmp_path / "all.tflite", float_layers=[]))
    assert session.output_names == ("best", "order")
    np.testing.assert_allclose(session(image)[0], expected[0], atol=1e-5)


def test_half_precision_halves_the_weights_and_barely_changes_the_result(quantized, net, tmp_path):
    source, path = quantized[0], tmp_path / "half.tflite"
    example = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    metadata = {"precision": "fp16"}
    export_module(net, example, path, format="litert", names=["logits"], metadata=metadata, precision="fp16")
    assert path.stat().st_size < source.stat().st_size
    image = colored(1, seed=3)[0]
    difference = np.abs(answers(path, image) - answers(source, image)).max()
    assert 0 < difference < 0.05
    assert open_session(path).metadata["precision"] == "fp16"


def test_a_file_by_onnx2tf_computes_the_same_also_in_8_bits(net, tmp_path, monkeypatch):
    pytest.importorskip("onnx2tf")
    monkeypatch.setattr(litert, "not_installed", lambda names: "" if names != ["litert-torch"] else "missing")
    source, quantizer = opened(net, tmp_path)
    images = colored(50, seed=2)[0]
    expected = net(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(answers(source, images), expected, atol=1e-4)
    assert set(quantizer.layers) >= {"stem.0", "mid.1", "mid.se", "mid.2"}
    path = quantizer.write(tmp_path / "all.tflite", float_layers=[])
    assert 20 < snr_db(expected, answers(path, images)) < 80
