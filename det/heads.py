"""SSDLite: Single Shot Detection with depthwise separable convolutions (MobileNetV2, section 6.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from backbones.blocks import SmallMapConv
from backbones.contract import AnyBackbone
from backbones.network import conv_settings

WEIGHT_DEVIATION = 0.03
"""Standard deviation of the initial weights (released configuration)."""


class SSDLite(nn.Module):
    """Extra feature maps after the backbone's C4 and C5, and a predictor of boxes and classes on each map.

    Args:
        channels: of C4 and C5.
        num_classes: K; each anchor has K + 1 scores, the first for background.
        anchors_per_cell: for each map, from the anchor generator.
        backbone: padding and batch norm are set as in the backbone.
        extras: channels of the extra maps, each half as large as the map before.
        score_bias: initial bias of the class scores. -4.6 = log(0.01 / 0.99) for focal loss with a sigmoid,
            so that the network predicts no objects at first; 0 for a softmax.

    Raises:
        ValueError: if the anchors are for a different number of maps.
    """

    class_layers = ("scores.*.predict",)

    def __init__(
        self,
        *,
        channels: tuple[int, int],
        num_classes: int,
        anchors_per_cell: Sequence[int],
        backbone: AnyBackbone,
        extras: Sequence[int] = (512, 256, 256, 128),
        score_bias: float = -4.6,
    ) -> None:
        super().__init__()
        maps = (*channels, *extras)
        if len(maps) != len(anchors_per_cell):
            raise ValueError(
                f"there are {len(maps)} feature maps (C4, C5 and {len(extras)} extras) but anchors for "
                f"{len(anchors_per_cell)}; set the anchors' maps to {len(maps)}"
            )
        settings = {"act": "RE6", **conv_settings(backbone)}
        per_map = list(zip(maps, anchors_per_cell, strict=True))
        self.extras = nn.ModuleList(
            ExtraMap(before, after, **settings) for before, after in pairwise(maps[1:])
        )
        self.boxes = nn.ModuleList(Predictor(width, 4 * anchors, **settings) for width, anchors in per_map)
        self.scores = nn.ModuleList(
            Predictor(width, (num_classes + 1) * anchors, **settings) for width, anchors in per_map
        )
        self.num_classes = num_classes
        _init_weights(self)
        for predictor in self.scores:
            nn.init.constant_(cast(Tensor, cast(Predictor, predictor).predict.bias), score_bias)

    def map_sizes(self, c4: tuple[int, int], c5: tuple[int, int]) -> list[tuple[int, int]]:
        """Sizes (height, width) of C4 and C5 -> those of all maps."""
        sizes = [c4, c5]
        for _ in self.extras:
            height, width = sizes[-1]
            sizes.append((math.ceil(height / 2), math.ceil(width / 2)))
        return sizes

    def forward(self, c4: Tensor, c5: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C4, H/16, W/16], [N, C5, H/32, W/32] -> box deltas [N, A, 4] and class scores [N, A, K + 1].

        The A predictions are in the order of the anchors: map, row, column, anchor in this cell.
        """
        maps = [c4, c5]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        deltas = [_by_anchor(predict(x), 4) for predict, x in zip(self.boxes, maps, strict=True)]
        scores = [
            _by_anchor(predict(x), self.num_classes + 1) for predict, x in zip(self.scores, maps, strict=True)
        ]
        return torch.cat(deltas, dim=1), torch.cat(scores, dim=1)


class ExtraMap(nn.Module):
    """[N, before, h, w] -> [N, after, h/2, w/2]: 1x1 to half of `after`, 3x3 depthwise, 1x1; all ReLU6."""

    def __init__(self, before: int, after: int, **settings: Any) -> None:
        super().__init__()
        half = after // 2
        self.reduce = SmallMapConv(before, half, **settings)
        self.depthwise = SmallMapConv(half, half, kernel=3, stride=2, groups=half, **settings)
        self.expand = SmallMapConv(half, after, **settings)

    def forward(self, x: Tensor) -> Tensor:
        expanded: Tensor = self.expand(self.depthwise(self.reduce(x)))
        return expanded


class Predictor(nn.Module):
    """3x3 depthwise with batch norm and ReLU6, then a 1x1 convolution with bias."""

    def __init__(self, channels: int, outputs: int, **settings: Any) -> None:
        super().__init__()
        self.depthwise = SmallMapConv(channels, channels, kernel=3, groups=channels, **settings)
        self.predict = nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        predictions: Tensor = self.predict(self.depthwise(x))
        return predictions


def _by_anchor(x: Tensor, values: int) -> Tensor:
    """[N, anchors * values, h, w] -> [N, h * w * anchors, values]"""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values)


def _init_weights(head: nn.Module) -> None:
    """Normal weights, biases 0, and batch norm as the identity (released configuration)."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=WEIGHT_DEVIATION)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
