"""Narrower networks out of trained ones: channels go, and the weights of those that stay are kept.

Two kinds of cut, those of section 4.2 of "Searching for MobileNetV3": the expansion of one block (the last
1x1 convolution is one too), and the bottleneck that all blocks of a chain of residual connections share, the
stem included where the chain begins there. The channels with the largest L2 norm stay, in their order. A
channel's norm is that of its filters with their batch norms folded in, since that is what the network applies
(a filter before a batch norm has no scale of its own); for an expansion, of its expansion and its depthwise
filter multiplied.

The inner width of a squeeze-and-excite follows the spec's rule, as it does in every network here; where it
shrinks too, its channels are chosen alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from backbones.spec import NetSpec

State = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What can be made narrower as a whole.

    kind: `expansion` (of `blocks[0]`), `bottleneck` (the output of all `blocks`; 0 is the stem) or `last`.
    blocks: numbers from 1, as in the paper's tables.
    channels: how wide it is.
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


def units(spec: NetSpec, state: State) -> list[Unit]:
    """All that can be cut in the model whose state dict this is, `backbone` holding the network of `spec`."""
    found = [
        Unit(kind="expansion", blocks=(number,), channels=block.exp)
        for number, block in enumerate(spec.blocks, start=1)
        if _conv(number, "expand") in state
    ]
    if "backbone.last.conv.weight" in state:
        found.append(Unit(kind="last", blocks=(), channels=spec.last))
    chain = [0]
    for number in range(1, len(spec.blocks) + 1):
        if _conv(number, "project") not in state:
            break
        if _is_residual(spec, number):
            chain.append(number)
        else:
            found.append(_bottleneck(spec, chain))
            chain = [number]
    return [*found, _bottleneck(spec, chain)]


def narrowed(spec: NetSpec, unit: Unit, channels: int) -> NetSpec:
    """The spec with a unit of `channels` channels.

    Blocks without an expansion convolution stay as wide as their input. A block never gains a residual
    connection because two widths happen to meet: it is told not to.

    Raises:
        ValueError: not narrower, or as wide as the block's input, where the spec means that there is no
            expansion convolution.
    """
    if not 0 < channels < unit.channels:
        raise ValueError(f"{unit.name} has {unit.channels} channels and cannot be cut to {channels}")
    if unit.kind == "last":
        return replace(spec, last=channels)
    blocks = list(spec.blocks)
    if unit.kind == "expansion":
        at = unit.blocks[0] - 1
        blocks[at] = replace(blocks[at], exp=channels)
        return _legal(spec, replace(spec, blocks=tuple(blocks)), unit)
    for at, (block, channels_in) in enumerate(zip(spec.blocks, spec.block_inputs, strict=True)):
        follows = at in unit.blocks and block.exp == channels_in  # block `at` + 1 reads what `at` gives
        out = channels if at + 1 in unit.blocks else block.out
        blocks[at] = replace(block, exp=channels if follows else block.exp, out=out)
    stem = channels if 0 in unit.blocks else spec.stem
    return _legal(spec, replace(spec, stem=stem, blocks=tuple(blocks)), unit)


def shrink(
    spec: NetSpec, state: State, unit: Unit, channels: int, *, make_model: Callable[[NetSpec], nn.Module]
) -> tuple[NetSpec, dict[str, Tensor]]:
    """A narrower network with the weights that stay: where what goes was zero, it computes the same.

    Works on the state dict of a whole model: whatever reads the features that were cut is cut with them.

    Args:
        state: of a model with the network of `spec` as `backbone`.
        make_model: makes the model of a spec; used on the meta device, for the shapes of its tensors.

    Returns:
        The new spec and the new state dict, which shares no memory with the old one.

    Raises:
        ValueError: what `narrowed` refuses, or a model in which a dimension changes that is not the unit's.
    """
    smaller = narrowed(spec, unit, channels)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in make_model(smaller).state_dict().items()}
    if different := sorted(shapes.keys() ^ state.keys()):
        raise ValueError(
            f"{unit.name} of {channels} channels changes which tensors there are: {different[0]}"
        )
    kept = largest(norms(spec, state, unit), channels)
    result = {}
    for name, tensor in state.items():
        squeezed = _squeezed_dimension(name)
        for dimension, (old, new) in enumerate(zip(tensor.shape, shapes[name], strict=True)):
            if old == new:
                continue
            if dimension == squeezed:
                tensor = tensor.index_select(dimension, largest(_squeeze_norms(state, name), new))
            elif (old, new) == (unit.channels, channels):
                tensor = tensor.index_select(dimension, kept)
            else:
                raise ValueError(
                    f"{name} goes from {old} to {new} where {unit.name} goes from {unit.channels} to "
                    f"{channels}: such a model cannot be pruned"
                )
        result[name] = tensor.clone()
    return smaller, result


def uniform_cuts(
    spec: NetSpec, state: State, factor: float, *, divisor: int = 8
) -> tuple[NetSpec, list[tuple[Unit, int]]]:
    """Every unit at `factor` of its channels, to multiples of `divisor`: a width multiplier, as cuts.

    Raises: ValueError for a factor outside of (0, 1].
    """
    if not 0 < factor <= 1:
        raise ValueError(f"a width factor must lie in (0, 1], got {factor}")
    cuts = []
    # Bottlenecks first: whether an expansion is legal depends on its input.
    for unit in sorted(units(spec, state), key=lambda unit: unit.kind):
        wanted = max(divisor, round(unit.channels * factor / divisor) * divisor)
        for channels in range(wanted, unit.channels, divisor):
            try:
                spec = narrowed(spec, unit, channels)
            except ValueError:
                continue  # the next size that is legal
            cuts.append((unit, channels))
            break
    return spec, cuts


def norms(spec: NetSpec, state: State, unit: Unit) -> Tensor:
    """The norm of each of a unit's channels: float32 [channels]."""
    if unit.kind == "last":
        return _folded(state, "backbone.last", spec)
    if unit.kind == "expansion":
        layer = f"backbone.blocks.{unit.blocks[0] - 1}"
        found = _folded(state, f"{layer}.expand", spec)
        has_depthwise = f"{layer}.depthwise.conv.weight" in state
        return found * _folded(state, f"{layer}.depthwise", spec) if has_depthwise else found
    makers = ("backbone.stem" if n == 0 else f"backbone.blocks.{n - 1}.project" for n in unit.blocks)
    norms: Tensor = torch.linalg.vector_norm(
        torch.stack([_folded(state, maker, spec) for maker in makers]), dim=0
    )
    return norms


