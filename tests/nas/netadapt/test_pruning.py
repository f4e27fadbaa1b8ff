"""Pruning is exact: removing channels that are zero changes nothing."""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from backbones.count import count
from backbones.mnasnet import mnasnet_a1
from backbones.mobilenet_v2 import mobilenet_v2
from backbones.mobilenet_v3 import LARGE, mobilenet_v3_large, mobilenet_v3_small
from backbones.mobilenet_v4 import mobilenet_v4_medium, mobilenet_v4_small
from backbones.spec import SESpec
from cls.model import Classifier
from det.anchors.generators import Cells, SSDAnchors
from det.heads import SSDLite
from det.model import Detector
from det.panlite.head import PANLite
from engine.errors import UserError
from nas.netadapt.pruning import (
    PrunableUnit,
    channel_norms,
    largest_channels,
    prunable_units,
    prune,
    pruned_spec,
    uniform_cuts,
)
from seg.heads import LRASPP, RASPP
from seg.model import Segmenter
from tests.nas.toy_trainer import TINY, tiny_classifier, with_random_norms

SIZE = (64, 96)


def classifier(spec):
    return Classifier(backbone=spec, num_classes=5, dropout=0.0)


def segmenter(spec):
    return Segmenter(backbone=spec, head=partial(LRASPP, pool="large_kernel"), num_classes=4)


def raspp(spec):
    return Segmenter(backbone=spec, head=partial(RASPP, pool="global", dropout=0.0), num_classes=4, low=None)


def detector(spec):
    return Detector(
        backbone=spec,
        num_classes=3,
        input_size=SIZE,
        anchors=SSDAnchors(),
        head=partial(SSDLite, extras=(64, 32, 32, 16)),
    )


def panlite(spec):
    head = partial(PANLite, width=16, bins=4)
    return Detector(
        backbone=spec,
        num_classes=3,
        input_size=SIZE,
        anchors=Cells(),
        head=head,
        c3="block",
        c4="block",
        c5="block",
    )


MODELS = {
    "classifier": (classifier, mobilenet_v3_small(width_mult=0.5)),
    "segmenter": (segmenter, mobilenet_v3_large(width_mult=0.35, output_stride=16, tail="rf2")),
    "segmenter of V2": (raspp, mobilenet_v2(width_mult=0.35, output_stride=16)),
    "detector": (detector, mobilenet_v3_small(width_mult=0.5)),
    "detector without anchors": (panlite, mobilenet_v3_small(width_mult=0.5)),
    "classifier of MnasNet": (classifier, mnasnet_a1(width_mult=0.35)),
    "classifier of V4": (classifier, mobilenet_v4_small(width_mult=0.35)),
    "segmenter of V4": (segmenter, mobilenet_v4_medium(width_mult=0.25, output_stride=16)),
    "detector of V4": (detector, mobilenet_v4_small(width_mult=0.35)),
}


def silence(model, spec, unit, dead):
    """Zero the channels `dead` of a unit, in all layers that compute them."""
    state = model.state_dict()
    layers = []
    if unit.kind == "last":
        layers = ["backbone.last"]
    elif unit.kind == "expansion":
        block = f"backbone.blocks.{unit.blocks[0] - 1}"
        layers = [f"{block}.expand", f"{block}.depthwise"]
    else:
        layers = [f"backbone.blocks.{n - 1}.project" if n else "backbone.stem" for n in unit.blocks]
        # The next block's depthwise convolution before its expansion has the same channels; if it has no
        # expansion, so does the one in its middle.
        for n in unit.blocks:
            layers.append(f"backbone.blocks.{n}.start")
            if n < len(spec.blocks) and f"backbone.blocks.{n}.expand.conv.weight" not in state:
                layers.append(f"backbone.blocks.{n}.depthwise")
    for tap, head in zip(model.backbone.taps, ("0", "1"), strict=False):
        if tap in (unit.kind, f"block{unit.blocks[0] if unit.blocks else ''}.{unit.kind}"):
            # SSDLite's own depthwise layers; other heads have none.
            layers += [f"head.{kind}.{head}.depthwise" for kind in ("boxes", "scores")]
    for layer in layers:
        if f"{layer}.conv.weight" in state:
            for name in ("conv.weight", "bn.weight", "bn.bias"):
                state[f"{layer}.{name}"][dead] = 0.0
    return state


