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


@pytest.mark.parametrize(
    "options", [{"decay": 1.0}, {"decay": -0.1}, {"momentum": 1.0}, {"momentum": -0.1}, {"eps": 0.0}]
)
def test_rmsprop_tf_options_must_be_in_range(options):
    with pytest.raises(ValueError, match=r"decay and momentum must be in .* eps > 0"):
        optimization.RMSpropTF([nn.Parameter(torch.zeros(1))], lr=0.1, **options)


def test_rmsprop_tf_has_the_defaults_of_the_paper():
    optimizer = optimization.RMSpropTF([nn.Parameter(torch.zeros(1))], lr=0.1)
    assert optimizer.defaults == {"lr": 0.1, "decay": 0.9, "momentum": 0.9, "eps": 1e-3, "weight_decay": 0.0}


def test_rmsprop_tf_without_memory_divides_by_the_gradient():
    """decay = momentum = 0: p - lr g / sqrt(g^2 + eps)."""
    parameter = nn.Parameter(torch.tensor([1.0]))
    optimizer = optimization.RMSpropTF([parameter], lr=0.1, decay=0.0, momentum=0.0, eps=0.25)
    for step in (1, 2):
        parameter.grad = torch.tensor([2.0])
        optimizer.step()
        assert parameter.item() == pytest.approx(1 - step * 0.1 * 2 / np.sqrt(4.25))


def test_rmsprop_tf_leaves_parameters_without_a_gradient():
    """Whole groups without one too, whose weights are not decayed either."""
    first, second, third = (nn.Parameter(torch.ones(2)) for _ in range(3))
    groups = [{"params": [first]}, {"params": [second, third]}]
    optimizer = optimization.RMSpropTF(groups, lr=0.1, weight_decay=0.5)
    third.grad = torch.ones(2)
    optimizer.step()
    assert (first == 1).all()
    assert (second == 1).all()
    assert (third < 1).all()
    assert list(optimizer.state) == [third]


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


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm3d(4),
        nn.SyncBatchNorm(4),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.InstanceNorm2d(4, affine=True),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_no_kind_of_norm_is_decayed(norm):
    model = nn.Sequential(nn.Linear(4, 4, bias=False), norm)
    decays = {name: decay for name, (_, decay) in by_name(model, groups_of(model)).items()}
    assert decays == {"0.weight": 0.5, "1.weight": 0.0, "1.bias": 0.0}


def groups_of(model):
    return optimization.parameter_groups(model, 0.1, 0.5)


BUILDERS = {
    "sgd": (
        optimization.sgd,
        {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0, "foreach": True},
        {"momentum": 0.5, "nesterov": True},
    ),
    "adamw": (
        optimization.adamw,
        {"betas": (0.9, 0.999), "weight_decay": 0.01, "foreach": True},
        {"betas": (0.8, 0.99)},
    ),
    "rmsprop_tf": (
        optimization.rmsprop_tf,
        {"decay": 0.9, "momentum": 0.9, "eps": 1e-3, "weight_decay": 0.0},
        {"decay": 0.8, "momentum": 0.7, "eps": 0.01},
    ),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_options_reach_the_optimizer(name):
    build, defaults, others = BUILDERS[name]
    plain, *_ = build(Model(), lr=0.3).param_groups
    assert {key: plain[key] for key in defaults} == defaults
    assert (plain["lr"], plain["base_lr"]) == (0.3, 0.3)
    changed = build(
        Model(),
        lr=0.3,
        weight_decay=0.25,
        decay_norm_and_bias=True,
        lr_factors={"head.*": 2.0},
        **others,
    )
    assert all({key: group[key] for key in others} == others for group in changed.param_groups)
    assert {group["weight_decay"] for group in changed.param_groups} == {0.25}
    assert {group["lr"] for group in changed.param_groups} == {0.3, 0.6}
    decayed = {group["weight_decay"] for group in build(Model(), lr=0.3, weight_decay=0.25).param_groups}
    assert decayed == {0.25, 0.0}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_state_that_is_saved_and_loaded_continues_alike(name):
    """Into an optimizer that has made other steps; what is loaded shares no memory with what was saved."""

    def step(model, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()

    torch.manual_seed(0)
    model = Model().to(memory_format=torch.channels_last)
    optimizer = BUILDERS[name][0](model, lr=0.1)
    step(model, optimizer, 1), step(model, optimizer, 2)
    optimizer.state[model.head.weight] |= {"count": 7, "nothing": None}
    tensors, numbers = optimization.state_tensors(model, optimizer)
    assert numbers == {"head.weight": {"count": 7}}
    assert all(key.rpartition("/")[0] in dict(model.named_parameters()) for key in tensors)
    tensors = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
    other = Model().to(memory_format=torch.channels_last)
    other.load_state_dict(model.state_dict())
    resumed = BUILDERS[name][0](other, lr=0.1)
    step(other, resumed, 9)
    other.load_state_dict(model.state_dict())
    resumed.state[other.head.weight]["stale"] = 1.0
    saved = {key: tensor.clone() for key, tensor in tensors.items()}
    optimization.load_state(other, resumed, tensors, numbers)
    assert resumed.state[other.head.weight]["count"] == 7
    assert "stale" not in resumed.state[other.head.weight]
    moments = [v for v in resumed.state[other.backbone[0].weight].values() if torch.is_tensor(v) and v.dim()]
    assert moments
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in moments)
    step(model, optimizer, 3), step(other, resumed, 3)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert all(torch.equal(tensors[key], saved[key]) for key in saved)


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
    for rates in ({"lr": -0.1}, {"lr": 0.1, "weight_decay": -0.1}):
        with pytest.raises(ValueError, match="must not be negative"):
            optimization.adamw(Model(), **rates)
    assert optimization.sgd(Model(), lr=0.0).param_groups[0]["lr"] == 0


def test_set_lr_keeps_the_factors():
    model = Model()
    optimizer = optimization.sgd(model, lr=2.0, lr_factors={"backbone.*": 0.1})
    assert optimization.set_lr(optimizer, 0.25) == 0.5
    assert optimization.set_lr(optimizer, 0.5) == 1.0
    assert {group["lr"] for group in optimizer.param_groups} == {1.0, 0.1}
