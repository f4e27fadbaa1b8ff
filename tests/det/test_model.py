"""The detector as a network: shapes, anchors, gradients, batch 1, torchvision's weights, other classes."""

from fnmatch import fnmatch
from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from backbones.mnasnet import mnasnet_a1
from backbones.mobilenet_v2 import mobilenet_v2
from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from backbones.network import MobileNet
from det.anchors.generators import Cells, DefaultBoxes, SSDAnchors
from det.heads import SSDLite
from det.model import Detector
from det.panlite.head import PANLite
from det.postprocess import Postprocess
from engine.errors import UserError

HEADS = {
    "ssdlite": {},
    "panlite": {
        "head": partial(PANLite, width=16, bins=8),
        "anchors": Cells(),
        "c3": "block",
        "c4": "block",
        "c5": "block",
    },
}
OUTPUTS = {"ssdlite": (4, 1), "panlite": (32, 0)}
"""Values per box, and scores in addition to those of the classes."""


def small(*, num_classes=5, input_size=64, padding="symmetric", anchors=None, **options):
    return Detector(
        backbone=mobilenet_v3_small(tail="dagger", padding=padding),
        num_classes=num_classes,
        input_size=input_size,
        anchors=anchors or SSDAnchors(),
        **options,
    )


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("size", [320, 33, (64, 200), (97, 65), (320, 512), (1, 1)])
def test_as_many_outputs_as_anchors_at_any_size(padding, size, head):
    model = small(input_size=size, padding=padding, **HEADS[head]).eval()
    height, width = (size, size) if isinstance(size, int) else size
    with torch.inference_mode():
        deltas, scores = model(torch.rand(2, 3, height, width))
    values, more = OUTPUTS[head]
    assert deltas.shape == (2, len(model.anchors), values)
    assert scores.shape == (2, len(model.anchors), 5 + more)
    assert model.background_column is bool(more)
    assert model.num_classes_in(model.state_dict()) == 5
    assert model.anchors.dtype == torch.float32


def test_maps_of_the_paper_at_320():
    model = small(input_size=[320, 320])
    assert model.map_sizes() == [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
    assert model.anchors.shape == (2034, 4)


def test_predictions_belong_to_the_place_of_their_anchor():
    """A change in one corner of the image changes the predictions there, and not in the opposite corner."""
    # Without squeeze-and-excite no layer sees the whole image, and at 640 no layer before the extras does.
    model = Detector(
        backbone=mobilenet_v3_small(minimalistic=True),
        num_classes=2,
        input_size=(640, 320),
        anchors=SSDAnchors(),
    ).eval()
    images = torch.rand(1, 3, 640, 320)
    changed = images.clone()
    changed[..., 560:, 240:] = 0
    with torch.inference_mode():
        moved = (model(images)[0] - model(changed)[0]).abs().sum(-1)[0]
    first = slice(0, 40 * 20 * 3)
    centers = (model.anchors[first, :2] + model.anchors[first, 2:]) / 2 * torch.tensor([320, 640])
    moved = moved[first] > 0
    assert moved[(centers > torch.tensor([250, 570])).all(1)].all()
    assert not moved[centers[:, 1] < 200].any()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [64, 320])
def test_batch_of_one_trains_and_every_parameter_gets_a_gradient(size, head):
    model = small(input_size=size, **HEADS[head]).train()
    deltas, scores = model(torch.rand(1, 3, size, size))
    (deltas.square().mean() + scores.square().mean()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize(
    ("spec", "channels"),
    [  # as released: the expansion of the block after stride 16, and the last convolution
        (mobilenet_v3_large(tail="dagger"), {"block13.expansion": 672, "last": 480}),
        (mobilenet_v3_large(), {"block13.expansion": 672, "last": 960}),
        (mobilenet_v3_small(tail="dagger"), {"block9.expansion": 288, "last": 288}),
        (mobilenet_v3_small(), {"block9.expansion": 288, "last": 576}),
        (mobilenet_v2(), {"block14.expansion": 576, "last": 1280}),
        (mnasnet_a1(), {"block13.expansion": 672, "last": 1280}),
    ],
)
def test_the_head_reads_the_features_of_the_released_code(spec, channels):
    with torch.device("meta"):
        model = Detector(backbone=spec, num_classes=90, input_size=320, anchors=SSDAnchors())
    assert model.backbone.channels == channels
    assert list(model.backbone.strides.values()) == [16, 32]


@pytest.mark.parametrize("head", HEADS)
def test_batch_norm_follows_the_backbones_settings(head):
    spec = mobilenet_v3_small(bn_eps=0.002, bn_momentum=0.03)
    model = Detector(
        **{"backbone": spec, "num_classes": 2, "input_size": 64, "anchors": SSDAnchors()} | HEADS[head]
    )
    norms = {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms == {(0.002, 0.03)}


def test_initial_weights_are_those_of_the_released_configuration():
    torch.manual_seed(0)
    model = small()
    for name, parameter in model.head.named_parameters():
        if name.endswith("predict.bias"):
            expected = -4.6 if name.startswith("scores") else 0.0
            assert parameter.tolist() == pytest.approx([expected] * len(parameter))
        elif name.endswith("predict.weight"):
            assert parameter.std().item() == pytest.approx(0.03, rel=0.1)
    # With this bias no object is predicted at first, which keeps focal loss from exploding.
    assert model.eval()(torch.rand(1, 3, 64, 64))[1].sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)
    assert all(
        predictor.predict.bias.eq(0).all()
        for predictor in small(head=partial(SSDLite, score_bias=0.0)).head.scores
    )


@pytest.mark.parametrize("head", HEADS)
def test_anchors_are_not_stored_with_the_weights(head):
    assert not [key for key in small(**HEADS[head]).state_dict() if "anchors" in key]
    small(input_size=320, **HEADS[head]).load_state_dict(small(input_size=96, **HEADS[head]).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"input_size": (0, 320)}, "input_size"),
        (
            {"head": partial(SSDLite, extras=(256, 128))},
            r"4 feature maps.*anchors for 6; set the anchors' maps to 4",
        ),
        ({"c4": "block77"}, "no feature"),
    ],
)
def test_options_that_do_not_fit_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_a_dilated_backbone_is_rejected_with_the_remedy():
    with pytest.raises(ValueError, match="output_stride to 32"):
        Detector(
            backbone=mobilenet_v3_small(output_stride=16), num_classes=2, input_size=64, anchors=SSDAnchors()
        )


