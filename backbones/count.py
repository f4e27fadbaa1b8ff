"""Parameters and multiply-adds of any module, and the paper's three conventions for totals.

A weightless copy of the module runs on the meta device: nothing is computed or allocated, and the module
itself does not change.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from backbones.blocks import Resize

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
LAYERS = (nn.Conv2d, nn.Linear, *NORMS)


_OTHER_CONVENTION = (
    "The total counts only layers, as Tables 3, 6 and 9 of the paper do. Tables 7 and 8 also count "
    "resizing, the input and h-swish: see Count.cityscapes."
)


class Totals(NamedTuple):
    """Parameters and multiply-adds as a table of the paper counts them, not in millions."""

    params: int
    madds: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One call of one layer. `params` is 0 in later calls of a shared layer."""

    name: str
    kind: str
    params: int
    madds: int
    output_shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Count:
    """Parameters and multiply-adds of a module for one image.

    rows: the layers, in the order of the forward pass.
    madds: of convolutions (including depthwise and squeeze-and-excite) and fully connected layers only.
    hswish_elements, resize_elements: output elements of h-swish and of `blocks.Resize` modules.
    """

    rows: tuple[Row, ...]
    input_size: tuple[int, int]
    params: int
    params_without_bn: int
    madds: int
    hswish_elements: int
    resize_elements: int
    input_elements: int

    def classification(self) -> Totals:
        """Tables 3 and 9: all parameters, `madds` alone. The paper truncates most of the printed params.

        The 219M of Large in Table 3 is the exception: 217M by this convention (as in Table 9) plus two for
        each h-swish element.
        """
        return Totals(self.params, self.madds)

    def detection(self) -> Totals:
        """Table 6: parameters without batch norm, `madds` alone, at 320x320, 90 classes and background."""
        return Totals(self.params_without_bn, self.madds)

    def cityscapes(self, *, num_classes: int = 0) -> Totals:
        """Tables 7 and 8, whose graph was profiled at 1025x2049: all parameters; `madds`, 1 per resized and
        per input element, 2 per h-swish element.

        num_classes: channels of logits that are resized to the image outside the module; adds to the count.

        These coefficients are not published but inferred from the tables: all 11 rows of Table 7 agree within
        0.4% and the 8 MobileNetV3 rows of Table 8 within 0.7%.
        """
        height, width = self.input_size
        resized = self.resize_elements + num_classes * height * width
        return Totals(self.params, self.madds + resized + self.input_elements + 2 * self.hswish_elements)

    def table(self) -> str:
        """The layers that have parameters, as text."""
        lines = [f"{'layer':<36} {'kind':<9} {'output':>18} {'params':>12} {'madds':>15}"]
        for row in self.rows:
            shape = "x".join(map(str, row.output_shape[1:]))
            lines.append(f"{row.name:<36} {row.kind:<9} {shape:>18} {row.params:>12,} {row.madds:>15,}")
        lines.append(f"{'total':<36} {'':<9} {'':>18} {self.params:>12,} {self.madds:>15,}")
        if self.resize_elements:
            lines.append(_OTHER_CONVENTION)
        return "\n".join(lines)


def count(module: nn.Module, input_size: tuple[int, int], *, channels: int = 3) -> Count:
    """The parameters and multiply-adds of `module` for one image of input_size (height, width).

    Only layers that run in eval mode have rows, but `params` includes every parameter of the module. Products
    outside of layers (a matmul in `forward`) are not counted.

    Raises:
        ValueError: a layer with parameters is neither a convolution, linear nor a normalization, and would
            count as 0.
    """
    height, width = input_size
    if height < 1 or width < 1:
        raise ValueError(f"input_size is (height, width) in pixels, got {input_size}")
    twin = weightless(module)
    tally = _Tally()
    for name, layer in twin.named_modules():
        _check_countable(name, layer)
        layer.register_forward_hook(partial(tally.see, name))
    with torch.no_grad():
        twin(torch.empty(1, channels, height, width, device="meta"))
    params = sum(p.numel() for p in module.parameters())
    norms = [layer for layer in module.modules() if isinstance(layer, NORMS)]
    return Count(
        rows=tuple(tally.rows),
        input_size=(height, width),
        params=params,
        params_without_bn=params - sum(p.numel() for norm in norms for p in norm.parameters()),
        madds=sum(row.madds for row in tally.rows),
        hswish_elements=tally.hswish_elements,
        resize_elements=tally.resize_elements,
        input_elements=channels * height * width,
    )


class _Tally:
    """Collects the layers that the forward hooks see."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.hswish_elements = 0
        self.resize_elements = 0
        self._seen: set[int] = set()

    def see(self, name: str, layer: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(layer, nn.Hardswish):
            self.hswish_elements += output.numel()
        elif isinstance(layer, Resize):
            self.resize_elements += output.numel()
        elif isinstance(layer, LAYERS):
            new = 0 if id(layer) in self._seen else sum(p.numel() for p in layer.parameters())
            self._seen.add(id(layer))
            self.rows.append(
                Row(
                    name=name or type(layer).__name__,
                    kind=_kind(layer),
                    params=new,
                    madds=_madds(layer, output),
                    output_shape=tuple(output.shape),
                )
            )


def _madds(layer: nn.Module, output: Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        height, width = layer.kernel_size
        return output.numel() * (layer.in_channels // layer.groups) * height * width
    return output.numel() * layer.in_features if isinstance(layer, nn.Linear) else 0


def _kind(layer: nn.Module) -> str:
    if isinstance(layer, nn.Conv2d):
        return "depthwise" if 1 < layer.groups == layer.in_channels else "conv"
    return "linear" if isinstance(layer, nn.Linear) else "norm"


def _check_countable(name: str, layer: nn.Module) -> None:
    known = isinstance(layer, LAYERS)
    if not known and any(True for _ in layer.parameters(recurse=False)):
        raise ValueError(
            f"cannot count the multiply-adds of {type(layer).__name__} ({name or 'the module itself'}), only "
            "those of convolutions, fully connected layers and normalizations"
        )


def weightless(module: nn.Module) -> nn.Module:
    """A copy on the meta device, in eval mode, made without copying a weight."""
    memo: dict[int, Any] = {  # deepcopy reuses the objects in its memo
        id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in module.parameters()
    }
    memo |= {id(b): torch.empty_like(b, device="meta") for b in module.buffers()}
    return copy.deepcopy(module, memo).eval()
