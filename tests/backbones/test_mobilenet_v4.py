"""MobileNetV4: the paper's tables row by row, its counts, its blocks' features, and dilation."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from backbones.blocks import InvertedResidual
from backbones.count import count
from backbones.mobilenet_v4 import mobilenet_v4_medium, mobilenet_v4_small
from backbones.network import MobileNet
from backbones.spec import BlockSpec, NetSpec, with_output_stride
from cls.model import Classifier

# Input, block, kernel of the first and second depthwise convolution, expanded and output channels, stride.
CONV_S = """
224^2x3   Conv2D   -   3x3 -    32   2
112^2x32  FusedIB  -   3x3 32   32   2
56^2x32   FusedIB  -   3x3 96   64   2
28^2x64   ExtraDW  5x5 5x5 192  96   2
14^2x96   IB       -   3x3 192  96   1
14^2x96   IB       -   3x3 192  96   1
14^2x96   IB       -   3x3 192  96   1
14^2x96   IB       -   3x3 192  96   1
14^2x96   ConvNext 3x3 -   384  96   1
14^2x96   ExtraDW  3x3 3x3 576  128  2
7^2x128   ExtraDW  5x5 5x5 512  128  1
7^2x128   IB       -   5x5 512  128  1
7^2x128   IB       -   5x5 384  128  1
7^2x128   IB       -   3x3 512  128  1
7^2x128   IB       -   3x3 512  128  1
7^2x128   Conv2D   -   1x1 -    960  1
7^2x960   AvgPool  -   7x7 -    960  1
1^2x960   Conv2D   -   1x1 -    1280 1
1^2x1280  Conv2D   -   1x1 -    1000 1
"""

CONV_M = """
256^2x3   Conv2D   -   3x3 -    32   2
128^2x32  FusedIB  -   3x3 128  48   2
64^2x48   ExtraDW  3x3 5x5 192  80   2
32^2x80   ExtraDW  3x3 3x3 160  80   1
32^2x80   ExtraDW  3x3 5x5 480  160  2
16^2x160  ExtraDW  3x3 3x3 640  160  1
16^2x160  ExtraDW  3x3 3x3 640  160  1
16^2x160  ExtraDW  3x3 5x5 640  160  1
16^2x160  ExtraDW  3x3 3x3 640  160  1
16^2x160  ConvNext 3x3 -   640  160  1
16^2x160  FFN      -   -   320  160  1
16^2x160  ConvNext 3x3 -   640  160  1
16^2x160  ExtraDW  5x5 5x5 960  256  2
8^2x256   ExtraDW  5x5 5x5 1024 256  1
8^2x256   ExtraDW  3x3 5x5 1024 256  1
8^2x256   ExtraDW  3x3 5x5 1024 256  1
8^2x256   FFN      -   -   1024 256  1
8^2x256   ConvNext 3x3 -   1024 256  1
8^2x256   ExtraDW  3x3 5x5 512  256  1
8^2x256   ExtraDW  5x5 5x5 1024 256  1
8^2x256   FFN      -   -   1024 256  1
8^2x256   FFN      -   -   1024 256  1
8^2x256   ConvNext 5x5 -   512  256  1
8^2x256   Conv2D   -   1x1 -    960  1
8^2x960   AvgPool  -   8x8 -    960  1
1^2x960   Conv2D   -   1x1 -    1280 1
1^2x1280  Conv2D   -   1x1 -    1000 1
"""


def kernel_of(layer):
    return "-" if layer is None else "{}x{}".format(*layer.conv.kernel_size)


def form_of(block):
    """The paper's name of a built block, judging by its layers."""
    if block.expand.conv.kernel_size != (1, 1):
        return "FusedIB"
    return {(0, 1): "IB", (1, 1): "ExtraDW", (1, 0): "ConvNext", (0, 0): "FFN"}[
        block.start is not None, block.depthwise is not None
    ]


