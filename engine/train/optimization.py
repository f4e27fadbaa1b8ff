"""Optimizers with parameter groups, and learning-rate schedules.

A config selects one function for each. The optimizer's function is called with the model. Every group has a
`base_lr`, and the trainer sets `lr = base_lr * schedule(step)`. A schedule is a pure function of the step, so
checkpoints need no scheduler state. `steps` is the length of the run. In the first `warmup_steps`, the factor
is multiplied by a linear ramp from `warmup_factor` to 1. A run resumed with another length follows the
schedule for that length from then on.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Schedule = Callable[[int], float]
"""step -> factor on the learning rate."""

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.InstanceNorm2d,
)


def sgd(
    model: nn.Module,
    *,
    lr: float,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = False,
    lr_factors: Mapping[str, float] | None = None,
) -> Optimizer:
    """Build SGD with momentum."""
    groups = parameter_groups(model, lr, weight_decay, decay_norm_and_bias, lr_factors)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, foreach=True)


def adamw(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.01,
    decay_norm_and_bias: bool = False,
    lr_factors: Mapping[str, float] | None = None,
) -> Optimizer:
    """Build Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""
    groups = parameter_groups(model, lr, weight_decay, decay_norm_and_bias, lr_factors)
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), foreach=True)


def rmsprop_tf(
    model: nn.Module,
    *,
    lr: float,
    decay: float = 0.9,
    momentum: float = 0.9,
    eps: float = 1e-3,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = False,
    lr_factors: Mapping[str, float] | None = None,
) -> Optimizer:
    """Build RMSProp as in TensorFlow, the optimizer of section 6.1.1 of the paper."""
    groups = parameter_groups(model, lr, weight_decay, decay_norm_and_bias, lr_factors)
    return RMSpropTF(groups, lr=lr, decay=decay, momentum=momentum, eps=eps)


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    decay_norm_and_bias: bool = False,
    lr_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Group the trainable parameters by learning rate and weight decay.

    Args:
        lr_factors: name pattern -> factor on `lr`, such as `{"backbone.*": 0.1}`; the first match applies.

    Raises:
        ValueError: if a rate is negative, or a pattern matches no parameter.
    """
    if lr < 0 or weight_decay < 0:
        raise ValueError(f"lr and weight_decay must not be negative, got {lr} and {weight_decay}")
    factors = dict(lr_factors or {})
    undecayed = set() if decay_norm_and_bias else _norms_and_biases(model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    used: set[str] = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        pattern = next((p for p in factors if fnmatch(name, p)), None)
        used.update([pattern] if pattern else [])
        rate = lr * (factors[pattern] if pattern else 1.0)
        decay = 0.0 if name in undecayed else weight_decay
        group = groups.setdefault(
            (rate, decay), {"params": [], "lr": rate, "base_lr": rate, "weight_decay": decay}
        )
        group["params"].append(parameter)
    if unused := set(factors) - used:
        raise ValueError(
            f"optimizer.lr_factors: {sorted(unused)} match no parameter of the model; correct or remove them"
        )
    return list(groups.values())


def set_lr(optimizer: Optimizer, factor: float) -> float:
    """Set each group's learning rate to `base_lr * factor`; returns the largest."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return max(float(group["lr"]) for group in optimizer.param_groups)


def state_tensors(
    model: nn.Module, optimizer: Optimizer
) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """The optimizer state by parameter name: (tensors as `<name>/<key>`, plain numbers)."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, float]] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{names[parameter]}/{key}"] = value
            elif value is not None:
                numbers.setdefault(names[parameter], {})[key] = value
    return tensors, numbers


def load_state(
    model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor], numbers: dict[str, dict[str, float]]
) -> None:
    """The inverse of `state_tensors`."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for path, tensor in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        # Step counters stay on the CPU, as in torch; moments get the device and memory layout of their
        # parameter.
        value = (
            tensor.clone()
            if tensor.dim() == 0
            else torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        )
        optimizer.state[parameter][key] = value
    for name, values in numbers.items():
        optimizer.state[parameters[name]].update(values)


def _norms_and_biases(model: nn.Module) -> set[str]:
    names = {name for name, _ in model.named_parameters() if name.endswith("bias")}
    for prefix, module in model.named_modules():
        if isinstance(module, _NORMS):
            names.update(f"{prefix}.{name}" for name, _ in module.named_parameters())
    return names


