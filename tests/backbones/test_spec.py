"""Specs as values: validation, plain dicts, and variants of a network."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbones.mnasnet import mnasnet_a1, mnasnet_small
from backbones.mobilenet_v2 import mobilenet_v2
from backbones.mobilenet_v3 import (
    mobilenet_v3_large,
    mobilenet_v3_small,
    with_hswish_from,
    with_original_last_stage,
)
from backbones.spec import (
    BlockSpec,
    NetSpec,
    SESpec,
    make_divisible,
    with_output_stride,
    with_reduced_tail,
    with_width,
)

SPECS = [
    mobilenet_v3_large(),
    mobilenet_v3_large(tail="rf2", output_stride=8, width_mult=0.75, padding="same", hswish_from=112),
    mobilenet_v3_large(last_stage="original", stem=32, minimalistic=True),
    mobilenet_v3_small(tail="dagger", se_ratio=0.5),
    mobilenet_v2(width_mult=1.4, bn_eps=1e-5),
    mnasnet_a1(width_mult=0.35),
    mnasnet_small(),
]


@pytest.mark.parametrize("spec", SPECS)
def test_plain_dict_round_trip(spec):
    plain = json.loads(json.dumps(spec.to_dict()))
    assert NetSpec.from_dict(plain) == spec


@pytest.mark.parametrize("spec", SPECS)
def test_dicts_of_earlier_networks_have_no_new_fields(spec):
    """A saved run's network file, and everything derived from it, stays what it was."""
    plain = spec.to_dict()
    assert list(plain) == [
        "name", "stem", "blocks", "last", "stem_act", "last_act", "hidden", "se", "padding", "bn_eps",
        "bn_momentum", "dropout", "skip_block",
    ]  # fmt: skip
    for block in plain["blocks"]:
        assert list(block) == ["kernel", "exp", "out", "se", "act", "stride", "dilation", "residual"]


def test_from_dict_names_the_nearest_known_key():
    plain = mobilenet_v3_small().to_dict()
    with pytest.raises(ValueError, match=r"no key 'paddin'; did you mean 'padding'"):
        NetSpec.from_dict(plain | {"paddin": "same"})
    block = BlockSpec(kernel=3, exp=8, out=8).to_dict()
    with pytest.raises(ValueError, match=r"no key 'kernel_size'; did you mean 'kernel'"):
        BlockSpec.from_dict(block | {"kernel_size": 3})
    del plain["last"]
    with pytest.raises(ValueError, match="needs the key last"):
        NetSpec.from_dict(plain)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kernel": 4}, "kernel must be odd"),
        ({"kernel": 1, "stride": 2}, "stride must be 1 or 2"),
        ({"stride": 3}, "stride must be 1 or 2"),
        ({"exp": 0}, "exp must be an integer of at least 1"),
        ({"out": 8.0}, "out must be an integer"),
        ({"act": "relu"}, "act must be one of RE, RE6, HS"),
        ({"stride": 2, "dilation": 2}, "cannot be dilated"),
    ],
)
def test_bad_block(change, says):
    with pytest.raises(ValueError, match=says):
        BlockSpec(**({"kernel": 3, "exp": 8, "out": 8} | change))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stem": 0}, "stem must be"),
        ({"blocks": ()}, "blocks must be a non-empty sequence"),
        ({"blocks": [{"kernel": 3}]}, "NetSpec.from_dict"),
        ({"padding": "valid"}, "padding must be one of symmetric, same"),
        ({"dropout": 1.0}, "dropout is the fraction dropped"),
        ({"bn_momentum": 0.0}, "bn_momentum"),
        ({"hidden": -1}, "hidden must be"),
    ],
)
def test_bad_net(change, says):
    with pytest.raises(ValueError, match=says):
        replace(mobilenet_v3_small(), **change)


def test_bad_se():
    with pytest.raises(ValueError, match="se=False"):
        SESpec(ratio=0)
    with pytest.raises(ValueError, match="gate must be one of"):
        SESpec(gate="relu")


def test_mnasnet_squeezes_to_a_quarter_of_the_input():
    assert SESpec(of="in", divisor=1).squeezed(channels_in=30, exp=180) == 7
    assert SESpec(of="in", divisor=1).squeezed(channels_in=2, exp=12) == 1
    assert SESpec().squeezed(channels_in=30, exp=72) == 24  # 18 -> 16 would lose over 10 %


@given(st.floats(1, 5000), st.sampled_from([1, 4, 8, 16]))
def test_make_divisible(value, divisor):
    rounded = make_divisible(value, divisor)
    assert rounded % divisor == 0
    assert rounded >= divisor
    assert rounded >= 0.9 * value - 1e-6
    assert abs(rounded - value) <= max(divisor, 0.1 * value)


def test_width_rounds_expansions_from_the_scaled_input():
    spec = mobilenet_v3_large(width_mult=0.75)
    assert spec.stem == 16  # 12 -> 16: rounding down to 8 would lose over 10 %
    outs = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 88, 88, 120, 120, 120]
    assert [block.out for block in spec.blocks] == outs
    # 24 * 72/24 = 72, 32 * 120/40 = 96, 64 * 200/80 = 160, 64 * 184/80 = 147.2 -> 144, 88 * 672/112 = 528
    assert [spec.blocks[i].exp for i in (2, 4, 7, 8, 12)] == [72, 96, 160, 144, 528]
    assert (spec.last, spec.hidden) == (720, 1280)


