"""PANLite: an anchor-free head on a path aggregation network of depthwise separable convolutions.

The structure follows PP-PicoDet (Yu et al., 2021) and NanoDet-Plus. The parts are the path aggregation
network (Liu et al., 2018), distances as distributions (Generalized Focal Loss, Li et al., 2020) and one score
per class that also predicts the quality of the box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.blocks import SmallMapConv
from backbones.contract import AnyBackbone
from backbones.network import conv_settings, init_weights

PREDICTOR_DEVIATION = 0.01
"""Standard deviation of the initial weights of the last convolutions."""

FIRST_SCORE = 0.01
"""Score of every class at every cell before training, so that no objects are predicted at first."""

FIRST_DISTANCE = 2.5
"""Distance to each side before training, in cells. A map then starts with boxes of five cells, which gives
each map the objects of its scale."""


class PANLite(nn.Module):
    """Features of strides 8, 16 and 32 -> at each cell of each map, the distances to the sides of a box and a
    score per class.

    1x1 convolutions bring the features to one width. They are merged from the coarsest map to the finest
    (upsampled and added, then a separable convolution) and back (a separable convolution with stride 2, then
    added). On each map, separable convolutions lead to two 1x1 convolutions, for distances and for scores.

    Args:
        channels: of the backbone's features, from the finest map to the coarsest.
        num_classes: K; there is no score for background.
        anchors_per_cell: for each map, 1. If there are more maps than features, each additional map is half
            as large as the one before.
        backbone: padding and batch norm are set as in the backbone.
        width: channels of all maps.
        kernel: side of the depthwise convolutions.
        depth: separable convolutions on each map before the predictions.
        separate: whether distances and scores have their own convolutions.
        bins: logits for each distance, which is at most bins - 1 cells; see `det.boxes.DistanceCoder`.

    Raises:
        ValueError: if a number is too small, or the anchors do not match the features.
    """

    class_layers = ("scores.*",)
    background_column = False
    """Whether the first score is for background."""

    def __init__(
        self,
        *,
        channels: Sequence[int],
        num_classes: int,
        anchors_per_cell: Sequence[int],
        backbone: AnyBackbone,
        width: int = 96,
        kernel: int = 5,
        depth: int = 2,
        separate: bool = False,
        bins: int = 16,
    ) -> None:
        super().__init__()
        for name, value, least in (("width", width, 1), ("depth", depth, 0), ("bins", bins, 2)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        if set(anchors_per_cell) != {1}:
            raise ValueError(
                "PANLite predicts one box per cell; use model.anchors._target_=det.anchors.generators.Cells"
            )
        maps = len(anchors_per_cell)
        if maps < len(channels):
            raise ValueError(
                f"there are {len(channels)} features but anchors for {maps} maps; set the anchors' maps to "
                f"{len(channels)}, or more for additional maps"
            )
        settings: dict[str, Any] = {"act": "HS", **conv_settings(backbone)}

        def separable(count: int, stride: int = 1) -> nn.Sequential:
            layers = (Separable(width, kernel=kernel, stride=stride, **settings) for _ in range(count))
            return nn.Sequential(*layers)

        self.lateral = nn.ModuleList(SmallMapConv(each, width, **settings) for each in channels)
        self.top_down = nn.ModuleList(separable(1) for _ in channels[1:])
        self.bottom_up = nn.ModuleList(separable(1, stride=2) for _ in range(maps - 1))
        self.towers = nn.ModuleList(separable(depth) for _ in range(maps))
        self.box_towers = nn.ModuleList(separable(depth) for _ in range(maps if separate else 0))
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4 * bins, 1) for _ in range(maps))
        self.scores = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for _ in range(maps))
        self.num_classes = num_classes
        init_weights(self)
        _init_predictors(self.boxes, first_logits(bins) * 4)
        _init_predictors(self.scores, [math.log(FIRST_SCORE / (1 - FIRST_SCORE))] * num_classes)

    def map_sizes(self, *features: tuple[int, int]) -> list[tuple[int, int]]:
        """Sizes (height, width) of the features -> those of all maps."""
        sizes = list(features)
        while len(sizes) < len(self.boxes):
            height, width = sizes[-1]
            sizes.append((math.ceil(height / 2), math.ceil(width / 2)))
        return sizes

    def forward(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, H/8, W/8], ... -> distance logits [N, A, 4 * bins] and class scores [N, A, K], both raw.

        The A predictions are in the order of the cells: map, row, column.
        """
        maps = [lateral(x) for lateral, x in zip(self.lateral, features, strict=True)]
        for i in reversed(range(len(self.top_down))):
            above = F.interpolate(maps[i + 1], size=maps[i].shape[-2:], mode="nearest")
            maps[i] = self.top_down[i](maps[i] + above)
        for i, halve in enumerate(self.bottom_up):
            below = halve(maps[i])
            if i + 1 < len(features):
                maps[i + 1] = maps[i + 1] + below
            else:
                maps.append(below)
        for_scores = [tower(x) for tower, x in zip(self.towers, maps, strict=True)]
        for_boxes = for_scores
        if len(self.box_towers):
            for_boxes = [tower(x) for tower, x in zip(self.box_towers, maps, strict=True)]
        deltas = [_by_cell(predict(x)) for predict, x in zip(self.boxes, for_boxes, strict=True)]
        scores = [_by_cell(predict(x)) for predict, x in zip(self.scores, for_scores, strict=True)]
        return torch.cat(deltas, dim=1), torch.cat(scores, dim=1)


class Separable(nn.Module):
    """A depthwise convolution and a 1x1 convolution, each with batch norm and h-swish."""

    def __init__(self, channels: int, *, kernel: int, stride: int, **settings: Any) -> None:
        super().__init__()
        self.depthwise = SmallMapConv(
            channels, channels, kernel=kernel, stride=stride, groups=channels, **settings
        )
        self.pointwise = SmallMapConv(channels, channels, **settings)

    def forward(self, x: Tensor) -> Tensor:
        merged: Tensor = self.pointwise(self.depthwise(x))
        return merged


def first_logits(bins: int) -> list[float]:
    """Logits that fall evenly, as the logarithm of a distribution whose mean is `FIRST_DISTANCE`; with fewer
    than six bins, those of a uniform distribution, whose mean is smaller."""

    def mean(slope: float) -> float:
        shares = [math.exp(-slope * place) for place in range(bins)]
        return sum(place * share for place, share in enumerate(shares)) / sum(shares)

    flat, steep = 0.0, 5.0
    for _ in range(50):  # the steeper, the smaller the mean
        slope = (flat + steep) / 2
        flat, steep = (slope, steep) if mean(slope) > FIRST_DISTANCE else (flat, slope)
    return [-flat * place for place in range(bins)]


def _init_predictors(predictors: nn.ModuleList, biases: Sequence[float]) -> None:
    for predictor in predictors:
        nn.init.normal_(cast(Tensor, predictor.weight), std=PREDICTOR_DEVIATION)
        predictor.bias = nn.Parameter(torch.tensor(biases))


def _by_cell(x: Tensor) -> Tensor:
    """[N, values, h, w] -> [N, h * w, values]"""
    return x.flatten(2).transpose(1, 2)
