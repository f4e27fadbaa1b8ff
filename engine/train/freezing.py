"""Layers that stay as they are while the rest is trained."""

from collections.abc import Sequence
from fnmatch import fnmatch

from torch import nn


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that always normalizes with its running statistics, also while its network trains."""

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":
        super().train(False)
        return self


def freeze(model: nn.Module, patterns: Sequence[str]) -> int:
    """Freeze the parameters whose names match, such as `backbone.stem.*` or `backbone.blocks.[0-5].*`.

    Batch norms that are frozen as a whole keep their running statistics too.

    Returns: how many parameters (numbers, not tensors) are frozen.
    Raises: ValueError for a pattern that matches no parameter, or patterns that leave nothing to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in parameters):
            raise ValueError(
                f"freeze: {pattern!r} matches no parameter of the model, such as {_some(parameters)}"
            )
    frozen = {name for name in parameters if any(fnmatch(name, pattern) for pattern in patterns)}
    if frozen and len(frozen) == len(parameters):
        raise ValueError(f"freeze: {list(patterns)} leave nothing to train")
    for name in frozen:
        parameters[name].requires_grad_(False)
    for prefix, module in model.named_modules():
        if type(module) is nn.BatchNorm2d and {f"{prefix}.weight", f"{prefix}.bias"} <= frozen:
            # The class, not the module: names, tensors and references stay what they are.
            module.__class__ = FrozenBatchNorm2d
            module.eval()
    return sum(parameters[name].numel() for name in frozen)


def _some(names: dict[str, nn.Parameter]) -> str:
    found = list(names)
    return ", ".join(dict.fromkeys((found[0], found[len(found) // 2], found[-1])))
