"""LR-ASPP and R-ASPP as networks: shapes, pooling at any size, batch 1, gradients, torchvision's variant."""

from fnmatch import fnmatch
from functools import partial

import pytest
import torch
import torchvision

from backbones.mobilenet_v2 import mobilenet_v2
from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from engine.config.compose import compose_config
from engine.config.instantiate import build
from seg.heads import LRASPP, RASPP, MultiScale
from seg.model import Segmenter
from seg.weights import segmenter_state


def small(head, *, low="auto", **options):
    return Segmenter(
        backbone=mobilenet_v3_small(output_stride=16), head=head, num_classes=5, low=low, **options
    )


@pytest.mark.parametrize("pool", ["paper", "global", "large_kernel"])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 512), (360, 480)])
def test_any_input_size_works(pool, size):
    model = small(partial(LRASPP, pool=pool)).eval()
    scores = model(torch.rand(1, 3, *size))
    assert scores.shape == (1, 5, -(-size[0] // 8), -(-size[1] // 8))


@pytest.mark.weekly
@pytest.mark.parametrize("pool", ["paper", "global", "large_kernel"])
def test_the_full_resolution_of_cityscapes_works(pool):
    with torch.inference_mode():
        assert small(partial(LRASPP, pool=pool)).eval()(torch.rand(1, 3, 1024, 2048)).shape == (
            1,
            5,
            128,
            256,
        )


def test_the_gate_of_figure_10_pools_2_by_5_at_the_paper_size():
    model = small(partial(LRASPP, pool="paper"))
    features = torch.zeros(1, 1, 65, 129)  # 1025x2049 at output stride 16
    assert model.head.pool(features).shape[-2:] == (2, 5)


def test_an_input_too_small_for_the_papers_pool_is_rejected_with_the_alternatives():
    with pytest.raises(ValueError, match=r"at least 769x769; 512x512 gives 32x32: use pool=large_kernel"):
        small(partial(LRASPP, pool="paper"), input_size=512)
    small(partial(LRASPP, pool="paper"), input_size=769)


@pytest.mark.parametrize(("head", "low"), [(LRASPP, "auto"), (RASPP, None)])
@pytest.mark.parametrize("pool", ["global", "large_kernel"])
def test_batch_of_one_trains_and_every_parameter_gets_a_gradient(head, low, pool):
    model = small(partial(head, pool=pool), low=low).train()
    model(torch.rand(1, 3, 64, 64)).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize(
    ("spec", "channels"),
    [
        (mobilenet_v3_large(output_stride=16, tail="rf2"), {"block6.depthwise": 120, "last": 480}),
        (mobilenet_v3_small(output_stride=8, tail="rf2"), {"block3.depthwise": 88, "last": 288}),
        (mobilenet_v2(output_stride=16, tail="rf2"), {"block6.depthwise": 192, "block17": 160}),
    ],
)
def test_the_head_taps_what_the_released_code_taps(spec, channels):
    model = Segmenter(backbone=spec, head=LRASPP, num_classes=19)
    assert model.backbone.channels == channels
    assert next(iter(model.backbone.strides.values())) == 8


def test_raspp_has_no_batch_norm_problem_with_one_value_per_channel():
    model = small(partial(RASPP, pool="global"), low=None).train()
    assert model(torch.rand(1, 3, 32, 32)).isfinite().all()


def test_torchvision_weights_give_torchvision_outputs():
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=7
    )
    for name, buffer in theirs.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    config = compose_config("train", ["experiment=seg/lraspp_torchvision"])
    ours = build(config.model, key="model", num_classes=7)
    ours.load_state_dict(ours.adapt(theirs.state_dict()))  # strict: no key left over on either side
    images = torch.rand(2, 3, 96, 128)
    with torch.inference_mode():
        expected = theirs.eval()(images)["out"]
        scores = torch.nn.functional.interpolate(ours.eval()(images), (96, 128), mode="bilinear")
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


def test_keys_of_another_head_are_rejected_by_name():
    theirs = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None
    ).state_dict()
    theirs["classifier.extra.weight"] = torch.zeros(1)
    model = Segmenter(
        backbone=mobilenet_v3_large(output_stride=16, dilate_first=True), head=LRASPP, num_classes=21
    )
    with pytest.raises(ValueError, match=r"classifier\.extra\.weight"):
        model.adapt(theirs)


