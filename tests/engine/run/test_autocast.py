"""Gradients in bf16 on a CPU."""

import torch
from torch import nn

from engine.runtime import Runtime


def test_the_weights_of_a_dilated_depthwise_convolution_get_the_right_gradient():
    # For an input of ones, the gradient of a kernel element is the number of positions at which it is inside
    # the image. In bf16, oneDNN gives other numbers in most of the 16 channels, or NaN.
    height, width, dilation = 24, 40, 2
    runtime = Runtime(torch.device("cpu"), precision="bf16")
    layer = runtime.place(
        nn.Conv2d(16, 16, 5, padding=2 * dilation, dilation=dilation, groups=16, bias=False)
    )
    image = torch.ones(1, 16, height, width).to(memory_format=torch.channels_last)
    with runtime.autocast():
        output = layer(image)
    output.backward(torch.ones_like(output))
    shift = dilation * (torch.arange(5) - 2).abs()
    expected = (height - shift)[:, None] * (width - shift)[None]
    torch.testing.assert_close(layer.weight.grad, expected.float().expand(16, 1, 5, 5), rtol=0.01, atol=0)


def test_other_convolutions_are_computed_in_bf16():
    runtime = Runtime(torch.device("cpu"), precision="bf16")
    image = torch.full((1, 2, 8, 8), 1 + 2**-10)  # 1 in bf16
    for layer, expected in (
        (nn.Conv2d(2, 2, 1, bias=False), 1.0),
        (nn.Conv2d(2, 2, 1, groups=2, dilation=2, bias=False), 1 + 2**-10),
    ):
        nn.init.constant_(layer.weight, 2.0**10 / layer.weight.shape[1])
        with runtime.autocast():
            output = layer(image)
        assert output.dtype == torch.bfloat16
        gradient = torch.autograd.grad(output[0, 0, 0, 0], layer.weight, torch.ones(()).bfloat16())[0]
        assert gradient[0, 0, 0, 0] == expected
