"""The detection weights that the paper's authors released: every constant of a frozen TensorFlow graph.

They come as an .npz with TensorFlow's names (SSDLite on MobileNetV3, trained on COCO), and labels.txt, whose
line n names category n. The network needs `padding="same"`; input is 320x320, (x - 127.5) / 127.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.mobilenet_v3 import mobilenet_v3_large
from backbones.spec import NetSpec
from backbones.weights.state_dict import StateDict, from_torchvision
from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.run.checkpoint import read_weights

TRUNK = "FeatureExtractor/MobilenetV3"


NUM_CLASSES = 90
"""Outputs beside background: COCO's category ids 1 to 90, ten of which no image has."""


NO_WEIGHTS = r"anchors|.*/reduction_indices|.*/Reshape(_1)?/shape"
"""Constants of the graph that are not learnt; the anchors follow from the input's size."""


PREDICTORS = {"boxes": "BoxEncodingPredictor", "scores": "ClassPredictor"}


EXTRA = ("1_Conv2d_{n}_1x1_{half}", "2_Conv2d_{n}_3x3_s2_{full}_depthwise", "2_Conv2d_{n}_3x3_s2_{full}")


Names = Iterator[tuple[str, str]]


def read(path: str | Path, spec: NetSpec | None = None) -> tuple[dict[str, Tensor], ClassMap]:
    """A state dict for `det.model.Detector`, and its classes, from the .npz or the folder that holds it.

    Args:
        spec: the backbone; the default is Large with the dagger, the larger of the two released networks.

    Raises:
        UserError: no such file, no labels.txt beside it, or constants of another network.
    """
    path = Path(path)
    found = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if len(found) != 1:
        raise UserError(f"{path}: holds {len(found)} .npz files; name the one to read")
    (file,) = found
    constants = read_weights(file)
    try:
        state = from_tensorflow(constants, spec or mobilenet_v3_large(tail="dagger", padding="same"))
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    return state, class_map(file.with_name("labels.txt"))


