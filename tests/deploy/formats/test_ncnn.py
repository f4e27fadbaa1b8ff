"""ncnn: converted by pnnx, with only floats and one image at a time."""

import numpy as np
import pytest
import torch
from torch import nn

from deploy.eager import eager_session
from deploy.export.module import export_module
from deploy.formats import ncnn, open_session
from engine.config.compose import compose_config
from engine.config.instantiate import build
from tests.deploy.formats.test_runtimes import Toy, pixels
from tests.refusals import refuses

with_ncnn = pytest.mark.skipif(bool(ncnn.missing()), reason=ncnn.missing() or "installed")


class Scores(Toy):
    """Two outputs in the reverse order of their computation, from pixels in 0..255."""

    def forward(self, images):
        scores = super().forward(images)[0]
        return scores.mean((2, 3)), scores


def write(path, *, module=None, count=1, precision="fp32", names=("means", "scores")):
    return export_module(
        module or Scores(), torch.from_numpy(pixels(count)), path, format="ncnn", names=names,
        metadata={"who": "Ä 1"}, precision=precision,
    )  # fmt: skip


@with_ncnn
@pytest.mark.slow
def test_a_file_gives_what_pytorch_gives(tmp_path):
    session = open_session(write(tmp_path / "m.ncnn.param"))
    for seed in (1, 2):
        outputs, expected = (run(pixels(seed=seed)) for run in (session, eager_session(Scores())))
        assert [output.shape for output in outputs] == [(1, 4), (1, 4, 12, 20)]
        for output, right in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(output, right, atol=1e-5)
    assert (session.output_names, session.dtype, session.shape) == (("means", "scores"), "uint8", (1, 12, 20))
    assert session.metadata["who"] == "Ä 1"
    assert session.runtime.startswith("ncnn 1.")


@with_ncnn
@pytest.mark.slow
@pytest.mark.parametrize("head", ["ssdlite", "panlite"])
def test_raw_outputs_of_detectors(tmp_path, head):
    config = compose_config("train", ["task=det", f"model={head}", "data.size=[64,96]"])
    detector = build(config.model, key="model", num_classes=3).eval()
    module = type("Raw", (nn.Module,), {"forward": lambda self, images: self.body(images.float() / 255)})()
    module.body = detector
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    path = export_module(
        module, image, tmp_path / "m.ncnn.param", format="ncnn", names=("boxes", "scores"), metadata={}
    )
    with torch.no_grad():
        expected = module(image)
    for output, right in zip(open_session(path)(image.numpy()), expected, strict=True):
        np.testing.assert_allclose(output, right.numpy(), atol=1e-3)


@with_ncnn
@pytest.mark.slow
def test_half_precision_halves_the_weights(tmp_path):
    wide = nn.Sequential(nn.Conv2d(3, 256, 1), nn.ReLU(), nn.Conv2d(256, 64, 1))
    module = type("Wide", (nn.Module,), {"forward": lambda self, images: self.body(images.float() / 255)})()
    module.body = wide
    sizes, outputs = [], []
    for precision in ("fp32", "fp16"):
        path = write(tmp_path / precision / "m.ncnn.param", module=module, precision=precision, names=("y",))
        sizes.append(path.with_name("m.ncnn.bin").stat().st_size)
        outputs.append(open_session(path)(pixels())[0])
    assert sizes[1] < 0.6 * sizes[0]
    assert 0 < np.abs(outputs[0] - outputs[1]).max() < 1e-2


@with_ncnn
@pytest.mark.slow
def test_what_ncnn_lacks_is_refused(tmp_path):
    path = tmp_path / "m.ncnn.param"
    labels = type("Labels", (Toy,), {"forward": lambda self, images: Toy.forward(self, images)[1]})()
    refuses(lambda: write(path, module=labels, names=("labels",)), "ncnn has no .*argmax", "output=logits")
    refuses(lambda: write(path, count=2), "one image at a time; set batch=1")
    assert not path.exists()


@with_ncnn
@pytest.mark.slow
def test_a_file_without_its_weights_is_named(tmp_path):
    path = write(tmp_path / "m.ncnn.param")
    path.with_name("m.ncnn.bin").unlink()
    refuses(lambda: open_session(path), r"m\.ncnn\.param: its weights are missing \(m\.ncnn\.bin\)")


def test_the_cast_of_bytes_is_left_out_of_the_graph():
    """By hand: ncnn's floats reach both readers of the cast's result directly."""
    lines = [
        "7767517", "4 5", "Input in0 0 1 in0", "Tensor.to to_0 1 1 in0 4 copy=False dtype=torch.float",
        "Split split_0 1 2 4 1 2", "BinaryOp add_0 2 1 1 4 out0 0=4",
    ]  # fmt: skip
    assert ncnn.without_cast(lines) == [
        "7767517", "3 4", "Input in0 0 1 in0", "Split split_0 1 2 in0 1 2",
        "BinaryOp add_0 2 1 1 in0 out0 0=4",
    ]  # fmt: skip
    assert ncnn.without_cast(lines[:3]) == lines[:3]
