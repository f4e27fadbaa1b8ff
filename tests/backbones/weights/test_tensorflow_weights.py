"""The authors' frozen graphs: names, layouts and gates, against outputs of their own graphs and by hand."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from backbones.mobilenet_v2 import mobilenet_v2
from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from backbones.spec import BlockSpec, NetSpec
from cls.model import Classifier
from engine.run.checkpoint import read_weights
from seg.heads import LRASPP, RASPP
from seg.model import Segmenter
from tests.backbones.weights.tensorflow_graphs import made_up, made_up_image, outputs_of, write_released

AUTHORS_GATE = partial(LRASPP, gate="hard_sigmoid")


def segmenter(spec, head=AUTHORS_GATE, num_classes=19, **options):
    return Segmenter(backbone=spec, head=head, num_classes=num_classes, **options)


def classifier(spec, num_classes=1001):
    return Classifier(backbone=spec, num_classes=num_classes)


def released(model, path):
    """The model with the weights of a released file, as `init_from` loads them."""
    model.load_state_dict(model.adapt(read_weights(path)))  # strict
    return model.eval()


@torch.inference_mode()
def outputs(model, image):
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float()
    scores = model((pixels - 127.5) / 127.5)[0].numpy()
    return scores.transpose(1, 2, 0) if scores.ndim == 3 else scores


# Against outputs of the authors' own graphs

v3_large = partial(mobilenet_v3_large, padding="same")
v3_small = partial(mobilenet_v3_small, padding="same")
GRAPHS = {  # file -> our network, trained parameters
    "deeplab_v3_large_os32": (lambda: segmenter(v3_large(tail="rf2", output_stride=32)), 1_507_198),
    "deeplab_v3_large_os16": (lambda: segmenter(v3_large(tail="rf2", output_stride=16)), 1_507_198),
    "deeplab_v3_large_os16_even": (lambda: segmenter(v3_large(tail="rf2", output_stride=16)), 1_507_198),
    "deeplab_v3_small_os16": (lambda: segmenter(v3_small(tail="rf2", output_stride=16)), 468_830),
    "deeplab_v2_raspp_os16": (
        lambda: segmenter(mobilenet_v2(padding="same", output_stride=16), RASPP, low=None),
        2_113_043,
    ),
    "slim_v3_large_1.0_224": (lambda: classifier(v3_large()), 5_484_313),
    "slim_v3_large_0.75_224": (lambda: classifier(v3_large(width_mult=0.75)), 3_994_809),
    "slim_v3_small_1.0_224": (lambda: classifier(v3_small()), 2_543_881),
    "slim_v3_large_minimalistic_1.0_224": (lambda: classifier(v3_large(minimalistic=True)), 3_925_569),
}


@pytest.mark.data
@pytest.mark.parametrize("name", GRAPHS)
def test_outputs_are_those_of_the_authors_graph(data_folder, tmp_path, name):
    """Largest difference seen: 5e-7. With a gate of 1/6 instead of 0.16667 it is 5e-6."""
    reference = outputs_of(name, data_folder)
    named = zip(reference["names"], reference["shapes"], strict=True)
    shapes = {str(name): [int(side) for side in str(shape).split(",")] for name, shape in named}
    archive = write_released(tmp_path / "x.tar.gz", {n: made_up(n, shape) for n, shape in shapes.items()})
    build, num_params = GRAPHS[name]
    model = released(build(), archive)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_params
    difference = outputs(model, made_up_image(*reference["size"])) - reference["logits"]
    assert np.abs(difference).max() < 2e-6


# By hand, in float64, without our layers


class ByHand:
    """TensorFlow's layers, by name: [N, C, H, W] float64, SAME padding, gates that multiply by 0.16667."""

    def __init__(self, arrays):
        self.arrays = {name: torch.from_numpy(array).double() for name, array in arrays.items()}

    def conv(self, x, name, stride=1, *, eps=None, act=None):
        depthwise = f"{name}/depthwise_weights" in self.arrays
        kernel = self.arrays[f"{name}/depthwise_weights" if depthwise else f"{name}/weights"]
        kernel = kernel.permute(2, 3, 0, 1) if depthwise else kernel.permute(3, 2, 0, 1)
        pads = []
        for size, side in zip(x.shape[:1:-1], kernel.shape[:1:-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + side - size, 0)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), kernel, stride=stride, groups=x.shape[1] if depthwise else 1)
        if f"{name}/biases" in self.arrays:
            x = x + self.arrays[f"{name}/biases"][:, None, None]
        if eps is not None:
            parts = ("moving_mean", "moving_variance", "gamma", "beta")
            mean, variance, gamma, beta = (
                self.arrays[f"{name}/BatchNorm/{part}"][:, None, None] for part in parts
            )
            x = (x - mean) / torch.sqrt(variance + eps) * gamma + beta
        return {"RE": F.relu, "HS": lambda y: y * F.relu6(y + 3) / 6, None: lambda y: y}[act](x)

    def gate(self, x):
        return F.relu6(x + 3) * 0.16667

    def block(self, x, name, block):
        """Returns: (depthwise output, output)."""
        y = x if block.exp == x.shape[1] else self.conv(x, f"{name}/expand", eps=1e-3, act=block.act)
        deep = y = self.conv(y, f"{name}/depthwise", block.stride, eps=1e-3, act=block.act)
        if block.se:
            squeezed = self.conv(y.mean((2, 3), True), f"{name}/squeeze_excite/Conv", act="RE")
            y = y * self.gate(self.conv(squeezed, f"{name}/squeeze_excite/Conv_1"))
        y = self.conv(y, f"{name}/project", eps=1e-3)
        return deep, y + x if x.shape == y.shape else y


