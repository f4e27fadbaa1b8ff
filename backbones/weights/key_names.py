"""Other libraries' names for our tensors: torchvision's and timm's, for the whole classifier of a spec.

Each function returns {our key: their key}. Ours are those of `cls.model.Classifier`, whose `MobileNet` is
`backbone`. Blocks are numbered through here and grouped into stages there, so the places of theirs are read
off the state dict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from backbones.spec import NetSpec

Names = dict[str, str]


CONV = ("weight",)


BIASED = ("weight", "bias")


BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def torchvision_names(spec: NetSpec, keys: Iterable[str], prefix: str) -> Names:
    """mobilenet_v2 and mobilenet_v3_*: `<prefix><number>.conv` or `.block`, each conv with its batch norm."""
    v2 = any(".conv." in key for key in keys)
    names = _wrapped("backbone.stem", f"{prefix}0")
    for i, (block, channels_in) in enumerate(zip(spec.blocks, spec.block_inputs, strict=True), start=1):
        ours = f"backbone.blocks.{i - 1}"
        theirs = f"{prefix}{i}.conv" if v2 else f"{prefix}{i}.block"
        at = 0
        if block.exp != channels_in:
            names |= _wrapped(f"{ours}.expand", f"{theirs}.{at}")
            at += 1
        names |= _wrapped(f"{ours}.depthwise", f"{theirs}.{at}")
        at += 1
        if block.se:
            names |= _tensors(f"{ours}.se.reduce", f"{theirs}.{at}.fc1", BIASED)
            names |= _tensors(f"{ours}.se.expand", f"{theirs}.{at}.fc2", BIASED)
            at += 1
        if v2:  # whose projection and its batch norm stand side by side
            names |= _pair(f"{ours}.project", f"{theirs}.{at}", f"{theirs}.{at + 1}")
        else:
            names |= _wrapped(f"{ours}.project", f"{theirs}.{at}")
    names |= _wrapped("backbone.last", f"{prefix}{len(spec.blocks) + 1}")
    if not spec.hidden:
        return names | _tensors("classifier", "classifier.1", BIASED)
    hidden = _tensors("hidden", "classifier.0", BIASED)
    return names | hidden | _tensors("classifier", "classifier.3", BIASED)


def torchvision_mnasnet_names(spec: NetSpec, keys: Iterable[str]) -> Names:
    """mnasnet*: one list of layers, activations counted, in which six are stacks of blocks."""
    places = _places(r"layers\.(\d+)\.(\d+)\.layers\.", keys, spec, beside=1)
    names = _pair("backbone.stem", "layers.0", "layers.1")
    names |= _pair("backbone.blocks.0.depthwise", "layers.3", "layers.4")
    names |= _pair("backbone.blocks.0.project", "layers.6", "layers.7")
    for i, (stack, at) in enumerate(places, start=1):
        theirs = f"layers.{stack}.{at}.layers"
        for part, conv in (("expand", 0), ("depthwise", 3), ("project", 6)):
            names |= _pair(f"backbone.blocks.{i}.{part}", f"{theirs}.{conv}", f"{theirs}.{conv + 1}")
    end = places[-1][0] + 1
    names |= _pair("backbone.last", f"layers.{end}", f"layers.{end + 1}")
    return names | _tensors("classifier", "classifier.1", BIASED)


def timm_names(spec: NetSpec, keys: Iterable[str]) -> Names:
    """timm's mobilenetv3_*, mobilenetv2_*, mnasnet_* and semnasnet_*.

    The last conv of MobileNetV3 is a stage of its own there, and its `conv_head`, a 1x1 convolution after
    the pooling, is our hidden layer.
    """
    places = _places(r"blocks\.(\d+)\.(\d+)\.", keys, spec, beside=-1 if spec.hidden else 0)
    names = _pair("backbone.stem", "conv_stem", "bn1")
    for i, ((stage, at), block, channels_in) in enumerate(
        zip(places, spec.blocks, spec.block_inputs, strict=False)
    ):
        ours, theirs = f"backbone.blocks.{i}", f"blocks.{stage}.{at}"
        convs = [("expand", "conv_pw")] if block.exp != channels_in else []
        # Without an expansion it is called a depthwise-separable block, whose pointwise conv is conv_pw.
        convs += [("depthwise", "conv_dw"), ("project", "conv_pwl" if convs else "conv_pw")]
        for number, (part, conv) in enumerate(convs, start=1):
            names |= _pair(f"{ours}.{part}", f"{theirs}.{conv}", f"{theirs}.bn{number}")
        if block.se:
            names |= _tensors(f"{ours}.se.reduce", f"{theirs}.se.conv_reduce", BIASED)
            names |= _tensors(f"{ours}.se.expand", f"{theirs}.se.conv_expand", BIASED)
    if spec.hidden:
        stage, at = places[-1]
        names |= _pair("backbone.last", f"blocks.{stage}.{at}.conv", f"blocks.{stage}.{at}.bn1")
        names |= _tensors("hidden", "conv_head", BIASED)
    else:
        names |= _pair("backbone.last", "conv_head", "bn2")
    return names | _tensors("classifier", "classifier", BIASED)


def _places(pattern: str, keys: Iterable[str], spec: NetSpec, *, beside: int) -> list[tuple[int, int]]:
    """(stage, number) of every block in their order; `beside`: how many of ours stand elsewhere."""
    found = sorted({(int(m[1]), int(m[2])) for key in keys if (m := re.match(pattern, key))})
    if len(found) != len(spec.blocks) - beside:
        raise ValueError(
            f"these weights are not those of {spec.name} with these options: {len(found) + beside} blocks, "
            f"not {len(spec.blocks)}"
        )
    return found


def _wrapped(ours: str, theirs: str) -> Names:
    return _pair(ours, f"{theirs}.0", f"{theirs}.1")


def _pair(ours: str, conv: str, bn: str) -> Names:
    return _tensors(f"{ours}.conv", conv, CONV) | _tensors(f"{ours}.bn", bn, BN)


def _tensors(ours: str, theirs: str, tensors: tuple[str, ...]) -> Names:
    return {f"{ours}.{name}": f"{theirs}.{name}" for name in tensors}
