"""Classifier: images -> logits."""

from __future__ import annotations

from torch import Tensor, nn

from backbones.blocks import activation
from backbones.network import MobileNet, init_weights
from backbones.spec import NetSpec


class Classifier(nn.Module):
    """Network, global average pooling, hidden layer (if the spec has one), dropout, fully connected layer.

    The two "conv2d 1x1, NBN" rows at the end of Tables 1 and 2 act on a 1x1 map, so they are linear layers
    here.

    backbone: the spec; num_classes: logits; dropout: fraction dropped, the spec's where None.
    forward: images [N, 3, H, W] -> logits [N, num_classes].
    """

    def __init__(self, *, backbone: NetSpec, num_classes: int, dropout: float | None = None) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        dropout = backbone.dropout if dropout is None else dropout
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is the fraction dropped and must be in [0, 1), got {dropout}")
        self.feature = "last" if backbone.last else f"block{len(backbone.blocks)}"
        self.backbone = MobileNet(backbone, taps=(self.feature,))
        channels = self.backbone.channels[self.feature]
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Linear(channels, backbone.hidden) if backbone.hidden else None
        self.act = activation(backbone.last_act) if backbone.hidden else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.hidden or channels, num_classes)
        for layer in (self.hidden, self.classifier):
            if layer is not None:
                init_weights(layer)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(self.backbone(images)[self.feature]).flatten(1)  # [N, C]
        if self.hidden is not None:
            x = self.act(self.hidden(x))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits
