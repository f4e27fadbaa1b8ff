"""Published weights under our names: the paper's authors' TensorFlow graphs, and torchvision's SSDLite.

The authors' weights are the constants of a frozen graph, in the graph's file or an .npz (SSDLite on
MobileNetV3, trained on COCO with 90 classes: the category ids 1 to 90, ten of which are unused). The network
needs `padding="same"`; its input is 320x320, (x - 127.5) / 127.5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from backbones.network import MobileNet
from backbones.spec import NetSpec
from backbones.weights.state_dict import (
    StateDict,
    backbone_part,
    backbone_state,
    detect_format,
    from_torchvision,
)
from backbones.weights.tensorflow import Layers
from engine.errors import UserError

TENSORFLOW_BACKBONE = "FeatureExtractor/MobilenetV3"


TORCHVISION_STEM = "backbone.features.0.0.0.weight"
"""The first convolution of torchvision's `ssdlite320_mobilenet_v3_large`."""


PREDICTORS = {"boxes": "BoxEncodingPredictor", "scores": "ClassPredictor"}


EXTRA = ("1_Conv2d_{n}_1x1_{half}", "2_Conv2d_{n}_3x3_s2_{full}_depthwise", "2_Conv2d_{n}_3x3_s2_{full}")


def translated(state: StateDict, backbone: MobileNet) -> StateDict:
    """A state dict of a `Detector` with this backbone, under any known names -> under ours.

    Raises:
        UserError: if the names are not ours, torchvision's or those of the released graphs, or the weights
            are for another architecture.
    """
    if is_tensorflow(state):
        return from_tensorflow(state, backbone.spec)
    if TORCHVISION_STEM in state:
        return from_torchvision_ssdlite(state, backbone.spec)
    if detect_format(state) != "ours":
        raise UserError(
            "these are not the weights of a detector; use the file as weights= instead, for the backbone"
        )
    return state


def backbone_state_of(state: StateDict, backbone: Any) -> StateDict:
    """A state dict under any known names -> what `backbone.load_state_dict` takes."""
    if isinstance(backbone, MobileNet) and (is_tensorflow(state) or TORCHVISION_STEM in state):
        state = backbone_part(translated(state, backbone))
    return backbone_state(state, backbone)


def carry_class_rows(
    key: str,
    own: Tensor,
    loaded: Tensor,
    theirs: tuple[str, ...],
    ours: tuple[str, ...],
    *,
    background: bool = True,
) -> Tensor:
    """A class predictor's tensor for classes `ours`: rows of `loaded` for classes that `theirs` has too, and
    for background; the other rows of `own`.

    There is one row per anchor and class and, with `background`, one per anchor before them. Surplus names in
    `theirs` are ignored (the released list of labels has one more than the weights).

    Raises:
        UserError: if `loaded` is for a different number of anchors.
    """
    if loaded.shape[1:] != own.shape[1:]:
        return loaded  # of another network: loading it names all that differs
    first = int(background)
    rows = own.reshape(-1, first + len(ours), *own.shape[1:]).clone()
    if loaded.shape[0] % len(rows):
        raise UserError(f"{key} has {loaded.shape[0]} rows, which is not a multiple of {len(rows)} anchors")
    loaded_rows = loaded.reshape(len(rows), -1, *loaded.shape[1:])
    known = {name: index for index, name in enumerate(theirs[: loaded_rows.shape[1] - first])}
    pairs = [(0, 0)] * first
    pairs += [(i + first, known[name] + first) for i, name in enumerate(ours) if name in known]
    if pairs:
        to, of = (torch.tensor(side) for side in zip(*pairs, strict=True))
        rows[:, to] = loaded_rows[:, of].to(rows)
    return rows.flatten(0, 1)


def is_tensorflow(state: Mapping[str, Any]) -> bool:
    """Whether the names are those of a released graph."""
    return f"{TENSORFLOW_BACKBONE}/Conv/weights" in state


def from_tensorflow(constants: Mapping[str, Tensor], spec: NetSpec) -> StateDict:
    """Constants of a released graph -> the state dict of a `Detector` with this backbone.

    Raises:
        UserError: if the backbone pads symmetrically, or constants are missing or unexpected.
    """
    layers = Layers()
    layers.backbone(spec, TENSORFLOW_BACKBONE)
    layer = f"{TENSORFLOW_BACKBONE}/layer_{len(spec.blocks) + 2}"  # with the stem and the last conv
    for i, full in enumerate((512, 256, 256, 128)):
        ours, numbers = f"head.extras.{i}", {"n": i + 2, "half": full // 2, "full": full}
        reduce, depthwise, expand = (f"{layer}_{part.format(**numbers)}" for part in EXTRA)
        layers.conv(f"{ours}.reduce", reduce)
        layers.depthwise(f"{ours}.depthwise", depthwise)
        layers.conv(f"{ours}.expand", expand)
    for i in range(6):
        for kind, name in PREDICTORS.items():
            ours, theirs = f"head.{kind}.{i}", f"BoxPredictor_{i}/{name}"
            layers.depthwise(f"{ours}.depthwise", f"{theirs}_depthwise")
            layers.biased(f"{ours}.predict", theirs)
    try:
        return layers.state(constants, spec)
    except ValueError as error:
        raise UserError(str(error)) from None


def from_torchvision_ssdlite(state: StateDict, spec: NetSpec) -> StateDict:
    """The state of torchvision's `ssdlite320_mobilenet_v3_large` under our names.

    Its backbone is split in two inside the block of C4, after the expansion.

    Raises:
        UserError: if keys are missing or unexpected.
    """
    first_half = (re.match(r"backbone\.features\.0\.(\d+)\.", key) for key in state)
    cut = max(int(match[1]) for match in first_half if match)
    plain: StateDict = {}
    head: StateDict = {}
    for key, tensor in state.items():
        match = re.match(r"backbone\.features\.([01])\.(\d+)\.(.*)", key)
        if match is None:
            head[_torchvision_head_name(key)] = tensor.float() if tensor.is_floating_point() else tensor
            continue
        half, number, rest = int(match[1]), int(match[2]), match[3]
        in_cut_block = (number == cut) if half == 0 else (number == 0)
        if in_cut_block:
            rest = f"block.0.{rest}" if half == 0 else f"block.{rest}"
        plain[f"backbone.{number + cut * half}.{rest}"] = tensor
    return from_torchvision(plain, spec) | head


def _torchvision_head_name(key: str) -> str:
    parts = ("reduce", "depthwise", "expand")
    if match := re.fullmatch(r"backbone\.extra\.(\d+)\.([0-2])\.([01])\.(\w+)", key):
        return f"head.extras.{match[1]}.{parts[int(match[2])]}.{('conv', 'bn')[int(match[3])]}.{match[4]}"
    if match := re.fullmatch(r"head\.(classification|regression)_head\.module_list\.(\d+)\.(.+)", key):
        kind = "scores" if match[1] == "classification" else "boxes"
        for theirs, ours in (("0.0.", "depthwise.conv."), ("0.1.", "depthwise.bn."), ("1.", "predict.")):
            if match[3].startswith(theirs):
                return f"head.{kind}.{match[2]}.{ours}{match[3].removeprefix(theirs)}"
    raise UserError(f"{key!r} is not part of torchvision's SSDLite")
