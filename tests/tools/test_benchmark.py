"""tools/benchmark.py: the counts of every row, and the whole way at tiny sizes."""

import importlib.util
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from backbones.variants import with_width
from deploy.benchmark import paper_rows
from deploy.benchmark.selection import files_by_name
from deploy.latency_table.layers import Layer
from deploy.latency_table.network_latency import NetworkLatency
from deploy.latency_table.table import LatencyTable
from engine.config import network_file
from engine.config.compose import compose_config, to_yaml
from engine.config.training import build_task
from engine.data.class_map import ClassMap
from engine.io.files import write_json
from engine.run import checkpoint, run_folder
from engine.run.run_folder import RunFolder
from nas.mnas.space import MnasSpace
from tests.refusals import refuses
from tests.seg.test_tables import ROWS
from tests.tools.commands import ROOT, run

SPEC = importlib.util.spec_from_file_location("tools_benchmark", ROOT / "tools" / "benchmark.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


def rows_of(out):
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def test_table_7s_counts_are_the_papers(tmp_path):
    output = run("benchmark", "suite=table7", "latency=false", "out=found", cwd=tmp_path)
    found = rows_of(tmp_path / "found")
    assert [one["paper"]["row"] for one in found] == [row for row, *_ in ROWS]
    for one, (number, experiment, params_m, madds_b) in zip(found, ROWS, strict=True):
        assert (one["name"], one["source"]) == (experiment, f"seg/{experiment}")
        assert (one["paper"]["params_m"], one["paper"]["madds_b"]) == (params_m, madds_b)
        assert one["params_m"] == pytest.approx(params_m, rel=0.06 if number == 10 else 0.0115)
        assert one["madds_b"] == pytest.approx(madds_b, rel=0.01)
        assert one["size"] == [1024, 2048]
        assert one["latency_ms_p50"] is one["latency_ms_p95"] is one["ratio_to_baseline"] is None
    assert "lraspp_v3_small" in output
    assert "lraspp_v3_small" in (tmp_path / "found" / "results.md").read_text(encoding="utf-8")


SHORT = ["measure.warmup=0", "measure.least=2", "measure.most=2", "out=found"]


def measured(folder, monkeypatch, *arguments):
    monkeypatch.chdir(folder)
    tool.benchmark(compose_config("benchmark", [*arguments, *SHORT]))
    return rows_of(folder / "found")


@pytest.mark.slow
def test_rows_of_table_6_at_a_tiny_size_from_pixels_to_boxes(tmp_path, monkeypatch, capsys):
    wanted = ("det/ssdlite_v2_035", "det/ssdlite_v2", "det/ssdlite_v3_small")
    monkeypatch.setattr(
        paper_rows, "published", lambda _: {name: paper_rows.paper_block(name) for name in wanted}
    )
    found = measured(
        tmp_path, monkeypatch, "suite=table6", "size=[64,64]", "include=all", "memory=false", "device=cpu"
    )
    assert [one["name"] for one in found] == ["ssdlite_v2_035", "ssdlite_v2", "ssdlite_v3_small"]
    assert found[1]["ratio_to_baseline"] == 1
    for one in found:
        assert (one["baseline"], one["rounds"], one["size"]) == ("ssdlite_v2", 2, [64, 64])
        assert (one["runtime"], one["threads"], one["include"]) == ("eager", 1, "all")
        assert 0 < one["latency_ms_min"] <= one["latency_ms_p50"] <= one["latency_ms_p95"]
        assert one["ratio_p5"] <= one["ratio_to_baseline"] <= one["ratio_p95"]
        assert one["executed_madds_b"] < one["madds_b"]  # the paper's count is at 320x320
    assert (tmp_path / "found" / "pareto.png").stat().st_size > 10_000
    assert "from pixels to result, 64x64, 2 rounds; ratios are to ssdlite_v2" in capsys.readouterr().out


@pytest.fixture
def trained(tmp_path):
    """A run folder as a training leaves it, with random weights."""
    config = compose_config("train", ["task=seg", "model.head.filters=16"])
    classes = ClassMap(names=("road", "sky", "car"))
    task = build_task(config, classes)
    made = RunFolder(tmp_path / "trained")
    run_folder.create(made, config=to_yaml(config), environment={})
    write_json(made.classes, classes.to_dict())
    write_json(made.metrics, {"miou": 0.5})
    checkpoint.write(made.best, checkpoint.prefixed("model", task.model.state_dict()), {})
    return made.path


@pytest.mark.slow
def test_a_run_on_several_runtimes(tmp_path, monkeypatch, trained):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run_, runtimes = f"run={trained}", "runtime=[onnx,eager]"
    eager, onnx = measured(tmp_path, monkeypatch, run_, runtimes, "size=[64,128]", "memory=false")
    assert (eager["runtime"], onnx["runtime"]) == ("eager", "onnx")
    assert (onnx["baseline_runtime"], eager["ratio_to_baseline"]) == ("eager", 1)
    assert (eager["channels_last"], onnx["channels_last"]) == (True, None)
    assert eager["accuracy"] == {"miou": 0.5}
    assert set(eager["paper"].values()) == {None}


@pytest.mark.slow
def test_a_run_and_its_peak_memory(tmp_path, monkeypatch, trained):
    (found,) = measured(tmp_path, monkeypatch, f"run={trained}", "data.crop=[64,96]")
    assert (found["name"], found["size"]) == (f"{tmp_path.name}/trained", [64, 96])
    assert 0 < found["peak_memory_mb"] < 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["suite=tabel7"], "did you mean 'table7'"),
        ([], "give suite=<table6, table7, table8, imagenet> and/or run="),
        (["suite=table7", "runtime=onxx"], "did you mean 'onnx'"),
        (["suite=table7", "thread=1"], "did you mean 'threads'"),
        (["suite=table7", "threads=0"], "threads must be 1 to"),
        (["suite=table7", "include=everything"], "include must be network or all"),
        (["suite=table7", "size=[0,9]"], r"size must be [height, width], each at least 32"),
        (["suite=table7", "measure.least=1"], "2 <= least <= most"),
        (["suite=table7", "measure.budget=1"], "did you mean 'measure.budget_s'"),
        (["suite=table7", "latency=false", "out=file/below"], "choose another out="),
        (["run=nowhere"], "no run folder"),
        (["suite=table7", "artifact=[x.onnx]"], "give run= and no suite="),
        (["table=latency"], "needs spec="),
        (["table=latency", "spec=seg/lraspp_v3_larg", "size=[64,64]", "out=x.json"], "did you mean"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        tool.benchmark(compose_config("benchmark", tool.with_lists(arguments)))
    assert "\n" not in str(caught.value)


def test_an_error_ends_with_one_line_and_status_1(tmp_path):
    output = run("benchmark", "suite=tabel7", cwd=tmp_path, status=1)
    assert (
        output == "error: suite=tabel7: there are table6, table7, table8, imagenet; did you mean 'table7'?\n"
    )


@pytest.mark.parametrize(
    ("typed", "composed"),
    [
        ("threads=1,2", "threads=[1,2]"),
        ("runtime=eager,onnx", "runtime=[eager,onnx]"),
        ("threads=[1,2]", "threads=[1,2]"),
        ("threads=1", "threads=1"),
        ("data.split=a,b", "data.split=a,b"),
    ],
)
def test_several_values_of_threads_and_runtimes_are_a_list(typed, composed):
    assert tool.with_lists([typed]) == [composed]


@pytest.mark.slow
def test_a_baseline_of_another_table_is_measured_beside_the_rows(monkeypatch):
    halves = ("seg/table8_v3_small_os32", "seg/table8_v3_small_os32_half")
    monkeypatch.setattr(
        paper_rows, "published", lambda _: {name: paper_rows.paper_block(name) for name in halves}
    )
    config = compose_config("benchmark", ["suite=table8", "size=[64,128]"])
    rows = tool.suite_rows(config)
    assert [(row.source, row.size) for row in rows] == [
        ("seg/raspp_v2", (64, 128)),
        (halves[0], (64, 128)),
        (halves[1], (32, 64)),
    ]
    assert tool.baseline_row(config, rows) is rows[0]
    assert rows[0].paper["table"] == 7
    alone = tool.suite_rows(compose_config("benchmark", ["suite=table8", "latency=false"]))
    assert [row.source for row in alone] == list(halves)


@pytest.mark.slow
def test_a_sweep_over_suites(tmp_path):
    run("benchmark", "-m", "suite=table8", "latency=false", "out=a,b", cwd=tmp_path)
    assert len(rows_of(tmp_path / "a")) == len(rows_of(tmp_path / "b")) == 8


def test_a_network_whose_layers_are_timed_is_an_experiments_or_a_files(tmp_path):
    spec, model = tool.network_of("seg/lraspp_v3_small")
    assert (model["head"].partition("-")[0], len(model["taps"](spec))) == ("LRASPP", 2)
    other = tool.network_of("seg/lraspp_v3_large_f256")[1]["head"]
    assert other != model["head"]  # another head has another latency
    smaller = replace(spec, last=64)
    assert model["model"](smaller).backbone.spec == smaller
    network_file.write(tmp_path / "net.yaml", spec.to_dict())
    assert tool.network_of(str(tmp_path / "net.yaml")) == (spec, {})
    (tmp_path / "net.yaml").write_text("blocks: [{kernel: 3}]")
    refuses(lambda: tool.network_of(str(tmp_path / "net.yaml")), "net.yaml: holds no network")


def test_a_table_of_layers_is_saved_with_what_it_was_measured_on(tmp_path, monkeypatch, capsys):
    asked = {}

    def build_table(spec, *, progress, **options):
        asked.update(options, spec=spec.name)
        progress(1, 1)
        return LatencyTable(
            about={"device": "cpu"},
            entries={Layer(kind="stem", channels_in=3, out=8, height=64, width=128): 1.5},
        )

    monkeypatch.setattr(tool, "build_table", build_table)
    arguments = ["table=latency", "spec=seg/lraspp_v3_small", "size=[64,128]", f"out={tmp_path}/a/phone.json"]
    tool.benchmark(compose_config("benchmark", arguments))
    assert (asked["spec"], asked["size"]) == ("mobilenet_v3_small", (64, 128))
    assert asked["measure"].about["threads"] == 1
    saved = json.loads((tmp_path / "a" / "phone.json").read_text())
    assert (saved["device"], saved["layers"][0]["latency_ms"]) == ("cpu", 1.5)
    assert "1 layers" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["[a b/x.onnx,y.xml]", "a b/x.onnx,y.xml", "[a b/x.onnx, y.xml]"])
