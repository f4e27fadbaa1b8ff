"""What is measured together, and what is written down of it; timings are scripted."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from deploy.benchmark import measurement
from deploy.benchmark.measurement import Contestant, SessionNetwork, groups, input_of
from deploy.benchmark.records import result, timing
from deploy.formats.runtimes import Session
from deploy.timing.latency import Rounds
from tests.deploy.rows import row
from tests.refusals import refuses


class Task(nn.Module):
    """A network with what stands around it, as tasks have it."""

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
    monkeypatch.setattr(Contestant, "open", lambda self: self.name)
    monkeypatch.setattr(Contestant, "timer", lambda self, name: lambda: next(scripted[name]))
    monkeypatch.setattr(measurement, "gemm_gmadds", lambda: 50.0)
    contestants = [Contestant(row=one, runtime="eager", threads=1) for one in (slow, fast)]
    rounds = Rounds(warmup=1, least=2, most=2)
    found = measurement.compare(contestants, rounds, baseline=slow, memory=False)
    assert [one["name"] for one in found] == ["slow", "fast"]
    assert [one["ratio_to_baseline"] for one in found] == [1.0, (1 / 2 + 1 / 4) / 2]
    assert [one["latency_ms_p50"] for one in found] == [3000, 1000]
    assert [one["latency_ms_min"] for one in found] == [2000, 1000]
    assert [one["latency_ms_interval"] for one in found] == [None, None]
    assert found[1]["interval_reached"] is False
    assert found[1]["gmadds_per_s"] == 16.0  # 16 billion in one second
    assert found[1]["gemm_gmadds_per_s"] == 50.0
    assert found[1]["baseline"] == "slow"
    assert found[1]["peak_memory_mb"] is None
    assert found[1]["machine"]["cores"] >= 1
    assert found[1]["machine"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found[1]["paper"]["ratio_to_baseline"] == 0.5
    assert found[1]["paper"]["row"] == 8


def test_figures_of_the_paper_stand_under_paper_alone():
    paper = {"row": 8, "params_m": 1.51, "madds_b": 9.74, "miou": 72.36}
    found = result(row("a", **paper), baseline=row("b"))
    assert found["paper"] == paper | {"latency_ms": None, "latency_size": None, "ratio_to_baseline": None}
    assert (found["params_m"], found["madds_b"]) == (2.0, 20.0)
    assert found["accuracy"] == {}
    assert found["latency_ms_p50"] is found["latency_ms_p95"] is found["ratio_to_baseline"] is None


def test_a_narrow_interval_is_said_to_be_reached():
    rounds = Rounds(least=6, most=6, interval=0.02)
    assert timing([1.0] * 6, [1.0] * 6, rounds)["interval_reached"] is True
    assert timing([1.0, 1.1] * 3, [1.0] * 6, rounds)["interval_reached"] is False


@pytest.mark.parametrize("channels_last", [True, False])
def test_eager_runs_the_rows_own_weights_and_leaves_the_row_as_it_is(channels_last):
    task = Task()
    before = copy.deepcopy(task.state_dict())
    contestant = Contestant(
        row=row("a", size=(8, 8), task=task), runtime="eager", threads=1, channels_last=channels_last
    )
    outputs = contestant.open()()
    with torch.no_grad():
        assert torch.allclose(outputs, task.model(measurement.example((8, 8))), atol=1e-6)
    assert task.training
    assert all(torch.equal(before[key], value) for key, value in task.state_dict().items())
    assert contestant.timer(lambda: None)() >= 0


def test_all_is_from_the_pixels_of_a_picture_to_the_result(monkeypatch):
    task, picture = Task(), measurement.noise((8, 8))
    whole = Contestant(row=row("a", size=(8, 8), task=task), runtime="eager", threads=1, picture=picture)
    assert (whole.include, Contestant(row=row("a"), runtime="eager", threads=1).include) == ("all", "network")
    expected = task.predict_image(picture)
    assert np.array_equal(whole.open()(), expected)

    calls = []

    def session(images):
        calls.append(images.shape)
        with torch.no_grad():
            return [task.model(torch.from_numpy(images)).numpy()]

    monkeypatch.setattr(measurement, "open_session", lambda file, threads: session)
    exported = Contestant(
        row=row("a", size=(8, 8), task=task), runtime="onnx", threads=1, file="a.onnx", picture=picture
    )
    assert np.array_equal(exported.open()(), expected)
    assert calls == [(1, 3, 8, 8)]
    assert isinstance(task.model, nn.Conv2d)


def test_a_session_gives_what_the_module_gave_one_tensor_or_several():
    model = Task()
    model.anchors = torch.zeros(5, 4)
    images = torch.zeros(1, 3, 4, 4)
    one = SessionNetwork(lambda array: [array + 1], model)
    assert torch.equal(one(images), images + 1)
    assert one.anchors is model.anchors
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
def test_a_given_file_gets_the_input_that_it_takes(dtype, shape, expected):
    session = Session(run=lambda images: [images], output_names=("x",), runtime="x", dtype=dtype, shape=shape)
    images = input_of(session, (8, 16))
    assert (images.shape, str(images.dtype)) == (expected, dtype)
    session(images)  # which refuses other types and sizes


@pytest.mark.parametrize("count", [0, -1, 10**6, 1.5, "two", True])
def test_threads_are_a_number_of_this_machines_cores(count):
    refuses(lambda: measurement.check_threads([1, count]), "threads must be 1 to", "cores of this machine")


def test_a_matrix_product_has_a_speed():
    assert gemm() > 0.01


def gemm():
    return measurement.gemm_gmadds(seconds=0.01, side=64)