def recorded(classifier, size):
    """Input and output shape of each module that runs on one image, on the meta device."""
    shapes = {}
    for name, module in classifier.named_modules():
        module.register_forward_hook(
            lambda _, inputs, output, name=name: shapes.update({name: (inputs[0].shape, output)})
        )
    classifier(torch.empty(1, 3, size, size, device="meta"))
    return shapes


def size_text(shape):
    return f"{shape[2]}^2x{shape[1]}" if len(shape) == 4 else f"1^2x{shape[1]}"


@pytest.mark.parametrize(
    ("spec", "table", "size"),
    [(mobilenet_v4_small(), CONV_S, 224), (mobilenet_v4_medium(), CONV_M, 256)],
    ids=["small", "medium"],
)
def test_every_layer_is_the_papers_row(spec, table, size):
    with torch.device("meta"):
        classifier = Classifier(backbone=spec, num_classes=1000).eval()
    shapes = recorded(classifier, size)
    net = classifier.backbone
    rows = [line.split() for line in table.strip().splitlines()]
    assert len(rows) == len(net.blocks) + 5
    for i, (block, row) in enumerate(zip(net.blocks, rows[1:-4], strict=True)):
        size_in, form, first, second, exp, out, stride = row
        entry = "start" if block.start else "expand"
        assert size_text(shapes[f"backbone.blocks.{i}.{entry}"][0]) == size_in
        assert form_of(block) == form
        assert kernel_of(block.start) == first
        assert kernel_of(block.expand if form == "FusedIB" else block.depthwise) == second
        assert block.expand.conv.out_channels == int(exp)
        out_shape = shapes[f"backbone.blocks.{i}.project"][1].shape
        assert out_shape[1] == int(out)
        assert int(size_in.partition("^")[0]) == int(stride) * out_shape[2]
        for depthwise in (block.start, block.depthwise):
            assert depthwise is None or depthwise.conv.groups == depthwise.conv.in_channels
        assert block.expand.conv.groups == 1
        assert type(block.expand.act) is nn.ReLU
        assert block.start is None or type(block.start.act) is nn.Identity
        assert block.residual == (stride == "1")  # in these tables every such row keeps its width
    for name, row in zip(("stem", "last"), (rows[0], rows[-4]), strict=True):
        assert size_text(shapes[f"backbone.{name}"][0]) == row[0]
        assert shapes[f"backbone.{name}"][1].shape[1] == int(row[5])
    assert [size_text(shapes[name][0]) for name in ("pool", "hidden", "classifier")] == [
        row[0] for row in rows[-3:]
    ]
    assert classifier.hidden.conv.bias is None
    assert isinstance(classifier.hidden.bn, nn.BatchNorm2d)
    assert type(classifier.hidden.act) is nn.ReLU


def test_only_the_fused_blocks_of_small_have_an_activation_at_the_end():
    acts = [type(block.project.act) for block in MobileNet(mobilenet_v4_small()).blocks]
    assert acts == [nn.ReLU] * 2 + [nn.Identity] * 12
    assert all(type(b.project.act) is nn.Identity for b in MobileNet(mobilenet_v4_medium()).blocks)


@pytest.mark.parametrize(
    ("spec", "size", "millions", "billions"),
    [
        (mobilenet_v4_small(), 224, 3.8, 0.2),  # Table 5 of the paper, and timm's model card
        # timm's model card. Table 5 prints 9.2 and 1.0, less than the rows of the table above add up to.
        (mobilenet_v4_medium(), 256, 9.7, 1.1),
    ],
)
def test_published_counts(spec, size, millions, billions):
    with torch.device("meta"):
        counted = count(Classifier(backbone=spec, num_classes=1000), (size, size))
    assert (round(counted.params / 1e6, 1), round(counted.madds / 1e9, 1)) == (millions, billions)


