"""A program of several inputs in the runtimes that time layers: its outputs are PyTorch's."""

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from deploy.formats import executorch, ncnn, openvino
from deploy.latency_table.measurers import measurer
from deploy.timing.latency import Rounds
from engine.errors import UserError


class Head(nn.Module):
    """Two features of different sizes -> scores of the larger one's size."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(8, 4, 1), nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, fine, coarse):
        coarse = nn.functional.interpolate(self.coarse(coarse), size=fine.shape[-2:], mode="bilinear")
        return self.fine(fine) + coarse


def features():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 8, 12, 10, generator=generator), torch.rand(1, 16, 6, 5, generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize("module", [openvino, executorch, ncnn], ids=lambda module: module.__name__[15:])
def test_a_head_in_a_runtime_computes_what_it_computes_in_pytorch(module):
    for library in module.LIBRARIES:
        pytest.importorskip(library)
    torch.manual_seed(0)
    head, inputs = Head().eval(), features()
    run = module.load_program(torch.export.export(head, inputs), threads=1)
    (output,) = _outputs(run([tensor.numpy() for tensor in inputs]))
    with torch.no_grad():
        expected = head(*inputs).numpy()
    np.testing.assert_allclose(output.reshape(expected.shape), expected, atol=1e-5)
    name = module.__name__.rpartition(".")[2]
    measure = measurer(name, rounds=Rounds(warmup=0, least=2, most=2, interval=0.5, budget_s=1))
    assert measure(head, inputs) > 0
    assert measure.about["runtime"] == name
    assert measure.about["runtime_version"][0].isdigit()


@pytest.mark.slow
def test_executorch_keeps_the_file_that_its_methods_read(monkeypatch):
    """A program that was freed computed nonsense, or ended the process, in one call after another."""
    runtime = pytest.importorskip("executorch.runtime")
    loaded = []
    load = runtime.Runtime.load_program

    def remember(self, *args, **kwargs):
        program = load(self, *args, **kwargs)
        loaded.append(weakref.ref(program))
        return program

    monkeypatch.setattr(runtime.Runtime, "load_program", remember)
    head, inputs = Head().eval(), features()
    run = executorch.load_program(torch.export.export(head, inputs), threads=1)
    gc.collect()
    assert loaded[0]() is not None
    (output,) = run([tensor.numpy() for tensor in inputs])
    with torch.no_grad():
        np.testing.assert_allclose(output.numpy(), head(*inputs).numpy(), atol=1e-5)


class Sorted(nn.Module):
    def forward(self, features):
        return torch.sort(features, dim=1)[0]


@pytest.mark.slow
def test_ncnn_names_operators_that_it_lacks():
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    features = (torch.rand(1, 4, 6, 6),)
    with pytest.raises(UserError, match=r"ncnn has no aten::sort.*choose another runtime"):
        ncnn.load_program(torch.export.export(Sorted().eval(), features), threads=1)


class FailingNet:
    """What ncnn's network does if a layer fails: it returns a status."""

    def output_names(self):
        return ["out0"]

    def create_extractor(self):
        return self

    def input(self, name, array):
        return 0

    def extract(self, name):
        return -100, None


def test_outputs_that_ncnn_cannot_compute_are_an_error(tmp_path, monkeypatch):
    """A layer that fails returns at once, which would look like a fast one."""
    (tmp_path / "graph").write_text("", encoding="utf-8")
    library = SimpleNamespace(
        Mat=lambda array: SimpleNamespace(clone=lambda: array), open_net=lambda graph, threads: FailingNet()
    )
    monkeypatch.setattr(ncnn, "_converted", lambda *_, **__: (tmp_path / "graph", None))
    monkeypatch.setattr(ncnn, "require", lambda *_: library)
    inputs = (torch.zeros(1, 4, 6, 6),)
    run = ncnn.load_program(SimpleNamespace(example_inputs=[inputs]), threads=1)
    with pytest.raises(UserError, match="ncnn cannot compute out0"):
        run([inputs[0].numpy()])


def _outputs(results):
    """The arrays that a runtime returns."""
    return [np.asarray(value) for value in (results.values() if hasattr(results, "values") else results)]
