"""The detection network: backbone and SSDLite, tensor -> tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from backbones.contract import AnyBackbone, build_backbone, default_feature
from backbones.network import MobileNet
from backbones.weights.state_dict import StateDict, backbone_part, backbone_state, detect_format
from det.anchors.generators import DefaultBoxes, SSDAnchors
from det.heads import SSDLite
from det.weights import TORCHVISION, from_tensorflow, is_tensorflow, torchvision_state
from engine.data.preprocessing import as_size


class Detector(nn.Module):
    """A backbone with SSDLite on C4, C5 and extra maps.

    Args:
        backbone: a `NetSpec`, or a network from elsewhere (`backbones.contract`), at output stride 32.
        num_classes: K; each anchor has K + 1 scores, column 0 is background.
        input_size: side or (height, width) of the input that `anchors` are made for.
        anchors: their generator, see `det.anchors.generators`.
        c4: feature at stride 16: `auto` is the backbone's `c4_feature` (section 6.3).
        c5: feature at stride 32: `auto` is the backbone's `last_feature`.
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
        backbone: AnyBackbone,
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
        self.features = (
            default_feature(backbone, "c4_feature") if c4 == "auto" else c4,
            default_feature(backbone, "last_feature") if c5 == "auto" else c5,
        )
        self.backbone = build_backbone(backbone, self.features)
        first, second = (self.backbone.channels[name] for name in self.features)
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
            for stride in (self.backbone.strides[name] for name in self.features)
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
        if not isinstance(self.backbone, MobileNet):
            return state
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
            return backbone_part(self.adapt(state))
        return backbone_state(state, self.backbone)

    def carry(self, state: StateDict, theirs: tuple[str, ...], ours: tuple[str, ...]) -> StateDict:
        """`state` for classes `theirs` -> for `ours`; see `engine.run.initial_weights.Adaptable`.

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
        """Normalized images [N, 3, H, W] -> box offsets [N, A, 4] and class scores [N, A, K + 1], both raw.

        Offsets are relative to `anchors` where (H, W) is `input_size`.
        """
        features = self.backbone(images)
        return self.head(*(features[name] for name in self.features))
