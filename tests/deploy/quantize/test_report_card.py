"""The report card, sensitivities, timing and names of 8-bit files, by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from deploy.quantize import quantizer, sensitivity, within_budget
from deploy.quantize.fallback import Fallback
from deploy.quantize.quantizer import check_installed, check_quantizable, file_bytes, layer_name
from deploy.quantize.report_card import ReportCard
from deploy.quantize.sensitivity import MAX_SNR_DB, Sensitivity, sensitivities, snr_db
from deploy.quantize.within_budget import time_both
from deploy.session import Session
from deploy.timing.latency import Ratio, Rounds
from engine.errors import UserError
from tests.refusals import refuses


def card_of(*, num_layers=3, num_float=1, **options):
    names = tuple(f"layer{number}" for number in range(num_layers))
    values = {
        "runtime": "toy 1",
        "threads": 1,
        "metric": "miou",
        "split": "val",
        "before": 71.25,
        "budget": 1.5,
        "calibration": {"images": 32, "split": "train", "probes": 8, "per_channel": True},
        "layers": num_layers,
        "sensitivity": [Sensitivity(layer=name, snr_db=10.0 + at) for at, name in enumerate(names)],
        "fallback": Fallback(float_layers=names[:num_float], score=70.0, tried=((1, 70.0), (0, 60.0))),
        "bytes_before": 8_000_000,
        "bytes_after": 2_500_000,
        "input": [1, 3, 4, 6],
        "latency": None,
        "ratio": None,
    }
    return ReportCard(**values | options)


def test_the_text_by_hand():
    assert card_of().lost == 1.25
    assert (
        card_of().text()
        == """# Int8 report card

toy 1, 1 thread; calibrated on 32 images of train, a scale per output channel

| | float32 | int8 | |
|---|---|---|---|
| miou, val | 71.25 | 70.00 | -1.25 (allowed: -1.5) |
| MB | 8.00 | 2.50 | 3.20x smaller |

2 of 3 layers are in 8 bits, 1 in float; they were chosen on the same images that are scored here.

| layers in float | miou |
|---|---|
| 0 | 60.00 |
| 1 | 70.00 |

Each layer alone in 8 bits: signal-to-noise ratio of the outputs (8 images)

