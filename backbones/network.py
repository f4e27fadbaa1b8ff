"""MobileNet, the network of a `NetSpec`; functions to build any backbone and choose its features."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from backbones.blocks import ConvNormAct, InvertedResidual, Part
from backbones.contract import AnyBackbone, Architecture, Backbone, FeatureRole
from backbones.spec import STEM_STRIDE, NetSpec

PARTS: tuple[Part, ...] = ("expansion", "depthwise", "out")
_ROLE_STRIDES = {"skip_feature": 8, "c4_feature": 16}


class MobileNet(nn.Module):
    """The network of a spec, built as far as its deepest tap.

    Features: "stem", "block{i}" (the paper's bneck number, from 1), "block{i}.expansion" and
    "block{i}.depthwise" (after batch norm and activation, before SE), and "last" (the 1x1 conv before
    pooling). In a block without a depthwise convolution in the middle, the two are the same.

    Args:
        taps: the features that `forward` returns.

    forward: images [N, 3, H, W] -> {tap: [N, channels[tap], H / strides[tap], W / strides[tap]]}, sizes
    rounded up, in the order of `taps`.

    Raises:
        ValueError: a feature is unknown, or named twice.
    """

    def __init__(self, spec: NetSpec, taps: Sequence[str] = ("last",)) -> None:
        super().__init__()
        self.spec = spec
        self.taps = _checked(taps, spec)
        depth, until = max(_position(tap, spec) for tap in self.taps)
        bn: dict[str, Any] = {"bn_eps": spec.bn_eps, "bn_momentum": spec.bn_momentum}
        self.stem = ConvNormAct(
            3, spec.stem, kernel=3, stride=STEM_STRIDE, act=spec.stem_act, padding=spec.padding, **bn
        )
        self.blocks = nn.ModuleList(
            InvertedResidual(
                block, channels_in=channels, net=spec, until=PARTS[until] if i == depth else "out"
            )
            for i, (block, channels) in enumerate(zip(spec.blocks, spec.block_inputs, strict=True), start=1)
            if i <= depth
        )
        self.last = None
        if depth > len(spec.blocks):
            self.last = ConvNormAct(spec.blocks[-1].out, spec.last, act=spec.last_act, **bn)
        shapes = {tap: _channels_and_stride(tap, spec) for tap in self.taps}
        self.channels = {tap: channels for tap, (channels, _) in shapes.items()}
        self.strides = {tap: stride for tap, (_, stride) in shapes.items()}
        init_weights(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(images)
        features = {"stem": x} if "stem" in self.taps else {}
        for i, module in enumerate(self.blocks, start=1):
            parts = cast(InvertedResidual, module).parts(x)
            x = parts[-1]
            for part, feature in zip(PARTS, parts, strict=False):
                if (tap := _tap(i, part)) in self.taps:  # the others are not kept alive
                    features[tap] = feature
        if self.last is not None:
            features["last"] = self.last(x)
        return {tap: features[tap] for tap in self.taps}


def build_backbone(backbone: AnyBackbone, features: Sequence[str]) -> Backbone:
    """The network that returns these features. A plain module is returned unchanged and can return more.

    Raises:
        ValueError: a feature is unknown, or named twice.
    """
    if isinstance(backbone, NetSpec):
        return cast(Backbone, MobileNet(backbone, taps=features))
    for name in features:
        if name not in backbone.channels:
            raise ValueError(
                f"{_name(backbone)} has no feature {name!r}; it has {_listed_features(backbone)}"
            )
    if len(set(features)) < len(features):
        raise ValueError(f"features must differ from each other, got {list(features)}")
    return backbone.build(features) if isinstance(backbone, Architecture) else backbone


def default_feature(backbone: AnyBackbone, role: FeatureRole) -> str:
    """The feature that a head reads if the configuration names none.

    A backbone can set it with an attribute that has the role's name. Otherwise `skip_feature` (for LR-ASPP's
    skip connection) is the last feature of stride 8, `c4_feature` (SSDLite's first map) the last of stride
    16, and `dense_output` (for segmentation heads) and `last_feature` (SSDLite's second map, and the map that
    classifiers pool) the last of all.

    Raises:
        ValueError: no feature has that stride.
    """
    own = getattr(backbone, role, None)
    if own is not None:
        return cast(str, own)
    strides = cast(Backbone, backbone).strides
    wanted = _ROLE_STRIDES.get(role)
    return list(strides)[-1] if wanted is None else feature_at_stride(backbone, wanted)


def feature_at_stride(backbone: AnyBackbone, stride: int) -> str:
    """The last feature of this stride; of a `NetSpec`, the output of the last block with it.

    Raises:
        ValueError: no feature has that stride.
    """
    if isinstance(backbone, NetSpec):
        if stride > backbone.strides[-1]:
            raise ValueError(
                f"{backbone.name} ends at stride {backbone.strides[-1]} and the head reads stride {stride}: "
                f"set the backbone's output_stride to {stride}, or the model's features"
            )
        return f"block{backbone.last_block_at_stride(stride)}"
    names = [name for name, own in backbone.strides.items() if own == stride]
    if not names:
        raise ValueError(
            f"{_name(backbone)} has no feature of stride {stride}; it has {_listed_features(backbone)}"
        )
    return names[-1]


def conv_settings(backbone: AnyBackbone) -> dict[str, Any]:
    """Padding and batch norm options of `ConvNormAct` for a head: those of its backbone.

    If the backbone does not define an option, the default of this project's networks.
    """
    defaults = {"padding": "symmetric", "bn_eps": 1e-3, "bn_momentum": 0.01}
    return {name: getattr(backbone, name, default) for name, default in defaults.items()}


def init_weights(module: nn.Module) -> None:
    """Draw initial weights as the reference code's `training_scope` does.

    Convolutions: normal with standard deviation 0.09, truncated at two standard deviations. Fully connected
    layers: N(0, 0.01). Batch norm starts as the identity, biases at 0.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.trunc_normal_(part.weight, std=0.09, a=-0.18, b=0.18)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.01)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)


