"""Any module with named features, channels and strides is a backbone."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from backbones.mobilenet_v2 import mobilenet_v2
from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from backbones.network import MobileNet, build_backbone, conv_settings, default_feature
from cls.model import Classifier
from det.anchors.generators import SSDAnchors
from det.model import Detector
from seg.heads import LRASPP
from seg.model import Segmenter


class Pyramid(nn.Module):
    """A module of a user's own: five convolutions of stride 2."""

    def __init__(self):
        super().__init__()
        self.channels = {f"stage{stage}": 8 * stage for stage in range(1, 6)}
        self.strides = {f"stage{stage}": 2**stage for stage in range(1, 6)}
        widths = [3, *self.channels.values()]
        self.stages = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )

    def forward(self, images):
        features = {}
        for name, stage in zip(self.channels, self.stages, strict=True):
            images = features[name] = stage(images)
        return features


def test_every_model_takes_it():
    images = torch.rand(2, 3, 128, 128)
    segmenter = Segmenter(backbone=Pyramid(), head=partial(LRASPP, pool="global"), num_classes=3)
    assert segmenter(images).shape == (2, 3, 16, 16)
    detector = Detector(backbone=Pyramid(), num_classes=3, input_size=128, anchors=SSDAnchors(maps=6))
    assert detector(images)[0].shape == (2, len(detector.anchors), 4)
    assert Classifier(backbone=Pyramid(), num_classes=3)(images).shape == (2, 3)


def test_its_own_weights_load():
    model = Segmenter(backbone=Pyramid(), head=partial(LRASPP, pool="global"), num_classes=3)
    theirs = Pyramid().state_dict()
    model.backbone.load_state_dict(model.adapt_backbone(theirs), strict=True)
    assert torch.equal(model.backbone.stages[0].weight, theirs["stages.0.weight"])
    model.load_state_dict(model.adapt(model.state_dict()), strict=True)


def test_default_features_follow_from_the_strides():
    roles = ("skip_feature", "c4_feature", "dense_output", "last_feature")
    assert [default_feature(Pyramid(), role) for role in roles] == ["stage3", "stage4", "stage5", "stage5"]
    pyramid = Pyramid()
    pyramid.skip_feature = "stage2"
    assert default_feature(pyramid, "skip_feature") == "stage2"
    del pyramid.skip_feature
    pyramid.strides["stage3"] = 7
    with pytest.raises(ValueError, match=r"Pyramid has no feature of stride 8; it has stage1 \(8 chan"):
        default_feature(pyramid, "skip_feature")


@pytest.mark.parametrize(
    ("spec", "features"),
    [
        (mobilenet_v3_large(), ["block6.depthwise", "block13.expansion", "last", "last"]),
        (mobilenet_v3_small(), ["block3.depthwise", "block9.expansion", "last", "last"]),
        (mobilenet_v2(), ["block6.depthwise", "block14.expansion", "block17", "last"]),
    ],
)
def test_default_features_of_a_spec_are_the_papers(spec, features):
    roles = ("skip_feature", "c4_feature", "dense_output", "last_feature")
    assert [default_feature(spec, role) for role in roles] == features


def test_the_head_has_the_backbones_padding_and_batch_norm():
    spec = mobilenet_v3_small(padding="same", bn_eps=1e-5, bn_momentum=0.03)
    assert conv_settings(spec) == {"padding": "same", "bn_eps": 1e-5, "bn_momentum": 0.03}
    assert conv_settings(Pyramid()) == {"padding": "symmetric", "bn_eps": 1e-3, "bn_momentum": 0.01}


def test_a_spec_is_built_as_far_as_its_last_feature():
    network = build_backbone(mobilenet_v3_small(), ("block3.depthwise",))
    assert isinstance(network, MobileNet)
    assert len(network.blocks) == 3


def test_unknown_and_repeated_features_are_rejected():
    with pytest.raises(
        ValueError, match=r"Pyramid has no feature 'last'; it has stage1 \(8 channels, stride"
    ):
        build_backbone(Pyramid(), ("last",))
    with pytest.raises(ValueError, match="must differ from each other"):
        build_backbone(Pyramid(), ("stage1", "stage1"))
