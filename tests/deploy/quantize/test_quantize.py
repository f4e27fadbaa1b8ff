"""8-bit files: contents and results, the layers that stay float, and the report card."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from deploy.export.module import export_module
from deploy.formats import find, open_session
from deploy.quantize import within_budget
from deploy.quantize.calibration import open_quantizer
from deploy.quantize.fallback import fall_back
from deploy.quantize.onnx import can_overflow
from deploy.quantize.quantizer import layer_name
from deploy.quantize.sensitivity import MAX_SNR_DB, Sensitivity, sensitivities, snr_db
from deploy.quantize.within_budget import AccuracyBudget, quantize_within_budget
from deploy.session import Session
from deploy.timing.latency import Rounds
from tests.refusals import refuses

LIBRARIES = {"onnx": ["onnx", "onnxscript", "onnxruntime"], "openvino": ["openvino", "nncf"]}
SENSITIVE = {"onnx": "mid.1", "openvino": "mul"}
"""Where the outputs of `wild` are rounded: at the convolution itself, or after its h-swish."""


class Net(nn.Module):
    """h-swish, squeeze-and-excite and a residual sum in front of three classes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.Hardswish()
        )
        self.mid = nn.ModuleDict(
            {
                "1": nn.Conv2d(16, 16, 3, padding=1, groups=16),
                "2": nn.Conv2d(16, 16, 1),
                "se": nn.Conv2d(16, 16, 1),
            }
        )
        self.classifier = nn.Linear(16, 3)

    def forward(self, images):
        features = self.stem(images.float() / 127.5 - 1)
        inner = nn.functional.hardswish(self.mid["1"](features))
        inner = inner * nn.functional.hardsigmoid(self.mid["se"](inner.mean((2, 3), keepdim=True)))
        return self.classifier((features + self.mid["2"](inner)).mean((2, 3)))


def colored(count, seed=0):
    """Noise with one strong channel: (images [N, 3, 16, 16] uint8, the channels [N])."""
    generator = np.random.default_rng(seed)
    kinds = generator.integers(0, 3, count)
    images = generator.integers(0, 160, (count, 3, 16, 16))
    images[np.arange(count), kinds] += 40
    return images.astype(np.uint8), kinds


@pytest.fixture(scope="module")
def net():
    """Trained to name the strong channel."""
    net, (images, kinds) = Net(), colored(128)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(torch.from_numpy(images)), torch.from_numpy(kinds)).backward()
        optimizer.step()
    return net.eval()


def wild(net):
    """The same network, with two channels of `mid.1` a thousand times the rest, which nothing reads."""
    other = Net()
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        depthwise = other.mid["1"]
        depthwise.weight[:2] *= 1000
        depthwise.bias[:2] *= 1000
        other.mid["se"].weight[:, :2] = 0
        other.mid["2"].weight[:, :2] = 0
    return other.eval()


def write(net, folder, format):
    for library in LIBRARIES[format]:
        pytest.importorskip(library)
    example = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    path = folder / f"float{find(format).SUFFIX}"
    return export_module(
        net, example, path, format=format, names=["logits"], metadata={"precision": "fp32", "a": "b"}
    )


@pytest.fixture(scope="module", params=list(LIBRARIES))
def quantized(request, net, tmp_path_factory):
    """(format, float file, quantizer, file with all layers in 8 bits)"""
    folder = tmp_path_factory.mktemp("int8")
    source = write(net, folder, request.param)
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    quantizer = open_quantizer(source, list(colored(32)[0]), format=request.param, weights=weights)
    path = quantizer.write(folder / f"all{source.suffix}", float_layers=[])
    return request.param, source, quantizer, path


def answers(path, images):
    session = open_session(path)
    return np.concatenate([session(image[None])[0] for image in images])


def accuracy(path):
    images, kinds = colored(200, seed=1)
    return 100 * float((answers(path, images).argmax(1) == kinds).mean())


def stored(path):
    """What a file stores: (Counter of the types of large constants, Counter of operations)."""
    if path.suffix == ".onnx":
        import onnx

        graph = onnx.load(path).graph
        arrays = [onnx.numpy_helper.to_array(entry) for entry in graph.initializer]
        return Counter(str(a.dtype) for a in arrays if a.size >= 48), Counter(n.op_type for n in graph.node)
    import openvino

    nodes = openvino.Core().read_model(path).get_ordered_ops()
    arrays = [node.data for node in nodes if node.get_type_name() == "Constant"]
    return Counter(str(a.dtype) for a in arrays if a.size >= 48), Counter(n.get_type_name() for n in nodes)


def test_the_file_stores_weights_in_8_bits(quantized):
    format, source, _, path = quantized
    before, _ = stored(source)
    after, operations = stored(path)
    assert before["int8"] == 0
    assert after["int8"] >= 4
    assert operations["QuantizeLinear" if format == "onnx" else "FakeQuantize"] >= 4
    assert operations["BatchNormalization"] == 0


def test_the_metadata_are_those_of_the_float_file(quantized):
    _, source, _, path = quantized
    session = open_session(path)
    assert dict(session.metadata) == {**open_session(source).metadata, "precision": "int8"}
    assert session.output_names == ("logits",)
    assert session.dtype == "uint8"


def test_a_trained_network_keeps_its_answers(quantized):
    _, source, _, path = quantized
    assert accuracy(source) > 97
    assert accuracy(path) > accuracy(source) - 2
    images = colored(50, seed=2)[0]
    snr = snr_db(answers(source, images), answers(path, images))
    assert 20 < snr < 80  # 8 bits, and not float32 by mistake


def test_layers_are_named_after_their_modules(quantized):
    _, _, quantizer, _ = quantized
    assert {"stem.0", "mid.1", "mid.2"} <= set(quantizer.layers)


def test_with_all_layers_in_float_the_file_is_the_float_file(quantized, tmp_path):
    _, source, quantizer, _ = quantized
    path = quantizer.write(tmp_path / f"none{source.suffix}", float_layers=quantizer.layers)
    images = colored(4, seed=3)[0]
    np.testing.assert_allclose(answers(path, images), answers(source, images), atol=1e-4)
    assert stored(path)[0]["int8"] == 0


def test_a_layer_in_float_keeps_its_weights(quantized, net, tmp_path):
    _, source, quantizer, path = quantized
    other = quantizer.write(tmp_path / f"one{source.suffix}", float_layers=["mid.2"])
    assert stored(other)[0]["int8"] == stored(path)[0]["int8"] - 1
    assert stored(other)[0]["float32"] == stored(path)[0]["float32"] + 1


@pytest.mark.parametrize("format", LIBRARIES)
def test_the_fallback_chooses_the_layer_that_was_made_sensitive(net, format, tmp_path):
    """The outputs of `mid.1` have 256 steps, and two channels take all but one of them."""
    source = write(wild(net), tmp_path, format)
    images = list(colored(32)[0])
    weights = {name: value.numpy() for name, value in wild(net).state_dict().items()}
    quantizer = open_quantizer(source, images, format=format, weights=weights)
    ranking = sensitivities(quantizer, source, images[:8])
    assert {entry.layer for entry in ranking} == set(quantizer.layers)
    assert [entry.snr_db for entry in ranking] == sorted(entry.snr_db for entry in ranking)
    worst = [entry.layer for entry in ranking]
    path = tmp_path / f"model{source.suffix}"

    def score(file):
        probes = colored(20, seed=5)[0]
        return snr_db(answers(source, probes), answers(file, probes))

    all_in_8_bits = score(quantizer.write(path, float_layers=[]))
    chosen = fall_back(quantizer, path, order=worst, score=score, min_score=all_in_8_bits + 3)
    assert 0 < len(chosen.float_layers) < len(worst)
    assert SENSITIVE[format] in chosen.float_layers
    assert chosen.float_layers == tuple(worst[: len(chosen.float_layers)])
    assert score(path) == pytest.approx(chosen.score)
    assert chosen.score >= all_in_8_bits + 3


def test_ranges_end_where_the_activation_is_constant(net, tmp_path):
    """h-swish is 0 up to -3 (paper, section 5.2: x ReLU6(x + 3) / 6)."""
    onnx = pytest.importorskip("onnx")
    from deploy.quantize.onnx import active_ranges

    graph = onnx.load(write(net, tmp_path, "onnx"))
    ranges = active_ranges(graph)
    producers = {node.output[0]: node.op_type for node in graph.graph.node}
    assert sorted(ranges.values()) == [(-3.0, 3.0), (-3.0, np.inf), (-3.0, np.inf)]
    assert {producers[tensor] for tensor in ranges} == {"Conv"}


class Steps:
    """A quantizer whose files say how many layers are float."""

    layers = tuple("abcdefghij")

    def write(self, path, *, float_layers):
        path.write_text(str(len(float_layers)))
        return path


@pytest.mark.parametrize("needed", range(10))
def test_as_few_layers_as_possible_stay_float(tmp_path, needed):
    path = tmp_path / "m.onnx"
    scores = []

    def score(file):
        scores.append(int(file.read_text()))
        return 100.0 if scores[-1] >= needed else 0.0

    fallback = fall_back(Steps(), path, order=Steps.layers, score=score, min_score=50)
    assert fallback.float_layers == Steps.layers[:needed]
    assert path.read_text() == str(needed)  # the chosen file, not the last one that was tried
    assert len(scores) <= 8


def test_the_number_is_found_by_doubling_and_bisection(tmp_path):
    """6 of 10 are needed: 0, 1, 3 and 7 until one is enough, then 5 and 6 between 3 and 7."""
    lines = []
    options = {"order": Steps.layers, "score": lambda file: float(file.read_text()), "log": lines.append}
    fallback = fall_back(Steps(), tmp_path / "m.onnx", min_score=6, **options)
    assert fallback.tried == ((0, 0.0), (1, 1.0), (3, 3.0), (7, 7.0), (5, 5.0), (6, 6.0))
    assert lines[0] == "10 of 10 layers in 8 bits: 0.00"
    assert lines[-1] == "4 of 10 layers in 8 bits: 6.00"
    assert fall_back(Steps(), tmp_path / "m.onnx", min_score=0, **options).tried == ((0, 0.0),)
    last = fall_back(Steps(), tmp_path / "m.onnx", min_score=9, **options)
    assert [count for count, _ in last.tried] == [0, 1, 3, 7, 9, 8]


def test_a_budget_that_no_file_meets_is_rejected(tmp_path):
    options = {"order": Steps.layers, "score": lambda _: 1.0, "min_score": 50}
    refuses(lambda: fall_back(Steps(), tmp_path / "m.onnx", **options), "scores 1.00", "calibration.images")
    assert [file.name for file in tmp_path.iterdir()] == [
        "m.onnx.rejected"
    ]  # no file that could be deployed by mistake


@pytest.mark.parametrize("needed", [4, 5])
def test_a_score_at_the_limit_is_enough_and_one_below_is_not(tmp_path, needed):
    fallback = fall_back(
        Steps(),
        tmp_path / "m.onnx",
        order=Steps.layers,
        score=lambda file: float(file.read_text()),
        min_score=needed,
    )
    assert len(fallback.float_layers) == fallback.score == needed


@pytest.mark.parametrize(
    ("points", "num_float"), [(2.0, 6), (1.999, 7), (0.0, 10), (5.0, 0), (-0.5, None), (0.5, 9)]
)
def test_a_file_loses_at_most_the_budget(tmp_path, monkeypatch, points, num_float):
    """The float file scores 90, and each layer in 8 bits costs half a point: 2 points are 4 layers of ten."""
    path, source = tmp_path / "m.onnx", tmp_path / "float.onnx"
    source.write_text("10")
    order = Steps.layers[::-1]
    ranking = [Sensitivity(layer=layer, snr_db=float(rank)) for rank, layer in enumerate(order)]
    session = Session(run=lambda images: [images], output_names=("x",), runtime="toy")
    threads, lines = [], []
    monkeypatch.setattr(
        within_budget, "sensitivities", lambda *_, **options: threads.append(options["threads"]) or ranking
    )
    monkeypatch.setattr(
        within_budget, "open_session", lambda *_, **options: threads.append(options["threads"]) or session
    )
    monkeypatch.setattr(within_budget, "time_both", lambda *arguments: (arguments[3:], "ratio"))

    def score(file):
        return 90 - 0.5 * (10 - int(file.read_text()))

    def quantize(**options):
        return quantize_within_budget(
            Steps(),
            source,
            path,
            budget=AccuracyBudget(score=score, metric="miou", split="val", points=points),
            images=[np.zeros((3, 4, 6), np.uint8), *[np.zeros((3, 5, 5), np.uint8)] * 4],
            calibration={"images": 3},
            **options,
        )

    if num_float is None or num_float == 10:  # all layers in float is no 8-bit file
        refuses(quantize, f"requires {90 - points:.2f}")
        return
    card = quantize()
    assert card.fallback.float_layers == order[:num_float]
    assert (card.before, card.fallback.score) == (90, 85 + num_float / 2)
    assert card.lost == 5 - num_float / 2 <= points
    assert (card.budget, card.metric, card.split, card.layers) == (points, "miou", "val", 10)
    assert card.calibration == {"images": 3, "probes": 5}
    assert card.input == [1, 3, 4, 6]
    assert (card.latency, card.ratio, card.threads) == (None, None, 1)
    rounds = Rounds(least=2, most=2, budget_s=1)
    timed = quantize(threads=2, rounds=rounds, log=lines.append)
    assert (timed.latency, timed.ratio, timed.threads) == ((2, rounds), "ratio", 2)
    assert threads == [1, 1, 2, 2]
    assert {"float32: miou 90.00", "10 of 10 layers in 8 bits: 85.00"} <= set(lines)
    assert (card.bytes_before, card.bytes_after) == (2, len(str(num_float)))


