"""timm's weights under our names: against names written out here, and against timm's own outputs."""

from functools import partial

import pytest
import torch
from torch import nn

from backbones.mnasnet import mnasnet_a1, mnasnet_b1, mnasnet_small
from backbones.mobilenet_v2 import mobilenet_v2
from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from backbones.mobilenet_v4 import mobilenet_v4_medium, mobilenet_v4_small
from backbones.network import MobileNet
from backbones.weights.state_dict import backbone_state, classifier_state, detect_format, from_torchvision
from cls.model import Classifier

V3_LARGE_STAGES = (1, 2, 3, 4, 2, 3)  # blocks in each of timm's stages of mobilenetv3_large_100
V2_STAGES = (1, 2, 3, 4, 3, 3, 1)


def of(layer, *parts):
    return [f"{layer}.{part}" for part in parts or ("weight", "bias")]


def norm(layer):
    return of(layer, "weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def block_names(place, *, expanded, se):
    """The names of one of timm's blocks, in the order of its forward pass."""
    convs = ("conv_pw", "conv_dw", "conv_pwl") if expanded else ("conv_dw", "conv_pw")
    names = []
    for number, conv in enumerate(convs, start=1):
        if se and conv == convs[-1]:
            names += of(f"{place}.se.conv_reduce") + of(f"{place}.se.conv_expand")
        names += [f"{place}.{conv}.weight", *norm(f"{place}.bn{number}")]
    return names


def timm_names_of(stages, *, se=(), v3):
    """All names of a network of timm's; `se`: stages with squeeze-and-excite."""
    names = ["conv_stem.weight", *norm("bn1")]
    for stage, count in enumerate(stages):
        for at in range(count):
            names += block_names(f"blocks.{stage}.{at}", expanded=stage > 0, se=stage in se)
    if v3:
        end = f"blocks.{len(stages)}.0"
        names += [f"{end}.conv.weight", *norm(f"{end}.bn1"), *of("conv_head")]
    else:
        names += ["conv_head.weight", *norm("bn2")]
    return names + of("classifier")


def renamed(model, names):
    """Our state dict, with its tensors in the order of the forward pass, under other names."""
    tensors = list(model.state_dict().values())
    assert len(tensors) == len(names)
    return dict(zip(names, tensors, strict=True))


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (mobilenet_v3_large(bn_eps=1e-5), timm_names_of(V3_LARGE_STAGES, se=(2, 4, 5), v3=True)),
        (mobilenet_v2(bn_eps=1e-5), timm_names_of(V2_STAGES, v3=False)),
    ],
    ids=["v3", "v2"],
)
def test_the_names_written_out(spec, names):
    model = Classifier(backbone=spec, num_classes=11)
    for number, tensor in enumerate(model.state_dict().values()):
        tensor.fill_(number)
    theirs = renamed(model, names)
    if spec.hidden:
        theirs["conv_head.weight"] = theirs["conv_head.weight"][:, :, None, None]  # a 1x1 convolution
    assert detect_format(theirs) == "timm"
    ours = classifier_state(theirs, spec)
    assert ours.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(ours[key], tensor), key


V4_SMALL_FORMS = (  # of timm's blocks.2 and blocks.3: the parts of each block
    (("dw_start", "pw_exp", "dw_mid"), *[("pw_exp", "dw_mid")] * 4, ("dw_start", "pw_exp")),
    (*[("dw_start", "pw_exp", "dw_mid")] * 2, *[("pw_exp", "dw_mid")] * 4),
)


def test_the_names_of_v4_written_out():
    names = ["conv_stem.weight", *norm("bn1")]
    for place in ("0.0", "0.1", "1.0", "1.1"):
        names += [f"blocks.{place}.conv.weight", *norm(f"blocks.{place}.bn1")]
    for stage, forms in enumerate(V4_SMALL_FORMS, start=2):
        for number, parts in enumerate(forms):
            for part in (*parts, "pw_proj"):
                layer = f"blocks.{stage}.{number}.{part}"
                names += [f"{layer}.conv.weight", *norm(f"{layer}.bn")]
    names += ["blocks.4.0.conv.weight", *norm("blocks.4.0.bn1"), "conv_head.weight", *norm("norm_head")]
    spec = mobilenet_v4_small(bn_eps=1e-5)
    model = Classifier(backbone=spec, num_classes=11)
    for number, tensor in enumerate(model.state_dict().values()):
        tensor.fill_(number)
    ours = classifier_state(renamed(model, [*names, *of("classifier")]), spec)
    assert ours.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(ours[key], tensor), key
    with pytest.raises(ValueError, match="16 blocks, not 15"):  # timm's 17 less one for the last conv
        classifier_state(renamed(model, [*names, *of("classifier")]), mobilenet_v3_large())


