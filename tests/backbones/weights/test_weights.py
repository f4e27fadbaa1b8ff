"""torchvision's weights under our names give torchvision's outputs."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import CenterCrop, Compose, Resize
from torchvision.transforms.v2.functional import pil_to_tensor

from backbones.mnasnet import mnasnet_b1
from backbones.mobilenet_v2 import mobilenet_v2
from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from backbones.network import MobileNet
from backbones.weights.state_dict import (
    backbone_part,
    backbone_state,
    classifier_state,
    detect_format,
    from_torchvision,
    without_background,
)
from cls.model import Classifier

models = torchvision.models


def randomized(model):
    """Random weights, and batch norm statistics that a swapped or lost tensor would show."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
        elif getattr(module, "bias", None) is not None:
            module.bias.data.copy_(torch.randn(module.bias.shape, generator=generator) * 0.2)
    return model.eval()


def assert_same_logits(theirs, spec, size=(64, 97)):
    ours = Classifier(backbone=spec, num_classes=theirs.classifier[-1].out_features).eval()
    ours.load_state_dict(from_torchvision(theirs.state_dict(), spec), strict=True)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 1e-2  # otherwise the comparison would prove nothing


@pytest.mark.parametrize(
    ("build", "spec"),
    [
        (models.mobilenet_v3_large, mobilenet_v3_large()),
        (models.mobilenet_v3_small, mobilenet_v3_small()),
        (models.mobilenet_v2, mobilenet_v2(bn_eps=1e-5)),
        (
            partial(models.mobilenet_v2, width_mult=0.5, num_classes=7),
            mobilenet_v2(width_mult=0.5, bn_eps=1e-5),
        ),
        (
            partial(models.mobilenet_v3_large, dilated=True),
            mobilenet_v3_large(output_stride=16, dilate_first=True),
        ),
        (
            partial(models.mobilenet_v3_small, dilated=True),
            mobilenet_v3_small(output_stride=16, dilate_first=True),
        ),
        (models.mnasnet0_5, mnasnet_b1(width_mult=0.5, bn_eps=1e-5)),
        (models.mnasnet0_75, mnasnet_b1(width_mult=0.75, bn_eps=1e-5)),
        (models.mnasnet1_0, mnasnet_b1(bn_eps=1e-5)),
        (models.mnasnet1_3, mnasnet_b1(width_mult=1.3, bn_eps=1e-5)),
    ],
    ids=[
        "large",
        "small",
        "v2",
        "v2 half",
        "large dilated",
        "small dilated",
        "mnasnet half",
        "mnasnet 0.75",
        "mnasnet",
        "mnasnet 1.3",
    ],
)
def test_logits_are_torchvisions(build, spec):
    torch.manual_seed(1)
    assert_same_logits(randomized(build()), spec)


