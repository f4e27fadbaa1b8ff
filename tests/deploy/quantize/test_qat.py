"""Fine-tuning in 8 bits: closer to the float network, and the file computes what the tuned graph does."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from deploy.formats import open_session
from deploy.quantize.qat import fine_tune, fold_batch_norm, write_openvino
from tests.deploy.quantize.test_quantize import colored, stored
from tests.refusals import refuses


class Part(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)
        self.act = nn.Hardswish()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    parts = {"first": Part(3, 8), "second": Part(8, 8), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}

    class Net(nn.Sequential):
        def forward(self, images):
            return super().forward(images.float() / 127.5 - 1)

    net = Net(OrderedDict(parts, head=nn.Linear(8, 3)))
    with torch.no_grad():
        net.train()(torch.from_numpy(colored(16)[0]))
    return net.eval()


def test_folded_batch_norm_changes_nothing(net):
    images = torch.from_numpy(colored(2)[0])
    folded = fold_batch_norm(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images), net(images), atol=1e-5, rtol=1e-4)


def test_tuning_lowers_the_error_and_openvino_computes_the_same(net, tmp_path):
    for library in ("torchao", "openvino", "onnx", "onnxscript"):
        pytest.importorskip(library)
    images = list(colored(12, seed=1)[0])
    errors = []
    tuned = fine_tune(
        net, images, steps=30, batch=4, learning_rate=1e-3, on_step=lambda step, error: errors.append(error)
    )
    assert len(errors) == 30
    assert np.mean(errors[-8:]) < np.mean(errors[:8])
    path = write_openvino(tuned, images[0], tmp_path / "m.xml", names=["logits"], metadata={"task": "cls"})
    session = open_session(path)
    assert session.output_names == ("logits",)
    assert (session.metadata["task"], session.metadata["precision"]) == ("cls", "int8")
    constants, operations = stored(path)
    assert constants["int8"] == 2  # the convolutions; the last layer's 24 weights are too few to be counted
    assert operations["FakeQuantize"] >= 3
    for image in images[:3]:
        expected = tuned(torch.from_numpy(image[None])).detach().numpy()
        np.testing.assert_allclose(session(image[None])[0], expected, atol=0.02 * np.abs(expected).max())


def test_a_module_can_stay_float(net, tmp_path):
    for library in ("torchao", "openvino", "onnx", "onnxscript"):
        pytest.importorskip(library)
    images = list(colored(4, seed=1)[0])
    tuned = fine_tune(net, images, steps=1, batch=1, float_modules=["first.conv"])
    path = write_openvino(tuned, images[0], tmp_path / "m.xml", names=["logits"], metadata={})
    assert stored(path)[0]["int8"] == 1


def test_zero_steps_are_rejected(net):
    refuses(lambda: fine_tune(net, [], steps=0), "qat.steps must be at least 1")
