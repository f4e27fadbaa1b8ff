"""Variants of a network, NetSpec -> NetSpec: width, output stride, reduced tails, the paper's ablations.

On a base table they apply in this order: tail, width, output stride.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from backbones.spec import STEM_STRIDE, BlockSpec, NetSpec, make_divisible


def with_width(spec: NetSpec, mult: float, *, shrink_last: bool = False) -> NetSpec:
    """The network with stem, outputs and last conv multiplied by `mult`, rounded to multiples of 8.

    Each expansion keeps its ratio to the block's input. What the classifier reads does not shrink: `hidden`
    stays, and without a hidden layer (V2, MnasNet) `last` only grows (MobileNetV2, section 5). With
    `shrink_last` it shrinks too, as in the detection networks of Table 6, judging by their counts.
    """
    if mult <= 0:
        raise ValueError(f"width_mult must be positive, got {mult}")
    if mult == 1:
        return spec
    stem = make_divisible(spec.stem * mult)
    blocks: list[BlockSpec] = []
    channels = stem
    for block, channels_in in zip(spec.blocks, spec.block_inputs, strict=True):
        exp = make_divisible(channels * block.exp / channels_in)
        channels = make_divisible(block.out * mult)
        blocks.append(replace(block, exp=exp, out=channels))
    last = make_divisible(spec.last * mult) if spec.last else 0
    if not spec.hidden and not shrink_last:
        last = max(spec.last, last)
    return replace(spec, stem=stem, blocks=tuple(blocks), last=last)


def with_output_stride(
    spec: NetSpec, output_stride: Literal[8, 16, 32], *, dilate_first: bool = False
) -> NetSpec:
    """The network with dilation instead of the strides beyond `output_stride`.

    As in the reference code, the block that loses its stride keeps the dilation so far and the blocks after
    it get twice as much. dilate_first=True dilates the block that loses its stride as well, as torchvision
    does.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
    _check_undilated(spec, "output stride")
    blocks: list[BlockSpec] = []
    stride, dilation = STEM_STRIDE, 1
    for block in spec.blocks:
        if stride < output_stride:
            stride *= block.stride
            blocks.append(block)
            continue
        doubled = dilation * block.stride
        blocks.append(replace(block, stride=1, dilation=doubled if dilate_first else dilation))
        dilation = doubled
    skip = spec.last_block_at_stride(8) if 8 in spec.strides else 0
    return replace(spec, blocks=tuple(blocks), skip_block=skip)


def with_reduced_tail(spec: NetSpec, *, halve_first_expansion: bool) -> NetSpec:
    """The network with half the channels from the last stride-2 block (C4 to C5) on (sections 6.3, 6.4).

    The released segmentation networks (RF2) also halve the expansion of that block: 672 -> 336. The
    detection networks (the dagger of Table 6), and RF2 for V2 as inferred from Table 7, do not: there it is
    the full-width C4.
    """
    _check_undilated(spec, "reduced tail")
    first = max((i for i, block in enumerate(spec.blocks) if block.stride == 2), default=-1)
    if first < 0:
        raise ValueError(f"{spec.name} has no block with stride 2, so there is no tail to reduce")
    tail = [replace(block, exp=block.exp // 2, out=block.out // 2) for block in spec.blocks[first:]]
    if not halve_first_expansion:
        tail[0] = replace(tail[0], exp=spec.blocks[first].exp)
    last = spec.last // 2 if spec.hidden else spec.last  # without a hidden layer it belongs to the classifier
    return replace(spec, blocks=(*spec.blocks[:first], *tail), last=last)


def with_hswish_from(spec: NetSpec, channels: int | Literal["none"]) -> NetSpec:
    """Table 5, "h-swish @N": h-swish from the first block with N output channels on, ReLU before it.

    The stem keeps its h-swish (Table 1, which is N = 80, has it); "none" is ReLU everywhere, stem included.
    """
    if channels == "none":
        blocks = tuple(replace(block, act="RE") for block in spec.blocks)
        return replace(spec, blocks=blocks, stem_act="RE", last_act="RE")
    outs = [block.out for block in spec.blocks]
    if channels not in outs:
        raise ValueError(f'hswish_from must be "none" or one of {sorted(set(outs))}, got {channels!r}')
    start = outs.index(channels)
    blocks = tuple(replace(b, act="HS" if i >= start else "RE") for i, b in enumerate(spec.blocks))
    return replace(spec, blocks=blocks, stem_act="HS", last_act="HS")


def with_original_last_stage(spec: NetSpec) -> NetSpec:
    """Figure 5, top: one more 3x3 bottleneck (160 -> 960 -> 320), 1x1 conv to 1280 before pooling, FC."""
    if not spec.hidden:
        raise ValueError(f"{spec.name} has no hidden layer: its last stage is the original one already")
    channels = spec.blocks[-1].out
    block = BlockSpec(kernel=3, exp=spec.last, out=2 * channels, act=spec.last_act)
    return replace(spec, blocks=(*spec.blocks, block), last=spec.hidden, hidden=0)


def with_minimalistic(spec: NetSpec) -> NetSpec:
    """The released "minimalistic" networks: no SE, ReLU instead of h-swish, 3x3 instead of 5x5."""
    blocks = tuple(replace(block, se=False, act="RE", kernel=3) for block in spec.blocks)
    return replace(spec, blocks=blocks, stem_act="RE", last_act="RE")


def with_stem(spec: NetSpec, channels: int) -> NetSpec:
    """Another number of stem filters (section 5.2: 32 or 16); the first block keeps its expansion ratio."""
    first = spec.blocks[0]
    exp = make_divisible(first.exp / spec.stem * channels)
    return replace(spec, stem=channels, blocks=(replace(first, exp=exp), *spec.blocks[1:]))


def _check_undilated(spec: NetSpec, what: str) -> None:
    if any(block.dilation > 1 for block in spec.blocks):
        raise ValueError(f"{spec.name} is dilated already; choose the {what} before dilating")
