"""The classification network: images -> logits."""

from __future__ import annotations

from torch import Tensor, nn

from backbones.blocks import ConvNormAct, SmallMapConv, activation
from backbones.contract import AnyBackbone
from backbones.network import MobileNet, build_backbone, conv_settings, default_feature, init_weights
from backbones.spec import NetSpec
from backbones.weights.state_dict import StateDict, backbone_state, without_background
from cls.weights import own_classes_state
from engine.run.initial_weights import carry_rows


class Classifier(nn.Module):
    """Backbone, global average pooling, hidden layer (if the spec has one), dropout, fully connected layer.

    The two "conv2d 1x1, NBN" rows at the end of Tables 1 and 2 act on a 1x1 map, so they are linear layers
    here. A hidden layer with batch norm (MobileNetV4) stays a convolution; for a single image it trains with
    the running statistics.

    Args:
        backbone: a `NetSpec`, or a network from elsewhere (`backbones.contract`), which gets no hidden layer.
        num_classes: number of logits.
        dropout: share of the features that are dropped; None: the spec's, or 0.2 for other networks.

    Raises:
        ValueError: if an argument is out of range.
    """

    class_layers = ("classifier.*",)
    """Patterns of the tensors whose shape depends on the classes, not loaded from weights for other ones."""

    def __init__(self, *, backbone: AnyBackbone, num_classes: int, dropout: float | None = None) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        hidden, hidden_act, hidden_norm, own_dropout = 0, "RE", False, 0.2
        if isinstance(backbone, NetSpec):
            hidden, hidden_act, own_dropout = backbone.hidden, backbone.last_act, backbone.dropout
            hidden_norm = backbone.hidden_norm
        dropout = own_dropout if dropout is None else dropout
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is the fraction dropped and must be in [0, 1), got {dropout}")
        self.feature = default_feature(backbone, "last_feature")
        self.backbone = build_backbone(backbone, (self.feature,))
        channels = self.backbone.channels[self.feature]
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden: nn.Module | None = None
        self.act = activation(hidden_act) if hidden and not hidden_norm else nn.Identity()
        if hidden and hidden_norm:
            norm = {name: value for name, value in conv_settings(backbone).items() if name != "padding"}
            self.hidden = SmallMapConv(channels, hidden, act=hidden_act, **norm)
        elif hidden:
            self.hidden = nn.Linear(channels, hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden or channels, num_classes)
        for layer in (self.hidden, self.classifier):
            if layer is not None:
                init_weights(layer)

    def adapt(self, state: StateDict) -> StateDict:
        """A state dict of this model in any known format -> under our names.

        Raises:
            ValueError: if the names are unknown or belong to another network.
        """
        if not isinstance(self.backbone, MobileNet):
            return state
        return own_classes_state(state, self.backbone.spec, num_classes=self.classifier.out_features)

    def num_classes_in(self, state: StateDict) -> int:
        """Number of classes in an adapted state dict, which can differ from this model's."""
        return len(state["classifier.bias"])

    def adapt_backbone(self, state: StateDict) -> StateDict:
        """What `backbone.load_state_dict` takes, from a state dict in any known format."""
        return backbone_state(state, self.backbone)

    def carry(self, state: StateDict, theirs: tuple[str, ...], ours: tuple[str, ...]) -> StateDict:
        """`state` for classes `theirs` -> for `ours`; see `engine.run.initial_weights.Adaptable`.

        TensorFlow's ImageNet classifiers have an unnamed background before the first class.
        """
        own = self.state_dict()
        class_keys = ("classifier.weight", "classifier.bias")
        if len(state["classifier.bias"]) == len(theirs) + 1:
            state = without_background(state, len(theirs))
        return state | {key: carry_rows(own[key], state[key], theirs, ours) for key in class_keys}

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images [N, 3, H, W] -> logits [N, K]."""
        x = self.pool(self.backbone(images)[self.feature])  # [N, C, 1, 1]
        if isinstance(self.hidden, ConvNormAct):
            x = self.hidden(x)
        x = x.flatten(1)
        if isinstance(self.hidden, nn.Linear):
            x = self.act(self.hidden(x))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits
