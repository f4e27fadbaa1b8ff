"""The factorized hierarchical search space of MnasNet around a skeleton: tokens <-> NetSpec.

The skeleton's blocks are grouped into stages, and all layers of a stage share one set of choices (MnasNet,
section 4.1): kernel, expansion (1: a depthwise separable convolution), squeeze-and-excite, residual or none,
filters, layers. A NetSpec cannot describe the plain convolution and the pooling skip of the paper, so they
are left out; see docs/guides/nas.md.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from backbones.spec import BlockSpec, NetSpec, make_divisible

Tokens = tuple[int, ...]
"""An architecture: for each choice of each stage, the number of the chosen option."""

FACTORS = ("kernel", "expansion", "se", "skip", "filters", "layers")


@dataclass(frozen=True, kw_only=True)
class TokenOptions:
    """The options that one token chooses from."""

    stage: int  # from 1
    factor: str
    options: tuple[Any, ...]

    def value(self, token: Any) -> Any:
        """The option with this number.

        Raises:
            ValueError: if the number is out of range.
        """
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < len(self.options):
            raise ValueError(
                f"stage {self.stage} {self.factor}: token {token!r} must be 0 to {len(self.options) - 1}, "
                f"for {', '.join(map(str, self.options))}"
            )
        return self.options[token]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What the skeleton fixes in a stage; strides and dilations are never searched."""

    stride: int
    dilation: int
    dilation_after: int  # of the layers after the first
    act: str
    filters: int
    layers: int
    ends_at_skip: bool  # whether LR-ASPP's skip connection starts after this stage (NetSpec.skip_block)

    def blocks(self, channels: int, values: dict[str, Any]) -> tuple[BlockSpec, ...]:
        """The layers of this stage, for an input with `channels` channels."""
        blocks = []
        for number in range(values["layers"]):
            block = BlockSpec(
                kernel=values["kernel"],
                exp=values["expansion"] * channels,
                out=values["filters"],
                se=values["se"],
                act=self.act,
                stride=1 if number else self.stride,
                dilation=self.dilation_after if number else self.dilation,
                residual=values["skip"],
            )
            blocks.append(_normalized_residual(block, channels))
            channels = block.out
        return tuple(blocks)


