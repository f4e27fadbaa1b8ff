"""The interface between a model and its backbone: named features, their channels and their strides.

This project's networks are described by a `NetSpec`. Any other `nn.Module` that fits `Backbone` works too;
`backbones.external` makes such modules from the classifiers of torchvision and timm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

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
    """A network that builds only the layers that the requested features need.

    Attributes: channels, strides: of all features it offers, as for `Backbone`.
    """

    @property
    def channels(self) -> Mapping[str, int]: ...

    @property
    def strides(self) -> Mapping[str, int]: ...

    def build(self, features: Sequence[str]) -> Backbone: ...


AnyBackbone = NetSpec | Architecture | Backbone
"""The types that a model accepts as its `backbone`."""

FeatureRole = Literal["skip_feature", "c4_feature", "dense_output", "last_feature"]
"""The features that a head can ask for by their role; see `backbones.network.default_feature`."""
