"""The table's arithmetic on layers of known cost, and real timings as far as a busy machine allows."""

import json
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from backbones.count import count
from backbones.mobilenet_v2 import mobilenet_v2
from backbones.mobilenet_v3 import SMALL, mobilenet_v3_large
from backbones.mobilenet_v4 import mobilenet_v4_medium, mobilenet_v4_small
from backbones.spec import BlockSpec, NetSpec, SESpec
from cls.model import Classifier
from deploy.latency_table.build import build_table
from deploy.latency_table.layer_timing import LayerTimer
from deploy.latency_table.layers import HeadOf, Layer, head_name, layers_of, module_of
from deploy.latency_table.measurers import TorchMeasurer, measurer
from deploy.latency_table.network_latency import NetworkLatency
from deploy.latency_table.table import LatencyTable
from deploy.timing.latency import Rounds
from det.anchors.generators import SSDAnchors
from det.model import Detector
from engine.errors import UserError
from seg.heads import LRASPP
from seg.model import Segmenter

SIZE = (65, 130)
TINY = NetSpec(
    name="tiny",
    stem=16,
    blocks=(
        BlockSpec(kernel=3, exp=16, out=16, se=True),
        BlockSpec(kernel=3, exp=64, out=24, stride=2),
        BlockSpec(kernel=5, exp=72, out=24, act="HS"),
    ),
    last=64,
    hidden=32,
)


class MAdds:
    """A device that takes a nanosecond per multiply-add, 0.002 ms per call, and as much for each edge."""

    def __init__(self):
        self.about = {"runtime": "abacus", "threads": 1}
        self.calls = 0

    def __call__(self, module, inputs):
        self.calls += 1
        madds = []

        def see(layer, _, output):
            if isinstance(layer, nn.Conv2d):
                height, width = layer.kernel_size
                madds.append(output.numel() * layer.in_channels // layer.groups * height * width)
            elif isinstance(layer, nn.Linear):
                madds.append(output.numel() * layer.in_features)

        hooks = [layer.register_forward_hook(see) for layer in module.modules()]
        with torch.no_grad():
            module(*inputs)
        for hook in hooks:
            hook.remove()
        return sum(madds) * 1e-6 + 0.004


def classifier(spec):
    return Classifier(backbone=spec, num_classes=3)


def segmenter(spec):
    return Segmenter(backbone=spec, head=partial(LRASPP, pool="large_kernel"), num_classes=4)


def detector(spec):
    return Detector(backbone=spec, num_classes=3, input_size=SIZE, anchors=SSDAnchors())


MODELS = [
    (classifier, SMALL),
    (classifier, mobilenet_v2(width_mult=0.35)),
    (segmenter, mobilenet_v3_large(width_mult=0.35, output_stride=16, tail="rf2", padding="same")),
    (detector, SMALL),
    (classifier, mobilenet_v4_small(width_mult=0.35)),
    (segmenter, mobilenet_v4_medium(width_mult=0.25, output_stride=16)),
    (segmenter, mobilenet_v4_small(width_mult=0.25)),  # whose skip connection starts in a fused block
]


@pytest.mark.parametrize(("make", "spec"), MODELS)
def test_the_layers_are_the_whole_network(make, spec):
    """No multiply-add is missing or counted twice, and each layer's output is the next one's input."""
    model = make(spec).eval()
    network = layers_of(spec, size=SIZE, taps=model.backbone.taps, head="head")
    total = 0
    x = torch.rand(1, 3, *SIZE)
    for layer in network[:-1]:
        assert x.shape == (1, layer.channels_in, layer.height, layer.width)
        module = module_of(layer)
        total += count(module, x.shape[2:], channels=x.shape[1]).madds
        with torch.no_grad():
            x = module(x)
    head = HeadOf(model)
    seen = []
    for part in head.modules():
        part.register_forward_hook(lambda layer, _, out: seen.append((layer, out)))
    with torch.no_grad():
        head(*(torch.rand(1, *size) for size in network[-1].inputs))
    for layer, out in seen:
        if isinstance(layer, nn.Conv2d):
            total += out.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += out.numel() * layer.in_features
    assert total == count(model, SIZE).madds


def test_a_head_returns_what_its_model_returns():
    model = segmenter(SMALL).eval()
    image = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        features = model.backbone(image)
        assert torch.equal(HeadOf(model)(*features.values()), model(image))
    assert type(model.backbone).__name__ == "MobileNet"  # the model itself does not change


def test_a_blocks_key_has_everything_that_changes_its_time():
    network = layers_of(mobilenet_v3_large(output_stride=16), size=(224, 224))
    c4, dilated = network[4], network[15]  # Table 1: 5x5, 24 -> 72 -> 40, SE, stride 2, from 56x56
    assert c4 == Layer(
        kind="block",
        channels_in=24,
        exp=72,
        out=40,
        kernel=5,
        stride=2,
        act="RE",
        squeezed=24,
        gate="hard_sigmoid",
        height=56,
        width=56,
    )
    assert (dilated.dilation, dilated.residual, dilated.height) == (2, True, 14)


def test_the_forms_of_mobilenet_v4_have_their_own_keys():
    network = layers_of(mobilenet_v4_small(), size=(224, 224))
    common = {"kind": "block", "act": "RE"}
    assert network[1] == Layer(
        **common, channels_in=32, exp=32, out=32, kernel=3, stride=2, height=112, width=112, fused=True,
        linear=False,
    )  # fmt: skip
    assert network[8] == Layer(
        **common, channels_in=96, exp=384, out=96, kernel=0, height=14, width=14, start_kernel=3,
        residual=True,
    )  # fmt: skip
    names = [network[number].name for number in (1, 3, 8)]
    assert names == [
        "fused block 32->32->32 k3 s2 @112x112", "block 64->192->96 k5+5 s2 @28x28",
        "block 96->384->96 k3+0 @14x14",
    ]  # fmt: skip
    # Only the fields that a block needs: tables of other networks are what they were.
    assert network[4].to_dict().keys() == {
        "kind", "channels_in", "exp", "out", "kernel", "act", "residual", "height", "width",
    }  # fmt: skip


@pytest.mark.parametrize(
    "layer",
    [
        *layers_of(SMALL, size=(64, 64), taps=("block3.depthwise", "last"), head="x"),
        *layers_of(mobilenet_v4_small(), size=(64, 64)),
    ],
)
def test_keys_survive_json(layer):
    assert Layer.from_dict(json.loads(json.dumps(layer.to_dict()))) == layer


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "blok", "channels_in": 1, "height": 1, "width": 1},
        {"kind": "block", "channels_in": 0, "height": 1, "width": 1},
        {"kind": "block", "channels_in": "8", "height": 1, "width": 1},
        {"kind": "block", "channels_in": 8, "height": 1, "width": 1, "depth": 3},
    ],
)
def test_a_wrong_key_is_rejected(data):
    with pytest.raises(ValueError, match=r"layer|needs"):
        Layer.from_dict(data)


