"""Averaged weights."""

import copy
from typing import cast

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of a task's parameters and buffers.

    The decay rises with the number of updates n, min(decay, (1 + n) / (10 + n)) as in TensorFlow, so that the
    average of a short run is not mostly its starting weights. Counters (integer buffers) are copied.

    Buffers must be updated in place, as torch's own layers do.

    Attributes:
        task: a copy of the task that holds the averaged weights.
        updates: how often `update` was called; part of a checkpoint.
    """

    def __init__(self, task: nn.Module, decay: float) -> None:
        self.task = copy.deepcopy(task).requires_grad_(False)
        self.decay, self.updates = decay, 0
        pairs = list(zip(_tensors(self.task), _tensors(task), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._averaged = [averaged for averaged, _ in self._floats]
        self._current = [current for _, current in self._floats]

    @property
    def model(self) -> nn.Module:
        return cast(nn.Module, self.task.model)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the task's present weights."""
        rate = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._averaged, self._current, 1 - rate)
        for counter, current in self._counters:
            counter.copy_(current)
        self.updates += 1


def _tensors(task: nn.Module) -> list[Tensor]:
    return list(task.state_dict(keep_vars=True).values())
