"""MobileNetV2 (Sandler et al., 2018, Table 2), the paper's baseline."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from backbones.spec import BlockSpec, NetSpec, with_output_stride, with_reduced_tail, with_width

V2 = NetSpec(
    name="mobilenet_v2",
    stem=32,
    stem_act="RE6",
    blocks=(
        BlockSpec(kernel=3, exp=32, out=16, act="RE6", stride=1),
        BlockSpec(kernel=3, exp=96, out=24, act="RE6", stride=2),  # C2
        BlockSpec(kernel=3, exp=144, out=24, act="RE6", stride=1),
        BlockSpec(kernel=3, exp=144, out=32, act="RE6", stride=2),  # C3
        BlockSpec(kernel=3, exp=192, out=32, act="RE6", stride=1),
        BlockSpec(kernel=3, exp=192, out=32, act="RE6", stride=1),
        BlockSpec(kernel=3, exp=192, out=64, act="RE6", stride=2),  # C4
        BlockSpec(kernel=3, exp=384, out=64, act="RE6", stride=1),
        BlockSpec(kernel=3, exp=384, out=64, act="RE6", stride=1),
        BlockSpec(kernel=3, exp=384, out=64, act="RE6", stride=1),
        BlockSpec(kernel=3, exp=384, out=96, act="RE6", stride=1),
        BlockSpec(kernel=3, exp=576, out=96, act="RE6", stride=1),
        BlockSpec(kernel=3, exp=576, out=96, act="RE6", stride=1),
        BlockSpec(kernel=3, exp=576, out=160, act="RE6", stride=2),  # C5
        BlockSpec(kernel=3, exp=960, out=160, act="RE6", stride=1),
        BlockSpec(kernel=3, exp=960, out=160, act="RE6", stride=1),
        BlockSpec(kernel=3, exp=960, out=320, act="RE6", stride=1),
    ),
    last=1280,
    last_act="RE6",
)


def mobilenet_v2(
    *,
    width_mult: float = 1.0,
    output_stride: Literal[8, 16, 32] = 32,
    tail: Literal["full", "rf2"] = "full",
    shrink_last: bool = False,
    padding: Literal["symmetric", "same"] = "symmetric",
    dilate_first: bool = False,
    bn_eps: float = 1e-3,
    bn_momentum: float = 0.01,
    dropout: float = 0.2,
) -> NetSpec:
    """MobileNetV2.

    width_mult: the last conv keeps its 1280 channels below 1 and grows above.
    tail: "rf2" halves the outputs of the last four blocks (Table 7); the first of the four keeps its
        expansion of 576, as inferred from the table's counts.
    shrink_last: below a width of 1, the last conv shrinks too, as in rows 0.5 and 0.35 of Table 6.
    bn_eps: 1e-3 as published; torchvision's weights were trained with 1e-5.
    """
    if tail not in ("full", "rf2"):
        raise ValueError(f"tail must be full or rf2, got {tail!r}")
    spec = replace(V2, padding=padding, bn_eps=bn_eps, bn_momentum=bn_momentum, dropout=dropout)
    if tail == "rf2":
        spec = with_reduced_tail(spec, halve_first_expansion=False)
    spec = with_width(spec, width_mult, shrink_last=shrink_last)
    return with_output_stride(spec, output_stride, dilate_first=dilate_first)
