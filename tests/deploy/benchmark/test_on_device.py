"""Candidates that another device measures: what it gets, and what becomes of its answer."""

import numpy as np
import pytest
import torch
from torch import nn

from deploy.benchmark.candidate import Candidate
from deploy.benchmark.on_device import LEAST_AGREEMENT, LEAST_OF_FILES, measure_on_device, runtime_of
from deploy.benchmark.report import document
from deploy.latency_table.layer_graph import layer_graph
from deploy.remote.kit import Times
from deploy.timing.latency import Rounds
from tests.deploy.rows import row
from tests.refusals import refuses

MACHINE = {
    "device": "ssh://pi@board",
    "board": "Some Board",
    "cpu": "aarch64",
    "cores": 4,
    "governor": "ondemand",
    "load": 0.1,
    "mhz": [600, 1800],
    "temperature_c": 51.4,
    "platform": "Linux",
    "python": "3.9.2",
    "versions": {"numpy": "1.26", "onnxruntime": "1.19"},
    "date": "2026-11-29",
    "at_the_end": {"load": 1.0, "mhz": [1500], "temperature_c": 82.0},
}


class Scripted:
    """A device that answers with given seconds, and keeps the kit's description."""

    def __init__(self, seconds, **machine):
        self.seconds, self.machine = seconds, {**MACHINE, **machine}
        self.device = type("Device", (), {"address": "ssh://pi@board"})

    def time(self, kit, *, show):
        self.models, self.groups, self.memory = kit.models, kit.groups, kit.memory
        self.inputs = {name: kit.inputs(name) for name in kit.models}
        self.expected = {
            name: np.load(kit.folder / model["expected"])["0"] for name, model in kit.models.items()
        }
        show({"group": 0, "groups": 1, "round": 1, "text": "medians known to 5%"})
        agreement = {} if "runner" in self.machine else dict.fromkeys(kit.models, 0.9995)
        return Times(
            machine=self.machine,
            seconds=dict(zip(kit.models, self.seconds, strict=True)),
            agreement=agreement,
            peak_memory_mb=dict.fromkeys(kit.memory, 12.0),
        )


@pytest.fixture
def candidates(tmp_path):
    """A row as it is exported, and a file of the user's own."""
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    task = nn.Module()
    task.model = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2), nn.BatchNorm2d(2)).eval()
    one = row("toy", size=(8, 12), predictor=task)
    file = tmp_path / "model.onnx"
    file.write_bytes(layer_graph(task.model, [torch.zeros(1, 3, 8, 12)]))
    return [
        Candidate(row=one, runtime="onnx", threads=1, file=file),
        Candidate(row=one, runtime="my/model.onnx", threads=1, file=file),
    ]


def test_a_device_gets_the_files_with_the_outputs_of_pytorch(candidates):
    rounds, shown = Rounds(warmup=1, least=2, most=2), []
    device = Scripted([[0.004, 0.002], [0.002, 0.002]])
    baseline = candidates[0].row
    results = measure_on_device(
        candidates,
        rounds,
        timer=device,
        baseline=baseline,
        progress=lambda done, text: shown.append((done, text)),
    )
    first, second = device.models.values()
    assert first["inputs"] == second["inputs"] == [[[1, 3, 8, 12], "float32"]]
    assert (first["agreement"], second["agreement"]) == (LEAST_AGREEMENT, LEAST_OF_FILES)
    assert first["outputs"] == [{"shape": [1, 2, 3, 5], "step": 1}]
    (images,) = device.inputs["toy on onnx"]
    with torch.no_grad():
        outputs = baseline.predictor.model(torch.from_numpy(images))
    for expected in device.expected.values():
        assert expected == pytest.approx(outputs.numpy().ravel(), abs=1e-5)
    assert device.groups == [{"models": list(device.models), "rounds": vars(rounds)}]
    assert shown == [(1, "medians known to 5%")]
    assert [entry["latency_ms_p50"] for entry in results] == pytest.approx([3, 2])
    assert [entry["ratio_to_baseline"] for entry in results] == [1, 0.75]  # of 1/2 and 1
    assert [entry["runtime"] for entry in results] == ["onnx", "my/model.onnx"]
    assert {entry["peak_memory_mb"] for entry in results} == {12.0}
    assert {entry["agreement"] for entry in results} == {0.9995}
    assert results[0]["machine"] == MACHINE
    text = document(results, command="c")
    assert (
        "ssh://pi@board; Some Board, aarch64, 4 cores, load 0.1 at the start, governor ondemand, "
        "600/1800 MHz and 51 °C before, 1500 MHz and 82 °C after; Linux; Python 3.9.2, numpy"
    ) in text
    assert "At least 99.95% of the numbers in each output on the device match PyTorch's" in text


def test_a_runner_is_named_and_its_outputs_are_not_called_checked(candidates):
    device = Scripted([[0.004, 0.002]], runner="onnxruntime_perf_test abc", versions={}, python=None)
    rounds = Rounds(warmup=1, least=2, most=2)
    (entry,) = measure_on_device(
        candidates[:1],
        rounds,
        timer=device,
        baseline=candidates[0].row,
        memory=False,
        progress=lambda done, text: None,
    )
    assert (entry["agreement"], entry["peak_memory_mb"], device.memory) == (None, None, [])
    text = document([entry], command="c")
    assert "Linux; onnxruntime_perf_test abc; 2026-11-29." in text
    assert "Measured by onnxruntime_perf_test abc; outputs were not compared." in text
    assert "of the numbers in each output" not in text


def test_files_that_a_device_cannot_run_are_named(tmp_path):
    assert runtime_of(tmp_path / "a.onnx") == "onnx"
    assert runtime_of(tmp_path / "a.xml") == "openvino"
    refuses(
        lambda: runtime_of(tmp_path / "a.pt2"),
        "a.pt2: only onnx and openvino files can be measured on a device",
    )
