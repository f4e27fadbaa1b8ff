"""NetSpec: a network as a table, one `BlockSpec` per row, with expansion sizes (72, 184, 672), not ratios.

A spec is a frozen value. `backbones.network.MobileNet` builds it; the `with_*` functions below derive other
networks from it: another width, output stride or tail. A built network is never changed.
"""

from __future__ import annotations

import difflib
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from itertools import accumulate
from operator import mul
from typing import Any, Literal

ACTIVATIONS = ("RE", "RE6", "HS")  # ReLU, ReLU6, h-swish: the codes of the paper's tables
PADDINGS = ("symmetric", "same")
STEM_STRIDE = 2


def make_divisible(value: float, divisor: int = 8, minimum: int | None = None) -> int:
    """The multiple of `divisor` nearest to `value`, at least `minimum` (default `divisor`) and 0.9 * value.

    Source: the channel rounding of the MobileNetV2/V3 reference code.
    """
    rounded = max(minimum or divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """One bneck row of a paper table: expand to `exp`, depthwise `kernel`, optional SE, project to `out`.

    `residual` takes effect only if the stride is 1 and the input has `out` channels. If `exp` equals the
    number of input channels, there is no expansion convolution.

    The last three fields and `kernel=0` are for MobileNetV4 (arXiv 2404.10518, section 3). Its universal
    inverted bottleneck has a depthwise convolution before the expansion, in the middle, or both:

        start_kernel  kernel  form
        0             3, 5    IB, the bneck of MobileNetV2 and V3
        3, 5          3, 5    ExtraDW; the stride is in the middle
        3, 5          0       ConvNext
        0             0       FFN: two 1x1 convolutions

    start_kernel: of the depthwise convolution before the expansion, with batch norm, without activation.
    fused: FusedIB, whose expansion is a dense convolution with `kernel` and the stride; no depthwise.
    linear: False adds an activation after the projection.
    """

    kernel: int
    exp: int
    out: int
    se: bool = False
    act: str = "RE"
    stride: int = 1
    dilation: int = 1
    residual: bool = True
    start_kernel: int = 0
    fused: bool = False
    linear: bool = True

    def __post_init__(self) -> None:
        for name in ("exp", "out", "dilation"):
            _check_int(f"block {name}", getattr(self, name), at_least=1)
        for name in ("kernel", "start_kernel"):
            _check_int(f"block {name}", size := getattr(self, name), at_least=0)
            if size and size % 2 == 0:
                raise ValueError(f"block {name} must be odd, or 0 for no such convolution, got {size}")
        if self.fused and (self.start_kernel or not self.kernel):
            raise ValueError("a fused block needs a kernel of at least 1 and start_kernel=0")
        if self.stride not in (1, 2) or self.stride > (self.kernel or self.start_kernel or 1):
            raise ValueError(f"block stride must be 1 or 2 and not exceed the kernel, got {self.stride}")
        if self.stride == 2 and self.dilation > 1:
            raise ValueError(f"a block with stride 2 cannot be dilated, got dilation {self.dilation}")
        _check_choice("block act", self.act, ACTIVATIONS)

    @property
    def strides_first(self) -> bool:
        """Whether the expansion already has the size of the output, because no later layer has the stride."""
        return self.fused or not self.kernel

    @property
    def kernels(self) -> str:
        """The kernels as text: 3x3; 5x5, 3x3 (before and after the expansion); 3x3 fused; 1x1 if neither."""
        sizes = [size for size in (self.start_kernel, self.kernel) if size] or [1]
        first_only = " first" if self.start_kernel and not self.kernel else ""
        return ", ".join(f"{size}x{size}" for size in sizes) + (" fused" if self.fused else first_only)

    def expands(self, channels_in: int) -> bool:
        """Whether a block with this input has an expansion convolution."""
        return self.fused or self.exp != channels_in

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values; those of MobileNetV4 only if they are set."""
        return _plain(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BlockSpec:
        """The inverse of `to_dict`. Raises: ValueError if a key is unknown or missing."""
        return cls(**_checked_fields(cls, data))


@dataclass(frozen=True, kw_only=True)
class SESpec:
    """Width of the squeeze and the gate after it; the activation between the two convolutions is ReLU.

    MobileNetV3: a quarter of the expansion, rounded to 8, hard sigmoid (section 5.3). MnasNet: a quarter of
    the block's *input*, truncated, sigmoid.
    """

    ratio: float = 0.25
    of: str = "exp"
    divisor: int = 8
    gate: str = "hard_sigmoid"

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(
                f"se_ratio must be in (0, 1], got {self.ratio}; for no SE set se=False in the blocks"
            )
        _check_choice("se of", self.of, ("exp", "in"))
        _check_choice("se gate", self.gate, ("hard_sigmoid", "sigmoid"))
        _check_int("se divisor", self.divisor, at_least=1)

    def squeezed(self, *, channels_in: int, exp: int) -> int:
        """Channels between the two 1x1 convolutions."""
        wide = exp if self.of == "exp" else channels_in
        if self.divisor == 1:
            return max(1, int(wide * self.ratio))
        return make_divisible(wide * self.ratio, self.divisor)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SESpec:
        """The inverse of `to_dict`. Raises: ValueError if a key is unknown or missing."""
        return cls(**_checked_fields(cls, data))


@dataclass(frozen=True, kw_only=True)
class NetSpec:
    """A whole network: 3x3 stride-2 stem, blocks, last 1x1 conv, pooling, hidden layer.

    last: channels of the last 1x1 conv (with batch norm) before pooling; 0: no such layer.
    last_act: activation of the last conv and of the hidden layer.
    hidden: units of the layer between pooling and the classifier ("NBN" in Tables 1 and 2); 0: no such layer.
    hidden_norm: whether the hidden layer has a batch norm instead of a bias, as in MobileNetV4.
    bn_momentum: torch's convention, 1 - decay; the paper's decay is 0.99 (section 6.1.1).
    skip_block: number of the last block of the stride-8 stage, if dilation hides it; 0: found by stride.
    """

    name: str
    stem: int
    blocks: tuple[BlockSpec, ...]
    last: int
    stem_act: str = "HS"
    last_act: str = "HS"
    hidden: int = 0
    se: SESpec = field(default_factory=SESpec)
    padding: str = "symmetric"
    bn_eps: float = 1e-3
    bn_momentum: float = 0.01
    dropout: float = 0.2
    skip_block: int = 0
    hidden_norm: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if not self.blocks or not all(isinstance(block, BlockSpec) for block in self.blocks):
            raise ValueError(
                "blocks must be a non-empty sequence of BlockSpec; for plain dicts use NetSpec.from_dict"
            )
        _check_int("stem", self.stem, at_least=1)
        _check_int("last", self.last, at_least=0)
        _check_int("hidden", self.hidden, at_least=0)
        _check_int("skip_block", self.skip_block, at_least=0)
        _check_choice("stem_act", self.stem_act, ACTIVATIONS)
        _check_choice("last_act", self.last_act, ACTIVATIONS)
        _check_choice("padding", self.padding, PADDINGS)
        if self.bn_eps <= 0 or not 0 < self.bn_momentum <= 1:
            raise ValueError(
                f"bn_eps must be > 0 and bn_momentum in (0, 1], got {self.bn_eps}, {self.bn_momentum}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is the fraction dropped and must be in [0, 1), got {self.dropout}")

    @property
    def block_inputs(self) -> tuple[int, ...]:
        """Input channels of each block."""
        return (self.stem, *(block.out for block in self.blocks[:-1]))

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each block's output with respect to the image."""
        return tuple(accumulate((block.stride for block in self.blocks), mul, initial=STEM_STRIDE))[1:]

    @property
    def last_feature(self) -> str:
        """The end of the network, which classifiers pool and SSDLite reads as C5."""
        return "last" if self.last else f"block{len(self.blocks)}"

    @property
    def dense_output(self) -> str:
        """The feature that a dense head reads at the end of the network (section 6.4 and the released code).

        With a hidden layer (MobileNetV3) the last 1x1 conv is the final expansion: "last". Without one (V2,
        MnasNet) it is a classifier's feature, and the dense head reads the last linear bottleneck instead.
        """
        return self.last_feature if self.hidden else f"block{len(self.blocks)}"

    @property
    def skip_feature(self) -> str:
        """The feature of LR-ASPP's skip connection: the depthwise output of the last block at stride 8.

        Bneck 6 of Large, 3 of Small, 6 of V2 (section 6.4 and the released code), at any output stride. In
        a block without a depthwise convolution in the middle it is the expansion.
        """
        return f"block{self.skip_block or self.last_block_at_stride(8)}.depthwise"

    @property
    def c4_feature(self) -> str:
        """SSDLite's C4: the expansion of the block that leads from stride 16 to 32 (section 6.3).

        Bneck 13 of Large, 9 of Small, 14 of V2. If that block's expansion already has stride 32, C4 is the
        output of the block before. Raises: ValueError if the network ends before stride 32.
        """
        if self.strides[-1] != 32:
            raise ValueError(
                f"{self.name} ends at stride {self.strides[-1]} and SSDLite needs 32: set the backbone's "
                "output_stride to 32, or set the model's c4 and c5"
            )
        number = self.last_block_at_stride(16)
        return f"block{number}" if self.blocks[number].strides_first else f"block{number + 1}.expansion"

    def last_block_at_stride(self, stride: int) -> int:
        """The paper's number (from 1) of the last block whose output has this stride."""
        numbers = [number for number, own in enumerate(self.strides, start=1) if own == stride]
        if not numbers:
            known = ", ".join(map(str, sorted(set(self.strides))))
            raise ValueError(f"{self.name} has no block with output stride {stride}; its strides are {known}")
        return numbers[-1]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, for YAML and JSON."""
        return {**_plain(self), "blocks": [block.to_dict() for block in self.blocks]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NetSpec:
        """The inverse of `to_dict`. Raises: ValueError if a key is unknown or missing."""
        values = _checked_fields(cls, data)
        values["blocks"] = tuple(BlockSpec.from_dict(block) for block in values["blocks"])
        if "se" in values:
            values["se"] = SESpec.from_dict(values["se"])
        return cls(**values)


def _plain(spec: BlockSpec | NetSpec) -> dict[str, Any]:
    # Without the fields that came with MobileNetV4, the dicts of other networks are what they were before.
    unset = {"start_kernel": 0, "fused": False, "linear": True, "hidden_norm": False}
    plain = asdict(spec)
    return {key: value for key, value in plain.items() if key not in unset or value != unset[key]}


def _check_int(name: str, value: Any, *, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name} must be an integer of at least {at_least}, got {value!r}")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _checked_fields(cls: Any, data: dict[str, Any]) -> dict[str, Any]:
    """A copy of `data`, whose keys must be fields of `cls` and include all that have no default."""
    names = [f.name for f in fields(cls)]
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in data]:
        raise ValueError(
            f"{cls.__name__} needs the key {', '.join(missing)}; got {', '.join(map(str, data))}"
        )
    for key in data:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"{cls.__name__} has no key {key!r}; did you mean {near!r}? Known: {', '.join(names)}"
            )
    return dict(data)


def with_width(spec: NetSpec, mult: float, *, shrink_last: bool = False) -> NetSpec:
    """The network with stem, outputs and last conv multiplied by `mult`, rounded to multiples of 8.

    Each expansion keeps its ratio to the block's input. What the classifier reads does not shrink: `hidden`
    stays, and without a hidden layer (V2, MnasNet) `last` only grows (MobileNetV2, section 5). With
    `shrink_last` it shrinks too, as in the detection networks of Table 6, judging by their counts.
    """
    if not 0 < mult <= 100:
        raise ValueError(f"width_mult must be positive and at most 100, got {mult}")
    if mult == 1:
        return spec
    stem = make_divisible(spec.stem * mult)
    blocks: list[BlockSpec] = []
    channels = stem
    for block, channels_in in zip(spec.blocks, spec.block_inputs, strict=True):
        exp = make_divisible(channels * block.exp / channels_in)
        channels = make_divisible(block.out * mult)
        blocks.append(replace(block, exp=exp, out=channels))
    last = make_divisible(spec.last * mult) if spec.last else 0
    if not spec.hidden and not shrink_last:
        last = max(spec.last, last)
    return replace(spec, stem=stem, blocks=tuple(blocks), last=last)


def with_output_stride(
    spec: NetSpec, output_stride: Literal[8, 16, 32], *, dilate_first: bool = False
) -> NetSpec:
    """The network with dilation instead of the strides beyond `output_stride`.

    As in the reference code, the block that loses its stride keeps the current dilation and the blocks after
    it get twice as much. dilate_first=True also dilates the block that loses its stride, as torchvision does;
    that is impossible if a block has a convolution before the one with the stride (MobileNetV4's ExtraDW).
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
    if dilate_first and any(block.start_kernel and block.kernel for block in spec.blocks):
        raise ValueError(f"{spec.name} has blocks with two depthwise convolutions: set dilate_first to false")
    _check_undilated(spec, "output stride")
    blocks: list[BlockSpec] = []
    stride, dilation = STEM_STRIDE, 1
    for block in spec.blocks:
        if stride < output_stride:
            stride *= block.stride
            blocks.append(block)
            continue
        doubled = dilation * block.stride
        blocks.append(replace(block, stride=1, dilation=doubled if dilate_first else dilation))
        dilation = doubled
    skip = spec.last_block_at_stride(8) if 8 in spec.strides else 0
    return replace(spec, blocks=tuple(blocks), skip_block=skip)


def with_reduced_tail(spec: NetSpec, *, halve_first_expansion: bool) -> NetSpec:
    """The network with half the channels from the last stride-2 block (C4 to C5) on (sections 6.3, 6.4).

    The released segmentation networks (RF2) also halve the expansion of that block: 672 -> 336. The
    detection networks (the dagger of Table 6), and RF2 for V2 as inferred from Table 7, do not: there it is
    the full-width C4.
    """
    _check_undilated(spec, "reduced tail")
    first = max((i for i, block in enumerate(spec.blocks) if block.stride == 2), default=-1)
    if first < 0:
        raise ValueError(f"{spec.name} has no block with stride 2, so there is no tail to reduce")
    tail = [replace(block, exp=block.exp // 2, out=block.out // 2) for block in spec.blocks[first:]]
    if not halve_first_expansion:
        tail[0] = replace(tail[0], exp=spec.blocks[first].exp)
    last = spec.last // 2 if spec.hidden else spec.last  # without a hidden layer it belongs to the classifier
    return replace(spec, blocks=(*spec.blocks[:first], *tail), last=last)


def _check_undilated(spec: NetSpec, what: str) -> None:
    if any(block.dilation > 1 for block in spec.blocks):
        raise ValueError(f"{spec.name} is already dilated; choose the {what} before dilating")
