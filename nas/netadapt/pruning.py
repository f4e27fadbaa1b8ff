"""Pruning: remove channels of a trained network and keep the weights of the others.

Two kinds of cut (section 4.2 of "Searching for MobileNetV3"): the expansion of one block (the last 1x1
convolution counts as one), and the bottleneck that all blocks in a chain of residual connections share,
including the stem if the chain starts there. The channels with the largest L2 norm stay, in order. A
channel's norm is that of its filters with their batch norms folded in, since that is what the network applies
(a filter before a batch norm has no scale of its own); for an expansion, the norms of its expansion and
depthwise filters are multiplied.

The inner width of a squeeze-and-excite follows the spec's rule, as in every network here; if it shrinks too,
its channels are chosen in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from backbones.spec import NetSpec
from engine.errors import UserError

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class PrunableUnit:
    """Channels that can only be cut together.

    Attributes:
        kind: `expansion` (of `blocks[0]`), `bottleneck` (output of all `blocks`; 0 is the stem) or `last`.
        blocks: numbers from 1, as in the paper's tables.
        channels: number of channels.
    """

    kind: str
    blocks: tuple[int, ...]
    channels: int

    @property
    def name(self) -> str:
        if self.kind == "last":
            return "last"
        first, end = (
            "stem" if number == 0 else f"block{number}" for number in (self.blocks[0], self.blocks[-1])
        )
        return f"{first if first == end else f'{first}-{end}'}.{'exp' if self.kind == 'expansion' else 'out'}"


def prunable_units(spec: NetSpec, state: StateDict) -> list[PrunableUnit]:
    """All units of a model with the network of `spec` as its `backbone`; `state` is its state dict."""
    units = [
        PrunableUnit(kind="expansion", blocks=(number,), channels=block.exp)
        for number, block in enumerate(spec.blocks, start=1)
        if _conv(number, "expand") in state
    ]
    if "backbone.last.conv.weight" in state:
        units.append(PrunableUnit(kind="last", blocks=(), channels=spec.last))
    chain = [0]
    for number in range(1, len(spec.blocks) + 1):
        if _conv(number, "project") not in state:
            break
        if _is_residual(spec, number):
            chain.append(number)
        else:
            units.append(_bottleneck(spec, chain))
            chain = [number]
    return [*units, _bottleneck(spec, chain)]


def pruned_spec(spec: NetSpec, unit: PrunableUnit, channels: int) -> NetSpec:
    """The spec with `unit` cut to `channels` channels.

    Blocks without an expansion convolution stay as wide as their input. A block never gains a residual
    connection because its input and output happen to become equally wide: its spec then rules one out.

    Raises:
        ValueError: if this is not narrower, or an expansion would become as wide as the block's input, which
            in a spec means that there is no expansion convolution.
    """
    if not 0 < channels < unit.channels:
        raise ValueError(f"{unit.name} has {unit.channels} channels and cannot be cut to {channels}")
    if unit.kind == "last":
        return replace(spec, last=channels)
    blocks = list(spec.blocks)
    if unit.kind == "expansion":
        at = unit.blocks[0] - 1
        blocks[at] = replace(blocks[at], exp=channels)
        return _with_same_residuals(spec, replace(spec, blocks=tuple(blocks)), unit)
    for at, (block, channels_in) in enumerate(zip(spec.blocks, spec.block_inputs, strict=True)):
        # Block `at` + 1 reads the output of `at`.
        follows = at in unit.blocks and not block.expands(channels_in)
        out = channels if at + 1 in unit.blocks else block.out
        blocks[at] = replace(block, exp=channels if follows else block.exp, out=out)
    stem = channels if 0 in unit.blocks else spec.stem
    return _with_same_residuals(spec, replace(spec, stem=stem, blocks=tuple(blocks)), unit)


def prune(
    spec: NetSpec,
    state: StateDict,
    unit: PrunableUnit,
    channels: int,
    *,
    make_model: Callable[[NetSpec], nn.Module],
) -> tuple[NetSpec, dict[str, Tensor]]:
    """Cut a unit of a model; if the removed channels were zero, the result computes the same.

    Works on the state dict of a whole model: the layers that read the removed features are cut too.

    Args:
        state: of a model with the network of `spec` as its `backbone`.
        make_model: makes the model of a spec; called on the meta device, for the shapes of its tensors.

    Returns:
        The new spec and the new state dict, which shares no memory with the old one.

    Raises:
        ValueError: if `pruned_spec` rejects the cut.
        UserError: if the model cannot be pruned, because other dimensions would change too.
    """
    smaller = pruned_spec(spec, unit, channels)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in make_model(smaller).state_dict().items()}
    if different := sorted(shapes.keys() ^ state.keys()):
        raise UserError(
            f"{unit.name} cannot be cut to {channels} channels: the model would gain or lose {different[0]}"
        )
    remaining = largest_channels(channel_norms(spec, state, unit), channels)
    result = {}
    for name, tensor in state.items():
        squeezed = _squeezed_dimension(name)
        for dimension, (old, new) in enumerate(zip(tensor.shape, shapes[name], strict=True)):
            if old == new:
                continue
            if dimension == squeezed:
                tensor = tensor.index_select(dimension, largest_channels(_squeeze_norms(state, name), new))
            elif (old, new) == (unit.channels, channels):
                tensor = tensor.index_select(dimension, remaining)
            else:
                raise UserError(
                    f"this model cannot be pruned: {name} goes from {old} to {new} when {unit.name} goes "
                    f"from {unit.channels} to {channels}"
                )
        result[name] = tensor.clone()
    return smaller, result


def uniform_cuts(
    spec: NetSpec, state: StateDict, factor: float, *, divisor: int = 8
) -> tuple[NetSpec, list[tuple[PrunableUnit, int]]]:
    """The cuts of a width multiplier: every unit at `factor` of its channels, in multiples of `divisor`.

    Returns:
        The resulting spec, and the cuts in order: (unit, channels that remain).

    Raises:
        ValueError: if the factor is outside of (0, 1].
    """
    if not 0 < factor <= 1:
        raise ValueError(f"factor must be in (0, 1], got {factor}")
    cuts = []
    # Bottlenecks first: whether an expansion is legal depends on its input.
    for unit in sorted(prunable_units(spec, state), key=lambda unit: unit.kind):
        target = max(divisor, round(unit.channels * factor / divisor) * divisor)
        for channels in range(target, unit.channels, divisor):
            try:
                spec = pruned_spec(spec, unit, channels)
            except ValueError:
                continue  # try the next size
            cuts.append((unit, channels))
            break
    return spec, cuts


def channel_norms(spec: NetSpec, state: StateDict, unit: PrunableUnit) -> Tensor:
    """The norm of each channel of a unit: float32 [channels]."""
    if unit.kind == "last":
        return _filter_norms(state, "backbone.last", spec)
    if unit.kind == "expansion":
        layer = f"backbone.blocks.{unit.blocks[0] - 1}"
        expansion = _filter_norms(state, f"{layer}.expand", spec)
        has_depthwise = f"{layer}.depthwise.conv.weight" in state
        return expansion * _filter_norms(state, f"{layer}.depthwise", spec) if has_depthwise else expansion
    layers = ("backbone.stem" if n == 0 else f"backbone.blocks.{n - 1}.project" for n in unit.blocks)
    norms: Tensor = torch.linalg.vector_norm(
        torch.stack([_filter_norms(state, layer, spec) for layer in layers]), dim=0
    )
    return norms


def largest_channels(norms: Tensor, count: int) -> Tensor:
    """The indices of the `count` largest norms, ascending; of equal ones the first."""
    order = torch.argsort(norms, descending=True, stable=True)
    return order[:count].sort().values


def _filter_norms(state: StateDict, layer: str, spec: NetSpec) -> Tensor:
    """The norm of each filter of a convolution, times the scale of its batch norm."""
    weight = state[f"{layer}.conv.weight"].float()
    deviation = (state[f"{layer}.bn.running_var"].float() + spec.bn_eps).sqrt()
    scale = state[f"{layer}.bn.weight"].float().abs() / deviation
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return norms * scale


def _squeeze_norms(state: StateDict, name: str) -> Tensor:
    layer = name[: name.index(".se.") + len(".se")]
    reduce, bias = state[f"{layer}.reduce.weight"].flatten(1), state[f"{layer}.reduce.bias"]
    inputs = torch.cat([reduce, bias[:, None]], dim=1).float()
    outputs = state[f"{layer}.expand.weight"].flatten(1).float()
    norms: Tensor = torch.linalg.vector_norm(inputs, dim=1) * torch.linalg.vector_norm(outputs, dim=0)
    return norms


def _squeezed_dimension(name: str) -> int | None:
    """The dimension of a tensor that has the inner channels of a squeeze-and-excite."""
    match = re.fullmatch(r"backbone\.blocks\.\d+\.se\.(reduce|expand)\.(weight|bias)", name)
    if match is None or match.groups() == ("expand", "bias"):
        return None
    return 0 if match[1] == "reduce" else 1


def _bottleneck(spec: NetSpec, chain: list[int]) -> PrunableUnit:
    channels = spec.stem if chain[-1] == 0 else spec.blocks[chain[-1] - 1].out
    return PrunableUnit(kind="bottleneck", blocks=tuple(chain), channels=channels)


def _with_same_residuals(before: NetSpec, after: NetSpec, unit: PrunableUnit) -> NetSpec:
    """`after` with the residual connections of `before` and no others."""
    blocks = list(after.blocks)
    for at, (block, channels_in) in enumerate(zip(after.blocks, after.block_inputs, strict=True)):
        had_expansion = before.blocks[at].expands(before.block_inputs[at])
        if had_expansion and not block.expands(channels_in):
            raise ValueError(
                f"{unit.name}: block {at + 1} would get an expansion of {block.exp}, the width of its input, "
                "which in a spec means no expansion; use another number of channels"
            )
        if block.residual and _is_residual(after, at + 1) and not _is_residual(before, at + 1):
            blocks[at] = replace(block, residual=False)
    return replace(after, blocks=tuple(blocks))


def _is_residual(spec: NetSpec, number: int) -> bool:
    block = spec.blocks[number - 1]
    return block.residual and block.stride == 1 and spec.block_inputs[number - 1] == block.out


def _conv(number: int, layer: str) -> str:
    return f"backbone.blocks.{number - 1}.{layer}.conv.weight"