def test_the_weights_of_lraspp_by_name_and_in_float32():
    theirs = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).half()
    state = theirs.state_dict() | {"aux_classifier.0.weight": torch.zeros(1)}
    spec = mobilenet_v3_large(output_stride=16, dilate_first=True)
    ours = segmenter_state(state, spec)
    names = {
        "head.branch.conv.weight": "classifier.cbr.0.weight",
        "head.branch.bn.running_var": "classifier.cbr.1.running_var",
        "head.branch.bn.num_batches_tracked": "classifier.cbr.1.num_batches_tracked",
        "head.gate.weight": "classifier.scale.1.weight",
        "head.low.bias": "classifier.low_classifier.bias",
        "head.high.weight": "classifier.high_classifier.weight",
    }
    for key, name in names.items():
        assert torch.equal(ours[key], state[name].float() if "tracked" not in key else state[name])
    assert ours["head.gate.weight"].dtype == torch.float32
    assert ours["head.branch.bn.num_batches_tracked"].dtype == torch.int64
    assert not any("aux" in key for key in ours)
    assert segmenter_state(ours, spec) is ours
    with pytest.raises(ValueError, match="use them as weights= instead"):
        segmenter_state({"features.0.0.weight": torch.zeros(1)}, spec)
    with pytest.raises(ValueError, match="pass it as weights="):
        segmenter_state({"conv_stem.weight": torch.zeros(1)}, spec)


def test_a_classifiers_weights_are_rejected_as_a_whole_network():
    state = torchvision.models.mobilenet_v3_small().state_dict()
    with pytest.raises(ValueError, match=r"classifier.*weights="):
        small(LRASPP).adapt(state)


def test_a_head_of_your_own_needs_no_size_check():
    class Pooled(torch.nn.Module):
        class_layers = ("classify",)

        def __init__(self, *, channels, num_classes, output_stride):
            super().__init__()
            self.pool = torch.nn.AvgPool2d(3, stride=1, padding=1)
            self.classify = torch.nn.Conv2d(channels[-1], num_classes, 1)

        def forward(self, high):
            return self.classify(self.pool(high))

    model = Segmenter(backbone=mobilenet_v3_small(), head=Pooled, num_classes=2, low=None, input_size=64)
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 2, 2, 2)
    assert model.class_layers == ("head.classify.*",)


def test_it_can_be_exported():
    model = small(partial(LRASPP, pool="large_kernel")).eval()
    images = torch.rand(1, 3, 64, 96)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))


def test_classes_with_the_same_name_carry_their_rows_over():
    model = Segmenter(backbone=mobilenet_v3_small(), head=partial(LRASPP, pool="global"), num_classes=3)
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    state = {
        name: torch.cat([tensor, tensor[:1] + 5])
        if fnmatch(name, "head.low.*") or fnmatch(name, "head.high.*")
        else tensor
        for name, tensor in state.items()
    }
    carried = model.carry(state, ("car", "sky", "dog", "road"), ("road", "cat", "car"))
    own = model.state_dict()
    for layer in ("head.low.weight", "head.low.bias", "head.high.weight", "head.high.bias"):
        assert torch.equal(carried[layer], torch.stack([state[layer][3], own[layer][1], state[layer][0]]))
    assert torch.equal(carried["head.gate.weight"], state["head.gate.weight"])