def test_fewer_maps():
    model = small(head=partial(SSDLite, extras=(256, 128)), anchors=SSDAnchors(maps=4)).eval()
    assert model(torch.rand(1, 3, 64, 64))[0].shape[1] == len(model.anchors)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
def test_exports(head, size):
    model = small(input_size=size, **HEADS[head]).eval()
    images = torch.rand(1, 3, *size)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))


# torchvision's weights


@pytest.fixture(scope="module")
def theirs():
    """torchvision's network with random weights, whose batch norms have seen data and whose scores vary."""
    torch.manual_seed(0)
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=8
    )
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # running statistics are plain means
    with torch.no_grad():
        for _ in range(2):
            model.head(list(model.backbone(torch.randn(4, 3, 320, 320)).values()))
        for name, parameter in model.head.named_parameters():
            if name.endswith(".1.weight") and parameter.ndim == 4:
                parameter.normal_(0, 0.2 if "classification" in name else 0.05)
    return model.eval()


def torchvision_variant(num_classes=7):
    return Detector(
        backbone=mobilenet_v3_large(tail="dagger", bn_momentum=0.03),
        num_classes=num_classes,
        input_size=320,
        anchors=DefaultBoxes(),
        head=partial(SSDLite, score_bias=0.0),
    ).eval()


