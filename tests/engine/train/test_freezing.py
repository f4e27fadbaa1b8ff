"""Frozen layers: neither weights nor running statistics move, in the model and in its averaged copy."""

import copy

import pytest
import torch
from torch import nn

from engine.train.freezing import freeze


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
    )


def changed_after_a_step(model):
    before = copy.deepcopy(model.state_dict())
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    model(torch.rand(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_what_is_frozen_stays():
    model = network()
    assert freeze(model, ["0.*"]) == 3 * 4 * 9 + 4 + 4 + 4
    changed = changed_after_a_step(model)
    assert {name.split(".")[0] for name in changed} == {"1"}
    assert "1.1.running_mean" in changed
    assert [norm.training for norm in (copy.deepcopy(model).train()[0][1], model[1][1])] == [False, True]


def test_a_convolution_alone_leaves_its_batch_norm_free():
    model = network()
    freeze(model, ["0.0.*"])
    changed = changed_after_a_step(model)
    assert not any(name.startswith("0.0") for name in changed)
    assert {"0.1.weight", "0.1.running_mean"} <= changed


def test_names_do_not_change():
    model, names = network(), list(network().state_dict())
    freeze(model, ["1.*"])
    assert list(model.state_dict()) == names


def test_nothing_is_frozen_by_no_pattern():
    assert freeze(network(), []) == 0


@pytest.mark.parametrize(
    ("patterns", "message"), [(["head.*"], "matches no parameter"), (["*"], "nothing to train")]
)
def test_useless_patterns_are_refused(patterns, message):
    with pytest.raises(ValueError, match=message):
        freeze(network(), patterns)