def silence_squeezed(state, smaller):
    """Zero the inner channels that the narrower squeeze-and-excites lack: their last ones."""
    for name, tensor in smaller.state_dict().items():
        if name.endswith("se.reduce.weight") and tensor.shape[0] < state[name].shape[0]:
            state[name][tensor.shape[0] :] = 0.0
            state[name.replace("weight", "bias")][tensor.shape[0] :] = 0.0


def outputs(model, images):
    with torch.no_grad():
        out = model.eval()(images)
    return out if isinstance(out, tuple) else (out,)


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("segmenter", "classifier", "classifier of V4")
        else pytest.param(name, marks=pytest.mark.weekly)
        for name in MODELS
    ],
)
def test_channels_that_are_zero_can_be_removed(name):
    make, spec = MODELS[name]
    torch.manual_seed(1)
    model = with_random_norms(make(spec))
    images = torch.randn(1, 3, *SIZE)
    units = prunable_units(spec, model.state_dict())
    expansions = [unit for unit in units if unit.kind == "expansion"]
    c4 = [unit for unit in expansions if any(f"block{unit.blocks[0]}." in tap for tap in model.backbone.taps)]
    for unit in {*expansions[::3], *c4, *(unit for unit in units if unit.kind != "expansion")}:
        fresh = copy.deepcopy(model)
        channels = max(unit.channels // 2 // 8 * 8, 4)
        while True:
            try:
                smaller_spec = pruned_spec(spec, unit, channels)
                break
            except ValueError:
                channels -= 1
        dead = torch.randperm(unit.channels)[: unit.channels - channels]
        state = silence(fresh, spec, unit, dead)
        smaller = make(smaller_spec)
        silence_squeezed(state, smaller)
        before = outputs(fresh, images)
        new_spec, pruned = prune(spec, state, unit, channels, make_model=make)
        assert new_spec == smaller_spec
        smaller.load_state_dict(pruned)
        scale = max(1.0, max(float(out.abs().max()) for out in before))
        for old, new in zip(before, outputs(smaller, images), strict=True):
            assert torch.allclose(old, new, rtol=0, atol=1e-6 * scale), unit.name


def test_units_of_the_paper_s_large_network():
    state = Classifier(backbone=LARGE, num_classes=2).state_dict()
    units = {unit.name: unit.channels for unit in prunable_units(LARGE, state)}
    # Table 1: the first row has no expansion, and residuals join rows of equal width.
    assert {name: n for name, n in units.items() if name.endswith(".out")} == {
        "stem-block1.out": 16,
        "block2-block3.out": 24,
        "block4-block6.out": 40,
        "block7-block10.out": 80,
        "block11-block12.out": 112,
        "block13-block15.out": 160,
    }
    assert [n for name, n in units.items() if name.endswith(".exp")] == [b.exp for b in LARGE.blocks[1:]]
    assert units["last"] == 960


def test_units_of_mobilenet_v4():
    spec = mobilenet_v4_small()
    state = Classifier(backbone=spec, num_classes=2).state_dict()
    units = {unit.name: unit.channels for unit in prunable_units(spec, state)}
    # Fused blocks have an expansion to cut, even the first, which is as wide as its input.
    assert [n for name, n in units.items() if name.endswith(".exp")] == [b.exp for b in spec.blocks]
    assert {name: n for name, n in units.items() if name.endswith(".out")} == {
        "stem.out": 32,
        "block1.out": 32,
        "block2.out": 64,
        "block3-block8.out": 96,
        "block9-block14.out": 128,
    }
    stem = PrunableUnit(kind="bottleneck", blocks=(0,), channels=32)
    smaller = pruned_spec(spec, stem, 24)
    assert (smaller.stem, smaller.blocks[0].exp) == (24, 32)
    # A fused expansion may become as wide as its input; there is still a convolution.
    first = PrunableUnit(kind="expansion", blocks=(1,), channels=32)
    assert pruned_spec(smaller, first, 24).blocks[0].exp == 24


def test_a_layer_that_is_not_built_is_not_a_unit():
    spec = mobilenet_v2()
    state = raspp(replace(spec, dropout=0.0)).state_dict()
    assert "last" not in {unit.name for unit in prunable_units(spec, state)}


def test_a_shared_bottleneck_is_cut_in_all_blocks_that_share_it():
    unit = PrunableUnit(kind="bottleneck", blocks=(0, 1), channels=16)
    smaller = pruned_spec(TINY, unit, 8)
    assert (smaller.stem, smaller.blocks[0].exp, smaller.blocks[0].out) == (8, 8, 8)
    assert smaller.blocks[1:] == TINY.blocks[1:]


def test_equal_widths_create_no_residual_and_remove_no_expansion():
    unit = PrunableUnit(kind="bottleneck", blocks=(4,), channels=32)
    smaller = pruned_spec(TINY, unit, 24)  # block 4 reads 24 channels and now writes 24
    assert not smaller.blocks[3].residual
    unit = PrunableUnit(kind="expansion", blocks=(4,), channels=96)
    with pytest.raises(ValueError, match="use another number of channels"):
        pruned_spec(TINY, unit, 24)


@pytest.mark.parametrize("channels", [0, 96, 104])
def test_a_unit_can_only_be_narrowed(channels):
    with pytest.raises(ValueError, match="cannot be cut"):
        pruned_spec(TINY, PrunableUnit(kind="expansion", blocks=(4,), channels=96), channels)


def test_the_largest_channels_stay_in_order():
    assert largest_channels(torch.tensor([3.0, 1.0, 5.0, 3.0, 4.0]), 3).tolist() == [0, 2, 4]
    torch.manual_seed(0)
    model = with_random_norms(tiny_classifier(TINY))
    block = model.backbone.blocks[3]
    with torch.no_grad():
        block.expand.conv.weight[::2] *= 100  # even channels matter most
    unit = PrunableUnit(kind="expansion", blocks=(4,), channels=96)
    _, state = prune(TINY, model.state_dict(), unit, 48, make_model=tiny_classifier)
    weight = state["backbone.blocks.3.expand.conv.weight"]
    assert torch.equal(weight, block.expand.conv.weight[::2])


def with_unit_scales(spec):
    """A state dict whose filters are all 0 and whose batch norms change nothing."""
    state = tiny_classifier(spec).state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.fill_(1 - spec.bn_eps)
        elif name.endswith("conv.weight"):
            tensor.zero_()
    return state


def set_norms(state, layer, norms):
    """Give the filters of a convolution these norms, by one weight each."""
    state[f"{layer}.conv.weight"].flatten(1)[:, 0] = torch.tensor(norms)


def uneven(count, *largest):
    """`count` norms between 1 and 2, without an order, and 8 at the places `largest`."""
    norms = [1 + 7 * channel % 19 / 19 for channel in range(count)]
    return [8.0 if channel in largest else norm for channel, norm in enumerate(norms)]


def test_the_norm_of_an_expanded_channel_is_that_of_both_of_its_filters_multiplied():
    """A channel can be wide in one layer and thin in the other; 3 times 8 is more than 8 times 2."""
    state = with_unit_scales(TINY)
    unit = PrunableUnit(kind="expansion", blocks=(4,), channels=96)
    expand, depthwise = uneven(96, 5, 50, 90), uneven(96, 5, 60, 91)
    set_norms(state, "backbone.blocks.3.expand", expand)
    set_norms(state, "backbone.blocks.3.depthwise", depthwise)
    state["backbone.blocks.3.depthwise.bn.weight"][7] = -20.0  # a factor; its sign does not matter
    depthwise[7] *= 20
    products = [wide * thin for wide, thin in zip(expand, depthwise, strict=True)]
    assert channel_norms(TINY, state, unit).tolist() == pytest.approx(products, rel=1e-4)
    kept = sorted(range(96), key=lambda channel: -products[channel])[:32]
    state["backbone.blocks.3.expand.bn.bias"][:] = torch.arange(96)  # marks the channels
    _, pruned = prune(TINY, state, unit, 32, make_model=tiny_classifier)
    assert pruned["backbone.blocks.3.expand.bn.bias"].tolist() == sorted(kept)


def test_a_shared_bottleneck_is_ranked_over_all_layers_that_write_it():
    """Channel 2 matters to the stem alone, channel 9 to the first block alone: both stay."""
    state = with_unit_scales(TINY)
    unit = PrunableUnit(kind="bottleneck", blocks=(0, 1), channels=16)
    stem, first = uneven(16, 2), uneven(16, 9)[::-1]
    set_norms(state, "backbone.stem", stem)
    set_norms(state, "backbone.blocks.0.project", first)
    together = [math.hypot(*pair) for pair in zip(stem, first, strict=True)]
    assert channel_norms(TINY, state, unit).tolist() == pytest.approx(together, rel=1e-4)
    state["backbone.stem.bn.bias"][:] = torch.arange(16)
    _, pruned = prune(TINY, state, unit, 8, make_model=tiny_classifier)
    kept = sorted(sorted(range(16), key=lambda channel: -together[channel])[:8])
    assert pruned["backbone.stem.bn.bias"].tolist() == kept
    alone = sorted(sorted(range(16), key=lambda channel: -stem[channel])[:8])
    assert alone != kept


def test_the_inner_channels_of_a_squeeze_and_excite_are_ranked_by_both_of_their_filters():
    """The norm of what a channel reads, its bias included, times the norm of what reads it."""
    spec = replace(TINY, se=SESpec(ratio=0.5))
    state = with_unit_scales(spec)
    set_norms(state, "backbone.blocks.2.expand", [1.0] * 72)
    set_norms(state, "backbone.blocks.2.depthwise", [1.0] * 72)
    layer = "backbone.blocks.2.se"
    inner = state[f"{layer}.reduce.bias"].shape[0]
    reads, bias, written = uneven(inner, 3), uneven(inner, 4)[::-1], uneven(inner, 5, 6)
    written[3] = 0.001  # read strongly, but hardly used
    reads[5], bias[5] = 0.001, 100.0  # only its bias counts
    for name in ("reduce.weight", "expand.weight"):
        state[f"{layer}.{name}"].zero_()
    state[f"{layer}.reduce.weight"][:, 0, 0, 0] = torch.tensor(reads)
    state[f"{layer}.reduce.bias"][:] = torch.tensor(bias)
    state[f"{layer}.expand.weight"][1, :, 0, 0] = torch.tensor(written)
    unit = PrunableUnit(kind="expansion", blocks=(3,), channels=72)
    _, pruned = prune(spec, state, unit, 32, make_model=tiny_classifier)
    norms = [math.hypot(a, b) * c for a, b, c in zip(reads, bias, written, strict=True)]
    kept = sorted(sorted(range(inner), key=lambda channel: -norms[channel])[:16])
    assert 3 not in kept
    assert 5 in kept
    assert pruned[f"{layer}.reduce.bias"].tolist() == pytest.approx([bias[channel] for channel in kept])
    assert pruned[f"{layer}.expand.weight"][1, :, 0, 0].tolist() == pytest.approx([written[c] for c in kept])
    assert pruned[f"{layer}.reduce.weight"][:, 0, 0, 0].tolist() == pytest.approx([reads[c] for c in kept])


def test_a_filter_s_scale_before_a_batch_norm_does_not_count():
    model = with_random_norms(tiny_classifier(TINY))
    unit = PrunableUnit(kind="last", blocks=(), channels=64)
    before = channel_norms(TINY, model.state_dict(), unit)
    with torch.no_grad():  # the same function: ten times the filter, a hundred times the variance
        model.backbone.last.conv.weight[3] *= 10
        variance = model.backbone.last.bn.running_var
        variance[3] = (variance[3] + TINY.bn_eps) * 100 - TINY.bn_eps
    assert torch.allclose(channel_norms(TINY, model.state_dict(), unit), before, rtol=1e-4)


def test_squeeze_and_excites_follow_the_spec_s_rule():
    spec = replace(TINY, se=SESpec(ratio=0.5))
    model = with_random_norms(tiny_classifier(spec))
    unit = PrunableUnit(kind="expansion", blocks=(3,), channels=72)
    smaller, state = prune(spec, model.state_dict(), unit, 32, make_model=tiny_classifier)
    assert state["backbone.blocks.2.se.reduce.weight"].shape[:2] == (16, 32)  # half of 32
    assert tiny_classifier(smaller).load_state_dict(state).missing_keys == []


def test_a_model_that_mixes_its_features_is_rejected():
    class Doubled(nn.Module):
        def __init__(self, spec):
            super().__init__()
            self.backbone = tiny_classifier(spec).backbone
            self.mix = nn.Linear(2 * spec.last, 1)

    state = Doubled(TINY).state_dict()
    unit = PrunableUnit(kind="last", blocks=(), channels=64)
    with pytest.raises(UserError, match=r"cannot be pruned: .*mix\.weight goes from 128 to 64"):
        prune(TINY, state, unit, 32, make_model=Doubled)


@pytest.mark.weekly
@pytest.mark.parametrize("name", MODELS)
def test_pruned_networks_can_be_trained_and_counted(name):
    make, spec = MODELS[name]
    torch.manual_seed(0)
    model = make(spec)
    state = model.state_dict()
    smaller, cuts = uniform_cuts(spec, state, 0.6)
    for unit, channels in cuts:
        spec, state = prune(spec, state, unit, channels, make_model=make)
    assert spec == smaller
    pruned = make(spec)
    pruned.load_state_dict(state)
    counted = count(pruned, SIZE)
    assert counted.params == sum(t.numel() for n, t in state.items() if n in dict(pruned.named_parameters()))
    assert counted.madds < 0.6 * count(model, SIZE).madds
    pruned.train()
    optimizer = torch.optim.SGD(pruned.parameters(), lr=1e-2)
    outs = pruned(torch.randn(2, 3, *SIZE))
    sum(out.square().mean() for out in (outs if isinstance(outs, tuple) else (outs,))).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in pruned.parameters())
    before = pruned.backbone.stem.conv.weight.clone()
    optimizer.step()
    assert not torch.equal(before, pruned.backbone.stem.conv.weight)


