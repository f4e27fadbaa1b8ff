"""The search space of MnasNet: tokens and networks translate into each other, for every architecture."""

import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones import mnasnet
from backbones.mobilenet_v2 import mobilenet_v2
from backbones.mobilenet_v3 import LARGE, SMALL, mobilenet_v3_large, mobilenet_v3_small
from backbones.mobilenet_v4 import mobilenet_v4_small
from backbones.network import MobileNet
from backbones.spec import BlockSpec, NetSpec, with_output_stride, with_width
from nas.mnas.space import FACTORS, MnasSpace

SKELETONS = [
    mobilenet_v2(),
    mobilenet_v2(width_mult=0.35, output_stride=16),
    mnasnet.A1,
    mnasnet.SMALL,
    LARGE,
    SMALL,
    mobilenet_v3_small(output_stride=16),
    mobilenet_v3_large(output_stride=8, tail="rf2"),
    mobilenet_v3_small(output_stride=16, dilate_first=True, width_mult=0.5),
]
UNDILATED = [skeleton for skeleton in SKELETONS if max(b.dilation for b in skeleton.blocks) == 1]
SPACES = [MnasSpace(skeleton) for skeleton in SKELETONS]


@st.composite
def architectures(draw: st.DrawFn) -> tuple[MnasSpace, tuple[int, ...]]:
    space = draw(st.sampled_from(SPACES))
    return space, tuple(draw(st.integers(0, count - 1)) for count in space.num_options)


@given(architectures())
@settings(max_examples=300, deadline=None)
def test_tokens_and_networks_translate_into_each_other(drawn: tuple[MnasSpace, tuple[int, ...]]) -> None:
    space, tokens = drawn
    spec = space.decode(tokens)
    first = space.encode(spec)
    assert space.decode(first) == spec
    assert space.encode(space.decode(first)) == first
    assert first <= tokens  # the first of those that describe it
    assert NetSpec.from_dict(spec.to_dict()) == spec


@given(architectures())
@settings(max_examples=100, deadline=None)
def test_every_network_has_the_skeleton_s_fixed_parts(drawn: tuple[MnasSpace, tuple[int, ...]]) -> None:
    space, tokens = drawn
    skeleton, spec = space.skeleton, space.decode(tokens)
    assert spec.strides[-1] == skeleton.strides[-1]
    assert sorted(set(spec.strides)) == sorted(set(skeleton.strides))
    assert {b.dilation for b in spec.blocks} <= {b.dilation for b in skeleton.blocks}
    assert (spec.stem, spec.last, spec.hidden) == (skeleton.stem, skeleton.last, skeleton.hidden)
    assert spec.skip_feature.endswith(".depthwise")


@pytest.mark.parametrize("skeleton", UNDILATED, ids=lambda s: s.name)
def test_the_output_stride_can_be_set_before_or_after(skeleton: NetSpec) -> None:
    for output_stride, number in product((8, 16), (0, 1)):
        tokens = [number % count for count in MnasSpace(skeleton).num_options]
        after = with_output_stride(MnasSpace(skeleton).decode(tokens), output_stride)
        assert MnasSpace(with_output_stride(skeleton, output_stride)).decode(tokens) == after


def test_v2_has_the_seven_blocks_of_mnasnet() -> None:
    # MobileNetV2, Table 2: (t, c, n, s) rows; the paper varies their c and n.
    stages = MnasSpace(mobilenet_v2()).stages
    assert [(s.filters, s.layers) for s in stages] == [
        *((16, 1), (24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1))
    ]


def test_mnasnet_a1_as_tokens() -> None:
    # MnasNet, Figure 7: SepConv 16 x1, MBConv6 24 x2, MBConv3 5x5 SE 40 x3, MBConv6 80 x4, MBConv6 SE 112
    # x2, MBConv6 5x5 SE 160 x3, MBConv6 320 x1.
    space = MnasSpace(mnasnet.A1)
    tokens = space.encode(mnasnet.A1)
    assert space.describe(tokens) == (
        "3x3 e1 16 x1 | 3x3 e6 24 x2 | 5x5 e3 se 40 x3 | 3x3 e6 80 x4 | 3x3 e6 se 112 x2 | "
        "5x5 e6 se 160 x3 | 3x3 e6 320 x1"
    )
    assert replace(space.decode(tokens), name="mnasnet_a1").blocks[1:] == mnasnet.A1.blocks[1:]


