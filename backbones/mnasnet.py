"""MnasNet-A1, -B1 and -small (Tan et al., 2019). A1 is what MobileNetV3-Large was adapted from.

Source: the authors' released block strings. SE squeezes to a quarter of the block's input, with a sigmoid
gate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from backbones.spec import BlockSpec, NetSpec, SESpec, with_output_stride, with_width

SE = SESpec(ratio=0.25, of="in", divisor=1, gate="sigmoid")

A1 = NetSpec(
    name="mnasnet_a1",
    stem=32,
    stem_act="RE",
    blocks=(
        BlockSpec(kernel=3, exp=32, out=16, residual=False),
        BlockSpec(kernel=3, exp=96, out=24, stride=2),  # C2
        BlockSpec(kernel=3, exp=144, out=24),
        BlockSpec(kernel=5, exp=72, out=40, se=True, stride=2),  # C3
        BlockSpec(kernel=5, exp=120, out=40, se=True),
        BlockSpec(kernel=5, exp=120, out=40, se=True),
        BlockSpec(kernel=3, exp=240, out=80, stride=2),  # C4
        BlockSpec(kernel=3, exp=480, out=80),
        BlockSpec(kernel=3, exp=480, out=80),
        BlockSpec(kernel=3, exp=480, out=80),
        BlockSpec(kernel=3, exp=480, out=112, se=True),
        BlockSpec(kernel=3, exp=672, out=112, se=True),
        BlockSpec(kernel=5, exp=672, out=160, se=True, stride=2),  # C5
        BlockSpec(kernel=5, exp=960, out=160, se=True),
        BlockSpec(kernel=5, exp=960, out=160, se=True),
        BlockSpec(kernel=3, exp=960, out=320),
    ),
    last=1280,
    last_act="RE",
    se=SE,
)

B1 = NetSpec(
    name="mnasnet_b1",  # from a search space without SE; torchvision's mnasnet*
    stem=32,
    stem_act="RE",
    blocks=(
        BlockSpec(kernel=3, exp=32, out=16, residual=False),
        BlockSpec(kernel=3, exp=48, out=24, stride=2),  # C2
        BlockSpec(kernel=3, exp=72, out=24),
        BlockSpec(kernel=3, exp=72, out=24),
        BlockSpec(kernel=5, exp=72, out=40, stride=2),  # C3
        BlockSpec(kernel=5, exp=120, out=40),
        BlockSpec(kernel=5, exp=120, out=40),
        BlockSpec(kernel=5, exp=240, out=80, stride=2),  # C4
        BlockSpec(kernel=5, exp=480, out=80),
        BlockSpec(kernel=5, exp=480, out=80),
        BlockSpec(kernel=3, exp=480, out=96),
        BlockSpec(kernel=3, exp=576, out=96),
        BlockSpec(kernel=5, exp=576, out=192, stride=2),  # C5
        BlockSpec(kernel=5, exp=1152, out=192),
        BlockSpec(kernel=5, exp=1152, out=192),
        BlockSpec(kernel=5, exp=1152, out=192),
        BlockSpec(kernel=3, exp=1152, out=320),
    ),
    last=1280,
    last_act="RE",
    se=SE,
)

SMALL = NetSpec(
    # The public one, "search 2" of the MnasNet paper; Table 3 of MobileNetV3 used search 1.
    name="mnasnet_small",
    stem=8,
    stem_act="RE",
    blocks=(
        BlockSpec(kernel=3, exp=8, out=8),
        BlockSpec(kernel=3, exp=24, out=16, stride=2),  # C2
        BlockSpec(kernel=3, exp=96, out=16, stride=2),  # C3
        BlockSpec(kernel=3, exp=96, out=16),
        BlockSpec(kernel=5, exp=96, out=32, se=True, stride=2),  # C4
        BlockSpec(kernel=5, exp=192, out=32, se=True),
        BlockSpec(kernel=5, exp=192, out=32, se=True),
        BlockSpec(kernel=5, exp=192, out=32, se=True),
        BlockSpec(kernel=3, exp=192, out=32, se=True),
        BlockSpec(kernel=3, exp=192, out=32, se=True),
        BlockSpec(kernel=3, exp=192, out=32, se=True),
        BlockSpec(kernel=5, exp=192, out=88, se=True, stride=2),  # C5
        BlockSpec(kernel=5, exp=528, out=88, se=True),
        BlockSpec(kernel=5, exp=528, out=88, se=True),
        BlockSpec(kernel=3, exp=528, out=144),
    ),
    last=1280,
    last_act="RE",
    se=SE,
)


def mnasnet_a1(
    *,
    width_mult: float = 1.0,
    output_stride: Literal[8, 16, 32] = 32,
    shrink_last: bool = False,
    padding: Literal["symmetric", "same"] = "symmetric",
    dilate_first: bool = False,
    bn_eps: float = 1e-3,
    bn_momentum: float = 0.01,
    dropout: float = 0.2,
) -> NetSpec:
    """MnasNet-A1. Below width 1 the last conv keeps its 1280 channels, except in Table 6 (`shrink_last`)."""
    spec = replace(A1, padding=padding, bn_eps=bn_eps, bn_momentum=bn_momentum, dropout=dropout)
    spec = with_width(spec, width_mult, shrink_last=shrink_last)
    return with_output_stride(spec, output_stride, dilate_first=dilate_first)


def mnasnet_b1(
    *,
    width_mult: float = 1.0,
    output_stride: Literal[8, 16, 32] = 32,
    padding: Literal["symmetric", "same"] = "symmetric",
    dilate_first: bool = False,
    bn_eps: float = 1e-3,
    bn_momentum: float = 0.01,
    dropout: float = 0.2,
) -> NetSpec:
    """MnasNet-B1, without SE; the last conv has 1280 channels at every width.

    bn_eps: torchvision's and timm's weights were trained with 1e-5.
    """
    spec = replace(B1, padding=padding, bn_eps=bn_eps, bn_momentum=bn_momentum, dropout=dropout)
    spec = replace(with_width(spec, width_mult), last=B1.last)
    return with_output_stride(spec, output_stride, dilate_first=dilate_first)


def mnasnet_small(
    *,
    width_mult: float = 1.0,
    output_stride: Literal[8, 16, 32] = 32,
    padding: Literal["symmetric", "same"] = "symmetric",
    dilate_first: bool = False,
    bn_eps: float = 1e-3,
    bn_momentum: float = 0.01,
    dropout: float = 0.2,
) -> NetSpec:
    """MnasNet-small as released; for the options see `mnasnet_a1`."""
    spec = replace(SMALL, padding=padding, bn_eps=bn_eps, bn_momentum=bn_momentum, dropout=dropout)
    return with_output_stride(with_width(spec, width_mult), output_stride, dilate_first=dilate_first)
