"""The segmentation network: backbone and head, tensor -> tensor."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from typing import cast

from torch import Tensor, nn

from backbones.contract import AnyBackbone
from backbones.network import MobileNet, build_backbone, default_feature, feature_at_stride
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
        features: the head's features from the finest to the coarsest instead of `low` and `high`: names, or
            strides, which mean the last feature of that stride, or `auto` as for `high`.
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
        features: Sequence[int | str] | None = None,
        input_size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if features is not None:
            self.features = tuple(_feature(backbone, own) for own in features)
        else:
            skip = default_feature(backbone, "skip_feature") if low == "auto" else low
            dense = default_feature(backbone, "dense_output") if high == "auto" else high
            self.features = (dense,) if skip is None else (skip, dense)
        self.backbone = build_backbone(backbone, self.features)
        self.head = head(
            channels=tuple(self.backbone.channels[name] for name in self.features),
            num_classes=num_classes,
            output_stride=self.backbone.strides[self.features[-1]],
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
        """Normalized images [N, 3, H, W] -> class scores [N, K, h, w], at the stride of the first feature."""
        scores: Tensor = self.head(*self._features(images))
        return scores

    def training_scores(self, images: Tensor) -> tuple[Tensor, ...]:
        """The scores of `forward`, and those of the head's auxiliary classifiers if it has any."""
        features = self._features(images)
        auxiliary = getattr(self.head, "auxiliary_scores", None)
        return (self.head(*features), *(auxiliary(*features) if auxiliary else ()))

    def _features(self, images: Tensor) -> list[Tensor]:
        features = self.backbone(images)
        return [features[name] for name in self.features]


def _feature(backbone: AnyBackbone, wanted: int | str) -> str:
    """The feature that an entry of `features` means: the last of a stride, `auto`, or a name."""
    if isinstance(wanted, int):
        return feature_at_stride(backbone, wanted)
    return default_feature(backbone, "dense_output") if wanted == "auto" else wanted