def test_several_artifacts_are_several_files(value):
    config = compose_config("benchmark", tool.with_lists(["suite=table7", f"artifact={value}"]))
    files = files_by_name(config.artifact)
    assert list(files) == ["x.onnx", "y.xml"]
    assert files["x.onnx"] == Path("a b/x.onnx").absolute()


def test_artifacts_of_one_name_are_told_apart():
    assert list(files_by_name("[r/int8/model.xml,r/fp32/model.xml]")) == ["int8/model.xml", "fp32/model.xml"]
    assert files_by_name("") == {}


class Still:
    """A clock that stands still."""

    about: ClassVar[dict[str, object]] = {"runtime": "torch", "runtime_version": "0", "threads": 1}

    def __call__(self, module, inputs):
        return 1.0


def narrowed(spec):
    return [with_width(spec, 0.75), replace(spec, blocks=(*spec.blocks[:-1], narrower(spec.blocks[-1])))]


def narrower(block):
    return replace(block, exp=block.exp // 2 + 8)


def sampled(spec):
    space, draw = MnasSpace(spec), random.Random(0)
    return [space.decode([draw.randrange(count) for count in space.num_options]) for _ in range(20)]


@pytest.mark.parametrize(("option", "search_for"), [("shares=[1,0.5]", narrowed), ("space=true", sampled)])
@pytest.mark.slow
def test_a_table_can_know_the_networks_of_a_search(option, search_for, monkeypatch, tmp_path):
    monkeypatch.setattr(tool, "measurer", lambda runtime, threads: Still())
    spec, network = tool.network_of("seg/lraspp_v3_small")
    options = ["table=latency", "spec=seg/lraspp_v3_small", "size=[64,128]", f"out={tmp_path / 'phone.json'}"]
    tool.benchmark(compose_config("benchmark", [*options, option]))
    table = LatencyTable.load(tmp_path / "phone.json")
    known = NetworkLatency(table=table, size=(64, 128), **network)  # on a machine that cannot measure
    for one in search_for(spec):
        assert known(one) > 0