def test_dense_trunk_is_torchvisions():
    torch.manual_seed(1)
    theirs = randomized(
        models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
    )
    state = theirs.state_dict()
    assert detect_format(state) == "torchvision_dense"
    spec = mobilenet_v3_large(output_stride=16, dilate_first=True)
    ours = MobileNet(spec, ("block4", "last")).eval()
    ours.load_state_dict(backbone_part(from_torchvision(state, spec)), strict=True)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs.backbone(x)  # "low" is bneck 4, "high" the last conv
        features = ours(x)
    torch.testing.assert_close(features["block4"], expected["low"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features["last"], expected["high"], rtol=1e-5, atol=1e-5)


def test_features_without_a_classifier():
    state = {k: v for k, v in models.mobilenet_v3_small().state_dict().items() if k.startswith("features.")}
    ours = from_torchvision(state, mobilenet_v3_small())
    assert all(key.startswith("backbone.") for key in ours)
    MobileNet(mobilenet_v3_small()).load_state_dict(backbone_part(ours), strict=True)


def test_backbone_state_fits_a_network_that_ends_early():
    theirs = models.mobilenet_v3_small().state_dict()
    ours = from_torchvision(theirs, mobilenet_v3_small())
    network = MobileNet(mobilenet_v3_small(), ("block4.depthwise",))
    for state in (theirs, ours, backbone_part(ours)):
        network.stem.conv.weight.data.zero_()
        network.load_state_dict(backbone_state(state, network), strict=True)
        assert torch.equal(network.stem.conv.weight, theirs["features.0.0.weight"])
    with pytest.raises(ValueError, match="do not fit mobilenet_v3_small"):
        backbone_state(models.mobilenet_v2().state_dict(), network)


def test_half_precision_and_missing_counters():
    state = models.mobilenet_v3_small().half().state_dict()
    state = {key: tensor for key, tensor in state.items() if "num_batches_tracked" not in key}
    ours = from_torchvision(state, mobilenet_v3_small())
    assert ours["backbone.stem.conv.weight"].dtype == torch.float32
    assert ours["backbone.stem.bn.num_batches_tracked"].dtype == torch.long
    assert state["features.0.0.weight"].dtype == torch.float16  # the argument does not change
    Classifier(backbone=mobilenet_v3_small(), num_classes=1000).load_state_dict(ours, strict=True)


def test_every_missing_and_left_over_key_is_named():
    state = models.mobilenet_v3_small().state_dict()
    state["features.99.weight"] = state.pop("features.0.1.running_var")
    with pytest.raises(
        ValueError, match=r"missing features\.0\.1\.running_var; left over features\.99\.weight"
    ):
        from_torchvision(state, mobilenet_v3_small())
    with pytest.raises(ValueError, match="do not fit mobilenet_v3_small"):
        from_torchvision(models.mobilenet_v3_large().state_dict(), mobilenet_v3_small())


def test_formats():
    ours = Classifier(backbone=mobilenet_v3_small(), num_classes=2).state_dict()
    assert detect_format(ours) == "ours"
    assert detect_format(backbone_part(ours)) == "ours"
    assert detect_format(models.mobilenet_v2().state_dict()) == "torchvision"
    with pytest.raises(ValueError, match="starts with conv1"):
        detect_format({"conv1.weight": torch.zeros(1)})
    assert detect_format(models.mnasnet0_5().state_dict()) == "torchvision"
    with pytest.raises(ValueError, match="already has this project's names"):
        from_torchvision(ours, mobilenet_v3_small())


def test_a_classifier_of_any_format():
    theirs = models.mobilenet_v3_small(num_classes=3).state_dict()
    ours = classifier_state(theirs, mobilenet_v3_small())
    assert torch.equal(ours["hidden.weight"], theirs["classifier.0.weight"])
    assert torch.equal(ours["classifier.bias"], theirs["classifier.3.bias"])
    assert classifier_state(ours, mobilenet_v3_small()) is ours
    features = {key: tensor for key, tensor in theirs.items() if key.startswith("features.")}
    for state in (features, backbone_part(ours)):
        with pytest.raises(ValueError, match="have no classifier"):
            classifier_state(state, mobilenet_v3_small())
    del theirs["classifier.3.weight"]  # half a classifier is not a backbone alone
    with pytest.raises(ValueError, match=r"missing classifier\.3\.weight"):
        classifier_state(theirs, mobilenet_v3_small())


def test_a_wrong_number_of_blocks_is_named():
    spec = replace(mobilenet_v2(), blocks=mobilenet_v2().blocks[:3])
    with pytest.raises(ValueError, match="do not fit mobilenet_v2 with these options: 17 blocks, not 3"):
        classifier_state(models.mnasnet0_5().state_dict(), spec)


def test_the_background_is_row_0():
    state = {"classifier.weight": torch.arange(8.0).view(4, 2), "classifier.bias": torch.arange(4.0), "x": 1}
    ours = without_background(state, 3)
    assert ours["classifier.weight"].tolist() == [[2, 3], [4, 5], [6, 7]]
    assert ours["classifier.bias"].tolist() == [1, 2, 3]
    assert ours["x"] == 1
    assert len(state["classifier.bias"]) == 4
    assert without_background(state, 4) is state
    with pytest.raises(ValueError, match=r"4 classes \(or 3 and background\), but the model has 5"):
        without_background(state, 5)


@pytest.fixture(scope="module")
def photographs(data_folder):
    """Every 17th photograph of the sample (sorted by class): [59, 3, 224, 224] in 0..1, and labels [59]."""
    paths = sorted((data_folder / "imagenet_sample").glob("*.JPEG"))
    assert len(paths) == 1000
    transform = Compose([Resize(256), CenterCrop(224)])
    labels = torch.arange(0, 1000, 17)
    images = [pil_to_tensor(transform(Image.open(paths[i]).convert("RGB"))) for i in labels]
    return torch.stack(images).float() / 255, labels


def weights_in(folder, name):
    return torch.load(folder / "weights" / name, map_location="cpu", weights_only=True)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "build", "spec"),
    [
        ("mobilenet_v3_small-047dcff4.pth", models.mobilenet_v3_small, mobilenet_v3_small()),
        ("mobilenet_v2-b0353104.pth", models.mobilenet_v2, mobilenet_v2(bn_eps=1e-5)),
    ],
)
def test_published_weights_classify_photographs(data_folder, photographs, name, build, spec):
    state = weights_in(data_folder, name)
    theirs = build().eval()
    theirs.load_state_dict(state)
    ours = Classifier(backbone=spec, num_classes=1000).eval()
    ours.load_state_dict(from_torchvision(state, spec), strict=True)
    images, labels = photographs
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (images - mean[:, None, None]) / deviation[:, None, None]
    with torch.no_grad():
        predicted = ours(images).argmax(1)
        assert torch.equal(predicted, theirs(images).argmax(1))
    accuracy = (predicted == labels).float().mean()
    assert accuracy > 0.7  # torchvision's own models: 0.81 and 0.82 on the whole sample


@pytest.mark.slow
@pytest.mark.data
def test_tensorflow_weights_need_same_padding(data_folder, photographs):
    state = weights_in(data_folder, "v3_large_minimalistic_torchvision_keys_bnfit_1001.pth")
    images, labels = photographs
    right = {}
    for padding in ("same", "symmetric"):
        spec = mobilenet_v3_large(minimalistic=True, padding=padding)
        model = Classifier(backbone=spec, num_classes=1001).eval()
        model.load_state_dict(from_torchvision(state, spec), strict=True)
        pruned = Classifier(backbone=spec, num_classes=1000).eval()
        pruned.load_state_dict(without_background(classifier_state(state, spec), 1000))
        with torch.no_grad():
            logits = model(images * 2 - 1)
            predicted = logits.argmax(1) - 1  # output 0 is the background
            torch.testing.assert_close(pruned(images[:4] * 2 - 1), logits[:4, 1:], rtol=1e-4, atol=1e-4)
        right[padding] = (predicted == labels).float().mean().item()
    assert right["same"] > 0.75
    assert right["same"] > right["symmetric"]


@pytest.mark.data
def test_published_dense_weights_load(data_folder):
    state = weights_in(data_folder, "lraspp_mobilenet_v3_large_kelp_mussel_mean_2cls.pth")
    theirs = models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=2
    ).eval()
    theirs.load_state_dict(state)
    spec = mobilenet_v3_large(output_stride=16, dilate_first=True)
    ours = MobileNet(spec).eval()
    ours.load_state_dict(backbone_part(from_torchvision(state, spec)), strict=True)
    x = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)["last"], theirs.backbone(x)["high"], rtol=1e-4, atol=1e-4)
