"""Locating the first non-finite values of a step."""

import math

import torch
from torch import nn

from engine.train.nonfinite import NonFiniteTracer, value_range


def test_value_range_counts_nonfinite_values():
    value = {"a": [torch.tensor([1.0, -2.5]), "text"], "b": (torch.tensor([3, 4], dtype=torch.uint8),)}
    assert value_range(value) == "-2.5 .. 4"
    assert value_range(torch.tensor([1.0, math.nan, -math.inf])) == "1 .. 1, and 2 of 3 values not finite"
    assert value_range(torch.tensor([math.nan])) == "none finite, and 1 of 1 values not finite"
    assert value_range({}) == value_range(torch.empty(0)) == "no numbers"


def test_a_tracer_removes_its_hooks():
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with NonFiniteTracer(module) as tracer:
        module(torch.ones(1, 2)).sum().backward()
    assert tracer.lines() == [
        "the outputs of all modules are finite",
        "the gradients of all parameters are finite",
    ]
    assert not any(part._forward_hooks for part in module.modules())
    assert not any(parameter._post_accumulate_grad_hooks for parameter in module.parameters())
