"""8-bit ExecuTorch files, in ExecuTorch's runtime: contents, results, and the layers that stay float."""

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("executorch")

from deploy.export.module import export_module
from deploy.formats import open_session
from deploy.quantize.calibration import open_quantizer
from deploy.quantize.executorch import active_ranges, find_layers
from deploy.quantize.sensitivity import sensitivities, snr_db
from tests.deploy.quantize.test_post_processing import with_raw_outputs
from tests.deploy.quantize.test_quantize import accuracy, answers, colored, net, wild

__all__ = ["net"]  # the fixture

pytestmark = pytest.mark.slow  # the libraries take ten seconds to import


def opened(module, folder, *, names=("logits",), raw=()):
    """The quantizer of a module, from its captured graph."""
    example, metadata = torch.zeros(1, 3, 16, 16, dtype=torch.uint8), {"precision": "fp32", "a": "b"}
    source = folder / "graph.pt2"
    export_module(module, example, source, format="torch_export", names=names, metadata=metadata)
    return source, open_quantizer(source, list(colored(32)[0]), format="executorch", raw_outputs=raw)


@pytest.fixture(scope="module")
def quantized(net, tmp_path_factory):
    """(captured graph, quantizer, file with all layers in 8 bits)"""
    folder = tmp_path_factory.mktemp("int8")
    source, quantizer = opened(net, folder)
    return source, quantizer, quantizer.write(folder / "all.pte", float_layers=[])


def test_layers_are_named_after_their_modules(quantized):
    """Those of the squeeze-and-excite too; the classifier, the last layer, stays float."""
    assert quantized[1].layers == ("stem.0", "mid.1", "mid.se", "mul", "mid.2", "add")


def test_a_trained_network_keeps_its_answers(quantized):
    source, _, path = quantized
    assert accuracy(source) > 97
    assert accuracy(path) > accuracy(source) - 2
    images = colored(50, seed=2)[0]
    assert 20 < snr_db(answers(source, images), answers(path, images)) < 80  # 8 bits, and not float32


def test_the_file_stores_weights_in_8_bits(quantized, net):
    """The classifier's are still float."""
    _, _, path = quantized
    assert net.classifier.weight.detach().numpy().tobytes() in path.read_bytes()
    assert net.mid["2"].weight.detach().numpy().tobytes() not in path.read_bytes()


def test_the_metadata_are_those_of_the_float_file(quantized):
    source, _, path = quantized
    session = open_session(path)
    assert dict(session.metadata) == {**open_session(source).metadata, "precision": "int8"}
    assert (session.output_names, session.dtype) == (("logits",), "uint8")


def test_the_simulation_computes_what_the_file_does(quantized, tmp_path):
    _, quantizer, path = quantized
    images = colored(20, seed=4)[0]
    one = quantizer.write(tmp_path / "one.pte", float_layers=["mid.1", "add"])
    for file, float_layers in ((path, []), (one, ["mid.1", "add"])):
        simulated = quantizer.simulate(float_layers=float_layers, threads=1)
        expected = np.concatenate([simulated(image[None])[0] for image in images])
        assert snr_db(expected, answers(file, images)) > 30


def test_with_all_layers_in_float_it_is_the_float_network(quantized):
    source, quantizer, _ = quantized
    simulated = quantizer.simulate(float_layers=quantizer.layers, threads=1)
    image = colored(1, seed=3)[0]
    np.testing.assert_allclose(simulated(image)[0], answers(source, image), atol=1e-4)


def test_the_layer_that_was_made_sensitive_is_the_worst(net, tmp_path):
    """The outputs of `mid.1` have 256 steps, and two channels take all but one of them."""
    source, quantizer = opened(wild(net), tmp_path)
    ranking = sensitivities(quantizer, source, list(colored(8)[0]))
    assert {entry.layer for entry in ranking} == set(quantizer.layers)
    assert "mid.1" in [entry.layer for entry in ranking[:3]]  # before it, `mul` and `mid.se` read the same
    assert ranking[0].snr_db < ranking[-1].snr_db - 10


def test_the_post_processing_stays_float(tmp_path):
    """The file computes the same from the simulated raw outputs."""
    module = with_raw_outputs()
    _, quantizer = opened(module, tmp_path, names=module.names, raw=["raw"])
    assert quantizer.layers == ("first",)
    image = colored(1, seed=3)[0]
    *_, scores = quantizer.simulate(float_layers=[], threads=1)(image)
    expected = (torch.from_numpy(scores) * torch.linspace(1, 2, scores.shape[1]) + 0.5).sigmoid().topk(20)
    session = open_session(quantizer.write(tmp_path / "all.pte", float_layers=[]))
    assert session.output_names == ("best", "order")
    np.testing.assert_allclose(session(image)[0], expected[0], atol=0.01)


class Inputs(nn.Module):
    """A product of the images themselves, two convolutions with a sum between them, a sum at the end."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images):
        images = images * 2 + images
        first = self.first(images)
        summed = nn.functional.hardswish(first) + nn.functional.hardsigmoid(self.second(first))
        return self.last(summed) + summed


def test_neither_the_input_nor_the_last_layers_are_quantized():
    """By hand: `first` is read by h-swish and a convolution, `second` only by the hard sigmoid."""
    graph = torch.export.export(Inputs().eval(), (torch.zeros(1, 3, 4, 4),)).module()
    assert list(find_layers(graph)) == ["first", "second", "add_1"]
    assert active_ranges(graph) == {"conv2d_1": (-3.0, 3.0)}
