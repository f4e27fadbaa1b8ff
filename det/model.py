"""The detection network: backbone and head, tensor -> tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from functools import partial
from typing import Any

from torch import Tensor, nn

from backbones.contract import AnyBackbone, FeatureRole
from backbones.network import MobileNet, build_backbone, default_feature, feature_at_stride
from backbones.weights.state_dict import StateDict
from det.anchors.generators import Cells, DefaultBoxes, SSDAnchors
from det.heads import SSDLite
from det.weights import backbone_state_of, carry_class_rows, translated
from engine.data.preprocessing import as_size


class Detector(nn.Module):
    """A backbone with a head that predicts a box and class scores for each anchor.

    Args:
        backbone: a `NetSpec`, or a network from elsewhere (`backbones.contract`), at output stride 32.
        num_classes: K.
        input_size: side or (height, width) of the images that the anchors are for.
        anchors: a generator, see `det.anchors.generators`.
        head: head class with its own options, called with `channels`, `num_classes`, `anchors_per_cell` and
            `backbone`; see `SSDLite` for its other members.
        c3: feature at stride 8, for heads that read three features: `block` is the output of the last block
            at this stride; None: the head reads only c4 and c5.
        c4: feature at stride 16: `auto` is the backbone's `c4_feature` (section 6.3); `block` as for c3.
        c5: feature at stride 32: `auto` is the backbone's `last_feature`; `block` as for c3.

    Attributes:
        anchors: float32 [A, 4], xyxy as fractions of the input; not part of the state dict.
        background_column: whether the first score of each anchor is for background.

    Raises:
        ValueError: if a feature is unknown, the backbone is dilated, or the anchors do not match the maps.
    """

    anchors: Tensor

    def __init__(
        self,
        *,
        backbone: AnyBackbone,
        num_classes: int,
        input_size: int | Sequence[int],
        anchors: SSDAnchors | DefaultBoxes | Cells,
        head: Callable[..., Any] = SSDLite,
        c3: str | None = None,
        c4: str = "auto",
        c5: str = "auto",
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.input_size = as_size("input_size", input_size)
        roles: tuple[tuple[int, FeatureRole | None], ...] = (
            (8, None),
            (16, "c4_feature"),
            (32, "last_feature"),
        )
        self.features = tuple(
            _feature(backbone, name, *role)
            for name, role in zip((c3, c4, c5), roles, strict=True)
            if name is not None
        )
        self.backbone = build_backbone(backbone, self.features)
        self.anchors_per_cell = tuple(anchors.per_cell)
        self.head = head(
            channels=tuple(self.backbone.channels[name] for name in self.features),
            num_classes=num_classes,
            anchors_per_cell=self.anchors_per_cell,
            backbone=backbone,
        )
        self.background_column: bool = getattr(self.head, "background_column", True)
        self.register_buffer("anchors", anchors(self.map_sizes(), self.input_size), persistent=False)

    def map_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each feature map for an input of `input_size`."""
        height, width = self.input_size
        strides = (self.backbone.strides[name] for name in self.features)
        features = ((math.ceil(height / stride), math.ceil(width / stride)) for stride in strides)
        sizes: list[tuple[int, int]] = self.head.map_sizes(*features)
        return sizes

    @property
    def class_layers(self) -> tuple[str, ...]:
        """Patterns of the tensors whose shape depends on the classes."""
        return tuple(f"head.{name}.*" for name in self.head.class_layers)

    def adapt(self, state: StateDict) -> StateDict:
        """A state dict of this model under any known names -> under ours; see `det.weights.translated`."""
        return translated(state, self.backbone) if isinstance(self.backbone, MobileNet) else state

    def adapt_backbone(self, state: StateDict) -> StateDict:
        """A state dict under any known names -> what `backbone.load_state_dict` takes."""
        return backbone_state_of(state, self.backbone)

    def num_classes_in(self, state: StateDict) -> int:
        """K of an adapted state dict, whose classes may differ from this model's."""
        first_map = self._class_keys()[0]
        return state[first_map].shape[0] // self.anchors_per_cell[0] - self.background_column

    def carry(self, state: StateDict, theirs: tuple[str, ...], ours: tuple[str, ...]) -> StateDict:
        """`state` for classes `theirs` -> for `ours`; see `engine.run.initial_weights.Adaptable`."""
        own = self.state_dict()
        class_keys = [key for key in self._class_keys() if key in state]
        carry = partial(carry_class_rows, background=self.background_column)
        return state | {key: carry(key, own[key], state[key], theirs, ours) for key in class_keys}

    def _class_keys(self) -> list[str]:
        return [key for key in self.state_dict() if any(fnmatch(key, layer) for layer in self.class_layers)]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized images [N, 3, H, W] -> box deltas [N, A, B] and class scores [N, A, C], both raw.

        SSDLite: B is 4, and C is K + 1, the first score for background. PANLite: B is 4 * bins, C is K.
        Boxes are relative to `anchors` if (H, W) is `input_size`.
        """
        features = self.backbone(images)
        outputs: tuple[Tensor, Tensor] = self.head(*(features[name] for name in self.features))
        return outputs


def _feature(backbone: AnyBackbone, name: str, stride: int, role: FeatureRole | None) -> str:
    """The feature that c3, c4 or c5 means: `block`, `auto` if it has a role, or a name."""
    if name == "block":
        return feature_at_stride(backbone, stride)
    return default_feature(backbone, role) if name == "auto" and role is not None else name