def test_a_width_factor_is_a_share():
    state = tiny_classifier(TINY).state_dict()
    assert uniform_cuts(TINY, state, 1.0) == (TINY, [])
    with pytest.raises(ValueError, match="factor must be in"):
        uniform_cuts(TINY, state, 1.5)


def test_the_cuts_of_half_the_width_by_hand():
    """Multiples of 8, bottlenecks first: 24 / 2 is rounded to 16, 72 / 2 to 32."""
    state = tiny_classifier(TINY).state_dict()
    smaller, cuts = uniform_cuts(TINY, state, 0.5)
    assert [(unit.name, channels) for unit, channels in cuts] == [
        ("stem-block1.out", 8),
        ("block2-block3.out", 16),
        ("block4.out", 16),
        ("block2.exp", 32),
        ("block3.exp", 32),
        ("block4.exp", 48),
        ("last", 32),
    ]
    assert (smaller.stem, smaller.last) == (8, 32)
    assert [(block.exp, block.out) for block in smaller.blocks] == [(8, 8), (32, 16), (32, 16), (48, 16)]
    assert not smaller.blocks[3].residual  # as wide as its input now, which it was not before
    _, tenths = uniform_cuts(TINY, state, 0.01, divisor=4)
    assert {channels for unit, channels in tenths if unit.kind == "bottleneck"} == {4}
    # An expansion as wide as its input (4 channels) is none: the next size is 8.
    assert {channels for unit, channels in tenths if unit.kind == "expansion"} == {8}
    for factor in (0, -0.5, 1.01):
        with pytest.raises(ValueError, match=r"factor must be in \(0, 1\]"):
            uniform_cuts(TINY, state, factor)


