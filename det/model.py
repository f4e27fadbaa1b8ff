"""The detection network: backbone and SSDLite, tensor -> tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from backbones.network import MobileNet
from backbones.spec import NetSpec
from backbones.weights import StateDict, backbone_state, detect_format, from_torchvision, trunk
from det.anchors import DefaultBoxes, SSDAnchors
from det.heads import SSDLite
from det.released import from_tensorflow, is_tensorflow
from engine.geometry import as_size

TORCHVISION = "backbone.features.0.0.0.weight"
"""The first convolution of torchvision's `ssdlite320_mobilenet_v3_large`."""


class Detector(nn.Module):
    """A MobileNet with SSDLite on C4, C5 and extra maps.

    Args:
        backbone: architecture at output stride 32.
        num_classes: K; each anchor has K + 1 scores, column 0 is background.
        input_size: side or (height, width) of the input that `anchors` are made for.
        anchors: their generator, see `det.anchors`.
        c4: feature at stride 16: `auto` is the expansion of the last block with stride 2 (section 6.3).
        c5: feature at stride 32: `auto` is the last convolution.
        extras, score_bias: see `SSDLite`.

    Attributes:
        anchors: float32 [A, 4], xyxy as fractions of the input; not part of the state dict.

    Raises:
        ValueError: an unknown feature, a dilated backbone, or maps that the anchors are not made for.
    """

    anchors: Tensor

    def __init__(
        self,
        *,
        backbone: NetSpec,
        num_classes: int,
        input_size: int | Sequence[int],
        anchors: SSDAnchors | DefaultBoxes,
        c4: str = "auto",
        c5: str = "auto",
        extras: Sequence[int] = (512, 256, 256, 128),
        score_bias: float = -4.6,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.input_size = as_size("input_size", input_size)
        taps = (_c4(backbone) if c4 == "auto" else c4, _c5(backbone) if c5 == "auto" else c5)
        self.backbone = MobileNet(backbone, taps=taps)
        first, second = self.backbone.channels.values()
        self.per_place = tuple(anchors.per_place)
        self.head = SSDLite(
            channels=(first, second),
            num_classes=num_classes,
            per_place=self.per_place,
            net=backbone,
            extras=extras,
            score_bias=score_bias,
        )
        self.register_buffer("anchors", anchors(self.map_sizes(), self.input_size), persistent=False)

    def map_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each feature map for an input of `input_size`."""
        height, width = self.input_size
        c4, c5 = (
            (math.ceil(height / stride), math.ceil(width / stride))
            for stride in self.backbone.strides.values()
        )
        return self.head.map_sizes(c4, c5)

    @property
    def class_layers(self) -> tuple[str, ...]:
        """Patterns of tensors shaped by the classes: left new where a weight file has other classes."""
        return tuple(f"head.{name}.*" for name in self.head.class_layers)

    def adapt(self, state: StateDict) -> StateDict:
        """A state dict of this model under any name that we know -> under our names.

        Raises:
            ValueError: the names are neither ours, torchvision's nor the release's of this architecture.
        """
        if is_tensorflow(state):
            return from_tensorflow(state, self.backbone.spec)
        if TORCHVISION in state:
            return torchvision_state(state, self.backbone.spec, self.backbone.taps[0])
        if detect_format(state) != "ours":
            raise ValueError("the weights of another model, not of a detector: give them as weights=")
        return state

    def num_classes_in(self, state: StateDict) -> int:
        """K of an adapted state dict, which may be that of other classes than this model's."""
        return state["head.scores.0.predict.bias"].shape[0] // self.per_place[0] - 1

    def adapt_backbone(self, state: StateDict) -> StateDict:
        """What `backbone.load_state_dict` takes, out of any state dict that we know."""
        if is_tensorflow(state) or TORCHVISION in state:
            return trunk(self.adapt(state))
        return backbone_state(state, self.backbone)

    def carry(self, state: StateDict, theirs: tuple[str, ...], ours: tuple[str, ...]) -> StateDict:
        """`state` for classes `theirs` -> for `ours`; see `engine.starting.Adaptable`.

        The class predictors have one row per anchor and class; those of background are carried over too.
        Names beyond the state's classes are passed over (the release's label list has one more).
        """
        own = self.state_dict()
        carried = dict(state)
        for key, found in state.items():
            if not any(fnmatch(key, layer) for layer in self.class_layers):
                continue
            rows = own[key].unflatten(0, (-1, len(ours) + 1)).clone()
            if found.shape[0] % rows.shape[0]:
                raise ValueError(f"{key} has {found.shape[0]} rows, no multiple of {rows.shape[0]} anchors")
            given = found.unflatten(0, (rows.shape[0], -1))
            known = {name: i for i, name in enumerate(theirs[: given.shape[1] - 1])}
            pairs = [(0, 0), *((i + 1, known[name] + 1) for i, name in enumerate(ours) if name in known)]
            to, of = (torch.tensor(side) for side in zip(*pairs, strict=True))
            rows[:, to] = given[:, of].to(rows)
            carried[key] = rows.flatten(0, 1)
        return carried

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images [N, 3, H, W] -> box offsets [N, A, 4] and class scores [N, A, K + 1], both raw.

        Offsets are relative to `anchors` where (H, W) is `input_size`.
        """
        return self.head(*self.backbone(images).values())


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


def _c4(spec: NetSpec) -> str:
    """Bneck 13 of Large, 9 of Small, 14 of V2: the block that leads from stride 16 to 32."""
    if spec.strides[-1] != 32:
        raise ValueError(
            f"{spec.name} ends at stride {spec.strides[-1]} and SSDLite needs 32: set the backbone's "
            "output_stride to 32, or name c4 and c5"
        )
    return f"block{spec.last_block_at_stride(16) + 1}.expansion"


def _c5(spec: NetSpec) -> str:
    return "last" if spec.last else f"block{len(spec.blocks)}"
