"""table=latency: the network of an experiment or a file, and the table that is written."""

import json
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from backbones.spec import with_width
from deploy.latency_table import measure_table as module
from deploy.latency_table.layers import Layer
from deploy.latency_table.measure_table import measure_table
from deploy.latency_table.network_latency import NetworkLatency
from deploy.latency_table.table import LatencyTable
from deploy.latency_table.timed_network import read_network
from engine.config import network_file
from engine.config.compose import compose_config
from engine.config.instantiate import tool_options
from engine.errors import UserError
from engine.io.files import hold
from engine.run import run_folder
from nas.mnas.space import MnasSpace
from tests.refusals import refuses

SMALL = "spec=seg/lraspp_v3_small"


def options(*overrides):
    return tool_options(compose_config("benchmark", ["table=latency", "size=[64,128]", *overrides]))


def search_space(spec):
    return MnasSpace(spec).covering()


def test_a_network_is_that_of_an_experiment_with_its_model():
    network = read_network("seg/lraspp_v3_small")
    assert network.head.partition("-")[0] == "LRASPP"
    assert len(network.taps(network.spec)) == 2
    other = read_network("seg/lraspp_v3_large_f256").head
    assert other != network.head  # another head has another latency
    smaller = replace(network.spec, last=64)
    assert network.model(smaller).backbone.spec == smaller


def test_a_network_in_a_file_has_no_model(tmp_path):
    spec = read_network("seg/lraspp_v3_small").spec
    network_file.write(tmp_path / "net.yaml", spec.to_dict())
    network = read_network(str(tmp_path / "net.yaml"))
    assert network.spec == spec
    assert network.model_options == {"taps": None, "head": "", "model": None}
    (tmp_path / "net.yaml").write_text("blocks: [{kernel: 3}]")
    refuses(lambda: read_network(str(tmp_path / "net.yaml")), "net.yaml")


def test_a_table_is_written_with_what_it_was_measured_on(tmp_path, monkeypatch):
    asked = {}

    def build_table(spec, *, progress, **arguments):
        asked.update(arguments, spec=spec.name)
        progress(1, 1)
        return LatencyTable(
            about={"device": "cpu"},
            entries={Layer(kind="stem", channels_in=3, out=8, height=64, width=128): 1.5},
        )

    monkeypatch.setattr(module, "build_table", build_table)
    table = measure_table(options(SMALL, f"out={tmp_path}/a/phone.json"), search_space=search_space)
    assert len(table.entries) == 1
    assert (asked["spec"], asked["size"], asked["shares"]) == ("mobilenet_v3_small", (64, 128), (1,))
    assert asked["measure"].about["threads"] == 1
    saved = json.loads((tmp_path / "a" / "phone.json").read_text())
    assert (saved["device"], saved["layers"][0]["latency_ms"]) == ("cpu", 1.5)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["runtime=[onnx,eager]"], ["one runtime"]),
        (["shares=[0.5,1.5]"], ["shares must be above 0"]),
        (["shares=[]"], ["shares must be above 0"]),
        (
            ["runtime=litert"],
            ["runtime must be one of eager, onnx, openvino, executorch, ncnn, got 'litert'"],
        ),
    ],
)
def test_options_that_a_table_cannot_have_are_rejected(tmp_path, overrides, parts):
    refuses(
        lambda: measure_table(
            options(SMALL, f"out={tmp_path}/x.json", *overrides), search_space=search_space
        ),
        *parts,
    )


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(module, "build_table", lambda *args, **options: measured.append(args))
    (tmp_path / "file").write_text("")
    (tmp_path / "earlier.json").write_text("{}")
    busy = hold(tmp_path / ".busy.json.lock")
    for out, reason in (
        (tmp_path / "earlier.json", r"earlier\.json: exists already; choose another out=, or delete it$"),
        (tmp_path / "busy.json", r"busy\.json: another process is writing .*choose another out=$"),
        (tmp_path, "is a folder; set out=<a file in it>"),
        (tmp_path / "file/table.json", "cannot be created"),
        (Path("/proc/table.json"), "cannot be written"),
    ):
        build = partial(measure_table, options(SMALL, f"out={out}"), search_space=search_space)
        refuses(build, str(out.parent), reason)
    assert not measured
    busy.release()
    claim = run_folder.claim_file(tmp_path / "new.json")
    with (
        claim,
        pytest.raises(UserError, match="another process"),
        run_folder.claim_file(tmp_path / "new.json"),
    ):
        pass
    assert not [*tmp_path.glob(".new*")]  # nothing of ours is left


class Still:
    """A clock that does not advance."""

    about: ClassVar[dict[str, object]] = {"runtime": "eager", "runtime_version": "0", "threads": 1}

    def __call__(self, module, inputs):
        return 1.0


def narrowed(spec):
    return [with_width(spec, 0.75), replace(spec, blocks=(*spec.blocks[:-1], narrower(spec.blocks[-1])))]


def narrower(block):
    return replace(block, exp=block.exp // 2 + 8)


def sampled(spec):
    space, draw = MnasSpace(spec), random.Random(0)
    return [space.decode([draw.randrange(count) for count in space.num_options]) for _ in range(20)]


@pytest.mark.parametrize(("option", "networks_of"), [("shares=[1,0.5]", narrowed), ("space=true", sampled)])
@pytest.mark.weekly
def test_a_table_can_cover_the_networks_of_a_search(option, networks_of, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "measurer", lambda runtime, threads: Still())
    path = tmp_path / "phone.json"
    measure_table(options(SMALL, f"out={path}", option), search_space=search_space)
    network = read_network("seg/lraspp_v3_small")
    table = LatencyTable.load(path)
    elsewhere = NetworkLatency(table=table, size=(64, 128), **network.model_options)  # without a clock
    for variant in networks_of(network.spec):
        assert elsewhere(variant) > 0