def test_width_never_shrinks_what_the_classifier_reads():
    assert [mobilenet_v2(width_mult=m).last for m in (0.35, 1.0, 1.4)] == [1280, 1280, 1792]
    assert [mobilenet_v3_small(width_mult=m).hidden for m in (0.5, 1.0, 1.25)] == [1024, 1024, 1280]
    assert mobilenet_v3_large(width_mult=1.25).hidden == 1280


def test_width_of_one_is_the_table():
    assert with_width(mobilenet_v3_large(), 1.0) == mobilenet_v3_large()
    with pytest.raises(ValueError, match="must be positive"):
        with_width(mobilenet_v3_large(), 0)


@pytest.mark.parametrize(
    ("output_stride", "dilate_first", "dilations"),
    [
        (32, False, [1] * 15),
        (16, False, [1] * 13 + [2, 2]),  # bneck 13 loses its stride and keeps rate 1
        (16, True, [1] * 12 + [2, 2, 2]),
        (8, False, [1] * 7 + [2] * 6 + [4, 4]),
        (8, True, [1] * 6 + [2] * 6 + [4, 4, 4]),
    ],
)
def test_output_stride_of_large(output_stride, dilate_first, dilations):
    spec = mobilenet_v3_large(output_stride=output_stride, dilate_first=dilate_first)
    assert [block.dilation for block in spec.blocks] == dilations
    strides = [2, 4, 4, 8, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32, 32]
    assert list(spec.strides) == [min(stride, output_stride) for stride in strides]


def test_invalid_output_strides_are_rejected():
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 12"):
        mobilenet_v3_large(output_stride=12)
    dilated = mobilenet_v3_large(output_stride=16)
    with pytest.raises(ValueError, match="already dilated"):
        with_output_stride(dilated, 8)
    with pytest.raises(ValueError, match="already dilated"):
        with_reduced_tail(dilated, halve_first_expansion=True)


def tail_of(spec, first):
    return [(block.exp, block.out) for block in spec.blocks[first - 1 :]], spec.last


def test_reduced_tails():
    # RF2 (segmentation) and the dagger (detection) differ in the first expansion, which is SSDLite's C4.
    large, small = mobilenet_v3_large, mobilenet_v3_small
    assert tail_of(large(tail="rf2"), 13) == ([(336, 80), (480, 80), (480, 80)], 480)
    assert tail_of(large(tail="dagger"), 13) == ([(672, 80), (480, 80), (480, 80)], 480)
    assert tail_of(small(tail="rf2"), 9) == ([(144, 48), (288, 48), (288, 48)], 288)
    assert tail_of(small(tail="dagger"), 9) == ([(288, 48), (288, 48), (288, 48)], 288)
    assert tail_of(mobilenet_v2(tail="rf2"), 14) == ([(576, 80), (480, 80), (480, 80), (480, 160)], 1280)
    assert large(tail="rf2").blocks[:12] == large().blocks[:12]


def test_hswish_from():
    # Table 5: "h-swish @N": N is the number of channels in the first layer with h-swish.
    assert mobilenet_v3_large(hswish_from=80) == mobilenet_v3_large()
    assert mobilenet_v3_small(hswish_from=40) == mobilenet_v3_small()
    codes = {n: [b.act for b in mobilenet_v3_large(hswish_from=n).blocks] for n in (16, 112, "none")}
    assert codes[16] == ["HS"] * 15
    assert codes[112] == ["RE"] * 10 + ["HS"] * 5
    assert codes["none"] == ["RE"] * 15
    relu = mobilenet_v3_large(hswish_from="none")
    assert (relu.stem_act, relu.last_act) == ("RE", "RE")
    with pytest.raises(ValueError, match='must be "none" or one of'):
        with_hswish_from(mobilenet_v3_large(), 100)


def test_original_last_stage():
    spec = mobilenet_v3_large(last_stage="original")
    assert spec.blocks[:15] == mobilenet_v3_large().blocks
    assert spec.blocks[15] == BlockSpec(kernel=3, exp=960, out=320, act="HS")
    assert (spec.last, spec.hidden) == (1280, 0)
    with pytest.raises(ValueError, match="already has the original last stage"):
        with_original_last_stage(mobilenet_v2())


def test_minimalistic_has_only_plain_parts():
    spec = mobilenet_v3_small(minimalistic=True)
    assert {(b.kernel, b.se, b.act) for b in spec.blocks} == {(3, False, "RE")}
    assert (spec.stem_act, spec.last_act) == ("RE", "RE")


def test_the_skip_connection_of_lraspp_is_the_released_codes():
    # The released endpoints: bneck 6 of Large (120 channels), 3 of Small (88), block 6 of V2 (192).
    for spec, block, channels in (
        (SPECS[0], 6, 120),
        (mobilenet_v3_small(), 3, 88),
        (mobilenet_v2(), 6, 192),
    ):
        for output_stride in (16, 32):
            dilated = with_output_stride(spec, output_stride)
            assert dilated.last_block_at_stride(8) == block
            assert dilated.blocks[block - 1].exp == channels
    with pytest.raises(ValueError, match="no block with output stride 64"):
        SPECS[0].last_block_at_stride(64)


def test_invalid_builder_options_are_rejected():
    with pytest.raises(ValueError, match="tail must be full, rf2 or dagger"):
        mobilenet_v3_large(tail="half")
    with pytest.raises(ValueError, match="tail must be full or rf2"):
        mobilenet_v2(tail="dagger")
    with pytest.raises(ValueError, match="last_stage must be"):
        mobilenet_v3_small(last_stage="new")
