"""timm's names for our tensors: mobilenetv3_*, mobilenetv2_*, mnasnet_* and semnasnet_*."""

from __future__ import annotations

from collections.abc import Iterable

from backbones.spec import NetSpec
from backbones.weights.layer_keys import Keys, conv_and_norm, stage_positions, tensors


def classifier_keys(spec: NetSpec, keys: Iterable[str]) -> Keys:
    """{our key: timm's key} for the whole classifier; see `backbones.weights.layer_keys`.

    In timm, the last conv of MobileNetV3 is a separate stage, and `conv_head`, a 1x1 convolution after the
    pooling, is our hidden layer.
    """
    positions = stage_positions(r"blocks\.(\d+)\.(\d+)\.", keys, spec, elsewhere=-1 if spec.hidden else 0)
    names = conv_and_norm("backbone.stem", "conv_stem", "bn1")
    for i, ((stage, number), block, channels_in) in enumerate(
        zip(positions, spec.blocks, spec.block_inputs, strict=False)
    ):
        ours, theirs = f"backbone.blocks.{i}", f"blocks.{stage}.{number}"
        convs = [("expand", "conv_pw")] if block.exp != channels_in else []
        # timm's block without an expansion is depthwise-separable, and its pointwise conv is conv_pw.
        convs += [("depthwise", "conv_dw"), ("project", "conv_pwl" if convs else "conv_pw")]
        for norm, (part, conv) in enumerate(convs, start=1):
            names |= conv_and_norm(f"{ours}.{part}", f"{theirs}.{conv}", f"{theirs}.bn{norm}")
        if block.se:
            names |= tensors(f"{ours}.se.reduce", f"{theirs}.se.conv_reduce")
            names |= tensors(f"{ours}.se.expand", f"{theirs}.se.conv_expand")
    if spec.hidden:
        stage, number = positions[-1]
        theirs = f"blocks.{stage}.{number}"
        names |= conv_and_norm("backbone.last", f"{theirs}.conv", f"{theirs}.bn1")
        names |= tensors("hidden", "conv_head")
    else:
        names |= conv_and_norm("backbone.last", "conv_head", "bn2")
    return names | tensors("classifier", "classifier")