class RMSpropTF(Optimizer):
    """RMSProp as in TensorFlow: epsilon is inside the square root, and momentum includes the learning rate.

    torch's RMSprop adds epsilon outside the root and applies the learning rate after the momentum. With
    epsilon = 1e-3 and a decaying learning rate, the two behave differently. The mean square starts at one, as
    in TensorFlow. Weight decay is an L2 term added to the gradient.

        ms  <- decay * ms + (1 - decay) * g^2
        mom <- momentum * mom + lr * g / sqrt(ms + eps)
        p   <- p - mom
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        decay: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        if not 0 <= decay < 1 or not 0 <= momentum < 1 or eps <= 0:
            raise ValueError(f"decay and momentum must be in [0, 1), eps > 0, got {decay}, {momentum}, {eps}")
        defaults = {"lr": lr, "decay": decay, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "RMSpropTF does not support closures"
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p]["square_avg"] = torch.ones_like(p)
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            squares = [self.state[p]["square_avg"] for p in params]
            momenta = [self.state[p]["momentum_buffer"] for p in params]
            grads: Any = [p.grad for p in params]
            if group["weight_decay"]:
                grads = torch._foreach_add(grads, params, alpha=group["weight_decay"])
            torch._foreach_mul_(squares, group["decay"])
            torch._foreach_addcmul_(squares, grads, grads, value=1 - group["decay"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_addcdiv_(momenta, grads, roots, value=group["lr"])
            torch._foreach_sub_(params, momenta)


def poly(
    *, steps: int, power: float = 0.9, warmup_steps: int = 0, warmup_factor: float = 0.1, end: float = 0.0
) -> Schedule:
    """Polynomial decay to `end`: (1 - step/steps)^power, as in DeepLab (Chen et al. 2017, section 4.1)."""
    _check_options(steps, warmup_steps, warmup_factor, end)
    if power <= 0:
        raise ValueError(f"power must be positive, got {power}")

    def factor(step: int) -> float:
        decayed: float = end + (1 - end) * (1 - min(step, steps) / steps) ** power
        return decayed * _warmup(step, warmup_steps, warmup_factor)

    return factor


def cosine(*, steps: int, warmup_steps: int = 0, warmup_factor: float = 0.1, end: float = 0.0) -> Schedule:
    """Cosine decay from 1 to `end`, after the warm-up (Loshchilov & Hutter 2017)."""
    _check_options(steps, warmup_steps, warmup_factor, end)

    def factor(step: int) -> float:
        progress = min(max(step - warmup_steps, 0) / max(steps - warmup_steps, 1), 1.0)
        decayed = end + (1 - end) * 0.5 * (1 + math.cos(math.pi * progress))
        return decayed * _warmup(step, warmup_steps, warmup_factor)

    return factor


def exponential(
    *, steps: int, rate: float = 0.99, every_steps: int, warmup_steps: int = 0, warmup_factor: float = 0.1
) -> Schedule:
    """Stepwise exponential decay by `rate` every `every_steps` steps (Howard et al. 2019, section 6.1.1)."""
    _check_options(steps, warmup_steps, warmup_factor)
    if every_steps < 1 or not 0 < rate <= 1:
        raise ValueError(f"every_steps must be >= 1 and rate in (0, 1], got {every_steps} and {rate}")

    def factor(step: int) -> float:
        return rate ** (step // every_steps) * _warmup(step, warmup_steps, warmup_factor)

    return factor


def constant(*, steps: int, warmup_steps: int = 0, warmup_factor: float = 0.1) -> Schedule:
    """A constant factor of 1, after the warm-up."""
    _check_options(steps, warmup_steps, warmup_factor)
    return lambda step: _warmup(step, warmup_steps, warmup_factor)


def _warmup(step: int, warmup_steps: int, warmup_factor: float) -> float:
    if step >= warmup_steps:
        return 1.0
    return warmup_factor + (1 - warmup_factor) * step / warmup_steps


def _check_options(steps: int, warmup_steps: int, warmup_factor: float, end: float = 0.0) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if warmup_steps < 0 or not 0 <= warmup_factor <= 1:
        raise ValueError(
            f"warmup_steps must be >= 0 and warmup_factor in [0, 1], got {warmup_steps}, {warmup_factor}"
        )
    if not 0 <= end <= 1:
        raise ValueError(f"end is a factor on the learning rate and must be in [0, 1], got {end}")
