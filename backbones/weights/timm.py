"""timm's names for our tensors: mobilenetv2_*, mobilenetv3_*, mobilenetv4_conv_*, mnasnet_*, semnasnet_*."""

from __future__ import annotations

from collections.abc import Iterable

from backbones.spec import BlockSpec, NetSpec
from backbones.weights.layer_keys import Keys, conv_and_norm, stage_positions, tensors


def classifier_keys(spec: NetSpec, keys: Iterable[str]) -> Keys:
    """{our key: timm's key} for the whole classifier; see `backbones.weights.layer_keys`.

    In timm, the last conv of MobileNetV3 and V4 is a separate stage, and `conv_head`, a 1x1 convolution after
    the pooling, is our hidden layer. Our fused blocks with two activations are two blocks there.
    """
    known = set(keys)
    not_blocks = bool(spec.hidden) + sum(not block.linear for block in spec.blocks)
    positions = stage_positions(r"blocks\.(\d+)\.(\d+)\.", known, spec, elsewhere=-not_blocks)
    places = (f"blocks.{stage}.{number}" for stage, number in positions)
    names = conv_and_norm("backbone.stem", "conv_stem", "bn1")
    for i, (block, channels_in) in enumerate(zip(spec.blocks, spec.block_inputs, strict=True)):
        ours = f"backbone.blocks.{i}"
        if block.linear:
            names |= _block_keys(ours, next(places), block, channels_in, known)
        else:
            for part, place in zip(("expand", "project"), places, strict=False):
                names |= conv_and_norm(f"{ours}.{part}", f"{place}.conv", f"{place}.bn1")
    if not spec.hidden:
        names |= conv_and_norm("backbone.last", "conv_head", "bn2")
        return names | tensors("classifier", "classifier")
    last = next(places)
    names |= conv_and_norm("backbone.last", f"{last}.conv", f"{last}.bn1")
    if spec.hidden_norm:
        names |= conv_and_norm("hidden", "conv_head", "norm_head")
    else:
        names |= tensors("hidden", "conv_head")
    return names | tensors("classifier", "classifier")


def _block_keys(ours: str, theirs: str, block: BlockSpec, channels_in: int, known: set[str]) -> Keys:
    """The tensors of one block, whose names in timm depend on its form."""
    names: Keys = {}
    if f"{theirs}.pw_proj.conv.weight" in known:  # the universal inverted bottleneck of MobileNetV4
        parts = [("start", "dw_start")] if block.start_kernel else []
        parts += [("expand", "pw_exp")] if block.expands(channels_in) else []
        parts += [("depthwise", "dw_mid")] if block.kernel else []
        for part, layer in (*parts, ("project", "pw_proj")):
            names |= conv_and_norm(f"{ours}.{part}", f"{theirs}.{layer}.conv", f"{theirs}.{layer}.bn")
        return names
    for norm, (part, conv) in enumerate(_numbered_convs(block, channels_in), start=1):
        names |= conv_and_norm(f"{ours}.{part}", f"{theirs}.{conv}", f"{theirs}.bn{norm}")
    if block.se:
        names |= tensors(f"{ours}.se.reduce", f"{theirs}.se.conv_reduce")
        names |= tensors(f"{ours}.se.expand", f"{theirs}.se.conv_expand")
    return names


def _numbered_convs(block: BlockSpec, channels_in: int) -> tuple[tuple[str, str], ...]:
    """Our name and timm's of the convolutions whose batch norms timm numbers, in order."""
    if block.fused:
        return ("expand", "conv_exp"), ("project", "conv_pwl")
    if block.expands(channels_in):
        return ("expand", "conv_pw"), ("depthwise", "conv_dw"), ("project", "conv_pwl")
    # Without an expansion it is depthwise-separable, and its pointwise convolution is conv_pw.
    return ("depthwise", "conv_dw"), ("project", "conv_pw")
