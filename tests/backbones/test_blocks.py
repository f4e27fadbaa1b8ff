"""Padding computed by hand, features inside a block, and resizing."""

import pytest
import torch
from torch import nn

from backbones.blocks import ConvNormAct, InvertedResidual, Resize, SqueezeExcite, activation
from backbones.mobilenet_v3 import mobilenet_v3_large
from backbones.spec import BlockSpec


def ones_conv(**settings):
    """A convolution that counts the pixels of the image under its window."""
    layer = ConvNormAct(1, 1, bn_eps=1e-12, **settings).eval()
    nn.init.ones_(layer.conv.weight)
    return layer


@pytest.mark.parametrize(
    ("settings", "size", "expected"),
    [
        # TensorFlow pads 3x3 stride 2 on an even size by 0 before, 1 after: windows of 3 and 2 real pixels.
        ({"kernel": 3, "stride": 2, "padding": "same"}, 4, [3, 2]),
        ({"kernel": 3, "stride": 2, "padding": "symmetric"}, 4, [2, 3]),
        ({"kernel": 3, "stride": 2, "padding": "same"}, 5, [2, 3, 2]),  # odd: 1 and 1, as symmetric
        ({"kernel": 5, "stride": 2, "padding": "same"}, 4, [4, 3]),  # 1 before, 2 after
        ({"kernel": 5, "stride": 2, "padding": "symmetric"}, 4, [3, 4]),
        ({"kernel": 3, "stride": 1, "padding": "same"}, 4, [2, 3, 3, 2]),
        ({"kernel": 3, "dilation": 2, "padding": "same"}, 4, [2, 2, 2, 2]),
        ({"kernel": 3, "stride": 2, "dilation": 2, "padding": "same"}, 4, [2, 2]),  # reach 5: 1 and 2
    ],
)
def test_padding_by_hand(settings, size, expected):
    along = torch.tensor(expected, dtype=torch.float32)
    out = ones_conv(**settings)(torch.ones(1, 1, size, size))
    torch.testing.assert_close(out[0, 0], along[:, None] * along[None, :])


def test_padding_differs_by_side():
    out = ones_conv(kernel=3, stride=2, padding="same")(torch.ones(1, 1, 4, 5))
    expected = torch.tensor([3.0, 2.0])[:, None] * torch.tensor([2.0, 3.0, 2.0])
    torch.testing.assert_close(out[0, 0], expected)


def test_squeeze_excite_by_hand():
    se = SqueezeExcite(2, 1)
    with torch.no_grad():
        se.reduce.weight.copy_(torch.tensor([1.0, 1.0]).view(1, 2, 1, 1))
        se.reduce.bias.fill_(-1)
        se.expand.weight.copy_(torch.tensor([1.0, -6.0]).view(2, 1, 1, 1))
        se.expand.bias.zero_()
    x = torch.tensor([[[[0.0, 2.0]], [[1.0, 1.0]]]])  # means 1 and 1: the squeezed value is ReLU(2 - 1) = 1
    out = se(x)
    torch.testing.assert_close(out[0, 0, 0], torch.tensor([0.0, 2.0]) * (1 + 3) / 6)  # hard sigmoid of 1
    torch.testing.assert_close(out[0, 1, 0], torch.zeros(2))  # hard sigmoid of -6
    with pytest.raises(ValueError, match="gate must be"):
        SqueezeExcite(2, 1, gate="tanh")


def test_parts_are_what_forward_goes_through():
    torch.manual_seed(0)
    spec = BlockSpec(kernel=3, exp=12, out=4, se=True, act="HS")
    block = InvertedResidual(spec, channels_in=4, net=mobilenet_v3_large()).eval()
    x = torch.randn(2, 4, 8, 8)
    expansion, depthwise, out = block.parts(x)
    torch.testing.assert_close(expansion, block.expand(x))
    torch.testing.assert_close(depthwise, block.depthwise(expansion))
    torch.testing.assert_close(out, x + block.project(block.se(depthwise)))  # stride 1 and 4 -> 4: residual
    assert torch.equal(block(x), out)


def test_residual_needs_stride_1_and_equal_channels():
    net = mobilenet_v3_large()
    for change, expected in (
        ({}, True),
        ({"stride": 2}, False),
        ({"out": 6}, False),
        ({"residual": False}, False),
    ):
        spec = BlockSpec(**({"kernel": 3, "exp": 12, "out": 4} | change))
        assert InvertedResidual(spec, channels_in=4, net=net).residual == expected


def test_no_expansion_means_the_input_is_the_expansion():
    block = InvertedResidual(BlockSpec(kernel=3, exp=4, out=4), channels_in=4, net=mobilenet_v3_large())
    x = torch.randn(1, 4, 8, 8)
    assert block.expand is None
    assert block.parts(x)[0] is x


def test_resize():
    x = torch.tensor([[[[0.0, 1.0]]]])
    torch.testing.assert_close(Resize()(x, (1, 4)).flatten(), torch.tensor([0.0, 0.25, 0.75, 1.0]))
    corners = Resize(align_corners=True)(x, (1, 4)).flatten()
    torch.testing.assert_close(corners, torch.tensor([0.0, 1 / 3, 2 / 3, 1.0]))


def test_unknown_codes():
    with pytest.raises(ValueError, match="RE, RE6 or HS"):
        activation("SW")
    with pytest.raises(ValueError, match="symmetric or same"):
        ConvNormAct(1, 1, padding="valid")
