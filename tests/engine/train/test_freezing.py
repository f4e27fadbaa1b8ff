"""Frozen layers: neither weights nor running statistics change, in the model and in copies of it."""

import copy

import pytest
import torch
from torch import nn

from engine.errors import UserError
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


def test_frozen_layers_do_not_change():
    model = network()
    assert freeze(model, ["0.*"]) == 3 * 4 * 9 + 4 + 4 + 4
    changed = changed_after_a_step(model)
    assert {name.split(".")[0] for name in changed} == {"1"}
    assert "1.1.running_mean" in changed
    assert {name.split(".")[0] for name in changed_after_a_step(copy.deepcopy(model))} == {"1"}


def test_a_frozen_norm_equals_a_norm_in_evaluation_mode():
    model, images = network(), torch.rand(2, 3, 8, 8)
    changed_after_a_step(model)  # statistics other than the initial ones
    expected = model.eval()(images)
    freeze(model, ["1.1.*"])
    frozen = model[1][1]
    assert torch.equal(model.eval()(images), expected)
    assert torch.equal(
        frozen.train()(images.new_ones(2, 4, 6, 6)), frozen.eval()(images.new_ones(2, 4, 6, 6))
    )


def test_a_shared_norm_is_frozen_in_both_places():
    model = network()
    model.append(model[0][1])
    freeze(model, ["0.1.*"])
    assert model[0][1] is model[2]
    assert not any(name.startswith(("0.1", "2")) for name in changed_after_a_step(model))


def test_sync_batch_norm_does_not_replace_frozen_norms():
    model = network()
    freeze(model, ["0.1.*"])
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert [type(part[1]).__name__ for part in synced] == ["FrozenBatchNorm2d", "SyncBatchNorm"]


def test_parameters_and_buffers_stay_the_same_tensors():
    model = network()
    before = model.state_dict(keep_vars=True)
    freeze(model, ["0.*"])
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in after)


def test_freezing_a_convolution_does_not_freeze_its_batch_norm():
    model = network()
    freeze(model, ["0.0.*"])
    changed = changed_after_a_step(model)
    assert not any(name.startswith("0.0") for name in changed)
    assert {"0.1.weight", "0.1.running_mean"} <= changed


def test_without_patterns_nothing_is_frozen():
    assert freeze(network(), []) == 0


@pytest.mark.parametrize(
    ("patterns", "message"), [(["head.*"], "matches no parameter"), (["*"], "nothing to train")]
)
def test_invalid_patterns_are_rejected(patterns, message):
    with pytest.raises(UserError, match=message):
        freeze(network(), patterns)