def test_the_features_of_heads():
    small, medium = mobilenet_v4_small(), mobilenet_v4_medium()
    roles = ("skip_feature", "c4_feature", "dense_output", "last_feature")
    features = {spec.name: [getattr(spec, role) for role in roles] for spec in (small, medium)}
    assert features == {
        "mobilenet_v4_small": ["block2.depthwise", "block9.expansion", "last", "last"],
        "mobilenet_v4_medium": ["block3.depthwise", "block12.expansion", "last", "last"],
    }
    # At stride 8, 16 and 32; Small's stride-8 stage ends with a fused block, whose wide map has 96 channels.
    net = MobileNet(small, features[small.name][:3])
    assert list(net.channels.values()) == [96, 576, 960]
    assert list(net.strides.values()) == [8, 16, 32]
    assert list(MobileNet(medium, features[medium.name][:3]).channels.values()) == [160, 960, 960]


def test_every_feature_has_the_stated_shape():
    spec = mobilenet_v4_medium(width_mult=0.25)
    taps = [f"block{i}{part}" for i in (1, 2, 4, 9, 10) for part in ("", ".expansion", ".depthwise")]
    with torch.device("meta"):
        net = MobileNet(spec, taps)
    for tap, feature in net(torch.empty(1, 3, 64, 128, device="meta")).items():
        assert feature.shape == (1, net.channels[tap], 64 // net.strides[tap], 128 // net.strides[tap])


@pytest.mark.parametrize(
    "tap", ["block1.expansion", "block1.depthwise", "block8.depthwise", "block3.expansion"]
)
def test_a_network_ends_with_its_deepest_feature(tap):
    torch.manual_seed(0)
    spec = mobilenet_v4_small(width_mult=0.35)
    whole, part = MobileNet(spec, (tap, "last")).eval(), MobileNet(spec, (tap,)).eval()
    part.load_state_dict(whole.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(part(images)[tap], whole(images)[tap])
    assert part.blocks[-1].project is None


def spec_of(**block):
    return NetSpec(name="one", stem=8, last=0, blocks=(BlockSpec(**{"exp": 16, "out": 8, **block}),))


def test_an_extra_depthwise_block_by_hand():
    """x + project(relu(mid(relu(expand(start(x)))))), each with a batch norm."""
    torch.manual_seed(0)
    spec = spec_of(kernel=3, start_kernel=5)
    block = InvertedResidual(spec.blocks[0], channels_in=8, net=spec).eval()
    x = torch.randn(2, 8, 6, 5)
    y = nn.functional.conv2d(x, block.start.conv.weight, padding=2, groups=8)
    y = block.start.bn(y)
    y = block.expand.bn(nn.functional.conv2d(y, block.expand.conv.weight)).relu()
    y = block.depthwise.bn(nn.functional.conv2d(y, block.depthwise.conv.weight, padding=1, groups=16)).relu()
    y = block.project.bn(nn.functional.conv2d(y, block.project.conv.weight))
    torch.testing.assert_close(block(x), x + y)


def test_the_stride_is_in_the_last_depthwise_convolution_that_exists():
    def strides(**block):
        spec = spec_of(stride=2, **block)
        built = InvertedResidual(spec.blocks[0], channels_in=8, net=spec)
        layers = (built.start, built.expand, built.depthwise)
        return [None if layer is None else layer.conv.stride[0] for layer in layers]

    assert strides(kernel=3, start_kernel=5) == [1, 1, 2]
    assert strides(kernel=0, start_kernel=5) == [2, 1, None]
    assert strides(kernel=3, fused=True) == [None, 2, None]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kernel": 0, "stride": 2}, "not exceed the kernel"),
        ({"kernel": -1}, "kernel must be an integer of at least 0"),
        ({"kernel": 3, "start_kernel": 4}, "start_kernel must be odd"),
        ({"kernel": 3, "start_kernel": 3, "fused": True}, "a fused block needs"),
        ({"kernel": 0, "fused": True}, "a fused block needs"),
    ],
)
def test_blocks_that_cannot_exist(change, says):
    with pytest.raises(ValueError, match=says):
        BlockSpec(exp=8, out=8, **change)