TINY = NetSpec(
    name="tiny",
    stem=8,
    blocks=(
        BlockSpec(kernel=3, exp=8, out=8, se=True, stride=2),
        BlockSpec(kernel=5, exp=24, out=16, stride=2),
        BlockSpec(kernel=5, exp=32, out=16, se=True, act="HS"),
        BlockSpec(kernel=3, exp=32, out=24, se=True, act="HS", stride=2),
    ),
    last=40,
    hidden=32,
    padding="same",
)


def shapes_of(layers):
    """Shapes by name, from {layer: shape of its weights, in TensorFlow's layout}; "+": with batch norm."""
    shapes = {}
    for layer, shape in layers.items():
        name, channels = layer.rstrip("+"), shape[2] if "depthwise" in layer else shape[3]
        shapes[f"{name}/{'depthwise_weights' if 'depthwise' in layer else 'weights'}"] = shape
        parts = ("gamma", "beta", "moving_mean", "moving_variance")
        norm = [f"{name}/BatchNorm/{part}" for part in parts]
        shapes |= dict.fromkeys(norm if layer.endswith("+") else [f"{name}/biases"], (channels,))
    return shapes


def tiny_backbone():
    layers, channels = {"MobilenetV3/Conv+": (3, 3, 3, 8)}, 8
    for i, block in enumerate(TINY.blocks):
        name, k = "MobilenetV3/expanded_conv" + (f"_{i}" if i else ""), block.kernel
        if block.exp != channels:
            layers[f"{name}/expand+"] = (1, 1, channels, block.exp)
        layers[f"{name}/depthwise+"] = (k, k, block.exp, 1)
        if block.se:
            layers[f"{name}/squeeze_excite/Conv"] = (1, 1, block.exp, 8)
            layers[f"{name}/squeeze_excite/Conv_1"] = (1, 1, 8, block.exp)
        layers[f"{name}/project+"] = (1, 1, block.exp, block.out)
        channels = block.out
    return layers | {"MobilenetV3/Conv_1+": (1, 1, 24, 40)}


def drawn(layers):
    """Made-up weights, twice as large as usual, so that signals grow and the gates matter."""
    arrays = {name: made_up(name, shape) for name, shape in shapes_of(layers).items()}
    return {name: array * (2 if name.endswith("weights") else 1) for name, array in arrays.items()}


SLIM = {"MobilenetV3/Conv_2": (1, 1, 40, 32), "MobilenetV3/Logits/Conv2d_1c_1x1": (1, 1, 32, 6)}
DEEPLAB = {
    "aspp0+": (1, 1, 40, 16),
    "image_pooling": (1, 1, 40, 16),
    "decoder/decoder_conv0": (1, 1, 16, 5),
    "decoder/feature_projection0": (1, 1, 32, 5),
}


