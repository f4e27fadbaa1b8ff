"""The segmentation network: backbone and decoder, tensor -> tensor."""

from collections.abc import Callable
from fnmatch import fnmatch

from torch import Tensor, nn

from backbones.contract import AnyBackbone, build_backbone, default_feature
from backbones.network import MobileNet
from backbones.weights.state_dict import StateDict, backbone_state, detect_format, from_torchvision
from engine.data.preprocessing import as_size
from engine.run.initial_weights import carry_rows
from seg.weights import torchvision_head


class Segmenter(nn.Module):
    """A backbone with a dense head.

    Args:
        backbone: a `NetSpec`, or a network from elsewhere (`backbones.contract`).
        head: head class with its own options, called with `channels`, `num_classes` and `output_stride`.
        low: feature for the skip connection: `auto` is the backbone's `skip_feature`; None: no skip.
        high: feature for the head: `auto` is the backbone's `dense_output`.
        input_size: side or (height, width) that the network is trained at, to check the head's pooling window
            against.

    Raises:
        ValueError: an unknown feature, or an input size that the pooling window does not fit.
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
        if input_size is not None and hasattr(self.head, "pool"):
            self.head.pool.check(as_size("input_size", input_size))

    @property
    def class_layers(self) -> tuple[str, ...]:
        """Patterns of tensors shaped by the classes: left new where a weight file has other classes."""
        return tuple(f"head.{name}.*" for name in self.head.class_layers)

    def adapt(self, state: StateDict) -> StateDict:
        """A state dict of this model under any name that we know -> under our names.

        Raises:
            ValueError: the names are neither ours nor torchvision's of the same architecture.
        """
        if not isinstance(self.backbone, MobileNet):
            return state
        found = detect_format(state)
        if found == "torchvision":
            raise ValueError("the weights of a classifier, without a decoder: give them as weights=")
        if found == "ours":
            return state
        return from_torchvision(state, self.backbone.spec) | torchvision_head(state)

    def num_classes_in(self, state: StateDict) -> int:
        """K of an adapted state dict, which may be that of other classes than this model's."""
        return state[f"head.{self.head.class_layers[0]}.bias"].shape[0]

    def adapt_backbone(self, state: StateDict) -> StateDict:
        """What `backbone.load_state_dict` takes, out of any state dict that we know."""
        return backbone_state(state, self.backbone)

    def carry(self, state: StateDict, theirs: tuple[str, ...], ours: tuple[str, ...]) -> StateDict:
        """`state` for classes `theirs` -> for `ours`; see `engine.run.initial_weights.Adaptable`."""
        own = self.state_dict()
        scores = [key for key in state if any(fnmatch(key, layer) for layer in self.class_layers)]
        return state | {key: carry_rows(own[key], state[key], theirs, ours) for key in scores}

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images [N, 3, H, W] -> class scores [N, K, H/8, W/8] (R-ASPP: at the output stride)."""
        features = self.backbone(images)
        return self.head(*(features[name] for name in self.features))
