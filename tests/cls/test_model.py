"""The classifier around a backbone."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from backbones.mnasnet import mnasnet_a1
from backbones.mobilenet_v2 import mobilenet_v2
from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from cls.model import Classifier
from cls.weights import own_classes_state


@pytest.mark.parametrize("build", [mobilenet_v3_large, mobilenet_v3_small, mobilenet_v2, mnasnet_a1])
def test_logits_and_gradients(build):
    torch.manual_seed(0)
    model = Classifier(backbone=build(), num_classes=5).train()
    logits = model(torch.randn(4, 3, 33, 47))
    assert logits.shape == (4, 5)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_batch_of_one_image_trains():
    model = Classifier(backbone=mobilenet_v3_small(), num_classes=2).train()
    assert model(torch.randn(1, 3, 64, 64)).isfinite().all()


def test_logits_are_pooled_features_through_two_layers():
    model = Classifier(backbone=mobilenet_v3_small(), num_classes=3).eval()
    x = torch.randn(2, 3, 64, 96)
    pooled = model.backbone(x)["last"].mean(dim=(2, 3))
    hidden = nn.functional.hardswish(pooled @ model.hidden.weight.T + model.hidden.bias)
    expected = hidden @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(x), expected)


def test_a_spec_may_lack_the_hidden_layer_and_the_last_convolution():
    v2 = Classifier(backbone=mobilenet_v2(), num_classes=2)
    assert v2.hidden is None
    assert v2.classifier.in_features == 1280
    bare = Classifier(backbone=replace(mobilenet_v2(), last=0), num_classes=2).eval()
    assert bare.feature == "block17"
    assert bare.classifier.in_features == 320
    assert bare(torch.randn(1, 3, 32, 32)).shape == (1, 2)


def test_dropout_is_the_specs_by_default():
    # Section 6.1.1 says "dropout of 0.8": TensorFlow's keep probability.
    spec = mobilenet_v3_large()
    assert Classifier(backbone=spec, num_classes=2).dropout.p == 0.2
    assert Classifier(backbone=spec, num_classes=2, dropout=0.0).dropout.p == 0.0


def test_fully_connected_layers_start_small():
    torch.manual_seed(0)
    model = Classifier(backbone=mobilenet_v3_small(), num_classes=1000)
    for layer in (model.hidden, model.classifier):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert layer.bias.abs().max() == 0


def test_bad_arguments_are_rejected():
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        Classifier(backbone=mobilenet_v3_small(), num_classes=0)
    with pytest.raises(ValueError, match="dropout is the fraction dropped"):
        Classifier(backbone=mobilenet_v3_small(), num_classes=2, dropout=1.0)


def test_it_can_be_exported():
    model = Classifier(backbone=mobilenet_v3_small(), num_classes=2).eval()
    x = torch.randn(2, 3, 64, 64)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize(
    ("stored", "num_classes", "rows"),
    [
        (1001, 1000, slice(1, None)),  # TensorFlow's ImageNet classes: the first one is background
        (1000, 1000, slice(None)),
        (1002, 1000, slice(None)),
        (11, 10, slice(None)),  # other classes, whatever their number, have no background
        (1001, 1001, slice(None)),
    ],
)
def test_only_the_background_of_imagenet_is_dropped(stored, num_classes, rows):
    spec = mobilenet_v3_small()
    state = torchvision.models.mobilenet_v3_small(num_classes=stored).state_dict()
    ours = own_classes_state(state, spec, num_classes=num_classes)
    assert torch.equal(ours["classifier.bias"], state["classifier.3.bias"][rows])
    assert torch.equal(ours["classifier.weight"], state["classifier.3.weight"][rows])


def test_no_class_of_a_network_of_this_project_is_dropped():
    state = Classifier(backbone=mobilenet_v3_small(), num_classes=1001).state_dict()
    assert own_classes_state(state, mobilenet_v3_small(), num_classes=1000) is state