def test_messages_name_what_does_not_fit():
    spec = mobilenet_v2()
    names = timm_names_of(V2_STAGES, v3=False)
    state = renamed(Classifier(backbone=spec, num_classes=2), names)
    with pytest.raises(ValueError, match="have no classifier"):
        classifier_state({k: v for k, v in state.items() if not k.startswith("classifier.")}, spec)
    with pytest.raises(ValueError, match="16 blocks, not 15"):
        classifier_state(state, mobilenet_v3_large())
    with pytest.raises(ValueError, match="from a timm classifier"):
        from_torchvision(state, spec)
    state["blocks.6.0.se.conv_reduce.weight"] = state.pop("blocks.6.0.bn3.bias")
    with pytest.raises(
        ValueError, match=r"missing blocks\.6\.0\.bn3\.bias; left over blocks\.6\.0\.se\.conv_reduce\.weight"
    ):
        classifier_state(state, spec)


def test_a_backbone_from_a_model_without_classifier():
    """timm's num_classes=0 keeps conv_head, which a MobileNetV3 backbone does not have."""
    spec = mobilenet_v3_large(bn_eps=1e-5)
    state = renamed(
        Classifier(backbone=spec, num_classes=2), timm_names_of(V3_LARGE_STAGES, se=(2, 4, 5), v3=True)
    )
    state = {key: tensor for key, tensor in state.items() if not key.startswith("classifier.")}
    network = MobileNet(spec, ("block13.expansion",))
    network.load_state_dict(backbone_state(state, network), strict=True)
    assert torch.equal(network.stem.conv.weight, state["conv_stem.weight"])


def randomize(model):
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
        elif getattr(module, "bias", None) is not None:
            module.bias.data.copy_(torch.randn(module.bias.shape, generator=generator) * 0.2)


large, small = partial(mobilenet_v3_large, bn_eps=1e-5), partial(mobilenet_v3_small, bn_eps=1e-5)
tf_large = partial(mobilenet_v3_large, padding="same")
tf_small = partial(mobilenet_v3_small, padding="same")
v4_small = partial(mobilenet_v4_small, bn_eps=1e-5)
v2, b1, a1 = (partial(build, bn_eps=1e-5) for build in (mobilenet_v2, mnasnet_b1, mnasnet_a1))
OF_TIMM = {
    "mobilenetv3_large_100": large(),
    "mobilenetv3_large_075": large(width_mult=0.75),
    "mobilenetv3_small_100": small(),
    "mobilenetv3_small_075": small(width_mult=0.75),
    "mobilenetv3_small_050": small(width_mult=0.5, stem=32),  # whose stem does not shrink
    "tf_mobilenetv3_large_100": tf_large(),
    "tf_mobilenetv3_large_075": tf_large(width_mult=0.75),
    "tf_mobilenetv3_large_minimal_100": tf_large(minimalistic=True),
    "tf_mobilenetv3_small_100": tf_small(),
    "tf_mobilenetv3_small_075": tf_small(width_mult=0.75),
    "tf_mobilenetv3_small_minimal_100": tf_small(minimalistic=True),
    "mobilenetv4_conv_small": v4_small(),
    "mobilenetv4_conv_small_050": v4_small(width_mult=0.5),
    "mobilenetv4_conv_medium": mobilenet_v4_medium(bn_eps=1e-5),
    "mobilenetv2_100": v2(),
    "mobilenetv2_050": v2(width_mult=0.5),
    "mobilenetv2_140": v2(width_mult=1.4),
    "mnasnet_100": b1(),
    "mnasnet_small": mnasnet_small(bn_eps=1e-5),
    "semnasnet_100": a1(),
    "semnasnet_075": a1(width_mult=0.75),
}


@pytest.mark.parametrize("name", OF_TIMM)
def test_outputs_are_timms(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False, num_classes=10).eval()
    randomize(theirs)
    spec = OF_TIMM[name]
    ours = Classifier(backbone=spec, num_classes=10).eval()
    ours.load_state_dict(classifier_state(theirs.state_dict(), spec), strict=True)
    x = torch.randn(1, 3, 64, 97)
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4 * expected.std().item())
    assert expected.std() > 1e-2
