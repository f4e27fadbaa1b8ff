"""Optimizers: RMSProp compared with a NumPy implementation of TensorFlow's, and parameter groups."""

import numpy as np
import pytest
import torch
from torch import nn

from engine.train import optimization

LR, DECAY, MOMENTUM, EPS, WEIGHT_DECAY = 0.05, 0.9, 0.9, 1e-3, 0.01


def gradients(count, size=6):
    random = np.random.default_rng(3)
    return [random.normal(scale=10.0**scale, size=size) for scale in np.linspace(-3, 0, count)]


def tensorflow_rmsprop(start, grads, rates, weight_decay=0.0):
    """ApplyRMSProp of tensorflow/core/kernels/training_ops.cc, as its documentation states it."""
    weights, square, momentum = start.copy(), np.ones_like(start), np.zeros_like(start)
    for grad, rate in zip(grads, rates, strict=True):
        grad = grad + weight_decay * weights
        square = DECAY * square + (1 - DECAY) * grad**2
        momentum = MOMENTUM * momentum + rate * grad / np.sqrt(square + EPS)
        weights = weights - momentum
    return weights


def run(optimizer, parameter, grads, rates):
    for grad, rate in zip(grads, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        parameter.grad = torch.tensor(grad)
        optimizer.step()
    return parameter.detach().numpy()


@pytest.mark.parametrize("weight_decay", [0.0, WEIGHT_DECAY])
def test_rmsprop_tf_equals_tensorflows(weight_decay):
    start, grads = np.linspace(-1, 1, 6), gradients(8)
    rates = [
        LR * 0.8**step for step in range(8)
    ]  # A rate that changes: it is inside of TensorFlow's momentum.
    parameter = nn.Parameter(torch.tensor(start))
    optimizer = optimization.RMSpropTF(
        [parameter], lr=LR, decay=DECAY, momentum=MOMENTUM, eps=EPS, weight_decay=weight_decay
    )
    expected = tensorflow_rmsprop(start, grads, rates, weight_decay)
    np.testing.assert_allclose(run(optimizer, parameter, grads, rates), expected, rtol=1e-12)


def test_rmsprop_tf_differs_from_torchs():
    start, grads, rates = np.linspace(-1, 1, 6), gradients(8), [LR] * 8
    ours, theirs = nn.Parameter(torch.tensor(start)), nn.Parameter(torch.tensor(start))
    optimizer = optimization.RMSpropTF([ours], lr=LR, decay=DECAY, momentum=MOMENTUM, eps=EPS)
    torchs = torch.optim.RMSprop([theirs], lr=LR, alpha=DECAY, momentum=MOMENTUM, eps=EPS)
    difference = run(optimizer, ours, grads, rates) - run(torchs, theirs, grads, rates)
    assert np.abs(difference).max() > 0.1


def test_rmsprop_tf_rejects_invalid_options():
    with pytest.raises(ValueError, match="decay and momentum must be in"):
        optimization.RMSpropTF([nn.Parameter(torch.zeros(1))], lr=0.1, decay=1.0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)


def by_name(model, groups):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_norms_and_biases_are_not_decayed():
    model = Model()
    assert by_name(model, optimization.parameter_groups(model, 0.1, 0.5)) == {
        "backbone.0.weight": (0.1, 0.5),
        "backbone.0.bias": (0.1, 0.0),
        "backbone.1.weight": (0.1, 0.0),
        "backbone.1.bias": (0.1, 0.0),
        "head.weight": (0.1, 0.5),
        "head.bias": (0.1, 0.0),
    }


def test_norms_and_biases_can_be_decayed():
    model = Model()
    groups = optimization.parameter_groups(model, 0.1, 0.5, decay_norm_and_bias=True)
    assert set(by_name(model, groups).values()) == {(0.1, 0.5)}


def test_the_first_matching_lr_factor_applies():
    model = Model()
    groups = optimization.parameter_groups(
        model, 1.0, 0.0, lr_factors={"backbone.0.*": 0.5, "backbone.*": 0.1}
    )
    rates = {name: lr for name, (lr, _) in by_name(model, groups).items()}
    assert rates["backbone.0.weight"] == 0.5
    assert rates["backbone.1.weight"] == 0.1
    assert rates["head.weight"] == 1.0


def test_a_pattern_without_parameters_is_an_error():
    with pytest.raises(ValueError, match=r"lr_factors: \['bakbone.\*'\] match no parameter"):
        optimization.sgd(Model(), lr=0.1, lr_factors={"bakbone.*": 0.1})


def test_negative_rates_are_an_error():
    with pytest.raises(ValueError, match="must not be negative"):
        optimization.adamw(Model(), lr=-0.1)


def test_set_lr_keeps_the_factors():
    model = Model()
    optimizer = optimization.sgd(model, lr=2.0, lr_factors={"backbone.*": 0.1})
    assert optimization.set_lr(optimizer, 0.25) == 0.5
    assert optimization.set_lr(optimizer, 0.5) == 1.0
    assert {group["lr"] for group in optimizer.param_groups} == {1.0, 0.1}
