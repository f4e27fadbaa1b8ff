"""Classifiers of torchvision and timm as backbones: their own features, dilated as torchvision does it."""

import copy
from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from backbones.external import timm_features, torchvision_features
from backbones.network import build_backbone, default_feature
from backbones.weights.state_dict import backbone_state
from cls.model import Classifier
from det.anchors.generators import SSDAnchors
from det.model import Detector
from seg.heads import LRASPP, RASPP
from seg.model import Segmenter

NETWORKS = {
    "resnet18": partial(torchvision_features, name="resnet18"),
    "mobilenet_v3_small": partial(torchvision_features, name="mobilenet_v3_small"),
    "timm": partial(timm_features, name="mobilenetv3_small_050"),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]


def every_parameter_gets_a_gradient(model, images):
    outputs = model.train()(images)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(output.square().mean() for output in outputs).backward()
    return all(parameter.grad is not None for parameter in model.parameters())


def test_features_are_one_per_stride_by_default():
    assert torchvision_features(name="resnet18").strides == {
        "relu": 2, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32,
    }  # fmt: skip
    assert torchvision_features(name="resnet18").channels == {
        "relu": 64, "layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512,
    }  # fmt: skip
    timm = timm_features(name="mobilenetv3_small_050", output_stride=16)
    assert list(timm.strides.items())[2:] == [("blocks.1", 8), ("blocks.3", 16), ("blocks", 16)]


@pytest.mark.parametrize("name", ["mobilenetv4_conv_small", "efficientnet_lite0", "fastvit_t8"])
def test_features_can_be_those_that_timm_lists(name):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        listed = timm.create_model(name, features_only=True).feature_info
    source = timm_features(name=name, features=listed.module_name())
    assert list(source.channels) == listed.module_name()
    assert list(source.channels.values()) == listed.channels()
    assert list(source.strides.values()) == listed.reduction()


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_channels_and_strides_are_those_of_the_features(network, output_stride):
    source = network(output_stride=output_stride)
    names = [default_feature(source, "skip_feature"), default_feature(source, "dense_output")]
    backbone = build_backbone(source, names).eval()
    assert list(backbone.strides.values()) == [8, output_stride]
    for height, width in ((64, 96), (97, 129)):
        features = backbone(torch.rand(1, 3, height, width))
        for name in names:
            stride = backbone.strides[name]
            size = (-(-height // stride), -(-width // stride))
            assert features[name].shape == (1, backbone.channels[name], *size)


def test_features_are_those_of_the_whole_classifier():
    torch.manual_seed(0)
    names = ["layer4", "layer2"]
    backbone = torchvision_features(name="resnet18", features=names).build(names)
    theirs = torchvision.models.resnet18().eval()
    theirs.load_state_dict(backbone.network.state_dict(), strict=False)
    expected = {}
    for name in names:
        layer = getattr(theirs, name)
        layer.register_forward_hook(lambda _, __, output, name=name: expected.update({name: output}))
    images = torch.rand(2, 3, 64, 64)
    features = backbone.eval()(images)
    theirs(images)
    for name, feature in expected.items():
        assert torch.equal(features[name], feature)


@pytest.mark.parametrize(
    ("output_stride", "replaced"), [(16, [False, False, True]), (8, [False, True, True])]
)
def test_dilation_is_torchvisions(output_stride, replaced):
    """Bottleneck networks are the ones that torchvision itself can dilate."""
    torch.manual_seed(0)
    ours = torchvision_features(name="resnet50", output_stride=output_stride).build(["layer4"]).eval()
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=replaced).eval()
    theirs.load_state_dict(ours.network.state_dict(), strict=False)
    theirs.avgpool, theirs.fc = nn.Identity(), nn.Identity()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(ours(images)["layer4"].flatten(1), theirs(images))


@pytest.mark.parametrize(("head", "low"), [(LRASPP, "auto"), (RASPP, None)])
def test_segmentation_heads_train_on_it(network, head, low):
    head = partial(head, pool="large_kernel")
    model = Segmenter(backbone=network(output_stride=16), head=head, num_classes=5, low=low)
    assert every_parameter_gets_a_gradient(model, torch.rand(2, 3, 64, 96))
    with torch.inference_mode():
        assert model.eval()(torch.rand(1, 3, 65, 97)).shape[:2] == (1, 5)


def test_ssdlite_trains_on_it(network):
    model = Detector(
        backbone=network(bn_momentum=0.03), num_classes=3, input_size=128, anchors=SSDAnchors(maps=6)
    )
    assert every_parameter_gets_a_gradient(model, torch.rand(2, 3, 128, 128))
    offsets, scores = model.eval()(torch.rand(1, 3, 128, 128))
    assert offsets.shape == (1, len(model.anchors), 4)
    assert scores.shape == (1, len(model.anchors), 4)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.03}  # the head's follow the backbone's


