"""What a model asks of its backbone: named features, their channels and their strides.

This project's networks are described by a `NetSpec`. Any other `nn.Module` that fits `Backbone` can stand in
their place; `backbones.external` makes such modules of the classifiers of torchvision and timm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, cast, runtime_checkable

from torch import Tensor

from backbones.network import MobileNet
from backbones.spec import NetSpec


class Backbone(Protocol):
    """An `nn.Module`: images [N, 3, H, W] -> {name: [N, C, H / stride, W / stride]}, sizes rounded up.

    Attributes:
        channels, strides: C and stride of each feature by name, from the first layer to the last.
    """

    @property
    def channels(self) -> Mapping[str, int]: ...

    @property
    def strides(self) -> Mapping[str, int]: ...

    def __call__(self, images: Tensor, /) -> dict[str, Tensor]: ...


@runtime_checkable
class Architecture(Protocol):
    """A network of which only those layers are built that some features need.

    Attributes: channels, strides: of all features it offers, as for `Backbone`.
    """

    @property
    def channels(self) -> Mapping[str, int]: ...

    @property
    def strides(self) -> Mapping[str, int]: ...

    def build(self, features: Sequence[str]) -> Backbone: ...


AnyBackbone = NetSpec | Architecture | Backbone
"""What the `backbone` of a model may be."""

FeatureRole = Literal["skip_feature", "c4_feature", "dense_output", "last_feature"]
_STRIDES = {"skip_feature": 8, "c4_feature": 16}


def build_backbone(backbone: AnyBackbone, features: Sequence[str]) -> Backbone:
    """The network that returns these features. A plain module is returned as it is, and may return more.

    Raises:
        ValueError: it has no feature of one of these names, or two of them are the same.
    """
    if isinstance(backbone, NetSpec):
        return cast(Backbone, MobileNet(backbone, taps=features))
    for name in features:
        if name not in backbone.channels:
            raise ValueError(f"{_name(backbone)} has no feature {name!r}; it has {_features(backbone)}")
    if len(set(features)) < len(features):
        raise ValueError(f"features must differ from each other, got {list(features)}")
    return backbone.build(features) if isinstance(backbone, Architecture) else backbone


def default_feature(backbone: AnyBackbone, role: FeatureRole) -> str:
    """The feature that a head reads if the configuration names none.

    An attribute of the backbone with the role's name decides. Without one, `skip_feature` (for LR-ASPP's skip
    connection) is the last feature of stride 8, `c4_feature` (SSDLite's first map) the last of stride 16, and
    `dense_output` (for segmentation heads) and `last_feature` (SSDLite's second map, and what classifiers
    pool) the last of all.

    Raises:
        ValueError: no feature has that stride.
    """
    own = getattr(backbone, role, None)
    if own is not None:
        return cast(str, own)
    strides = cast(Backbone, backbone).strides
    wanted = _STRIDES.get(role)
    names = [name for name, stride in strides.items() if wanted in (None, stride)]
    if not names:
        raise ValueError(f"{_name(backbone)} has no feature of stride {wanted}; it has {_features(backbone)}")
    return names[-1]


def conv_settings(backbone: AnyBackbone) -> dict[str, Any]:
    """Padding and batch norm of a head's convolutions, as options of `ConvNormAct`: the backbone's own.

    From a backbone that does not say, those of this project's networks.
    """
    defaults = {"padding": "symmetric", "bn_eps": 1e-3, "bn_momentum": 0.01}
    return {name: getattr(backbone, name, default) for name, default in defaults.items()}


def _name(backbone: Any) -> str:
    return str(getattr(backbone, "name", type(backbone).__name__))


def _features(backbone: Any) -> str:
    return ", ".join(
        f"{name} ({channels} channels, stride {backbone.strides[name]})"
        for name, channels in backbone.channels.items()
    )