def by_hand(arrays, image):
    """(logits of the classifier, or class scores of LR-ASPP; the same with float64)."""
    net = ByHand(arrays)
    x = (torch.from_numpy(image.transpose(2, 0, 1).copy())[None].double() - 127.5) / 127.5
    x = net.conv(x, "MobilenetV3/Conv", 2, eps=1e-3, act="HS")
    for i, block in enumerate(TINY.blocks):
        deep, x = net.block(x, "MobilenetV3/expanded_conv" + (f"_{i}" if i else ""), block)
        low = deep if i == 2 else None if i < 2 else low  # noqa: F821  the last block of stride 8
    high = net.conv(x, "MobilenetV3/Conv_1", eps=1e-3, act="HS")
    if "aspp0/weights" not in arrays:
        hidden = net.conv(high.mean((2, 3), True), "MobilenetV3/Conv_2", act="HS")
        return net.conv(hidden, "MobilenetV3/Logits/Conv2d_1c_1x1")[0, :, 0, 0].numpy()
    gate = net.gate(net.conv(high.mean((2, 3), True), "image_pooling"))  # the window is the whole map
    features = net.conv(high, "aspp0", eps=1e-5, act="RE") * gate
    features = F.interpolate(features, low.shape[-2:], mode="bilinear", align_corners=True)
    scores = net.conv(features, "decoder/decoder_conv0") + net.conv(low, "decoder/feature_projection0")
    return scores[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(65, 97), (64, 96)])
@pytest.mark.parametrize("head", ["slim", "deeplab"])
def test_a_network_by_hand(tmp_path, head, size):
    arrays = drawn(tiny_backbone() | (SLIM if head == "slim" else DEEPLAB))
    model = classifier(TINY, 6)
    if head == "deeplab":
        model = segmenter(TINY, partial(AUTHORS_GATE, filters=16), num_classes=5)
    archive = write_released(tmp_path / "net.tgz", arrays, graph="v3_float.pb")
    image = made_up_image(*size)
    expected = by_hand(arrays, image)
    np.testing.assert_allclose(
        outputs(released(model, archive), image), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_become_float32(tmp_path, dtype):
    arrays = {name: array.astype(dtype) for name, array in drawn(tiny_backbone() | SLIM).items()}
    model = classifier(TINY, 6)
    state = model.adapt(read_weights(write_released(tmp_path / "net.tar.gz", arrays)))
    assert {tensor.dtype for key, tensor in state.items() if "num_batches" not in key} == {torch.float32}
    stored = torch.from_numpy(arrays["MobilenetV3/Conv/weights"].astype(np.float32)).permute(3, 2, 0, 1)
    assert torch.equal(state["backbone.stem.conv.weight"], stored)


def tensors(layers):
    return {name: torch.from_numpy(array) for name, array in drawn(layers).items()}


def test_the_background_row_is_dropped_for_1000_classes():
    constants = tensors(tiny_backbone() | SLIM | {"MobilenetV3/Logits/Conv2d_1c_1x1": (1, 1, 32, 1001)})
    bias = constants["MobilenetV3/Logits/Conv2d_1c_1x1/biases"]
    assert torch.equal(classifier(TINY, 1000).adapt(constants)["classifier.bias"], bias[1:])
    assert torch.equal(classifier(TINY, 1001).adapt(constants)["classifier.bias"], bias)


def test_only_the_backbone_of_another_task():
    for layers in (tiny_backbone() | DEEPLAB, tiny_backbone() | SLIM, tiny_backbone()):
        constants = tensors(layers)
        for model in (classifier(TINY, 6), segmenter(TINY)):
            model.backbone.load_state_dict(model.adapt_backbone(constants))
            stem = constants["MobilenetV3/Conv/weights"].permute(3, 2, 0, 1)
            assert torch.equal(model.backbone.stem.conv.weight, stem)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"MobilenetV3/expanded_conv_4/expand/weights": 1}, "expanded_conv_4.* are unexpected"),
        ({"MobilenetV3/expanded_conv_1/expand/weights": None}, "expanded_conv_1/expand/weights is missing"),
        ({"aspp1/weights": 1}, "'aspp1/weights'.* are unexpected"),
    ],
)
def test_the_weights_of_another_network_are_rejected(change, part):
    constants = tensors(tiny_backbone() | DEEPLAB)
    for name, value in change.items():
        constants.pop(name, None)
        constants |= {} if value is None else {name: torch.ones(1)}
    with pytest.raises(ValueError, match=f"not the weights of tiny with these options: .*{part}"):
        segmenter(TINY).adapt(constants)


def test_weights_that_need_other_options_say_so():
    constants = tensors(tiny_backbone() | DEEPLAB)
    with pytest.raises(ValueError, match=r"set model\.head\.gate=hard_sigmoid"):
        segmenter(TINY, LRASPP).adapt(constants)
    with pytest.raises(ValueError, match=r"TensorFlow's padding; set backbone\.padding=same"):
        segmenter(mobilenet_v3_large()).adapt(constants)
    with pytest.raises(ValueError, match="not the weights of a segmentation network; use them as weights="):
        segmenter(TINY).adapt(tensors(tiny_backbone() | SLIM))
    with pytest.raises(ValueError, match="no classifier; pass them as weights="):
        classifier(TINY).adapt(constants)
