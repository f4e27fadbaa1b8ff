"""The layers that every network here is made of; tensors are [N, C, H, W]."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.spec import BlockSpec, NetSpec, make_divisible

__all__ = [
    "ConvNormAct",
    "InvertedResidual",
    "Resize",
    "SmallMapConv",
    "SqueezeExcite",
    "activation",
    "make_divisible",
]

Part = Literal["expansion", "depthwise", "out"]


def activation(code: str) -> nn.Module:
    """The module for an activation code of the paper's tables: RE, RE6 or HS. It works in place."""
    match code:
        case "RE":
            return nn.ReLU(inplace=True)
        case "RE6":
            return nn.ReLU6(inplace=True)
        case "HS":
            return nn.Hardswish(inplace=True)
    raise ValueError(f"activation must be RE, RE6 or HS, got {code!r}")


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, activation (act=None: a linear layer).

    padding="symmetric" pads (kernel - 1) / 2 * dilation on every side. padding="same" is TensorFlow's: the
    output is ceil(size / stride), and an odd pixel of padding goes to the bottom and right. It differs only
    at stride 2, and weights trained in TensorFlow need it.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        act: str | None = None,
        padding: str = "symmetric",
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        if padding not in ("symmetric", "same"):
            raise ValueError(f"padding must be symmetric or same, got {padding!r}")
        self.pad_at_run = padding == "same" and stride > 1
        self.conv = nn.Conv2d(
            channels_in,
            channels_out,
            kernel,
            stride=stride,
            padding=0 if self.pad_at_run else (kernel - 1) // 2 * dilation,
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(channels_out, eps=bn_eps, momentum=bn_momentum)
        self.act = activation(act) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.pad_at_run:
            left, right = self._same_padding(x.shape[-1])
            top, bottom = self._same_padding(x.shape[-2])
            x = F.pad(x, (left, right, top, bottom))
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out

    def _same_padding(self, size: int) -> tuple[int, int]:
        # (ceil(size / stride) - 1) * stride + reach - size, written without a branch so that it exports
        # with a dynamic size; never negative as no kernel here is smaller than its stride.
        reach = (self.conv.kernel_size[0] - 1) * self.conv.dilation[0] + 1
        total = reach - 1 - (size - 1) % self.conv.stride[0]
        return total // 2, total - total // 2


class SmallMapConv(ConvNormAct):
    """`ConvNormAct` that can be trained on one image even if a map has a single value per channel, like the
    last one (1x1)."""

    def __init__(self, channels_in: int, channels_out: int, **settings: Any) -> None:
        super().__init__(channels_in, channels_out, **settings)
        self.bn = SmallMapNorm(channels_out, eps=self.bn.eps, momentum=self.bn.momentum)


class SmallMapNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics if a single value per channel has no variance."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


class SqueezeExcite(nn.Module):
    """x * gate(expand(ReLU(reduce(mean over H and W of x)))), with biases and no batch norm (section 5.3)."""

    def __init__(self, channels: int, squeezed: int, *, gate: str = "hard_sigmoid") -> None:
        super().__init__()
        if gate not in ("hard_sigmoid", "sigmoid"):
            raise ValueError(f"gate must be hard_sigmoid or sigmoid, got {gate!r}")
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid() if gate == "hard_sigmoid" else nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(self.expand(self.act(self.reduce(self.pool(x)))))
        return x * gate


class InvertedResidual(nn.Module):
    """One row of a paper table: expand (unless exp equals the input), depthwise, SE, linear projection.

    MobileNetV4's rows can have a depthwise convolution before the expansion (`start`), none after it, a dense
    expansion, or an activation after the projection; see `BlockSpec`.

    until: the last part that is needed; later ones are not built, and `parts` ends with it.
    """

    def __init__(self, block: BlockSpec, *, channels_in: int, net: NetSpec, until: Part = "out") -> None:
        super().__init__()
        bn: dict[str, Any] = {"bn_eps": net.bn_eps, "bn_momentum": net.bn_momentum}
        spatial: dict[str, Any] = {"dilation": block.dilation, "padding": net.padding, **bn}
        self.until = until
        self.residual = block.residual and block.stride == 1 and channels_in == block.out
        self.start = self.expand = self.depthwise = self.se = self.project = None
        if block.start_kernel:
            self.start = ConvNormAct(
                channels_in,
                channels_in,
                kernel=block.start_kernel,
                stride=1 if block.kernel else block.stride,
                groups=channels_in,
                **spatial,
            )
        if block.fused:
            dense = {"kernel": block.kernel, "stride": block.stride, **spatial}
            self.expand = ConvNormAct(channels_in, block.exp, act=block.act, **dense)
        elif block.expands(channels_in):
            self.expand = ConvNormAct(channels_in, block.exp, act=block.act, **bn)
        if until == "expansion":
            return
        if block.kernel and not block.fused:
            self.depthwise = ConvNormAct(
                block.exp,
                block.exp,
                kernel=block.kernel,
                stride=block.stride,
                groups=block.exp,
                act=block.act,
                **spatial,
            )
        if until == "depthwise":
            return
        if block.se:
            squeezed = net.se.squeezed(channels_in=channels_in, exp=block.exp)
            self.se = SqueezeExcite(block.exp, squeezed, gate=net.se.gate)
        self.project = ConvNormAct(block.exp, block.out, act=None if block.linear else block.act, **bn)

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """(expansion, depthwise, out), as far as they are built.

        The first two are outputs after batch norm and activation, depthwise before SE. Without an expansion
        convolution the expansion is its input; without a depthwise convolution so is the depthwise output.
        """
        expansion = x if self.start is None else self.start(x)
        expansion = expansion if self.expand is None else self.expand(expansion)
        if self.until == "expansion":
            return (expansion,)
        depthwise = expansion if self.depthwise is None else self.depthwise(expansion)
        if self.project is None:
            return expansion, depthwise
        out = self.project(depthwise if self.se is None else self.se(depthwise))
        return expansion, depthwise, out + x if self.residual else out

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)[-1]


class Resize(nn.Module):
    """Bilinear resize to (height, width); a module, so that `backbones.count` can count it."""

    def __init__(self, *, align_corners: bool = False) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners)
