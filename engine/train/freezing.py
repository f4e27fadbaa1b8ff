"""Freezes layers, so they keep their values while the rest of the model is trained."""

from collections.abc import Sequence
from fnmatch import fnmatch

from torch import Tensor, nn
from torch.nn import functional as F

from engine.errors import UserError


class FrozenBatchNorm2d(nn.Module):
    """Batch norm that always normalizes with its running statistics, even in training mode.

    It takes the parameters and buffers of `norm`, with the same names. It is not a BatchNorm2d subclass, so
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
    """Freeze the parameters that match a pattern, such as `backbone.stem.*` or `backbone.blocks.[0-5].*`.

    The running statistics of a batch norm with frozen weight and bias are frozen too (`FrozenBatchNorm2d`).

    Returns: the number of frozen parameters (scalars, not tensors).
    Raises: UserError if a pattern matches no parameter, or if nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in parameters):
            raise UserError(
                f"freeze: {pattern!r} matches no parameter of the model; parameters are named like "
                f"{_examples(list(parameters))}"
            )
    frozen = {name for name in parameters if any(fnmatch(name, pattern) for pattern in patterns)}
    if frozen and len(frozen) == len(parameters):
        raise UserError(f"freeze: the patterns {list(patterns)} leave nothing to train; remove one")
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