def class_map(labels_file: str | Path) -> ClassMap:
    """The 90 classes of COCO with their ids 1 to 90, from a list whose line n names category n.

    The ids that COCO left out (12 street sign, 26 hat, ...) are classes like the others: the network has
    outputs for them, and no image shows them. Lines after the 90th are ignored.

    Raises:
        UserError: the file cannot be read, or is shorter.
    """
    try:
        lines = Path(labels_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{labels_file}: cannot be read ({error})") from None
    names = tuple(line.strip() for line in lines[:NUM_CLASSES])
    if len(names) < NUM_CLASSES:
        raise UserError(
            f"{labels_file}: has {len(names)} lines; line n must name category n, up to {NUM_CLASSES}"
        )
    try:
        return ClassMap(names=names, ids=tuple(range(1, NUM_CLASSES + 1)))
    except ValueError as error:
        raise UserError(f"{labels_file}: {error}") from None


def is_tensorflow(state: Mapping[str, Any]) -> bool:
    """Whether these are the names of a released graph."""
    return f"{TRUNK}/Conv/weights" in state


def from_tensorflow(constants: Mapping[str, Tensor], spec: NetSpec) -> dict[str, Tensor]:
    """Constants of a released graph -> the state dict of a `Detector` with this backbone.

    Raises:
        ValueError: the backbone pads symmetrically, or a constant is missing, left over, or of another shape.
    """
    if spec.padding != "same":
        raise ValueError("weights from TensorFlow need its padding: give backbone.padding=same")
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    for ours, theirs in _names(constants, spec):
        if theirs not in constants:
            raise ValueError(f"these are not the weights of {spec.name} with these options: no {theirs}")
        used.add(theirs)
        state[ours] = _layout(theirs, constants[theirs])
        if ours.endswith(".running_var"):
            state[f"{ours.removesuffix('.running_var')}.num_batches_tracked"] = torch.tensor(0)
    left = sorted(name for name in constants.keys() - used if not re.fullmatch(NO_WEIGHTS, name))
    if left:
        raise ValueError(f"these are not the weights of {spec.name} with these options: left over {left[:4]}")
    return state


def _names(constants: Mapping[str, Tensor], spec: NetSpec) -> Names:
    """(our key, TensorFlow's name) of every tensor."""
    yield from _conv("backbone.stem", f"{TRUNK}/Conv")
    for i, (block, channels_in) in enumerate(zip(spec.blocks, spec.block_inputs, strict=True)):
        ours, theirs = f"backbone.blocks.{i}", f"{TRUNK}/expanded_conv" + (f"_{i}" if i else "")
        if block.exp != channels_in:
            yield from _conv(f"{ours}.expand", f"{theirs}/expand")
        yield from _conv(f"{ours}.depthwise", f"{theirs}/depthwise", "depthwise_weights")
        if block.se:
            yield from _biased(f"{ours}.se.reduce", f"{theirs}/squeeze_excite/Conv")
            yield from _biased(f"{ours}.se.expand", f"{theirs}/squeeze_excite/Conv_1")
        yield from _conv(f"{ours}.project", f"{theirs}/project")
    yield from _conv("backbone.last", f"{TRUNK}/Conv_1")
    layer = f"{TRUNK}/layer_{len(spec.blocks) + 2}"  # the release counts the stem and the last conv
    for i, full in enumerate((512, 256, 256, 128)):
        reduce, depthwise, expand = (
            f"{layer}_{part.format(n=i + 2, half=full // 2, full=full)}" for part in EXTRA
        )
        yield from _conv(f"head.extras.{i}.reduce", reduce)
        yield from _conv(f"head.extras.{i}.depthwise", depthwise, "depthwise_weights")
        yield from _conv(f"head.extras.{i}.expand", expand)
    for i in range(6):
        for kind, name in PREDICTORS.items():
            theirs = f"BoxPredictor_{i}/{name}"
            yield from _conv(f"head.{kind}.{i}.depthwise", f"{theirs}_depthwise", "depthwise_weights")
            yield from _biased(f"head.{kind}.{i}.predict", theirs)


def _conv(ours: str, theirs: str, weights: str = "weights") -> Names:
    yield f"{ours}.conv.weight", f"{theirs}/{weights}"
    for mine, name in (
        ("weight", "gamma"),
        ("bias", "beta"),
        ("running_mean", "moving_mean"),
        ("running_var", "moving_variance"),
    ):
        yield f"{ours}.bn.{mine}", f"{theirs}/BatchNorm/{name}"


def _biased(ours: str, theirs: str) -> Names:
    yield f"{ours}.weight", f"{theirs}/weights"
    yield f"{ours}.bias", f"{theirs}/biases"


def _layout(name: str, constant: Tensor) -> Tensor:
    """Convolutions from [h, w, in, out] (depthwise: [h, w, channels, 1]) to torch's [out, in, h, w].

    The box predictors put out (y, x, h, w) per anchor, and ours (x, y, w, h).
    """
    if "/BoxEncodingPredictor/" in name:
        constant = constant.unflatten(-1, (-1, 4))[..., [1, 0, 3, 2]].flatten(-2)
    if constant.ndim == 4:
        constant = (
            constant.permute(2, 3, 0, 1)
            if name.endswith("depthwise_weights")
            else constant.permute(3, 2, 0, 1)
        )
    return constant.float().contiguous()


TORCHVISION = "backbone.features.0.0.0.weight"
"""The first convolution of torchvision's `ssdlite320_mobilenet_v3_large`."""


def torchvision_state(state: StateDict, spec: NetSpec, c4: str) -> StateDict:
    """The state of torchvision's `ssdlite320_mobilenet_v3_large` under our names.

    Its trunk is cut in two within the block of C4, after the expansion.

    Raises:
        ValueError: keys that are missing or left over.
    """
    cut = int(re.sub(r"\D", "", c4.partition(".")[0]))
    plain: StateDict = {}
    head: StateDict = {}
    for key, tensor in state.items():
        group = re.match(r"backbone\.features\.([01])\.(\d+)\.(.*)", key)
        if group is None:
            head[_torchvision_head_name(key)] = tensor.float() if tensor.is_floating_point() else tensor
            continue
        half, number, rest = int(group[1]), int(group[2]), group[3]
        within = (number == cut) if half == 0 else (number == 0)
        if within:
            rest = f"block.0.{rest}" if half == 0 else f"block.{rest}"
        plain[f"backbone.{number + cut * half}.{rest}"] = tensor
    return from_torchvision(plain, spec) | head


def _torchvision_head_name(key: str) -> str:
    parts = ("reduce", "depthwise", "expand")
    if extra := re.fullmatch(r"backbone\.extra\.(\d+)\.([0-2])\.([01])\.(\w+)", key):
        return f"head.extras.{extra[1]}.{parts[int(extra[2])]}.{('conv', 'bn')[int(extra[3])]}.{extra[4]}"
    if found := re.fullmatch(r"head\.(classification|regression)_head\.module_list\.(\d+)\.(.+)", key):
        kind = "scores" if found[1] == "classification" else "boxes"
        for theirs, ours in (("0.0.", "depthwise.conv."), ("0.1.", "depthwise.bn."), ("1.", "predict.")):
            if found[3].startswith(theirs):
                return f"head.{kind}.{found[2]}.{ours}{found[3].removeprefix(theirs)}"
    raise ValueError(f"{key!r} is no part of torchvision's SSDLite")
