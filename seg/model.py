"""The segmentation network: backbone and head, tensor -> tensor."""

from collections.abc import Callable
from fnmatch import fnmatch
from typing import cast

from torch import Tensor, nn

from backbones.contract import AnyBackbone
from backbones.network import MobileNet, build_backbone, default_feature
from backbones.weights.state_dict import StateDict, backbone_state
from engine.data.preprocessing import Size, as_size
from engine.run.initial_weights import carry_rows
from seg.heads import Head
from seg.weights import segmenter_state


class Segmenter(nn.Module):
    """A backbone with a segmentation head.

    Args:
        backbone: a `NetSpec`, or a network from elsewhere (`backbones.contract`).
        head: a `seg.heads.Head` class with its own options, called with `channels` (of its features),
            `num_classes` and `output_stride`.
        low: feature for the skip connection: `auto` is the backbone's `skip_feature`; None: no skip.
        high: feature for the head: `auto` is the backbone's `dense_output`.
        input_size: side or (height, width) of the training images, for the head to check.

    Raises:
        ValueError: if a feature is unknown, or the head rejects the input size.
    """

    def __init__(
        self,
        *,
        backbone: AnyBackbone,
        head: Callable[..., nn.Module],
        num_classes: int,
        low: str | None = "auto",
        high: str = "auto",
        input_size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        skip = default_feature(backbone, "skip_feature") if low == "auto" else low
        dense = default_feature(backbone, "dense_output") if high == "auto" else high
        self.features = (dense,) if skip is None else (skip, dense)
        self.backbone = build_backbone(backbone, self.features)
        self.head = head(
            channels=tuple(self.backbone.channels[name] for name in self.features),
            num_classes=num_classes,
            output_stride=self.backbone.strides[dense],
        )
        if input_size is not None:
            size = as_size("input_size", input_size)
            if hasattr(self.head, "check_input_size"):
                cast(Callable[[Size], None], self.head.check_input_size)(size)

    @property
    def class_layers(self) -> tuple[str, ...]:
        """Patterns of the tensors whose shape depends on the classes, not loaded from weights for others."""
        return tuple(f"head.{name}.*" for name in cast(Head, self.head).class_layers)

    def adapt(self, state: StateDict) -> StateDict:
        """A state dict of this model in any known format -> under our names.

        Raises:
            ValueError: if the names are unknown or belong to another network.
        """
        if not isinstance(self.backbone, MobileNet):
            return state
        hard_gate = not isinstance(getattr(self.head, "gate_act", None), nn.Sigmoid)
        return segmenter_state(state, self.backbone.spec, hard_gate=hard_gate)

    def num_classes_in(self, state: StateDict) -> int:
        """Number of classes in an adapted state dict, which can differ from this model's."""
        return len(state[f"head.{cast(Head, self.head).class_layers[0]}.bias"])

    def adapt_backbone(self, state: StateDict) -> StateDict:
        """What `backbone.load_state_dict` takes, from a state dict in any known format."""
        return backbone_state(state, self.backbone)

    def carry(self, state: StateDict, theirs: tuple[str, ...], ours: tuple[str, ...]) -> StateDict:
        """`state` for classes `theirs` -> for `ours`; see `engine.run.initial_weights.Adaptable`."""
        own = self.state_dict()
        class_keys = [key for key in state if any(fnmatch(key, layer) for layer in self.class_layers)]
        return state | {key: carry_rows(own[key], state[key], theirs, ours) for key in class_keys}

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images [N, 3, H, W] -> class scores [N, K, H/8, W/8] (R-ASPP: at the output stride)."""
        features = self.backbone(images)
        scores: Tensor = self.head(*(features[name] for name in self.features))
        return scores
