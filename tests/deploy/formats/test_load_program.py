"""A program of several inputs in the runtimes that time layers: its outputs are PyTorch's."""

import numpy as np
import pytest
import torch
from torch import nn

from deploy.formats import executorch, ncnn, openvino
from deploy.latency_table.measurers import measurer
from deploy.timing.latency import Rounds


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


def _outputs(results):
    """The arrays that a runtime returns: its own tensors, or pairs of a status and an array."""
    values = list(results.values()) if hasattr(results, "values") else list(results)
    return [np.asarray(value[1] if isinstance(value, tuple) else value) for value in values]