| layer | dB | |
|---|---|---|
| layer0 | 10.0 | float |
| layer1 | 11.0 |  |
| layer2 | 12.0 |  |
"""
    )


def test_the_text_of_other_cards():
    whole = card_of(
        num_float=0, threads=2, before=70.0, calibration=card_of().calibration | {"per_channel": False}
    )
    text = whole.text()
    assert "toy 1, 2 threads; calibrated on 32 images of train, one scale per tensor" in text
    assert "3 of 3 layers are in 8 bits, 0 in float.\n" in text
    assert "| 70.00 | 70.00 | +0.00 (" in text
    assert "ms, median" not in text
    assert "fine-tuned" not in text
    for incomplete in ({"latency": {}}, {"ratio": SimpleNamespace(p50=0.5)}):
        assert card_of(**incomplete).text() == card_of().text()


@pytest.mark.parametrize(
    ("num_layers", "num_float", "listed"), [(20, 0, 20), (21, 0, 20), (30, 25, 25), (30, 20, 20)]
)
def test_only_the_worst_layers_are_listed(num_layers, num_float, listed):
    """20 of them, and all that stay float."""
    text = card_of(num_layers=num_layers, num_float=num_float).text()
    assert sum(line.startswith("| layer") and " in " not in line for line in text.splitlines()) == listed + 1
    more = f"\n{num_layers - listed} more in report_card.json"
    assert (more in text) == (num_layers > listed)


def ratio_of(middle, interval):
    return Ratio(p50=middle, p5=middle - 0.1, p95=middle + 0.1, interval=interval)


@pytest.mark.parametrize(
    ("before", "after", "ratio", "text"),
    [
        (15.0, 12.0, ratio_of(0.8, (0.79, 0.81)), "1.25x faster"),
        (12.0, 15.0, ratio_of(1.25, (1.24, 1.26)), "1.25x slower"),
        (15.0, 14.0, ratio_of(0.98, (0.95, 1.01)), "no clear difference"),
        (14.0, 15.0, ratio_of(1.02, (0.99, 1.05)), "no clear difference"),
        (15.0, 12.0, ratio_of(0.8, (0.7, 1.0)), "no clear difference"),
        (12.0, 15.0, ratio_of(1.25, (1.0, 1.3)), "no clear difference"),
        (15.0, 12.0, ratio_of(0.8, None), "no clear difference"),  # fewer than six rounds
        (14.65, 15.32, ratio_of(0.98, (0.97, 0.99)), "no clear difference"),  # once "1.02x faster"
        (15.32, 14.65, ratio_of(1.02, (1.01, 1.03)), "no clear difference"),
        (15.0, 15.0, ratio_of(0.98, (0.97, 0.99)), "no clear difference"),
    ],
)
def test_a_file_is_faster_or_slower_only_if_the_medians_and_the_ratio_agree(before, after, ratio, text):
    latency = {"float32": SimpleNamespace(p50=before), "int8": SimpleNamespace(p50=after)}
    card = card_of(latency=latency, ratio=ratio).text()
    assert f"| ms, median | {before:.2f} | {after:.2f} | {text} |" in card


def test_times_and_a_tuned_file():
    latency = {"float32": SimpleNamespace(p50=12.0), "int8": SimpleNamespace(p50=5.0)}
    tuned = {"file": "model-qat.xml", "steps": 40, "score": 71.0}
    text = card_of(latency=latency, ratio=ratio_of(0.4, (0.38, 0.41)), tuned=tuned).text()
    assert "| ms, median | 12.00 | 5.00 | 2.50x faster |" in text
    assert "| model-qat.xml: fine-tuned for 40 steps | | 71.00 | -0.25 |" in text


def test_the_card_is_written_and_a_folder_that_cannot_be_is_named(tmp_path):
    card_of().write(tmp_path)
    stored = json.loads((tmp_path / "report_card.json").read_text())
    assert (stored["after"], stored["lost"], stored["before"]) == (70.0, 1.25, 71.25)
    card_of(before=71.234567).write(tmp_path)
    assert json.loads((tmp_path / "report_card.json").read_text())["lost"] == 1.2346
    assert stored["fallback"]["tried"] == [[1, 70.0], [0, 60.0]]
    card_of().write(tmp_path)
    assert (tmp_path / "report_card.md").read_text() == card_of().text()
    (tmp_path / "report_card.md").unlink()
    (tmp_path / "report_card.md").mkdir()
    refuses(lambda: card_of().write(tmp_path), "cannot be written", "choose another out=")


def test_signal_to_noise_ratios_by_hand():
    """Powers: 25 over 0.25; outputs of 0 have no power, and noise alone is as bad as can be."""
    signal = np.array([3.0, 4.0], np.float32)
    assert snr_db(signal, np.array([3.0, 4.5])) == pytest.approx(20)
    assert snr_db(signal, np.zeros(2)) == pytest.approx(0)
    assert snr_db(np.zeros(2), np.zeros(2)) == MAX_SNR_DB
    assert snr_db(np.zeros(2), signal) < -1000
    assert snr_db(signal, np.array([3.0, np.inf])) == -np.inf
    assert snr_db(np.array([1e6]), np.array([1e6 + 0.5])) == MAX_SNR_DB  # 126 dB
    assert snr_db(np.array([1e6]), np.array([1e6 + 2])) == pytest.approx(113.98, abs=0.01)
    assert snr_db(np.array([200], np.uint8), np.array([201], np.uint8)) == pytest.approx(46.02, abs=0.01)


class Single:
    """A quantizer whose file names the layers in 8 bits."""

    layers = ("a", "b", "c")

    raw_outputs = ()

    def write(self, path, *, float_layers, with_raw=False):
        path.write_text(" ".join(sorted(set(self.layers) - set(float_layers))))
        return path


def test_a_layer_is_as_sensitive_as_its_worst_output(tmp_path, monkeypatch):
    """One layer alone in 8 bits; a spoils the first output, b the second more, c none."""
    errors = {"": (0, 0), "a": (1, 0), "b": (0.1, 5), "c": (0, 0)}

    def open_session(path, *, threads):
        first, second = errors[path.read_text()]
        assert threads == 3

        def run(images):
            mean = images.astype(np.float32).mean((1, 2, 3))
            return [mean + first, 2 * mean + second]

        return Session(run=run, output_names=("x", "y"), runtime="toy")

    monkeypatch.setattr(sensitivity, "open_session", open_session)
    source = tmp_path / "float.onnx"
    source.write_text("")
    images = [np.full((3, 2, 2), value, np.uint8) for value in (10, 20)]
    ranking = sensitivities(Single(), source, images, threads=3)
    assert [entry.layer for entry in ranking] == ["b", "a", "c"]
    power = 10**2 + 20**2
    expected = [10 * np.log10(4 * power / 50), 10 * np.log10(power / 2), MAX_SNR_DB]
    assert [entry.snr_db for entry in ranking] == pytest.approx(expected, rel=1e-5)


def test_both_files_are_timed_on_the_same_image(tmp_path, monkeypatch):
    """A file with a fixed batch of 2 gets the image twice; the ratio is that of 8 bits over float."""
    seen = {"float.onnx": [], "int8.onnx": []}
    shapes = {"float.onnx": (2, 4, 6), "int8.onnx": (None, 4, 6)}

    def open_session(path, *, threads):
        assert threads == 3
        run = lambda images: seen[path.name].append(images.copy()) or []  # noqa: E731
        return Session(run=run, output_names=(), runtime="toy", shape=shapes[path.name])

    def take_rounds(calls, rounds):
        for call in calls.values():
            call()
        return {"float32": [4.0, 4.0], "int8": [1.0, 1.0]}

    monkeypatch.setattr(within_budget, "open_session", open_session)
    monkeypatch.setattr(within_budget, "take_rounds", take_rounds)
    image = np.arange(72, dtype=np.uint8).reshape(1, 3, 4, 6)
    files = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    latency, ratio = time_both(*files, image, 3, Rounds())
    assert ratio.p50 == pytest.approx(0.25)
    assert latency["float32"].p50 == pytest.approx(4000)  # milliseconds
    assert latency["int8"].p50 == pytest.approx(1000)
    assert np.array_equal(seen["float.onnx"][0], np.concatenate([image, image]))
    assert np.array_equal(seen["int8.onnx"][0], image)


def test_the_size_of_a_file_includes_its_weights(tmp_path):
    for name, size in (("model.xml", 10), ("model.bin", 200), ("model.onnx", 3000)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert file_bytes(tmp_path / "model.xml") == 210
    assert file_bytes(tmp_path / "model.onnx") == 3000


def test_formats_and_libraries(monkeypatch):
    check_quantizable("onnx"), check_quantizable("openvino")
    refuses(
        lambda: check_quantizable("aot_inductor"),
        "format=onnx, web, openvino, executorch or litert, got aot_inductor",
    )
    refuses(lambda: check_quantizable("ncnn"), "got ncnn .its Python packages contain no quantizer")
    refuses(lambda: check_quantizable("mnn"), "got mnn .its quantizer crashes")
    asked = []
    monkeypatch.setattr(quantizer, "not_installed", lambda names: asked.append(names) or "")
    check_installed("onnx"), check_installed("openvino")
    assert asked == [("onnx", "onnxruntime"), ("openvino", "nncf")]
    monkeypatch.setattr(quantizer, "not_installed", lambda names: "nncf is not installed")
    with pytest.raises(UserError, match=r"precision=int8 format=openvino: nncf is not .*\[openvino\]"):
        check_installed("openvino")


@pytest.mark.parametrize(
    ("weight", "name"),
    [
        ("module.module.model.head.weight", "head"),
        ("model.head.bias", "head"),
        ("head.weight", "head"),
        ("head.model.weight", "head.model"),
        ("weight_of.scale", "weight_of.scale"),
    ],
)
def test_layers_are_named_without_wrappers_and_tensors(weight, name):
    assert layer_name(weight) == name
