"""MobileNetV3 Large and Small: Tables 1 and 2 of "Searching for MobileNetV3" as data, and their builders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from backbones.spec import (
    BlockSpec,
    NetSpec,
    SESpec,
    make_divisible,
    with_output_stride,
    with_reduced_tail,
    with_width,
)

LARGE = NetSpec(
    name="mobilenet_v3_large",  # Table 1
    stem=16,  # C1
    blocks=(
        BlockSpec(kernel=3, exp=16, out=16, act="RE", stride=1),
        BlockSpec(kernel=3, exp=64, out=24, act="RE", stride=2),  # C2
        BlockSpec(kernel=3, exp=72, out=24, act="RE", stride=1),
        BlockSpec(kernel=5, exp=72, out=40, se=True, act="RE", stride=2),  # C3
        BlockSpec(kernel=5, exp=120, out=40, se=True, act="RE", stride=1),
        BlockSpec(kernel=5, exp=120, out=40, se=True, act="RE", stride=1),
        BlockSpec(kernel=3, exp=240, out=80, act="HS", stride=2),  # C4
        BlockSpec(kernel=3, exp=200, out=80, act="HS", stride=1),
        BlockSpec(kernel=3, exp=184, out=80, act="HS", stride=1),
        BlockSpec(kernel=3, exp=184, out=80, act="HS", stride=1),
        BlockSpec(kernel=3, exp=480, out=112, se=True, act="HS", stride=1),
        BlockSpec(kernel=3, exp=672, out=112, se=True, act="HS", stride=1),
        BlockSpec(kernel=5, exp=672, out=160, se=True, act="HS", stride=2),  # C5
        BlockSpec(kernel=5, exp=960, out=160, se=True, act="HS", stride=1),
        BlockSpec(kernel=5, exp=960, out=160, se=True, act="HS", stride=1),
    ),
    last=960,
    hidden=1280,
)

SMALL = NetSpec(
    name="mobilenet_v3_small",  # Table 2, with the 1024 of the paper's last version
    stem=16,  # C1
    blocks=(
        BlockSpec(kernel=3, exp=16, out=16, se=True, act="RE", stride=2),  # C2
        BlockSpec(kernel=3, exp=72, out=24, act="RE", stride=2),  # C3
        BlockSpec(kernel=3, exp=88, out=24, act="RE", stride=1),
        BlockSpec(kernel=5, exp=96, out=40, se=True, act="HS", stride=2),  # C4
        BlockSpec(kernel=5, exp=240, out=40, se=True, act="HS", stride=1),
        BlockSpec(kernel=5, exp=240, out=40, se=True, act="HS", stride=1),
        BlockSpec(kernel=5, exp=120, out=48, se=True, act="HS", stride=1),
        BlockSpec(kernel=5, exp=144, out=48, se=True, act="HS", stride=1),
        BlockSpec(kernel=5, exp=288, out=96, se=True, act="HS", stride=2),  # C5
        BlockSpec(kernel=5, exp=576, out=96, se=True, act="HS", stride=1),
        BlockSpec(kernel=5, exp=576, out=96, se=True, act="HS", stride=1),
    ),
    # Table 2 prints an SE tick here; neither the released code nor the paper's 2.5M parameters have it.
    last=576,
    hidden=1024,
)

Tail = Literal["full", "rf2", "dagger"]


def mobilenet_v3_large(
    *,
    width_mult: float = 1.0,
    output_stride: Literal[8, 16, 32] = 32,
    tail: Tail = "full",
    minimalistic: bool = False,
    stem: int = 16,
    hswish_from: int | Literal["none"] = 80,
    last_stage: Literal["efficient", "original"] = "efficient",
    se_ratio: float = 0.25,
    padding: Literal["symmetric", "same"] = "symmetric",
    dilate_first: bool = False,
    bn_eps: float = 1e-3,
    bn_momentum: float = 0.01,
    dropout: float = 0.2,
) -> NetSpec:
    """MobileNetV3-Large (Table 1).

    width_mult: Table 9; the hidden layer keeps its 1280 units.
    output_stride, dilate_first: see `with_output_stride`.
    tail: "rf2" for segmentation (Table 7), "dagger" for detection (Table 6); see `with_reduced_tail`.
    minimalistic: the released variant without SE, h-swish and 5x5 kernels.
    stem: 16 with h-swish, or 32 as in section 5.2 and Figure 9.
    hswish_from: Table 5, the output channels of the first h-swish block: 16, 80, 112, or "none" for ReLU.
    last_stage: Figure 5, bottom or top.
    padding: "same" for weights that come from TensorFlow.
    """
    return _build(
        LARGE,
        width_mult=width_mult,
        output_stride=output_stride,
        tail=tail,
        minimalistic=minimalistic,
        stem=stem,
        hswish_from=hswish_from,
        last_stage=last_stage,
        dilate_first=dilate_first,
        se=SESpec(ratio=se_ratio),
        padding=padding,
        bn_eps=bn_eps,
        bn_momentum=bn_momentum,
        dropout=dropout,
    )


def mobilenet_v3_small(
    *,
    width_mult: float = 1.0,
    output_stride: Literal[8, 16, 32] = 32,
    tail: Tail = "full",
    minimalistic: bool = False,
    stem: int = 16,
    hswish_from: int | Literal["none"] = 40,
    last_stage: Literal["efficient", "original"] = "efficient",
    se_ratio: float = 0.25,
    padding: Literal["symmetric", "same"] = "symmetric",
    dilate_first: bool = False,
    bn_eps: float = 1e-3,
    bn_momentum: float = 0.01,
    dropout: float = 0.2,
) -> NetSpec:
    """MobileNetV3-Small (Table 2); for the options see `mobilenet_v3_large`.

    The hidden layer has 1024 units and grows with width_mult > 1 (to 1280 at 1.25, judging by the parameters
    in Table 9).
    """
    return _build(
        replace(SMALL, hidden=make_divisible(SMALL.hidden * max(1.0, width_mult))),
        width_mult=width_mult,
        output_stride=output_stride,
        tail=tail,
        minimalistic=minimalistic,
        stem=stem,
        hswish_from=hswish_from,
        last_stage=last_stage,
        dilate_first=dilate_first,
        se=SESpec(ratio=se_ratio),
        padding=padding,
        bn_eps=bn_eps,
        bn_momentum=bn_momentum,
        dropout=dropout,
    )


def _build(
    table: NetSpec,
    *,
    width_mult: float,
    output_stride: Literal[8, 16, 32],
    tail: Tail,
    minimalistic: bool,
    stem: int,
    hswish_from: int | Literal["none"],
    last_stage: Literal["efficient", "original"],
    dilate_first: bool,
    **settings: Any,
) -> NetSpec:
    if tail not in ("full", "rf2", "dagger"):
        raise ValueError(f"tail must be full, rf2 or dagger, got {tail!r}")
    if last_stage not in ("efficient", "original"):
        raise ValueError(f"last_stage must be efficient or original, got {last_stage!r}")
    spec = with_hswish_from(with_stem(replace(table, **settings), stem), hswish_from)
    if minimalistic:
        spec = with_minimalistic(spec)
    if tail != "full":
        spec = with_reduced_tail(spec, halve_first_expansion=tail == "rf2")
    if last_stage == "original":
        spec = with_original_last_stage(spec)
    return with_output_stride(with_width(spec, width_mult), output_stride, dilate_first=dilate_first)


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
        raise ValueError(f"{spec.name} has no hidden layer: it already has the original last stage")
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
