"""What every network can do: any size, gradients, features, export, compile, meta device."""

import math

import pytest
import torch

from backbones.mnasnet import mnasnet_a1, mnasnet_small
from backbones.mobilenet_v2 import mobilenet_v2
from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from backbones.network import MobileNet, feature_at_stride

BUILDERS = [mobilenet_v3_large, mobilenet_v3_small, mobilenet_v2, mnasnet_a1, mnasnet_small]


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_any_size(build, padding):
    spec = build(padding=padding, output_stride=16)
    with torch.device("meta"):
        net = MobileNet(spec, ("stem", "block3.depthwise", "last"))
    for height, width in ((32, 32), (33, 65), (97, 129), (1025, 2049)):
        features = net(torch.empty(1, 3, height, width, device="meta"))
        for tap, feature in features.items():
            stride = net.strides[tap]
            size = (math.ceil(height / stride), math.ceil(width / stride))
            assert feature.shape == (1, net.channels[tap], *size)


@pytest.mark.parametrize("build", BUILDERS)
def test_every_parameter_gets_a_gradient(build):
    torch.manual_seed(0)
    net = MobileNet(build()).train()
    net(torch.randn(4, 3, 64, 64))["last"].square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("taps", "deepest", "absent"),
    [
        (("stem",), "stem", "blocks.0"),
        (("block4", "stem"), "blocks.3.project", "blocks.4"),
        (("stem", "block4.expansion"), "blocks.3.expand", "blocks.3.depthwise"),
        (("block4.depthwise",), "blocks.3.depthwise", "blocks.3.se"),
    ],
)
def test_nothing_is_built_beyond_the_deepest_tap(taps, deepest, absent):
    net = MobileNet(mobilenet_v3_large(), taps).train()
    modules = dict(net.named_modules())
    assert deepest in modules
    assert absent not in modules
    assert net.last is None
    features = net(torch.randn(2, 3, 64, 64))
    assert tuple(features) == taps
    sum(feature.mean() for feature in features.values()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_reading_features_does_not_change_them():
    spec = mobilenet_v3_small()
    net = MobileNet(spec, ("block3.expansion", "block3.depthwise", "block3", "last")).eval()
    alone = MobileNet(spec).eval()
    alone.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 64, 64)
    features = net(x)
    assert torch.equal(features["last"], alone(x)["last"])
    block = net.blocks[2]
    # No activation in place has run over a tapped feature: recomputed from each other, they agree.
    torch.testing.assert_close(block.depthwise(features["block3.expansion"]), features["block3.depthwise"])
    assert features["block3.expansion"].min() >= 0


@pytest.mark.parametrize(
    ("taps", "says"),
    [
        (("block16",), r"has no feature 'block16'; it has stem, block1..block15"),
        (("block3.project",), "has no feature"),
        (("block0",), "has no feature"),
        (("block03",), "has no feature"),
        ((), "non-empty"),
        ("last", "non-empty list"),
        (("last", "last"), "differ from each other"),
    ],
)
def test_bad_taps(taps, says):
    with pytest.raises(ValueError, match=says):
        MobileNet(mobilenet_v3_large(), taps)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_export_with_dynamic_size(padding):
    spec = mobilenet_v3_small(output_stride=16, padding=padding)
    net = MobileNet(spec, ("block3.depthwise", "last")).eval()
    sides = {2: torch.export.Dim("h", min=33, max=512), 3: torch.export.Dim("w", min=33, max=512)}
    dynamic = {0: torch.export.Dim("n", max=8), **sides}
    program = torch.export.export(net, (torch.randn(2, 3, 64, 96),), dynamic_shapes={"images": dynamic})
    for shape in ((1, 3, 65, 47), (3, 3, 96, 64)):
        x = torch.randn(shape)
        for name, feature in program.module()(x).items():
            torch.testing.assert_close(feature, net(x)[name])


def test_compiles_without_a_graph_break():
    net = MobileNet(mobilenet_v3_small(), ("block3.depthwise", "last")).eval()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    x = torch.randn(1, 3, 64, 64)
    for name, feature in compiled(x).items():
        torch.testing.assert_close(feature, net(x)[name])


def test_initial_weights_are_those_of_the_reference_code():
    torch.manual_seed(0)
    net = MobileNet(mobilenet_v3_large())
    weight = net.last.conv.weight
    assert weight.abs().max() <= 0.18  # cut at two deviations
    assert weight.std().item() == pytest.approx(0.09 * 0.880, rel=0.01)  # deviation of a normal cut at two
    assert net.blocks[3].se.reduce.bias.abs().max() == 0
    assert (net.stem.bn.eps, net.stem.bn.momentum) == (1e-3, 0.01)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (mobilenet_v3_large(), {4: "block3", 8: "block6", 16: "block12", 32: "block15"}),
        (mobilenet_v3_small(), {4: "block1", 8: "block3", 16: "block8", 32: "block11"}),
        (mobilenet_v3_small(output_stride=16), {8: "block3", 16: "block11"}),
    ],
)
def test_the_last_block_of_each_stride(spec, expected):
    """Tables 1 and 2; with output stride 16 the blocks after the last stride are dilated."""
    assert {stride: feature_at_stride(spec, stride) for stride in expected} == expected


def test_a_stride_beyond_the_network_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="ends at stride 16 and the head reads stride 32: set the backbone"):
        feature_at_stride(mobilenet_v3_large(output_stride=16), 32)
