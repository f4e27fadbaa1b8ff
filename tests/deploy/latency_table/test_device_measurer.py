"""The latency table of a device that gets all layers at once: the one that it would give layer by layer."""

import json

import pytest

from cls.model import Classifier
from deploy.latency_table import layer_graph
from deploy.latency_table.build import build_table
from deploy.latency_table.checked_table import check_table
from deploy.latency_table.device_measurer import measure_on_device
from deploy.latency_table.measurers import QUICK, WHOLE
from deploy.latency_table.table import LatencyTable
from deploy.latency_table.timed_network import TimedNetwork
from deploy.remote.kit import Times
from deploy.timing.machine import describe
from tests.deploy.latency_table.test_latency_table import SIZE, TINY, MAdds

MACHINE = {
    "device": "ssh://pi@board",
    "cpu": "aarch64",
    "cores": 4,
    "python": "3.9",
    "versions": {"numpy": "1"},
}


class Pi:
    """A device that runs in a second what takes `MAdds` a millisecond; `kits` are the manifests it got."""

    device = type("Device", (), {"address": "ssh://pi@board"})

    def __init__(self, ms, **machine):
        self.ms, self.kits, self.machine = ms, [], MACHINE | machine

    def version(self, runtime):
        return f"{runtime} 1"

    def time(self, kit, *, show):
        kit.write()
        self.kits.append(json.loads((kit.folder / "manifest.json").read_text()))
        for number in range(len(kit.groups)):
            show({"group": number + 1, "groups": len(kit.groups)})
        assert {kit.folder / model["file"] for model in kit.models.values()} == set(
            (kit.folder / "models").iterdir()
        )
        seconds = {name: [5.0, ms / 1000, 0.0] for name, ms in zip(kit.models, self.ms, strict=True)}
        return Times(machine=self.machine, seconds=seconds, agreement={}, peak_memory_mb={})


class Recorded(MAdds):
    """Remembers the times in the order of its calls."""

    def __init__(self):
        super().__init__()
        self.ms = []

    def __call__(self, module, inputs):
        self.ms.append(super().__call__(module, inputs))
        return self.ms[-1]


NETWORK = TimedNetwork(
    spec=TINY,
    taps=lambda spec: (spec.last_feature,),
    head="Classifier-1",
    model=lambda spec: Classifier(backbone=spec, num_classes=3),
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Heads and whole networks are exported as fast as layers."""
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    monkeypatch.setattr(layer_graph, "onnx_graph", layer_graph._traced)


def test_a_device_that_gets_all_layers_at_once_gives_the_same_table(tmp_path):
    def build(measure):
        return check_table(NETWORK, size=SIZE, measure=measure, shares=(1,))

    one_by_one = Recorded()
    expected = build(one_by_one)
    pi, log = Pi(one_by_one.ms), []
    checked = measure_on_device(pi, threads=2, build=build, log=log.append)
    assert checked.table.entries == expected.table.entries
    assert (checked.sum_ms, checked.network_ms) == (expected.sum_ms, expected.network_ms)
    assert checked.sum_ms > 0
    (manifest,) = pi.kits
    assert manifest["threads"] == 2
    assert [group["models"] for group in manifest["groups"]] == [[name] for name in manifest["models"]]
    budgets = [group["rounds"]["budget_s"] for group in manifest["groups"]]
    whole = [name.startswith("Classifier") for name in manifest["models"]]
    assert budgets == [QUICK.budget_s * (WHOLE if is_whole else 1) for is_whole in whole]
    assert (whole[:2], whole[-1], sum(whole)) == ([True, True], True, 3)
    assert log == [log[0]]
    assert f"copying {len(manifest['models'])} models" in log[0]
    assert "ssh://pi@board" in log[0]


def test_the_table_says_which_device_it_is_of(tmp_path):
    def build(measure):
        return build_table(TINY, size=SIZE, measure=measure)

    recorded = Recorded()
    build(recorded)
    table = measure_on_device(Pi(recorded.ms), threads=1, statistic="min", build=build, log=print)
    assert set(table.entries.values()) == {0.0}  # the shortest time of this device is always 0
    assert table.about["statistic"] == "min"
    table.save(tmp_path / "pi.json")
    about = LatencyTable.load(tmp_path / "pi.json").about
    assert {key: about[key] for key in MACHINE} == MACHINE
    assert (about["runtime"], about["runtime_version"], about["threads"]) == ("onnx", "onnx 1", 1)
    assert about["repeats"] == [15, 400]
    here = describe()
    assert not {"board", "governor", "load", "mhz", "temperature_c", "platform"} & set(
        about
    )  # of this machine
    assert about["git"] == here["git"]


def test_the_table_of_a_runner_says_how_often_it_called_each_layer():
    recorded = Recorded()
    build_table(TINY, size=SIZE, measure=recorded)
    pi = Pi(recorded.ms, runner="onnxruntime_perf_test abc")
    table = measure_on_device(
        pi, threads=1, build=lambda measure: build_table(TINY, size=SIZE, measure=measure), log=print
    )
    assert table.about["repeats"] == [3, 3]