def test_the_pruned_weights_share_no_memory_with_the_old_ones():
    state = tiny_classifier(TINY).state_dict()
    unit = PrunableUnit(kind="last", blocks=(), channels=64)
    _, pruned = prune(TINY, state, unit, 32, make_model=tiny_classifier)
    assert all(
        pruned[name].data_ptr() != tensor.data_ptr() for name, tensor in state.items() if tensor.numel()
    )
    assert pruned.keys() == state.keys()


def test_a_model_that_would_lose_layers_is_rejected():
    def with_a_layer(spec):
        model = tiny_classifier(spec)
        if spec.last == 64:
            model.extra = nn.Linear(1, 1)
        return model

    unit = PrunableUnit(kind="last", blocks=(), channels=64)
    with pytest.raises(UserError, match=r"last cannot be cut to 32 .* gain or lose extra\.bias"):
        prune(TINY, with_a_layer(TINY).state_dict(), unit, 32, make_model=with_a_layer)


def test_units_are_named_after_their_blocks():
    def name(kind, *blocks):
        return PrunableUnit(kind=kind, blocks=blocks, channels=8).name

    assert [name("expansion", 3), name("bottleneck", 2), name("bottleneck", 0)] == [
        "block3.exp",
        "block2.out",
        "stem.out",
    ]
    assert [name("bottleneck", 0, 1, 2), name("bottleneck", 4, 5), name("last")] == [
        "stem-block2.out",
        "block4-block5.out",
        "last",
    ]