def largest(values: Tensor, count: int) -> Tensor:
    """The indices of the `count` largest values, ascending; of equal ones the first."""
    order = torch.argsort(values, descending=True, stable=True)
    return order[:count].sort().values


def _folded(state: State, layer: str, spec: NetSpec) -> Tensor:
    """Norm of each filter of a convolution times the scale of its batch norm."""
    weight = state[f"{layer}.conv.weight"].float()
    deviation = (state[f"{layer}.bn.running_var"].float() + spec.bn_eps).sqrt()
    scale = state[f"{layer}.bn.weight"].float().abs() / deviation
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return norms * scale


def _squeeze_norms(state: State, name: str) -> Tensor:
    layer = name[: name.index(".se.") + len(".se")]
    reduce, bias = state[f"{layer}.reduce.weight"].flatten(1), state[f"{layer}.reduce.bias"]
    into = torch.cat([reduce, bias[:, None]], dim=1).float()
    out_of = state[f"{layer}.expand.weight"].flatten(1).float()
    norms: Tensor = torch.linalg.vector_norm(into, dim=1) * torch.linalg.vector_norm(out_of, dim=0)
    return norms


def _squeezed_dimension(name: str) -> int | None:
    """Which dimension of a tensor has a squeeze-and-excite's inner channels."""
    found = re.fullmatch(r"backbone\.blocks\.\d+\.se\.(reduce|expand)\.(weight|bias)", name)
    if found is None or found.groups() == ("expand", "bias"):
        return None
    return 0 if found[1] == "reduce" else 1


def _bottleneck(spec: NetSpec, chain: list[int]) -> Unit:
    channels = spec.stem if chain[-1] == 0 else spec.blocks[chain[-1] - 1].out
    return Unit(kind="bottleneck", blocks=tuple(chain), channels=channels)


def _legal(before: NetSpec, after: NetSpec, unit: Unit) -> NetSpec:
    """`after` with the residual connections of `before`."""
    blocks = list(after.blocks)
    for at, (block, channels_in) in enumerate(zip(after.blocks, after.block_inputs, strict=True)):
        had_expansion = before.blocks[at].exp != before.block_inputs[at]
        if had_expansion and block.exp == channels_in:
            raise ValueError(
                f"{unit.name}: block {at + 1} would have an expansion of {block.exp}, the width of its "
                "input, which means none; take another size"
            )
        if block.residual and _is_residual(after, at + 1) and not _is_residual(before, at + 1):
            blocks[at] = replace(block, residual=False)
    return replace(after, blocks=tuple(blocks))


def _is_residual(spec: NetSpec, number: int) -> bool:
    block = spec.blocks[number - 1]
    return block.residual and block.stride == 1 and spec.block_inputs[number - 1] == block.out


def _conv(number: int, layer: str) -> str:
    return f"backbone.blocks.{number - 1}.{layer}.conv.weight"