def _tap(block: int, part: Part) -> str:
    return f"block{block}" if part == "out" else f"block{block}.{part}"


def _checked(taps: Sequence[str], spec: NetSpec) -> tuple[str, ...]:
    if isinstance(taps, str) or not taps:
        raise ValueError(f'taps must be a non-empty list of feature names such as ("last",), got {taps!r}')
    last = ["last"] if spec.last else []
    known = ["stem", *(_tap(i, part) for i in range(1, len(spec.blocks) + 1) for part in PARTS), *last]
    for tap in taps:
        if tap not in known:
            raise ValueError(
                f"{spec.name} has no feature {tap!r}; it has stem, block1..block{len(spec.blocks)}, "
                f"each also with .expansion or .depthwise{', last' if last else ''}"
            )
    if len(set(taps)) < len(taps):
        raise ValueError(f"taps must differ from each other, got {list(taps)}")
    return tuple(taps)


def _position(tap: str, spec: NetSpec) -> tuple[int, int]:
    """(block number, index of the part); 0 for the stem, one past the blocks for the last conv."""
    if tap == "stem":
        return 0, 0
    if tap == "last":
        return len(spec.blocks) + 1, 0
    match = cast(re.Match[str], re.fullmatch(r"block(\d+)(?:\.(\w+))?", tap))
    return int(match[1]), PARTS.index(cast(Part, match[2] or "out"))


def _channels_and_stride(tap: str, spec: NetSpec) -> tuple[int, int]:
    number, part = _position(tap, spec)
    if tap == "stem":
        return spec.stem, STEM_STRIDE
    if tap == "last":
        return spec.last, spec.strides[-1]
    block, stride = spec.blocks[number - 1], spec.strides[number - 1]
    if PARTS[part] == "out":
        return block.out, stride
    # The stride is usually the depthwise convolution's: the expansion has the size of the block's input.
    before_stride = PARTS[part] == "expansion" and not block.strides_first
    return block.exp, stride // block.stride if before_stride else stride


def _name(backbone: Any) -> str:
    return str(getattr(backbone, "name", type(backbone).__name__))


def _listed_features(backbone: Any) -> str:
    return ", ".join(
        f"{name} ({channels} channels, stride {backbone.strides[name]})"
        for name, channels in backbone.channels.items()
    )
