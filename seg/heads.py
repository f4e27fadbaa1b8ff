"""Segmentation heads: the paper's LR-ASPP (section 6.4, Figure 10) and R-ASPP (MobileNetV2, section 6.3), and
a top-down decoder over several levels of features."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.blocks import ConvNormAct, Resize
from engine.data.preprocessing import Size

POOLS = ("paper", "global", "large_kernel")

# Window and stride of the gate's average pooling by output stride. 49 = (769 - 1) / 16 + 1, the size of the
# feature map of a 769 crop; (16, 20) is from Figure 10. The released networks of output stride 32 pool 25x25
# with stride (4, 5).
_PAPER_POOL = {8: (97, (32, 40)), 16: (49, (16, 20)), 32: (25, (4, 5))}


class Head(Protocol):
    """The interface of a segmentation head, an `nn.Module`: feature maps -> class scores [N, K, h, w].

    `seg.model.Segmenter` builds it with `channels` (of each feature map), `num_classes` and `output_stride`
    (of the last map). Two methods are optional: `check_input_size((height, width))` raises ValueError if the
    head cannot be trained at that size, and `auxiliary_scores(*features)` returns more class scores, for
    losses in training only.

    Attributes:
        class_layers: names of the layers whose shape depends on the classes; they have a bias.
    """

    class_layers: tuple[str, ...]

    def __call__(self, *features: Tensor) -> Tensor: ...


class GatePool(nn.Module):
    """Average pooling in front of the gate, which is similar to squeeze-and-excite.

    Args:
        kind: `paper`: the fixed window of Figure 10 (clipped to smaller maps); `global`: one value per
            channel; `large_kernel`: a window of 3/4 of the map with a stride of 1/4, which gives 2x2
            values at any size.
        output_stride: of the feature map that is pooled.
    """

    def __init__(self, *, kind: str = "paper", output_stride: int = 16) -> None:
        super().__init__()
        if kind not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {kind!r}")
        self.kind, self.output_stride = kind, output_stride

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, C, rows, columns]."""
        height, width = features.shape[-2:]
        if self.kind == "global":
            return F.adaptive_avg_pool2d(features, 1)
        if self.kind == "large_kernel":
            kernel = (math.ceil(height * 0.75), math.ceil(width * 0.75))
            return F.avg_pool2d(features, kernel, (max(height // 4, 1), max(width // 4, 1)))
        window, stride = _PAPER_POOL[self.output_stride]
        return F.avg_pool2d(features, (min(window, height), min(window, width)), stride)

    def check_input_size(self, input_size: Size) -> None:
        """Raises: ValueError if the paper's window is larger than the feature map of this input size."""
        if self.kind != "paper":
            return
        window = _PAPER_POOL[self.output_stride][0]
        side = (window - 1) * self.output_stride + 1
        rows, columns = (math.ceil(size / self.output_stride) for size in input_size)
        if min(rows, columns) < window:
            raise ValueError(
                f"pool=paper averages over {window}x{window} features and needs inputs of at least "
                f"{side}x{side}; {input_size[0]}x{input_size[1]} gives {rows}x{columns}: use "
                f"pool=large_kernel (the same idea at any size), pool=global, or a crop of {side}"
            )


class LRASPP(nn.Module):
    """Lite R-ASPP: a gated 1x1 branch at the backbone's output stride, and a skip connection at stride 8.

    The two are not concatenated: each gives class scores, which are summed.

    Args:
        channels: of the low-level (stride 8) and the high-level feature map.
        filters: F of Table 7 (128; 256 in rows 3 and 7).
        pool: see `GatePool`.
        gate: `sigmoid` (Figure 10) or `hard_sigmoid` (released code).
        gate_bias: whether the gate's convolution has a bias.
        bn_eps: 1e-5 as in DeepLab's decoder (the backbone's is 1e-3).
        align_corners: how feature maps are resized; DeepLab aligns corners, which is exact for odd sizes.
    """

    class_layers = ("low", "high")

    def __init__(
        self,
        *,
        channels: tuple[int, int],
        num_classes: int,
        output_stride: int,
        filters: int = 128,
        pool: str = "paper",
        gate: str = "sigmoid",
        gate_bias: bool = True,
        bn_eps: float = 1e-5,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        _check_filters(filters)
        if gate not in ("sigmoid", "hard_sigmoid"):
            raise ValueError(f"gate must be sigmoid or hard_sigmoid, got {gate!r}")
        low, high = channels
        self.branch = ConvNormAct(high, filters, kernel=1, act="RE", bn_eps=bn_eps)
        self.pool = GatePool(kind=pool, output_stride=output_stride)
        self.gate = nn.Conv2d(high, filters, 1, bias=gate_bias)
        self.gate_act = nn.Sigmoid() if gate == "sigmoid" else nn.Hardsigmoid()
        self.resize = Resize(align_corners=align_corners)
        self.low = nn.Conv2d(low, num_classes, 1)
        self.high = nn.Conv2d(filters, num_classes, 1)
        _init(self)

    def check_input_size(self, input_size: Size) -> None:
        self.pool.check_input_size(input_size)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low [N, C1, H/8, W/8] and high [N, C2, H/16, W/16] -> class scores [N, K, H/8, W/8]."""
        features = self.branch(high)
        gate = self.gate_act(self.gate(self.pool(high)))
        features = features * self.resize(gate, features.shape[-2:])
        scores: Tensor = self.high(self.resize(features, low.shape[-2:])) + self.low(low)
        return scores


class RASPP(nn.Module):
    """Reduced ASPP of MobileNetV2: a 1x1 branch and image pooling, concatenated; no skip connection.

    Arguments as for `LRASPP`, with one feature map; class scores have the backbone's output stride.

    Args:
        pool_norm: BatchNorm on the pooled map, as in the paper's graph.
        dropout: share of the features that are dropped before the last layer.
    """

    class_layers = ("classify",)

    def __init__(
        self,
        *,
        channels: tuple[int],
        num_classes: int,
        output_stride: int,
        filters: int = 256,
        pool: str = "paper",
        pool_norm: bool = True,
        dropout: float = 0.1,
        bn_eps: float = 1e-5,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        _check_filters(filters)
        (high,) = channels
        self.branch = ConvNormAct(high, filters, kernel=1, act="RE", bn_eps=bn_eps)
        self.pool = GatePool(kind=pool, output_stride=output_stride)
        self.image = nn.Conv2d(high, filters, 1, bias=not pool_norm)
        self.image_norm = PooledNorm(filters, eps=bn_eps, momentum=0.01) if pool_norm else nn.Identity()
        self.resize = Resize(align_corners=align_corners)
        self.project = ConvNormAct(2 * filters, filters, kernel=1, act="RE", bn_eps=bn_eps)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Conv2d(filters, num_classes, 1)
        _init(self)

    def check_input_size(self, input_size: Size) -> None:
        self.pool.check_input_size(input_size)

    def forward(self, high: Tensor) -> Tensor:
        """[N, C, H/16, W/16] -> class scores [N, K, H/16, W/16]."""
        image = F.relu(self.image_norm(self.image(self.pool(high))))
        features = torch.cat([self.resize(image, high.shape[-2:]), self.branch(high)], dim=1)
        scores: Tensor = self.classify(self.dropout(self.project(features)))
        return scores


class MultiScale(nn.Module):
    """A top-down decoder: coarse features are enlarged and added to finer ones, level by level.

    Each level is projected to a few channels, added to the enlarged level below it, and smoothed by a
    depthwise separable convolution (a light form of FPN, arXiv 1612.03144). A gate from the average of the
    coarsest map gives global context, as in LR-ASPP. With the backbone at output stride 32, its last stage
    costs a quarter of that at 16, which pays for the finer levels.

    Args:
        channels: of the feature maps, from the finest to the coarsest.
        filters: channels of each level of the decoder, in the same order.
        kernel: of the depthwise convolutions.
        auxiliary: a second classifier on the second-coarsest feature map, for a loss in training only.
        align_corners: how feature maps are resized.

    Raises:
        ValueError: if there are fewer than two feature maps, or not one number of filters for each.
    """

    class_layers = ("classify", "auxiliary.1")

    def __init__(
        self,
        *,
        channels: Sequence[int],
        num_classes: int,
        output_stride: int,
        filters: Sequence[int] = (48, 64, 96, 128),
        kernel: int = 5,
        auxiliary: bool = True,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.05,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"a multi-scale head needs at least two feature maps, got {len(channels)}")
        if len(filters) != len(channels):
            raise ValueError(
                f"filters must have one number for each of the {len(channels)} feature maps, "
                f"got {list(filters)}"
            )
        for number in filters:
            _check_filters(number)
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        self.output_stride = output_stride
        norm: dict[str, Any] = {"bn_eps": bn_eps, "bn_momentum": bn_momentum}
        self.laterals = nn.ModuleList(
            ConvNormAct(own, wanted, **norm) for own, wanted in zip(channels[:-1], filters[:-1], strict=True)
        )
        self.context = ConvNormAct(channels[-1], filters[-1], act="RE", **norm)
        self.gate = nn.Conv2d(channels[-1], filters[-1], 1)
        self.narrow = nn.ModuleList(ConvNormAct(coarse, fine, **norm) for fine, coarse in pairwise(filters))
        self.smooth = nn.ModuleList(Separable(number, kernel, **norm) for number in filters[:-1])
        self.resize = Resize(align_corners=align_corners)
        self.classify = nn.Conv2d(filters[0], num_classes, 1)
        self.auxiliary = (
            nn.Sequential(
                ConvNormAct(channels[-2], filters[-1], kernel=3, act="RE", **norm),
                nn.Conv2d(filters[-1], num_classes, 1),
            )
            if auxiliary
            else None
        )
        _init(self)
        for classifier in (self.classify, *(self.auxiliary or ())[-1:]):
            nn.init.normal_(classifier.weight, std=0.01)  # at first, all classes are about equally likely

    def check_input_size(self, input_size: Size) -> None:
        """Raises: ValueError if the coarsest feature map is a single value, which batch norm rejects."""
        if max(input_size) <= self.output_stride:
            raise ValueError(
                f"at stride {self.output_stride}, {input_size[0]}x{input_size[1]} inputs give a feature map "
                f"of a single value: use inputs of at least {2 * self.output_stride} pixels"
            )

    def forward(self, *features: Tensor) -> Tensor:
        """Feature maps from the finest [N, C1, h, w] to the coarsest -> class scores [N, K, h, w]."""
        *finer, coarsest = features
        gate = self.gate(F.adaptive_avg_pool2d(coarsest, 1)).sigmoid()
        x = self.context(coarsest) * gate
        levels = list(zip(finer, self.laterals, self.narrow, self.smooth, strict=True))
        for feature, lateral, narrow, smooth in reversed(levels):
            x = smooth(F.relu(lateral(feature) + self.resize(narrow(x), feature.shape[-2:])))
        scores: Tensor = self.classify(x)
        return scores

    def auxiliary_scores(self, *features: Tensor) -> list[Tensor]:
        """The scores [N, K, h', w'] of the auxiliary classifier, if there is one."""
        return [] if self.auxiliary is None else [self.auxiliary(features[-2])]


class Separable(nn.Sequential):
    """A depthwise and a pointwise convolution, each with batch norm and h-swish."""

    def __init__(self, channels: int, kernel: int, **norm: Any) -> None:
        super().__init__(
            ConvNormAct(channels, channels, kernel=kernel, groups=channels, act="HS", **norm),
            ConvNormAct(channels, channels, act="HS", **norm),
        )


class PooledNorm(nn.BatchNorm2d):
    """BatchNorm for pooled maps: uses running statistics if there is only one value per channel."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


def _check_filters(filters: int) -> None:
    if filters < 1:
        raise ValueError(f"filters must be at least 1, got {filters}")


def _init(head: nn.Module) -> None:
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