def test_size_is_stated() -> None:
    # By hand: kernel 2, expansion 3, se 2, skip 2 in seven stages; filters 16 and 24 have two different
    # values after rounding, the others three; stages of one layer have two lengths, the others three.
    space = MnasSpace(mobilenet_v2())
    assert space.size == 24**7 * (2 * 2 * 3**5) * (2 * 3 * 3**4 * 2)
    assert "10^15.6 sequences" in str(space)
    # The paper's 432 per block is 4 operations x 2 kernels x 2 SE x 3 skips x 3 filters x 3 lengths: of the
    # operations a plain convolution is missing here, of the skips pooling.
    assert math.prod(space.num_options[2 * len(FACTORS) : 3 * len(FACTORS)]) == 432 * 3 // 4 * 2 // 3


def test_a_small_space_is_counted_whole() -> None:
    blocks = (BlockSpec(kernel=3, exp=16, out=16), BlockSpec(kernel=3, exp=48, out=32, stride=2))
    space = MnasSpace(NetSpec(name="two", stem=16, blocks=blocks, last=0), kernels=(3,), filters=(1.0, 2.0))
    sequences = set(product(*map(range, space.num_options)))
    networks = {space.decode(tokens) for tokens in sequences}
    assert len(sequences) == space.size
    assert {space.encode(spec) for spec in networks} <= sequences
    # A stage of one layer without a possible residual is the same network with and without skip.
    assert len(networks) < len(sequences)


def test_an_impossible_residual_makes_no_difference() -> None:
    space = MnasSpace(SMALL)
    names = [(c.stage, c.factor) for c in space.choices]
    tokens = [0] * len(names)  # the second stage has one layer, of stride 2
    other = list(tokens)
    other[names.index((2, "skip"))] = 1
    assert space.decode(tokens) == space.decode(other)
    tokens[names.index((2, "layers"))] = other[names.index((2, "layers"))] = 1
    assert space.decode(tokens) != space.decode(other)


def test_invalid_tokens_are_named() -> None:
    space = MnasSpace(mobilenet_v2())
    tokens = [0] * 42
    tokens[2 * 6 + 4] = 3
    with pytest.raises(ValueError, match=r"stage 3 filters: token 3 must be 0 to 2, for 24, 32, 40"):
        space.decode(tokens)
    with pytest.raises(ValueError, match=r"stage 1 kernel: token True must be 0 to 1"):
        space.decode([True] * 42)
    with pytest.raises(ValueError, match=r"42 tokens are needed, got 3: kernel, .* of each of 7 stages"):
        space.decode([0, 0, 0])


def test_networks_outside_the_space_are_rejected() -> None:
    # NetAdapt cut Large's expansions: 64 of 16 is a factor of 4.
    with pytest.raises(ValueError, match=r"mobilenet_v3_large is not in the space.*block 2 .*exp=64"):
        MnasSpace(LARGE).encode(LARGE)
    with pytest.raises(ValueError, match="stem is 16, not 32"):
        MnasSpace(mobilenet_v2()).encode(SMALL)
    with pytest.raises(ValueError, match="mobilenet_v4_small has blocks that this search cannot make"):
        MnasSpace(mobilenet_v4_small())
    narrow = MnasSpace(LARGE, expansions=(4,)).decode([0] * 36)
    assert MnasSpace(LARGE, expansions=(1, 4)).encode(narrow)[1] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": ()}, "kernels must be a list of different options"),
        ({"filters": (1.0, 1.0)}, "filters must be a list of different options"),
        ({"kernels": (3, 4)}, "kernels must be odd"),
        ({"expansions": (0, 6)}, "expansions and filters must be positive"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MnasSpace(SMALL, **options)


@given(architectures())
@settings(max_examples=60, deadline=None)
def test_covering_networks_have_every_layer(drawn: tuple[MnasSpace, tuple[int, ...]]) -> None:
    space, tokens = drawn
    known = _covered(SPACES.index(space))
    assert set(_layers(space.decode(tokens))) <= known


_COVERED: dict[int, set] = {}


def _covered(number: int) -> set:
    if number not in _COVERED:
        networks = list(SPACES[number].covering())
        assert len(networks) <= 216
        _COVERED[number] = {layer for spec in networks for layer in _layers(spec)}
    return _COVERED[number]


def _layers(spec: NetSpec) -> list[tuple]:
    inputs = (2, *spec.strides[:-1])
    return list(zip(inputs, spec.block_inputs, spec.blocks, strict=True))


def test_networks_at_the_corners_of_the_space_can_be_built() -> None:
    space = MnasSpace(with_width(SMALL, 0.35))
    for token in (0, 1, 2):
        spec = space.decode([min(token, count - 1) for count in space.num_options])
        network = MobileNet(spec, taps=(spec.skip_feature, "last"))
        assert sum(p.numel() for p in network.parameters()) > 0