def test_kernels_as_text():
    texts = [spec.blocks[i].kernels for spec, i in ((mobilenet_v4_small(), i) for i in (0, 2, 3, 7))]
    assert texts == ["3x3 fused", "5x5, 5x5", "3x3", "3x3 first"]
    assert mobilenet_v4_medium().blocks[9].kernels == "1x1"


def test_c4_is_the_input_of_a_block_that_strides_before_it_expands():
    spec = mobilenet_v4_small()
    fused = replace(spec.blocks[8], start_kernel=0, fused=True)
    spec = replace(spec, blocks=(*spec.blocks[:8], fused, *spec.blocks[9:]))
    assert spec.c4_feature == "block8"
    assert MobileNet(spec, ("block8", "block9.expansion")).strides == {"block8": 16, "block9.expansion": 32}


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_computes_the_same_values_in_between(output_stride):
    """Every second (fourth) value of the dilated network is a value of the network with strides."""
    torch.manual_seed(0)
    spec = mobilenet_v4_small(width_mult=0.25)
    dilated_spec = with_output_stride(spec, output_stride)
    assert dilated_spec.skip_feature == spec.skip_feature
    net, dilated = MobileNet(spec).eval(), MobileNet(dilated_spec).eval()
    dilated.load_state_dict(net.state_dict())
    images = torch.randn(1, 3, 128, 192)
    step = 32 // output_stride
    between = dilated(images)["last"][:, :, ::step, ::step]
    torch.testing.assert_close(between, net(images)["last"], rtol=1e-4, atol=1e-5)


def test_torchvisions_dilation_is_refused():
    with pytest.raises(ValueError, match="set dilate_first to false"):
        with_output_stride(mobilenet_v4_small(), 16, dilate_first=True)


def test_width_and_tail():
    half = mobilenet_v4_small(width_mult=0.5)
    assert (half.stem, half.last, half.hidden) == (32, 480, 1280)
    assert [block.out for block in half.blocks] == [16, 32, *[48] * 6, *[64] * 6]
    assert [block.exp for block in half.blocks[:4]] == [16, 48, 96, 96]
    assert mobilenet_v4_small(width_mult=2).stem == 64
    tail = mobilenet_v4_small(tail="rf2")
    assert [(b.exp, b.out) for b in tail.blocks[7:10]] == [(384, 96), (288, 64), (256, 64)]
    assert mobilenet_v4_small(tail="dagger").blocks[8].exp == 576
    assert tail.last == 480
    with pytest.raises(ValueError, match="tail must be full, rf2 or dagger"):
        mobilenet_v4_medium(tail="half")


def test_dicts_have_the_fields_of_v4_only_where_they_are_set():
    plain = mobilenet_v4_small().to_dict()
    assert plain["hidden_norm"] is True
    assert plain["blocks"][0] == {
        "kernel": 3, "exp": 32, "out": 32, "se": False, "act": "RE", "stride": 2, "dilation": 1,
        "residual": True, "fused": True, "linear": False,
    }  # fmt: skip
    assert "fused" not in plain["blocks"][3]
    for spec in (mobilenet_v4_small(), mobilenet_v4_medium(width_mult=0.75, output_stride=8)):
        assert NetSpec.from_dict(spec.to_dict()) == spec


def test_one_image_can_be_trained_with_the_norm_of_the_hidden_layer():
    """A 1x1 map of one image has no variance: the running statistics are used, and do not change."""
    torch.manual_seed(0)
    model = Classifier(backbone=mobilenet_v4_small(width_mult=0.25), num_classes=3).train()
    before = model.hidden.bn.running_var.clone()
    model(torch.randn(1, 3, 64, 64)).sum().backward()
    assert torch.equal(model.hidden.bn.running_var, before)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert not torch.equal(model.hidden.bn.running_var, before)
