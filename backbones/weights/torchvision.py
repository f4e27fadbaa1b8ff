"""torchvision's names for our tensors: mobilenet_v2, mobilenet_v3_* and mnasnet*.

Each function returns {our key: their key} for the whole classifier; see `backbones.weights.layer_keys`.
"""

from __future__ import annotations

from collections.abc import Iterable

from backbones.spec import NetSpec
from backbones.weights.layer_keys import Keys, conv_and_norm, stage_positions, tensors


def mobilenet_keys(spec: NetSpec, keys: Iterable[str], prefix: str) -> Keys:
    """mobilenet_v2 and mobilenet_v3_*: `<prefix><number>.conv` or `.block`, each conv with its batch norm."""
    v2 = any(".conv." in key for key in keys)
    names = _wrapped("backbone.stem", f"{prefix}0")
    for i, (block, channels_in) in enumerate(zip(spec.blocks, spec.block_inputs, strict=True), start=1):
        ours = f"backbone.blocks.{i - 1}"
        theirs = f"{prefix}{i}.conv" if v2 else f"{prefix}{i}.block"
        at = 0
        if block.expands(channels_in):
            names |= _wrapped(f"{ours}.expand", f"{theirs}.{at}")
            at += 1
        names |= _wrapped(f"{ours}.depthwise", f"{theirs}.{at}")
        at += 1
        if block.se:
            names |= tensors(f"{ours}.se.reduce", f"{theirs}.{at}.fc1")
            names |= tensors(f"{ours}.se.expand", f"{theirs}.{at}.fc2")
            at += 1
        if v2:  # the projection and its batch norm are separate entries
            names |= conv_and_norm(f"{ours}.project", f"{theirs}.{at}", f"{theirs}.{at + 1}")
        else:
            names |= _wrapped(f"{ours}.project", f"{theirs}.{at}")
    names |= _wrapped("backbone.last", f"{prefix}{len(spec.blocks) + 1}")
    if not spec.hidden:
        return names | tensors("classifier", "classifier.1")
    return names | tensors("hidden", "classifier.0") | tensors("classifier", "classifier.3")


def mnasnet_keys(spec: NetSpec, keys: Iterable[str]) -> Keys:
    """mnasnet*: one list of layers, including activations; six of them are stacks of blocks."""
    positions = stage_positions(r"layers\.(\d+)\.(\d+)\.layers\.", keys, spec, elsewhere=1)
    names = conv_and_norm("backbone.stem", "layers.0", "layers.1")
    names |= conv_and_norm("backbone.blocks.0.depthwise", "layers.3", "layers.4")
    names |= conv_and_norm("backbone.blocks.0.project", "layers.6", "layers.7")
    for i, (stack, number) in enumerate(positions, start=1):
        theirs = f"layers.{stack}.{number}.layers"
        for part, conv in (("expand", 0), ("depthwise", 3), ("project", 6)):
            names |= conv_and_norm(f"backbone.blocks.{i}.{part}", f"{theirs}.{conv}", f"{theirs}.{conv + 1}")
    end = positions[-1][0] + 1
    names |= conv_and_norm("backbone.last", f"layers.{end}", f"layers.{end + 1}")
    return names | tensors("classifier", "classifier.1")


def _wrapped(ours: str, theirs: str) -> Keys:
    return conv_and_norm(ours, f"{theirs}.0", f"{theirs}.1")
