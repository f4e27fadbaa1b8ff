"""Describes a network as a list of layers, each with everything that its latency depends on.

The layers are the stem, the blocks, the last convolution and the head. The head is everything that a model
does with its backbone's features, as one layer. Each layer can be built and run alone.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from backbones.blocks import ConvNormAct, InvertedResidual, Part, SqueezeExcite
from backbones.network import MobileNet
from backbones.spec import STEM_STRIDE, BlockSpec, NetSpec

KINDS = ("stem", "block", "last", "head", "neighbor", "edge")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer on one feature map: the key of a latency table.

    Attributes:
        kind: `stem`, `block`, `last`, `head`, or `neighbor` (see `deploy.latency_table.layer_timing`).
            Tables of earlier versions also have `edge`, which is no longer used.
        channels_in, exp, out: channels of the input, between the convolutions of a block, and of the output.
        squeezed: channels between the two convolutions of the squeeze-and-excite; 0 if there is none.
        gate: activation that gates the squeeze-and-excite.
        start_kernel, fused, linear: see `backbones.spec.BlockSpec`.
        height, width: size of the input.
        until: the last part of a block that is built (see `backbones.blocks.InvertedResidual`).
        head: name of the head.
        inputs: (channels, height, width) of each feature that a head reads.

    Raises:
        ValueError: if the kind is unknown, or if a size is not positive.
    """

    kind: str
    channels_in: int = 0
    exp: int = 0
    out: int = 0
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    act: str = ""
    squeezed: int = 0
    gate: str = ""
    residual: bool = False
    padding: str = "symmetric"
    until: str = "out"
    height: int = 0
    width: int = 0
    head: str = ""
    inputs: tuple[tuple[int, int, int], ...] = ()
    start_kernel: int = 0
    fused: bool = False
    linear: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a layer's kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        object.__setattr__(self, "inputs", tuple(_sizes(feature) for feature in self.inputs))
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not type(field.default) and field.name != "kind":
                raise ValueError(
                    f"{field.name} of a layer must have the type of {field.default!r}, got {value!r}"
                )
        if self.kind != "head" and min(self.channels_in, self.height, self.width) < 1:
            raise ValueError(
                f"a {self.kind} needs channels_in, height and width of at least 1, got {self.name}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, for JSON."""
        data = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {**data, "inputs": [list(size) for size in self.inputs]} if self.inputs else data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Layer:
        """The inverse of `to_dict`. Raises: ValueError for an unknown key."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"a layer has no key {unknown[0]!r}; its keys are {', '.join(sorted(known))}")
        return cls(**data)

    @property
    def expands(self) -> bool:
        """Whether a block has an expansion convolution."""
        return self.fused or self.exp != self.channels_in

    @property
    def name(self) -> str:
        """A short description for people."""
        if self.kind == "head":
            return f"head {self.head} on {', '.join('x'.join(map(str, size)) for size in self.inputs)}"
        text = f"fused {self.kind}" if self.fused else self.kind
        text += f" {self.channels_in}"
        text += f"->{self.exp}" if self.kind == "block" else ""
        text += f"->{self.out}" if self.out else ""
        text += f" k{self.start_kernel}+{self.kernel}" if self.start_kernel else f" k{self.kernel}"
        text += f" s{self.stride}" if self.stride > 1 else ""
        return text + (f" se{self.squeezed}" if self.squeezed else "") + f" @{self.height}x{self.width}"


def layers_of(
    spec: NetSpec, *, size: tuple[int, int], taps: Sequence[str] | None = None, head: str = ""
) -> list[Layer]:
    """The layers that a network of `spec` runs for an image of `size` (height, width).

    Args:
        taps: the features that are used, which determine how far the network is built (None: the last one).
        head: name of the head; "" for only the backbone.

    Raises:
        ValueError: for an unknown feature.
    """
    taps = (spec.last_feature,) if taps is None else tuple(taps)
    with torch.device("meta"):
        network = MobileNet(spec, taps=taps)
    height, width = size
    network_layers = [
        Layer(
            kind="stem",
            channels_in=3,
            out=spec.stem,
            kernel=3,
            stride=STEM_STRIDE,
            act=spec.stem_act,
            padding=_padding(spec, STEM_STRIDE),
            height=height,
            width=width,
        )
    ]
    height, width = _after(height, STEM_STRIDE), _after(width, STEM_STRIDE)
    for number, module in enumerate(network.blocks):
        block, channels_in = spec.blocks[number], spec.block_inputs[number]
        network_layers.append(
            _block(spec, block, channels_in, cast(InvertedResidual, module), (height, width))
        )
        height, width = _after(height, block.stride), _after(width, block.stride)
    if network.last is not None:
        channels = spec.blocks[-1].out
        network_layers.append(
            Layer(
                kind="last",
                channels_in=channels,
                out=spec.last,
                act=spec.last_act,
                height=height,
                width=width,
            )
        )
    if head:
        network_layers.append(Layer(kind="head", head=head, inputs=_features(network, size)))
    return network_layers


def head_name(model: nn.Module, options: Mapping[str, Any], num_classes: int) -> str:
    """The name of a head in a latency table: its class and a hash of its options.

    options: the model's configuration as plain values; its backbone and input size are ignored.
    """
    own = {key: value for key, value in options.items() if key not in ("backbone", "input_size")}
    text = json.dumps([own, num_classes], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{type(getattr(model, 'head', model)).__name__}-{digest}"


def module_of(layer: Layer) -> nn.Module:
    """A module equivalent to a stem, block or last layer, in eval mode, with random weights.

    Raises:
        ValueError: for a head, which only its model can build (`HeadOf`).
    """
    if layer.kind in ("stem", "last"):
        module: nn.Module = ConvNormAct(
            layer.channels_in,
            layer.out,
            kernel=layer.kernel,
            stride=layer.stride,
            act=layer.act,
            padding=layer.padding,
        )
    elif layer.kind == "block":
        block = BlockSpec(
            kernel=layer.kernel,
            exp=layer.exp,
            out=layer.out,
            act=layer.act,
            stride=layer.stride,
            dilation=layer.dilation,
            residual=layer.residual,
            start_kernel=layer.start_kernel,
            fused=layer.fused,
            linear=layer.linear,
        )
        net = NetSpec(name="layer", stem=layer.channels_in, blocks=(block,), last=0, padding=layer.padding)
        module = InvertedResidual(
            block, channels_in=layer.channels_in, net=net, until=cast(Part, layer.until)
        )
        if layer.squeezed:
            module.se = SqueezeExcite(layer.exp, layer.squeezed, gate=layer.gate)
    else:
        raise ValueError(f"a {layer.kind} cannot be built from its sizes alone")
    return module.eval()


class HeadOf(nn.Module):
    """The part of a model after its backbone: features, in the order of the taps -> outputs.

    Works for any model that has a `backbone` and reads images through it alone. `model` is copied.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        backbone = cast(MobileNet, model.backbone)
        self.taps = backbone.taps
        memo: dict[int, Any] = {id(backbone): _PassThrough()}
        self.model = copy.deepcopy(model, memo).eval()

    def forward(self, *features: Tensor) -> Any:
        return self.model(dict(zip(self.taps, features, strict=True)))


class _PassThrough(nn.Module):
    """Replaces the backbone: its features are the input."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return features


def _block(
    spec: NetSpec, block: BlockSpec, channels_in: int, module: InvertedResidual, size: tuple[int, int]
) -> Layer:
    whole = module.until == "out"
    squeezed = 0
    if block.se and whole:
        squeezed = spec.se.squeezed(channels_in=channels_in, exp=block.exp)
    return Layer(
        kind="block",
        channels_in=channels_in,
        exp=block.exp,
        out=block.out if whole else 0,
        kernel=block.kernel,
        stride=block.stride,
        dilation=block.dilation,
        act=block.act,
        squeezed=squeezed,
        gate=spec.se.gate if squeezed else "",
        residual=module.residual and whole,
        padding=_padding(spec, block.stride),
        until=module.until,
        height=size[0],
        width=size[1],
        start_kernel=block.start_kernel,
        fused=block.fused,
        linear=block.linear,
    )


def _padding(spec: NetSpec, stride: int) -> str:
    return spec.padding if stride > 1 else "symmetric"  # at stride 1 there is no difference


def _features(network: MobileNet, size: tuple[int, int]) -> tuple[tuple[int, int, int], ...]:
    height, width = size
    return tuple(
        (channels, -(-height // stride), -(-width // stride))
        for channels, stride in zip(network.channels.values(), network.strides.values(), strict=True)
    )


def _after(side: int, stride: int) -> int:
    return -(-side // stride)


def _sizes(feature: Sequence[int]) -> tuple[int, int, int]:
    channels, height, width = feature
    return int(channels), int(height), int(width)
