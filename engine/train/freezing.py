"""Layers that keep their values while the rest is trained."""

from collections.abc import Sequence
from fnmatch import fnmatch

from torch import Tensor, nn
from torch.nn import functional as F

from engine.errors import UserError


class FrozenBatchNorm2d(nn.Module):
    """Batch norm that always normalizes with its running statistics, also while its network trains.

    It takes over the parameters and buffers of `norm`, under the same names. It is not a BatchNorm2d, so that
    SyncBatchNorm does not replace it.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps, self.weight, self.bias = norm.eps, norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def freeze(model: nn.Module, patterns: Sequence[str]) -> int:
    """Freeze the parameters whose names match, such as `backbone.stem.*` or `backbone.blocks.[0-5].*`.

    A batch norm whose weight and bias are frozen keeps its running statistics too (`FrozenBatchNorm2d`).

    Returns: how many parameters (numbers, not tensors) are frozen.
    Raises: UserError if a pattern matches no parameter, or if nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in parameters):
            raise UserError(
                f"freeze: {pattern!r} matches no parameter of the model, such as "
                f"{_examples(list(parameters))}"
            )
    frozen = {name for name in parameters if any(fnmatch(name, pattern) for pattern in patterns)}
    if frozen and len(frozen) == len(parameters):
        raise UserError(f"freeze: {list(patterns)} leave nothing to train")
    for name in frozen:
        parameters[name].requires_grad_(False)
    _freeze_norms(model, {parameters[name] for name in frozen})
    return sum(parameters[name].numel() for name in frozen)


def _freeze_norms(model: nn.Module, frozen: set[nn.Parameter]) -> None:
    replacements: dict[nn.Module, FrozenBatchNorm2d] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if type(child) is nn.BatchNorm2d and {child.weight, child.bias} <= frozen:
                parent.add_module(name, replacements.setdefault(child, FrozenBatchNorm2d(child)))


def _examples(names: list[str]) -> str:
    return ", ".join(dict.fromkeys((names[0], names[len(names) // 2], names[-1])))