def test_the_sum_over_layers_is_the_time_of_the_network():
    device = MAdds()
    model = classifier(TINY).eval()
    latency = NetworkLatency(
        table=LatencyTable(about={}),
        size=SIZE,
        taps=model.backbone.taps,
        head="classifier",
        model=classifier,
        measure=device,
    )
    # Each graph pays 0.004 ms; an edge is half of that. The network pays 0.002 at its input,
    # counted for the stem, and as much at its output, counted for the head.
    assert latency(TINY) == pytest.approx(count(model, SIZE).madds * 1e-6 + 0.004, abs=1e-5)
    assert latency.measured_ms(model, torch.rand(1, 3, *SIZE)) == pytest.approx(latency(TINY), abs=1e-5)


class Uses(TorchDispatchMode):
    """Counts the operators that read a tensor."""

    def __init__(self, tensor):
        super().__init__()
        self.address, self.count = tensor.data_ptr(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += any(isinstance(arg, torch.Tensor) and arg.data_ptr() == self.address for arg in args)
        return func(*args, **(kwargs or {}))


class ConvertsPerUse(MAdds):
    """Converts an input for each operator that reads it (0.01 ms), as OpenVINO does for a residual block."""

    def __call__(self, module, inputs):
        with Uses(inputs[0]) as uses:
            ms = super().__call__(module, inputs)
        return ms + 0.01 * uses.count


def test_a_block_that_reads_its_input_twice_pays_for_no_second_conversion():
    model = classifier(SMALL).eval()
    options = {"size": SIZE, "taps": model.backbone.taps, "head": "classifier", "model": classifier}
    assert any(layer.residual for layer in layers_of(SMALL, size=SIZE))
    device = ConvertsPerUse()
    latency = NetworkLatency(table=LatencyTable(about={}), measure=device, **options)
    assert latency(SMALL) == pytest.approx(device(model, [torch.rand(1, 3, *SIZE)]), abs=1e-4)


def test_what_was_measured_is_saved_and_not_measured_again(tmp_path):
    device, path = MAdds(), tmp_path / "table.json"
    options = {"size": SIZE, "measure": device, "path": path}
    first = NetworkLatency(table=LatencyTable(about={"device": "abacus"}), **options)(TINY)
    calls = device.calls
    again = NetworkLatency(table=LatencyTable.load(path), **options)
    assert again(TINY) == first
    assert device.calls == calls
    wider = NetSpec.from_dict({**TINY.to_dict(), "last": 72})
    again(wider)
    assert device.calls == calls + 2  # the last conv, and its neighbor of 72 channels
    assert LatencyTable.load(path).about["device"] == "abacus"


def test_a_table_interpolates_between_channels():
    table = build_table(
        TINY, size=SIZE, measure=MAdds(), head="classifier", model=classifier, shares=(1.0, 0.5, 0.25)
    )
    latency = NetworkLatency(table=table, size=SIZE, head="classifier")
    exact = NetworkLatency(
        table=LatencyTable(about={}), size=SIZE, head="classifier", model=classifier, measure=MAdds()
    )
    data = TINY.to_dict()
    data["blocks"][1] |= {"exp": 40, "out": 16}
    data["blocks"][2] |= {"exp": 56, "out": 16}
    data |= {"last": 40}
    smaller = NetSpec.from_dict(data)
    # Multiply-adds of a block without SE are linear in each of its channels: interpolation is exact.
    assert latency(smaller) == pytest.approx(exact(smaller), rel=1e-3)
    assert latency(TINY) == pytest.approx(exact(TINY), abs=1e-5)


def test_a_table_interpolates_the_forms_of_mobilenet_v4():
    """The table covers a fused block that is as wide as its input, and one that is not."""
    blocks = (
        BlockSpec(kernel=3, exp=32, out=32, fused=True, linear=False, stride=2),
        BlockSpec(kernel=3, start_kernel=5, exp=128, out=32, stride=2),
        BlockSpec(kernel=0, start_kernel=3, exp=128, out=32),
        BlockSpec(kernel=0, exp=128, out=48),
    )
    spec = NetSpec(name="forms", stem=32, blocks=blocks, last=0)
    table = build_table(spec, size=SIZE, measure=MAdds(), shares=(1.0, 0.5))
    data = spec.to_dict()
    data["blocks"][0] |= {"exp": 24}
    data["blocks"][1] |= {"exp": 96}
    data["blocks"][2] |= {"exp": 96}
    data["blocks"][3] |= {"out": 40}
    smaller = NetSpec.from_dict(data)
    exact = NetworkLatency(table=LatencyTable(about={}), size=SIZE, measure=MAdds())
    # The depthwise convolution before an expansion adds channels_in alone, so this is linear too.
    assert NetworkLatency(table=table, size=SIZE)(smaller) == pytest.approx(exact(smaller), rel=1e-3)


def test_interpolation_is_multilinear():
    table = LatencyTable(about={})
    for channels_in, out, ms in ((8, 16, 1.0), (8, 32, 2.0), (16, 16, 3.0), (16, 32, 8.0), (8, 64, 99.0)):
        table.add(Layer(kind="last", channels_in=channels_in, out=out, act="HS", height=4, width=4), ms)

    def at(channels_in, out):
        return table.layer_ms(
            Layer(kind="last", channels_in=channels_in, out=out, act="HS", height=4, width=4)
        )

    assert at(8, 24) == pytest.approx(1.5)  # between two entries
    assert at(12, 16) == pytest.approx(2.0)
    assert at(12, 24) == pytest.approx((1 + 2 + 3 + 8) / 4)  # in the middle of four
    assert at(10, 32) == pytest.approx(0.75 * 2 + 0.25 * 8)


@pytest.mark.parametrize(
    "change",
    [{"out": 80}, {"out": 8}, {"channels_in": 40}, {"height": 5}, {"act": "RE"}],
    ids=["above", "below", "input", "size", "activation"],
)
def test_there_is_no_extrapolation(change):
    table = LatencyTable(about={})
    entry = {"kind": "last", "channels_in": 8, "act": "HS", "height": 4, "width": 4}
    for out in (16, 64):
        table.add(Layer(**entry, out=out), float(out))
    assert table.layer_ms(Layer(**entry, out=40)) == 40.0
    with pytest.raises(UserError, match=r"has no entry for last .* measure more channels"):
        table.layer_ms(Layer(**{**entry, "out": 40, **change}))


def test_a_block_with_expansion_is_not_interpolated_from_one_without():
    table = build_table(TINY, size=SIZE, measure=MAdds(), shares=(1.0, 0.5))
    plain = layers_of(TINY, size=SIZE)[1]  # 16 -> 16 -> 16, with a residual
    assert table.layer_ms(plain) > 0
    expanding = Layer.from_dict({**plain.to_dict(), "exp": 12})
    with pytest.raises(UserError, match="no entry"):
        table.layer_ms(expanding)


def test_squeeze_and_excite_shrinks_by_its_own_rule():
    spec = NetSpec.from_dict({**TINY.to_dict(), "se": SESpec(ratio=0.5).to_dict()})
    table = build_table(spec, size=SIZE, measure=MAdds(), shares=(1.0, 0.5))
    squeezed = {layer.exp: layer.squeezed for layer in table.entries if layer.squeezed}
    assert squeezed == {16: 8, 8: 8}
    assert all(layer in table.entries for layer in layers_of(spec, size=SIZE))


@pytest.mark.parametrize("shares", [(), (0.0,), (1.5,)])
def test_shares_out_of_range_are_rejected(shares):
    with pytest.raises(ValueError, match="shares must be above 0"):
        build_table(TINY, size=SIZE, measure=MAdds(), shares=shares)


def test_a_head_cannot_be_timed_without_its_model():
    with pytest.raises(UserError, match="no model to measure it with"):
        build_table(TINY, size=SIZE, measure=MAdds(), head="x")


def test_a_heads_name_depends_on_what_it_is_built_with():
    model = segmenter(SMALL)
    name = head_name(model, {"head": {"filters": 128}, "input_size": 300, "backbone": 1}, 4)
    assert name.startswith("LRASPP-")
    assert name == head_name(model, {"head": {"filters": 128}, "input_size": 400, "backbone": 2}, 4)
    assert name != head_name(model, {"head": {"filters": 256}}, 4)
    assert name != head_name(model, {"head": {"filters": 128}}, 5)


def test_the_file_says_what_it_was_measured_on(tmp_path):
    build_table(TINY, size=SIZE, measure=MAdds()).save(tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text())
    assert {"cpu", "date", "versions"} <= content.keys()
    assert (content["format"], content["runtime"], content["threads"]) == (1, "abacus", 1)
    assert (content["size"], content["dtype"]) == (list(SIZE), "float32")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a readable latency table"),
        ("[]", "not a latency table of format 1"),
        ('{"format": 2}', "not a latency table of format 1"),
        ('{"format": 1}', "layers must be a list"),
        ('{"format": 1, "layers": [{"kind": "stem"}]}', r"layers\[0\] has no latency_ms"),
        ('{"format": 1, "layers": [3]}', r"layers\[0\]"),
        ('{"format": 1, "layers": [{"kind": "x", "latency_ms": 1}]}', r"layers\[0\]: a layer's kind"),
        (
            '{"format": 1, "layers": [{"kind": "last", "channels_in": 8, "height": 1, "width": 1, '
            '"latency_ms": -1}]}',
            r"layers\[0\]: latency_ms must be",
        ),
    ],
)
def test_a_file_that_is_not_a_table_is_rejected(tmp_path, text, message):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        LatencyTable.load(path)


