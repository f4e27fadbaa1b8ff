"""The feature maps of any convolutional network, measured on the meta device; dilation instead of strides."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from backbones.count import weightless

_SIDE = 256
"""Side of the input at which strides are measured; large enough that stride 32 leaves several pixels."""


class FeatureMap(NamedTuple):
    channels: int
    stride: int


def feature_maps(network: nn.Module, name: str) -> dict[str, FeatureMap]:
    """The modules whose output is a map [N, C, H / stride, W / stride], in the order in which they finish.

    Raises:
        ValueError: the network called `name` does not run at the size of the measurement, or has no maps.
    """
    maps: dict[str, FeatureMap] = {}

    def see(module: str, _layer: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and (stride := stride_of(output)):
            maps.pop(module, None)  # a module that runs twice counts at its last call
            maps[module] = FeatureMap(output.shape[1], stride)

    twin = weightless(network)
    for module, layer in twin.named_modules():
        if module:
            layer.register_forward_hook(partial(see, module))
    try:
        run_weightless(twin)
    except (AssertionError, RuntimeError) as error:  # such as vision transformers
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name} does not run on {_SIDE}x{_SIDE} inputs ({reason})") from None
    if not maps:
        raise ValueError(f"{name} has no feature maps of stride 1 to 32; choose a convolutional network")
    return maps


def run_weightless(network: nn.Module) -> Any:
    """The outputs of a network on the meta device, for the input at which `stride_of` measures."""
    with torch.no_grad():
        return network(torch.empty(1, 3, _SIDE, _SIDE, device="meta"))


def stride_of(feature: Tensor) -> int:
    """The stride of an output of `run_weightless`: 1, 2, 4, 8, 16 or 32; 0 for any other size."""
    height, width = feature.shape[-2:]
    return _SIDE // height if height == width and height in (256, 128, 64, 32, 16, 8) else 0


def dilate(network: nn.Module, output_stride: int) -> None:
    """Change the convolutions of a network so that strides beyond `output_stride` become dilation.

    As in the reference code and torchvision's `replace_stride_with_dilation`, a convolution is dilated by as
    much as its input is larger than without dilation, so the one that loses its stride is not dilated yet.
    """
    strides: dict[str, tuple[int, int]] = {}

    def see(module: str, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        strides[module] = (stride_of(inputs[0]), stride_of(output))

    twin = weightless(network)
    for module, layer in twin.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(partial(see, module))
    run_weightless(twin)
    for module, layer in network.named_modules():
        before, after = strides.get(module, (0, 0))
        if isinstance(layer, nn.Conv2d) and before and after > output_stride:
            dilation = max(1, before // output_stride)
            if max(layer.kernel_size) > 1:
                layer.dilation = tuple(dilation * own for own in layer.dilation)
                if not isinstance(layer.padding, str):
                    layer.padding = tuple(dilation * own for own in layer.padding)
            layer.stride = (max(1, output_stride // before),) * 2
