"""Backbones of torchvision and timm: any of their convolutional classifiers, with named features.

A feature is the output of one of the network's modules and has its name: `layer2`, `features.3`, `blocks.1`.
Weights are never downloaded here: `weights=` loads them when training starts (docs/guides/weights.md).
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from backbones.count import weightless
from backbones.feature_maps import FeatureMap, dilate, feature_maps, run_weightless, stride_of

OutputStride = Literal[8, 16, 32]
Extract = Callable[[nn.Module, dict[str, str]], nn.Module]


def torchvision_features(
    *,
    name: str,
    features: Sequence[str] | None = None,
    output_stride: OutputStride = 32,
    bn_momentum: float | None = None,
) -> ExternalNetwork:
    """A classifier of torchvision.

    Args:
        name: torchvision's, such as `resnet18`, `mobilenet_v3_small` or `regnet_y_400mf`.
        features: modules whose outputs heads can read, from the first to the last. By default, the last
            module of each stride among the first two levels.
        output_stride: strides beyond it become dilation.
        bn_momentum: of all batch norms, torch's convention; None: the network's own.

    Raises:
        ValueError: the network or module does not exist, or the network cannot be dilated.
    """
    from torchvision import models  # takes a second to import
    from torchvision.models.feature_extraction import create_feature_extractor

    _check_name(name, models.list_models(models), "torchvision")
    with torch.device("cpu"):  # some builders compute sizes with tensors, which fails on the meta device
        classifier = models.get_model(name, weights=None)
    return ExternalNetwork(
        classifier,
        create_feature_extractor,
        name=name,
        features=features,
        output_stride=output_stride,
        bn_momentum=bn_momentum,
    )


def timm_features(
    *,
    name: str,
    features: Sequence[str] | None = None,
    output_stride: OutputStride = 32,
    bn_momentum: float | None = None,
) -> ExternalNetwork:
    """A classifier of timm, which is an extra: pip install -e '.[timm]'.

    Args:
        name: timm's, such as `mobilenetv3_small_050` or `efficientnet_b0`.
        features, output_stride, bn_momentum: as for `torchvision_features`.

    Raises:
        ValueError: timm is not installed, the network or module does not exist, or the network cannot be
            dilated.
    """
    try:
        import timm
        from timm.models import create_feature_extractor
    except ImportError:
        raise ValueError("timm is not installed; pip install -e '.[timm]'") from None
    _check_name(name, timm.list_models(), "timm")
    with torch.device("cpu"):
        classifier = timm.create_model(name, pretrained=False)
    return ExternalNetwork(
        classifier,
        create_feature_extractor,
        name=name,
        features=features,
        output_stride=output_stride,
        bn_momentum=bn_momentum,
    )


class ExternalNetwork:
    """A classifier from another library; `build` makes the backbone with the features that a head reads.

    Args:
        extract: (classifier, {module: feature}) -> a module that returns {feature: tensor} and has no other
            layers, such as torchvision's `create_feature_extractor`.
        features, output_stride, bn_momentum: as for `torchvision_features`.

    Attributes:
        channels, strides: of each feature, from the first to the last.
    """

    def __init__(
        self,
        classifier: nn.Module,
        extract: Extract,
        *,
        name: str,
        features: Sequence[str] | None = None,
        output_stride: OutputStride = 32,
        bn_momentum: float | None = None,
    ) -> None:
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
        if bn_momentum is not None and not 0 < bn_momentum <= 1:
            raise ValueError(f"bn_momentum must be in (0, 1], got {bn_momentum}")
        self.name = name
        self._classifier, self._extract = classifier, extract
        maps = feature_maps(classifier, name)
        chosen = _one_per_stride(maps) if features is None else _named(features, maps, name)
        self._undilated = {feature: maps[feature].stride for feature in chosen}
        self.channels = {feature: maps[feature].channels for feature in chosen}
        self.strides = {feature: min(stride, output_stride) for feature, stride in self._undilated.items()}
        dilate(classifier, output_stride)
        if bn_momentum is not None:
            self.bn_momentum = bn_momentum  # a head's batch norms take it too
            for module in classifier.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.momentum = bn_momentum

    @property
    def skip_feature(self) -> str:
        """The last feature that has stride 8 without dilation. Raises: ValueError if there is none."""
        return self._last_at(8)

    @property
    def c4_feature(self) -> str:
        """The last feature of stride 16. Raises: ValueError if the network ends before stride 32."""
        last = list(self.strides.values())[-1]
        if last != 32:
            raise ValueError(
                f"{self.name} ends at stride {last} and SSDLite needs 32: set the backbone's output_stride "
                "to 32, or set the model's c4 and c5"
            )
        return self._last_at(16)

    def build(self, features: Sequence[str]) -> ExternalBackbone:
        """The layers that these features need. All backbones built from this network share its weights.

        Raises:
            ValueError: the network cannot run at the output stride.
        """
        network = self._extract(self._classifier, {feature: feature for feature in features})
        try:
            maps = run_weightless(weightless(network))
        except RuntimeError:  # the branches of a block have different sizes
            maps = {}
        for feature in features:
            if feature not in maps or stride_of(maps[feature]) != self.strides[feature]:
                raise ValueError(
                    f"{self.name} cannot be dilated to output_stride {max(self.strides.values())}; "
                    f"set it to {max(self._undilated.values())}"
                )
        return ExternalBackbone(
            network,
            name=self.name,
            channels={feature: self.channels[feature] for feature in features},
            strides={feature: self.strides[feature] for feature in features},
            whole=self._classifier.state_dict().keys(),
        )

    def _last_at(self, stride: int) -> str:
        names = [name for name, own in self._undilated.items() if own == stride]
        if not names:
            known = ", ".join(f"{name} (stride {own})" for name, own in self._undilated.items())
            raise ValueError(f"{self.name} has no feature of stride {stride}; it has {known}")
        return names[-1]


class ExternalBackbone(nn.Module):
    """The layers of a classifier that some of its features need.

    Args:
        network: images -> {feature: tensor}.
        whole: names of the tensors of the whole classifier; `network` has some of them.

    forward: see `backbones.contract.Backbone`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        channels: Mapping[str, int],
        strides: Mapping[str, int],
        whole: Collection[str],
    ) -> None:
        super().__init__()
        self.name, self.channels, self.strides = name, dict(channels), dict(strides)
        self.network = network
        self._left_out = set(whole) - network.state_dict().keys()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features: dict[str, Tensor] = self.network(images)
        return features

    def __deepcopy__(self, memo: dict[int, Any]) -> ExternalBackbone:
        twin: ExternalBackbone = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)
        twin.network.train(self.network.training)  # torchvision's extractor copies itself in training mode
        for copied, own in zip(twin.network.modules(), self.network.modules(), strict=True):
            copied.training = own.training
        return twin

    def adapt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the state dict of the whole classifier, with its library's names, for `load_state_dict`.

        Layers that this backbone does not have are left out.
        """
        return {f"network.{key}": tensor for key, tensor in state.items() if key not in self._left_out}


def _check_name(name: str, known: Collection[str], library: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"name={name}: {library} has no such network{meant}")


def _one_per_stride(maps: Mapping[str, FeatureMap]) -> list[str]:
    """The last module of each stride among the first two levels."""
    last = {own.stride: module for module, own in maps.items() if module.count(".") < 2}
    return list(last.values())


def _named(features: Sequence[str], maps: Mapping[str, FeatureMap], name: str) -> list[str]:
    for feature in features:
        if feature not in maps:
            some = ", ".join(
                f"{module} ({maps[module].channels} channels, stride {maps[module].stride})"
                for module in _one_per_stride(maps)
            )
            raise ValueError(f"features: {name} has no feature {feature!r}; among others it has {some}")
    return [module for module in maps if module in features]