def test_a_missing_table_is_rejected(tmp_path):
    with pytest.raises(UserError, match="not a readable latency table"):
        LatencyTable.load(tmp_path / "none.json")


QUICK = Rounds(warmup=1, least=6, most=10, interval=0.5, budget_s=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["eager", pytest.param("onnx", marks=pytest.mark.slow)])
def test_real_layers_can_be_timed(runtime):
    if runtime == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    measure = measurer(runtime, rounds=QUICK)
    assert measure.about["runtime"] == runtime
    timer = LayerTimer(measure)
    network = layers_of(TINY, size=(64, 64), taps=("block2.depthwise", "last"), head="LRASPP")

    def model():
        return Segmenter(
            backbone=TINY,
            head=partial(LRASPP, pool="global"),
            num_classes=4,
            low="block2.depthwise",
            high="last",
        )

    for layer in (network[0], network[-1]):
        assert 0 <= timer(layer, model) < 1000


def test_torchs_number_of_threads_is_restored():
    before = torch.get_num_threads()
    measure = TorchMeasurer(threads=before + 1, rounds=QUICK)
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

    measure(Spy(), (torch.rand(1),))
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("runtime", "threads"), [("abacus", 1), ("eager", 0)])
def test_unknown_runtimes_and_thread_counts_are_rejected(runtime, threads):
    with pytest.raises(ValueError, match=r"runtime must be|threads must be"):
        measurer(runtime, threads=threads)


def test_the_former_name_of_eager_pytorch_is_still_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"format": 1, "runtime": "torch", "threads": 2, "layers": []}')
    assert LatencyTable.load(path).about == {"runtime": "eager", "threads": 2}
    path.write_text('{"format": 1, "runtime": "my phone", "layers": []}')
    assert LatencyTable.load(path).about["runtime"] == "my phone"
    assert measurer("torch").about["runtime"] == measurer("eager").about["runtime"] == "eager"