def test_a_classifier_trains_on_it(network):
    model = Classifier(backbone=network(), num_classes=7)
    assert every_parameter_gets_a_gradient(model, torch.rand(2, 3, 64, 64))
    assert model.dropout.p == 0.2
    assert model(torch.rand(3, 3, 64, 64)).shape == (3, 7)


def test_it_exports_and_copies(network):
    """Averaged weights are a copy, and exported files come from torch.export."""
    model = Segmenter(
        backbone=network(output_stride=16), head=partial(LRASPP, pool="global"), num_classes=2
    ).eval()
    images = torch.rand(1, 3, 64, 64)
    expected = model(images)
    assert torch.equal(copy.deepcopy(model)(images), expected)
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), expected)


def test_builders_work_within_a_meta_device():
    """As when layers are only counted; torchvision's RegNet cannot be made there."""
    with torch.device("meta"):
        source = torchvision_features(name="regnet_y_400mf")
        model = Classifier(backbone=source, num_classes=2)
    assert model.classifier.weight.is_meta


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_torchvision_weights_load(name):
    theirs = torchvision.models.get_model(name).state_dict()
    source = torchvision_features(name=name)
    model = Segmenter(backbone=source, head=partial(LRASPP, pool="global"), num_classes=2, high="auto")
    state = model.adapt_backbone(theirs)
    model.backbone.load_state_dict(state, strict=True)
    first = next(iter(theirs))
    assert torch.equal(model.backbone.state_dict()[f"network.{first}"], theirs[first])


def test_timm_weights_load():
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("mobilenetv3_small_050").state_dict()
    model = Classifier(backbone=timm_features(name="mobilenetv3_small_050"), num_classes=2)
    model.backbone.load_state_dict(model.adapt_backbone(theirs), strict=True)
    assert torch.equal(model.backbone.state_dict()["network.conv_stem.weight"], theirs["conv_stem.weight"])


def test_a_trained_model_starts_another(network):
    first = Segmenter(backbone=network(), head=partial(LRASPP, pool="global"), num_classes=2)
    second = Segmenter(backbone=network(), head=partial(LRASPP, pool="global"), num_classes=2)
    second.load_state_dict(second.adapt(first.state_dict()), strict=True)
    classifier = Classifier(backbone=network(), num_classes=3)
    state = backbone_state(classifier.state_dict(), second.backbone)
    second.backbone.load_state_dict(state, strict=True)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            partial(torchvision_features, name="resnet81"),
            "name=resnet81: torchvision has no such network; did you",
        ),
        (
            partial(timm_features, name="resnt18"),
            "name=resnt18: timm has no such network; did you mean resnet18",
        ),
        (
            partial(timm_features, name="hf-hub:someone/model"),
            "name=hf-hub:someone/model: timm has no such network",
        ),
        (partial(torchvision_features, name="vit_b_16"), "vit_b_16 does not run on 256x256 inputs"),
        (partial(torchvision_features, name="squeezenet1_1"), "no feature maps of stride 1 to 32"),
        (
            partial(torchvision_features, name="resnet18", features=["layer9"]),
            r"resnet18 has no feature 'layer9'; among others it has .*layer2 \(128 channels, stride 8\)",
        ),
        (partial(torchvision_features, name="resnet18", output_stride=4), "output_stride must be 8, 16 or"),
        (partial(torchvision_features, name="resnet18", bn_momentum=0.0), r"bn_momentum must be in \(0, 1\]"),
    ],
)
def test_invalid_options_are_rejected(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_network_that_cannot_be_dilated_is_rejected():
    # Its 2x2 convolutions have no padding.
    source = torchvision_features(name="convnext_tiny", output_stride=16)
    with pytest.raises(ValueError, match="convnext_tiny cannot be dilated to output_stride 16; set it to 32"):
        source.build(["features"])


def test_a_dilated_network_is_not_for_ssdlite():
    source = torchvision_features(name="resnet18", output_stride=16)
    with pytest.raises(ValueError, match="resnet18 ends at stride 16 and SSDLite needs 32"):
        Detector(backbone=source, num_classes=3, input_size=128, anchors=SSDAnchors(maps=6))


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ValueError, match=r"timm is not installed; pip install -e '\.\[timm\]'"):
        timm_features(name="resnet18")
