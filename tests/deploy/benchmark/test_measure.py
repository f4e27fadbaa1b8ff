"""Candidates that are measured together, and their results, with scripted timings."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from deploy.benchmark import candidate as candidates
from deploy.benchmark import measure
from deploy.benchmark.candidate import Candidate, SessionNetwork, example, input_for, noise
from deploy.benchmark.measure import gemm_gmadds, groups, measure_together
from deploy.benchmark.results import result, timing
from deploy.session import Session
from deploy.timing.latency import Rounds
from tests.deploy.rows import row


class Task(nn.Module):
    """A network in a task, as far as a benchmark uses it."""

    def __init__(self):
        super().__init__()
        self.model = nn.Conv2d(3, 2, 3, stride=2)

    @torch.inference_mode()
    def predict_image(self, image):
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        return self.model(pixels).argmax(1)[0].numpy()


def test_rows_are_measured_together_on_each_runtime_and_a_single_row_on_all():
    first, second = row("a"), row("b")
    assert groups([first, second], ["eager", "onnx"], [1, 2]) == [
        (1, [(first, "eager"), (second, "eager")]),
        (1, [(first, "onnx"), (second, "onnx")]),
        (2, [(first, "eager"), (second, "eager")]),
        (2, [(first, "onnx"), (second, "onnx")]),
    ]
    assert groups([first], ["eager", "onnx"], [1]) == [(1, [(first, "eager"), (first, "onnx")])]


def test_ratios_are_to_the_baseline_of_the_same_rounds(monkeypatch):
    slow, fast = (
        row("slow", cpu_s=4.0, input_size=[1025, 2049], row=1),
        row("fast", cpu_s=2.0, input_size=[1025, 2049], row=8),
    )
    scripted = {"slow on eager": iter([9.0, 2.0, 4.0]), "fast on eager": iter([9.0, 1.0, 1.0])}
    monkeypatch.setattr(Candidate, "open", lambda self: self.name)
    monkeypatch.setattr(Candidate, "timer", lambda self, name: lambda: next(scripted[name]))
    monkeypatch.setattr(measure, "gemm_gmadds", lambda: 50.0)
    both = [Candidate(row=one, runtime="eager", threads=1) for one in (slow, fast)]
    rounds = Rounds(warmup=1, least=2, most=2)
    results = measure_together(both, rounds, baseline=slow, memory=False)
    assert [one["name"] for one in results] == ["slow", "fast"]
    assert [one["ratio_to_baseline"] for one in results] == [1.0, (1 / 2 + 1 / 4) / 2]
    assert [one["latency_ms_p50"] for one in results] == [3000, 1000]
    assert [one["latency_ms_min"] for one in results] == [2000, 1000]
    assert [one["latency_ms_interval"] for one in results] == [None, None]
    assert results[1]["interval_reached"] is False
    assert results[1]["gmadds_per_s"] == 16.0  # 16 billion in one second
    assert results[1]["gemm_gmadds_per_s"] == 50.0
    assert results[1]["baseline"] == "slow"
    assert results[1]["peak_memory_mb"] is None
    assert results[1]["machine"]["cores"] >= 1
    assert results[1]["machine"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert results[1]["paper"]["ratio_to_baseline"] == 0.5
    assert results[1]["paper"]["row"] == 8


def test_published_figures_are_under_paper_alone():
    paper = {"row": 8, "params_m": 1.51, "madds_b": 9.74, "miou": 72.36}
    entry = result(row("a", **paper), baseline=row("b"))
    latency = ("latency_ms", "latency_size", "latency_device", "ratio_to_baseline")
    assert entry["paper"] == paper | dict.fromkeys(latency)
    assert (entry["task"], entry["metric"]) == ("seg", "miou")
    assert (entry["params_m"], entry["madds_b"]) == (2.0, 20.0)
    assert entry["accuracy"] == {}
    assert entry["latency_ms_p50"] is entry["latency_ms_p95"] is entry["ratio_to_baseline"] is None


def test_a_narrow_interval_counts_as_reached():
    rounds = Rounds(least=6, most=6, interval=0.02)
    assert timing([1.0] * 6, [1.0] * 6, rounds)["interval_reached"] is True
    assert timing([1.0, 1.1] * 3, [1.0] * 6, rounds)["interval_reached"] is False


@pytest.mark.parametrize("channels_last", [True, False])
def test_eager_runs_the_rows_own_weights_without_changing_the_row(channels_last):
    task = Task()
    before = copy.deepcopy(task.state_dict())
    eager = Candidate(
        row=row("a", size=(8, 8), predictor=task), runtime="eager", threads=1, channels_last=channels_last
    )
    outputs = eager.open()()
    with torch.no_grad():
        assert torch.allclose(outputs, task.model(example((8, 8))), atol=1e-6)
    assert task.training
    assert all(torch.equal(before[key], value) for key, value in task.state_dict().items())
    assert eager.timer(lambda: None)() >= 0


def test_include_all_is_from_the_pixels_of_an_image_to_the_result(monkeypatch):
    task, image = Task(), noise((8, 8))
    whole = Candidate(row=row("a", size=(8, 8), predictor=task), runtime="eager", threads=1, image=image)
    assert (whole.include, Candidate(row=row("a"), runtime="eager", threads=1).include) == ("all", "network")
    expected = task.predict_image(image)
    assert np.array_equal(whole.open()(), expected)

    calls = []

    def session(images):
        calls.append(images.shape)
        with torch.no_grad():
            return [task.model(torch.from_numpy(images)).numpy()]

    monkeypatch.setattr(candidates, "open_session", lambda file, threads: session)
    exported = Candidate(
        row=row("a", size=(8, 8), predictor=task), runtime="onnx", threads=1, file="a.onnx", image=image
    )
    assert np.array_equal(exported.open()(), expected)
    assert calls == [(1, 3, 8, 8)]
    assert isinstance(task.model, nn.Conv2d)


def test_a_session_network_returns_one_tensor_or_several():
    model = Task()
    model.anchors = torch.zeros(5, 4)
    images = torch.zeros(1, 3, 4, 4)
    one = SessionNetwork(lambda array: [array + 1], model)
    assert torch.equal(one(images), images + 1)
    assert one.anchors is model.anchors  # as any attribute of the module that it replaces
    first, second = SessionNetwork(lambda array: [array, array * 2 + 2], Task())(images)
    assert torch.equal(second, first * 2 + 2)


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        ("float32", (None, None, None), (1, 3, 8, 16)),
        ("uint8", (None, None, None), (1, 3, 8, 16)),
        ("float32", (2, 32, 64), (2, 3, 32, 64)),
    ],
)
def test_a_file_gets_the_input_that_it_takes(dtype, shape, expected):
    session = Session(run=lambda images: [images], output_names=("x",), runtime="x", dtype=dtype, shape=shape)
    images = input_for(session, (8, 16))
    assert (images.shape, str(images.dtype)) == (expected, dtype)
    session(images)  # which refuses other types and sizes


def test_a_matrix_product_has_a_speed():
    assert gemm_gmadds(seconds=0.01, side=64) > 0.01