class MnasSpace:
    """All networks that can be made from a skeleton by new choices for each stage.

    A stage is a sequence of blocks with the same output channels, kernel and SE; a stride starts a new one.
    In MobileNetV2 the stages are the seven blocks of MnasNet's Table 1. Stem, strides, dilations, activations
    and the layers after the blocks are the skeleton's.

    Some token sequences describe the same network (a stage of one layer that changes the number of channels
    has no residual): they decode to equal specs, and `encode` returns the first of them.

    Args:
        kernels: kernel sizes.
        expansions: factors on a layer's input channels.
        se: whether squeeze-and-excite is used; with both values, either.
        skip: whether residuals are used; with both values, either.
        filters: factors on the skeleton's output channels, rounded to multiples of 8.
        layers: added to the skeleton's number of layers; a stage keeps at least one.

    Raises:
        ValueError: if a list of options is empty, has duplicates, or has a value that is out of range; if the
            skeleton has blocks that only MobileNetV4 has.
    """

    def __init__(
        self,
        skeleton: NetSpec,
        *,
        kernels: Sequence[int] = (3, 5),
        expansions: Sequence[int] = (1, 3, 6),
        se: Sequence[bool] = (False, True),
        skip: Sequence[bool] = (True, False),
        filters: Sequence[float] = (0.75, 1.0, 1.25),
        layers: Sequence[int] = (-1, 0, 1),
    ) -> None:
        absolute = {"kernels": kernels, "expansions": expansions, "se": se, "skip": skip}
        for name, options in (absolute | {"filters": filters, "layers": layers}).items():
            if not options or len(set(options)) < len(options):
                raise ValueError(f"{name} must be a list of different options, got {list(options)}")
        if any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"kernels must be odd and positive, got {list(kernels)}")
        if any(factor <= 0 for factor in (*expansions, *filters)):
            raise ValueError(f"expansions and filters must be positive, got {expansions}, {filters}")
        if any(b.start_kernel or b.fused or not b.kernel or not b.linear for b in skeleton.blocks):
            raise ValueError(
                f"{skeleton.name} has blocks that this search cannot make (start_kernel, fused, kernel=0 or "
                "linear=False); start from another backbone, such as mobilenet_v3_small"
            )
        self.skeleton = replace(skeleton, name=f"{skeleton.name}_nas")
        self.stages = _stages(skeleton)
        self.choices = tuple(
            TokenOptions(stage=number, factor=factor, options=options)
            for number, stage in enumerate(self.stages, start=1)
            for factor, options in zip(
                FACTORS,
                (
                    *map(tuple, absolute.values()),
                    _distinct(make_divisible(stage.filters * factor) for factor in filters),
                    _distinct(max(1, stage.layers + more) for more in layers),
                ),
                strict=True,
            )
        )

    @property
    def num_options(self) -> tuple[int, ...]:
        """The number of options of each token."""
        return tuple(len(choice.options) for choice in self.choices)

    @property
    def size(self) -> int:
        """The number of token sequences; the number of different networks is slightly smaller."""
        return math.prod(self.num_options)

    def decode(self, tokens: Sequence[int]) -> NetSpec:
        """The network that `tokens` describe.

        Raises:
            ValueError: if there are too few or too many tokens, or one has no option with its number.
        """
        blocks: tuple[BlockSpec, ...] = ()
        channels, skip_block = self.skeleton.stem, 0
        for stage, values in zip(self.stages, self._values(tokens), strict=True):
            blocks += stage.blocks(channels, values)
            channels = blocks[-1].out
            skip_block = len(blocks) if stage.ends_at_skip else skip_block
        return replace(self.skeleton, blocks=blocks, skip_block=skip_block)

    def encode(self, spec: NetSpec) -> Tokens:
        """The first tokens that describe `spec`, ignoring its name: the inverse of `decode`.

        Raises:
            ValueError: if the network is not in the space, naming the first block that does not fit.
        """
        blocks = tuple(map(_normalized_residual, spec.blocks, spec.block_inputs))
        target = replace(spec, name=self.skeleton.name, blocks=blocks)
        for field in fields(NetSpec):
            mine, theirs = getattr(self.skeleton, field.name), getattr(target, field.name)
            if field.name not in ("blocks", "skip_block") and mine != theirs:
                raise ValueError(f"{spec.name} is not in the space: {field.name} is {theirs}, not {mine}")
        reached = [0]
        for tokens in self._tokens_of(target.blocks, reached):
            if self.decode(tokens) == target:
                return tokens
        at = min(max(reached), len(blocks) - 1)
        raise ValueError(
            f"{spec.name} is not in the space around {self.skeleton.name.removesuffix('_nas')}: no choice of "
            f"its {len(self.stages)} stages gives block {at + 1} and those after it ({blocks[at]})"
        )

    def covering(self) -> Iterator[NetSpec]:
        """A few hundred networks that together have every layer of every network in the space.

        A latency table of their layers is complete for the space. A stage's layers depend on its own choices
        and on the filters of the previous stage.
        """
        layers = FACTORS.index("layers")
        most = [max(self.num_options[at :: len(FACTORS)]) for at in range(layers)]
        filters = most[FACTORS.index("filters")]
        for *shared, shift in product(*map(range, most), range(filters)):
            tokens = []
            for stage in range(len(self.stages)):
                # Over all shifts, the filters of this stage and of the previous one take all pairs of values.
                numbers = [*shared[:-1], (shared[-1] + shift * stage) % filters]
                options = self.num_options[stage * len(FACTORS) :]
                tokens += [token % count for token, count in zip(numbers, options, strict=False)]
                tokens.append(
                    max(range(options[layers]), key=self.choices[stage * len(FACTORS) + layers].value)
                )
            yield self.decode(tokens)

    def describe(self, tokens: Sequence[int]) -> str:
        """The stages in one line, such as `3x3 e6 se 40 x3 | ...`."""
        return " | ".join(
            f"{v['kernel']}x{v['kernel']} e{v['expansion']}{' se' if v['se'] else ''}"
            f"{'' if v['skip'] else ' noskip'} {v['filters']} x{v['layers']}"
            for v in self._values(tokens)
        )

    def __str__(self) -> str:
        return (
            f"space around {self.skeleton.name.removesuffix('_nas')}: {len(self.stages)} stages, "
            f"{len(self.choices)} tokens, 10^{math.log10(self.size):.1f} sequences"
        )

    def _values(self, tokens: Sequence[int]) -> list[dict[str, Any]]:
        if len(tokens) != len(self.choices):
            raise ValueError(
                f"{len(self.choices)} tokens are needed, got {len(tokens)}: {', '.join(FACTORS)} "
                f"of each of {len(self.stages)} stages"
            )
        values = [choice.value(token) for choice, token in zip(self.choices, tokens, strict=True)]
        size = len(FACTORS)
        return [dict(zip(FACTORS, values[at : at + size], strict=True)) for at in range(0, len(values), size)]

    def _tokens_of(self, blocks: tuple[BlockSpec, ...], reached: list[int]) -> Iterator[Tokens]:
        """All tokens that give `blocks`, earlier options first; `reached` collects how many blocks fit."""
        size = len(FACTORS)

        def read(number: int, at: int, channels: int) -> Iterator[Tokens]:
            reached.append(at)
            if number == len(self.stages) or at == len(blocks):
                if number == len(self.stages) and at == len(blocks):
                    yield ()
                return
            choices, first = self.choices[number * size : (number + 1) * size], blocks[at]
            visible = {"kernel": first.kernel, "expansion": first.exp / channels, "se": first.se}
            visible["filters"] = first.out
            candidates = [
                [
                    token
                    for token, option in enumerate(choice.options)
                    if option == visible.get(choice.factor, option)
                ]
                for choice in choices
            ]
            for tokens in product(*candidates):
                values = {c.factor: c.value(token) for c, token in zip(choices, tokens, strict=True)}
                stage = self.stages[number].blocks(channels, values)
                if blocks[at : at + len(stage)] == stage:
                    yield from (tokens + rest for rest in read(number + 1, at + len(stage), stage[-1].out))

        return read(0, 0, self.skeleton.stem)


def _normalized_residual(block: BlockSpec, channels_in: int) -> BlockSpec:
    # If a residual is impossible, the flag has no effect; equal networks must have equal specs.
    possible = block.stride == 1 and channels_in == block.out
    return block if possible else replace(block, residual=True)


def _stages(spec: NetSpec) -> tuple[Stage, ...]:
    def kind(block: BlockSpec) -> tuple[int, int, bool]:
        return block.out, block.kernel, block.se

    blocks = spec.blocks
    starts = [
        i
        for i, block in enumerate(blocks)
        if i == 0 or block.stride == 2 or kind(block) != kind(blocks[i - 1]) or i == spec.skip_block
    ]
    stages = []
    for start, end in zip(starts, [*starts[1:], len(blocks)], strict=True):
        # If a stage has one layer, a second one would have the dilation of the next stage.
        after = min(start + 1, len(blocks) - 1)
        stages.append(
            Stage(
                stride=blocks[start].stride,
                dilation=blocks[start].dilation,
                dilation_after=blocks[after].dilation,
                act=blocks[start].act,
                filters=blocks[start].out,
                layers=end - start,
                ends_at_skip=end == spec.skip_block,
            )
        )
    return tuple(stages)


def _distinct(options: Iterator[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(options))