def test_torchvision_weights_give_torchvision_outputs(theirs):
    ours = torchvision_variant()
    ours.load_state_dict(ours.adapt(theirs.state_dict()))  # strict: the keys are the same
    images = torch.rand(2, 3, 320, 320)
    with torch.inference_mode():
        expected = theirs.head(list(theirs.backbone(images).values()))
        deltas, scores = ours(images)
    assert expected["cls_logits"].std() > 0.5
    torch.testing.assert_close(deltas, expected["bbox_regression"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores, expected["cls_logits"], atol=1e-5, rtol=1e-5)


def test_torchvision_weights_give_torchvision_detections(theirs):
    ours = torchvision_variant()
    ours.load_state_dict(ours.adapt(theirs.state_dict()))
    images = [torch.rand(3, 240, 426), torch.rand(3, 500, 333)]
    resized, _ = theirs.transform(images)
    process = Postprocess(
        score_threshold=0.001,
        iou_threshold=0.55,
        per_class=None,
        max_detections=300,
        activation="softmax",
        candidates=300,
    )
    with torch.inference_mode():
        expected = theirs(images)
        sizes = torch.tensor([image.shape[1:] for image in images])
        detections = process(*ours(resized.tensors), ours.anchors, sizes)
    for mine, other in zip(detections, expected, strict=True):
        assert len(other["scores"]) == 300
        assert (mine.labels + 1).tolist() == other["labels"].tolist()
        torch.testing.assert_close(mine.scores, other["scores"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mine.boxes, other["boxes"], atol=1e-2, rtol=1e-5)


def test_an_unknown_tensor_is_named(theirs):
    state = theirs.state_dict() | {"head.mask_head.weight": torch.zeros(1)}
    with pytest.raises(UserError, match=r"head\.mask_head\.weight"):
        torchvision_variant().adapt(state)


def test_the_weights_of_a_classifier_are_for_the_backbone():
    state = torchvision.models.mobilenet_v3_small().state_dict()
    model = Detector(backbone=mobilenet_v3_small(), num_classes=3, input_size=64, anchors=SSDAnchors())
    with pytest.raises(UserError, match=r"not the weights of a detector.*weights="):
        model.adapt(state)
    model.backbone.load_state_dict(model.adapt_backbone(state))


def test_the_backbone_of_a_detector_initializes_another(theirs):
    model = torchvision_variant(num_classes=2)
    state = model.adapt_backbone(theirs.state_dict())
    assert isinstance(model.backbone, MobileNet)
    model.backbone.load_state_dict(state)
    assert torch.equal(state["last.conv.weight"], theirs.state_dict()["backbone.features.1.3.0.weight"])


def test_the_backbone_of_torchvisions_detector_initializes_panlite(theirs):
    """Its split is inside the block of C4, whichever features the head reads."""
    spec = mobilenet_v3_large(tail="dagger", bn_momentum=0.03)
    model = Detector(backbone=spec, num_classes=2, input_size=64, **HEADS["panlite"])
    state = model.adapt_backbone(theirs.state_dict())
    model.backbone.load_state_dict(state)
    expansion = theirs.state_dict()["backbone.features.0.13.0.weight"]
    assert torch.equal(state["blocks.12.expand.conv.weight"], expansion)
    assert not [key for key in state if key.startswith("last.")]  # PANLite reads blocks


# Other classes


def per_anchor(tensor, classes):
    return tensor.reshape(-1, classes + 1, *tensor.shape[1:])


def test_classes_with_the_same_name_are_carried_over():
    before, after = small(num_classes=3), small(num_classes=4)
    with torch.no_grad():
        for predictor in before.head.scores:
            predictor.predict.bias.normal_()
    loaded = before.state_dict()
    state = after.carry(loaded, ("cat", "dog", "cow"), ("horse", "cow", "cat", "sheep"))
    initial = {key: value.clone() for key, value in after.state_dict().items()}
    after.load_state_dict(state)  # strict: all shapes fit the new classes
    for number in range(6):
        for kind in ("weight", "bias"):
            key = f"head.scores.{number}.predict.{kind}"
            rows, old, new = (
                per_anchor(state[key], 4),
                per_anchor(loaded[key], 3),
                per_anchor(initial[key], 4),
            )
            assert torch.equal(rows[:, 0], old[:, 0])  # background
            assert torch.equal(rows[:, [2, 3]], old[:, [3, 1]])  # cow, cat
            assert torch.equal(rows[:, [1, 4]], new[:, [1, 4]])  # horse, sheep
    assert torch.equal(state["head.boxes.0.predict.weight"], loaded["head.boxes.0.predict.weight"])


def test_names_beyond_the_classes_are_ignored():
    before, after = small(num_classes=2), small(num_classes=1)
    state = after.carry(before.state_dict(), ("cat", "dog", "hair brush"), ("hair brush",))
    key = "head.scores.0.predict.weight"
    assert torch.equal(per_anchor(state[key], 1)[:, 1], per_anchor(after.state_dict()[key], 1)[:, 1])


def test_another_number_of_anchors_is_rejected():
    one = small(num_classes=2)
    other = small(num_classes=2, anchors=SSDAnchors(reduce_lowest=False, ratios=[1.0, 2.0, 0.5, 4.0]))
    with pytest.raises(UserError, match=r"head\.scores\.0\.predict\..*not a multiple of 5 anchors"):
        other.carry(
            one.state_dict() | {"head.scores.0.predict.weight": torch.zeros(9, 288, 1, 1)}, ("a",), ("a", "b")
        )


def test_class_rows_without_a_background():
    """PANLite's rows are the classes alone; new ones keep their initial values."""
    before, after = (small(num_classes=count, **HEADS["panlite"]) for count in (3, 4))
    with torch.no_grad():
        for predictor in before.head.scores:
            predictor.bias.normal_()
    loaded, initial = before.state_dict(), {key: value.clone() for key, value in after.state_dict().items()}
    state = after.carry(loaded, ("cat", "dog", "cow"), ("horse", "cow", "cat", "sheep"))
    after.load_state_dict(state)  # strict: all shapes fit the new classes
    for key in (f"head.scores.{number}.{kind}" for number in range(3) for kind in ("weight", "bias")):
        assert torch.equal(state[key][[1, 2]], loaded[key][[2, 0]])  # cow, cat
        assert torch.equal(state[key][[0, 3]], initial[key][[0, 3]])  # horse, sheep
    new = after.carry(loaded, ("cat", "dog", "cow"), ("a", "b", "c", "d"))
    assert torch.equal(new["head.scores.0.bias"], after.state_dict()["head.scores.0.bias"])


@pytest.mark.parametrize("head", HEADS)
def test_class_layers_name_the_tensors_that_depend_on_the_classes(head):
    first, second = (small(num_classes=count, **HEADS[head]).state_dict() for count in (2, 3))
    dependent = {key for key in first if first[key].shape != second[key].shape}
    layers = small(**HEADS[head]).class_layers
    named = {key for key in first if any(fnmatch(key, layer) for layer in layers)}
    assert named == dependent