def test_the_report_card_has_scores_sizes_and_times(quantized, tmp_path):
    _, source, quantizer, _ = quantized
    path = tmp_path / source.name
    card = quantize_within_budget(
        quantizer,
        source,
        path,
        budget=AccuracyBudget(score=accuracy, metric="top1", split="val", points=2.0),
        images=list(colored(4)[0]),
        calibration={"images": 32, "split": "train", "per_channel": True},
        rounds=Rounds(least=6, most=6, budget_s=5),
    )
    card.write(tmp_path)
    stored_card = json.loads((tmp_path / "report_card.json").read_text())
    assert stored_card["before"] == accuracy(source)
    assert stored_card["after"] == accuracy(path)
    assert stored_card["before"] - stored_card["after"] <= 2
    assert len(stored_card["sensitivity"]) == stored_card["layers"] == len(quantizer.layers)
    assert set(stored_card["latency"]) == {"float32", "int8"}
    assert stored_card["latency"]["int8"]["rounds"] == 6
    assert "versions" in stored_card["machine"]
    text = (tmp_path / "report_card.md").read_text()
    assert f"| top1, val | {stored_card['before']:.2f} | {stored_card['after']:.2f} |" in text
    assert f"of {len(quantizer.layers)} layers are in 8 bits" in text


def test_signal_to_noise_ratio_is_in_decibels():
    signal = np.array([3.0, 4.0])
    assert snr_db(signal, signal * 1.1) == pytest.approx(20)  # a tenth of the amplitude
    assert snr_db(signal, signal) == MAX_SNR_DB
    assert snr_db(signal, signal * np.nan) == -np.inf


def test_a_layer_is_named_without_the_wrappers_around_it():
    assert layer_name("module.model.backbone.stem.conv.weight") == "backbone.stem.conv"
    assert layer_name("head.weight") == "head"


@pytest.mark.parametrize(("reduce_range", "largest"), [(False, 127), (True, 64)])
def test_reduced_weights_have_seven_bits(net, tmp_path, reduce_range, largest):
    onnx = pytest.importorskip("onnx")
    source = export_module(
        net,
        torch.zeros(1, 3, 16, 16, dtype=torch.uint8),
        tmp_path / "m.onnx",
        format="onnx",
        names=["scores"],
        metadata={},
    )
    quantizer = open_quantizer(source, list(colored(8)[0]), format="onnx", reduce_range=reduce_range)
    model = onnx.load(quantizer.write(tmp_path / "int8.onnx", float_layers=()))
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4
    ]
    assert len(weights) == 4
    assert {int(np.abs(values.astype(int)).max()) for values in weights} <= {largest - 1, largest}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2", True), ("avx2 avx_vnni", False), ("avx512f avx512_vnni", False), (None, False)],
)
def test_weights_can_overflow_on_x86_without_byte_dot_products(monkeypatch, flags, expected):
    text = "Features\t: asimd\n" if flags is None else f"processor\t: 0\nflags\t\t: {flags}\n"
    monkeypatch.setattr("deploy.quantize.onnx.Path.read_text", lambda *_, **__: text)
    assert can_overflow() is expected


@pytest.mark.parametrize(
    ("format", "images", "part"),
    [("coreml", [1], "format=onnx, web, openvino, executorch or litert"), ("onnx", [], "calibration.images")],
)
def test_a_format_or_calibration_that_cannot_work_is_rejected(tmp_path, format, images, part):
    refuses(lambda: open_quantizer(tmp_path / "m.onnx", images, format=format), part)