def multi_scale(spec=None, **options):
    features, input_size = options.pop("features", (4, 8, 16, "auto")), options.pop("input_size", None)
    return Segmenter(
        backbone=spec or mobilenet_v3_small(output_stride=32),
        head=partial(MultiScale, **options),
        num_classes=5,
        features=features,
        input_size=input_size,
    )


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 512), (361, 479)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_multi_scale_head_scores_at_the_finest_stride_for_any_size(size, align_corners):
    model = multi_scale(align_corners=align_corners).eval()
    scores = model(torch.rand(1, 3, *size))
    assert scores.shape == (1, 5, -(-size[0] // 4), -(-size[1] // 4))


@pytest.mark.parametrize(
    ("spec", "features", "expected"),
    [
        # Tables 1 and 2: the outputs of the last blocks of each stride, and the last 1x1 convolution.
        (mobilenet_v3_large(), (4, 8, 16, "auto"), {"block3": 24, "block6": 40, "block12": 112, "last": 960}),
        (mobilenet_v3_small(), (4, 8, 16, 32), {"block1": 16, "block3": 24, "block8": 48, "block11": 96}),
        (mobilenet_v3_small(), (4, 8, 16, "auto"), {"block1": 16, "block3": 24, "block8": 48, "last": 576}),
        (mobilenet_v3_small(output_stride=16), (8, "auto"), {"block3": 24, "last": 576}),
        (mobilenet_v2(), (8, 32), {"block6": 32, "block17": 320}),
        (mobilenet_v3_small(), ("block4.expansion", "auto"), {"block4.expansion": 96, "last": 576}),
    ],
)
def test_the_multi_scale_head_reads_the_last_feature_of_each_stride(spec, features, expected):
    model = multi_scale(spec, features=features, filters=(16,) * len(features))
    assert model.backbone.channels == expected


def test_a_stride_that_the_backbone_lacks_is_refused():
    with pytest.raises(ValueError, match="ends at stride 16 and the head reads stride 32: set the"):
        multi_scale(mobilenet_v3_small(output_stride=16), features=(4, 8, 16, 32))


def test_the_multi_scale_head_adds_enlarged_coarse_features_to_finer_ones():
    # One channel everywhere, weights of 1 and batch norms that do nothing: what remains is
    # h-swish(h-swish(ReLU(fine + coarse * sigmoid(mean of coarse)))), at constant maps.
    head = MultiScale(channels=(1, 1), num_classes=1, output_stride=32, filters=(1, 1), kernel=1)
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.fill_(1)
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 0.0
    fine, coarse = torch.full((1, 1, 8, 8), 0.25), torch.full((1, 1, 1, 1), 0.5)
    hard_swish = torch.nn.functional.hardswish
    expected = hard_swish(hard_swish(0.25 + 0.5 * torch.tensor(0.5).sigmoid()))
    scores = head.eval()(fine, coarse)
    torch.testing.assert_close(scores, expected.expand(1, 1, 8, 8))


def test_auxiliary_scores_are_for_training_only():
    model = multi_scale().train()
    scores, auxiliary = model.training_scores(torch.rand(2, 3, 64, 96))
    assert scores.shape == (2, 5, 16, 24)
    assert auxiliary.shape == (2, 5, 4, 6)
    (scores.square().mean() + auxiliary.square().mean()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without
    assert len(multi_scale(auxiliary=False).training_scores(torch.rand(2, 3, 64, 96))) == 1
    assert len(small(LRASPP).training_scores(torch.rand(2, 3, 64, 96))) == 1


def test_a_batch_of_one_small_image_trains():
    model = multi_scale(input_size=(32, 64)).train()
    assert all(scores.isfinite().all() for scores in model.training_scores(torch.rand(1, 3, 32, 64)))
    with pytest.raises(ValueError, match="a single value: use inputs of at least 64 pixels"):
        multi_scale(input_size=32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": (16, 16)}, "one number for each of the 4 feature maps"),
        ({"filters": (16, 16, 16, 0)}, "filters must be at least 1, got 0"),
        ({"features": (32,), "filters": (16,)}, "at least two feature maps, got 1"),
        ({"kernel": 4}, "kernel must be odd, got 4"),
    ],
)
def test_bad_options_of_the_multi_scale_head_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        multi_scale(**options)
