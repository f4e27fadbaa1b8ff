"""MobileNetV4-Conv-Small and -Medium: the paper's tables as data, and their builders.

Source: "MobileNetV4: Universal Models for the Mobile Ecosystem" (Qin et al., 2024, arXiv 2404.10518), the
tables of the appendix. The paper's weights are not published, but timm has trained its own
(`backbones.weights.timm_models`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from backbones.spec import BlockSpec, NetSpec, with_output_stride, with_reduced_tail, with_width

SMALL = NetSpec(
    name="mobilenet_v4_small",
    stem=32,  # C1
    stem_act="RE",
    blocks=(
        # Two rows of a dense and a 1x1 convolution, in the authors' code both with ReLU.
        BlockSpec(kernel=3, exp=32, out=32, fused=True, linear=False, stride=2),  # C2
        BlockSpec(kernel=3, exp=96, out=64, fused=True, linear=False, stride=2),  # C3
        BlockSpec(start_kernel=5, kernel=5, exp=192, out=96, stride=2),  # C4, ExtraDW
        BlockSpec(kernel=3, exp=192, out=96),  # IB
        BlockSpec(kernel=3, exp=192, out=96),
        BlockSpec(kernel=3, exp=192, out=96),
        BlockSpec(kernel=3, exp=192, out=96),
        BlockSpec(start_kernel=3, kernel=0, exp=384, out=96),  # ConvNext
        BlockSpec(start_kernel=3, kernel=3, exp=576, out=128, stride=2),  # C5, ExtraDW
        BlockSpec(start_kernel=5, kernel=5, exp=512, out=128),
        BlockSpec(kernel=5, exp=512, out=128),  # IB
        BlockSpec(kernel=5, exp=384, out=128),
        BlockSpec(kernel=3, exp=512, out=128),
        BlockSpec(kernel=3, exp=512, out=128),
    ),
    last=960,
    last_act="RE",
    hidden=1280,
    hidden_norm=True,
)

MEDIUM = NetSpec(
    name="mobilenet_v4_medium",
    stem=32,  # C1
    stem_act="RE",
    blocks=(
        BlockSpec(kernel=3, exp=128, out=48, fused=True, stride=2),  # C2
        BlockSpec(start_kernel=3, kernel=5, exp=192, out=80, stride=2),  # C3, ExtraDW
        BlockSpec(start_kernel=3, kernel=3, exp=160, out=80),
        BlockSpec(start_kernel=3, kernel=5, exp=480, out=160, stride=2),  # C4
        BlockSpec(start_kernel=3, kernel=3, exp=640, out=160),
        BlockSpec(start_kernel=3, kernel=3, exp=640, out=160),
        BlockSpec(start_kernel=3, kernel=5, exp=640, out=160),
        BlockSpec(start_kernel=3, kernel=3, exp=640, out=160),
        BlockSpec(start_kernel=3, kernel=0, exp=640, out=160),  # ConvNext
        BlockSpec(kernel=0, exp=320, out=160),  # FFN
        BlockSpec(start_kernel=3, kernel=0, exp=640, out=160),  # ConvNext
        BlockSpec(start_kernel=5, kernel=5, exp=960, out=256, stride=2),  # C5, ExtraDW
        BlockSpec(start_kernel=5, kernel=5, exp=1024, out=256),
        BlockSpec(start_kernel=3, kernel=5, exp=1024, out=256),
        BlockSpec(start_kernel=3, kernel=5, exp=1024, out=256),
        BlockSpec(kernel=0, exp=1024, out=256),  # FFN
        BlockSpec(start_kernel=3, kernel=0, exp=1024, out=256),  # ConvNext
        BlockSpec(start_kernel=3, kernel=5, exp=512, out=256),  # ExtraDW
        BlockSpec(start_kernel=5, kernel=5, exp=1024, out=256),
        BlockSpec(kernel=0, exp=1024, out=256),  # FFN
        BlockSpec(kernel=0, exp=1024, out=256),
        BlockSpec(start_kernel=5, kernel=0, exp=512, out=256),  # ConvNext
    ),
    last=960,
    last_act="RE",
    hidden=1280,
    hidden_norm=True,
)

Tail = Literal["full", "rf2", "dagger"]


def mobilenet_v4_small(
    *,
    width_mult: float = 1.0,
    output_stride: Literal[8, 16, 32] = 32,
    tail: Tail = "full",
    padding: Literal["symmetric", "same"] = "symmetric",
    bn_eps: float = 1e-3,
    bn_momentum: float = 0.01,
    dropout: float = 0.2,
) -> NetSpec:
    """MobileNetV4-Conv-Small.

    width_mult: below 1 the stem keeps its 32 channels, as in timm's mobilenetv4_conv_small_050.
    output_stride: see `with_output_stride`; all depthwise convolutions of a block are dilated.
    tail: MobileNetV3's halved last stage for segmentation ("rf2") or detection ("dagger"), which is not in
        the MobileNetV4 paper; see `with_reduced_tail`.
    bn_eps: timm's weights were trained with 1e-5.
    """
    spec = replace(SMALL, padding=padding, bn_eps=bn_eps, bn_momentum=bn_momentum, dropout=dropout)
    return _build(spec, width_mult=width_mult, output_stride=output_stride, tail=tail)


def mobilenet_v4_medium(
    *,
    width_mult: float = 1.0,
    output_stride: Literal[8, 16, 32] = 32,
    tail: Tail = "full",
    padding: Literal["symmetric", "same"] = "symmetric",
    bn_eps: float = 1e-3,
    bn_momentum: float = 0.01,
    dropout: float = 0.2,
) -> NetSpec:
    """MobileNetV4-Conv-Medium; for the options see `mobilenet_v4_small`."""
    spec = replace(MEDIUM, padding=padding, bn_eps=bn_eps, bn_momentum=bn_momentum, dropout=dropout)
    return _build(spec, width_mult=width_mult, output_stride=output_stride, tail=tail)


def _build(spec: NetSpec, *, width_mult: float, output_stride: Literal[8, 16, 32], tail: Tail) -> NetSpec:
    if tail not in ("full", "rf2", "dagger"):
        raise ValueError(f"tail must be full, rf2 or dagger, got {tail!r}")
    if tail != "full":
        spec = with_reduced_tail(spec, halve_first_expansion=tail == "rf2")
    stem = spec.stem
    spec = with_width(spec, width_mult)
    spec = replace(spec, stem=max(stem, spec.stem))
    return with_output_stride(spec, output_stride)
