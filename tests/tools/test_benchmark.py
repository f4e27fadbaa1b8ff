"""tools/benchmark.py: parameter and multiply-add counts, and complete benchmarks at small sizes."""

import json
import re

import pytest

from deploy.benchmark import paper
from engine.config.compose import compose_config, to_yaml
from engine.config.instantiate import tool_options
from engine.config.training import build_task
from engine.data.class_map import ClassMap
from engine.io.files import write_json
from engine.run import checkpoint, run_folder
from engine.run.run_folder import RunFolder
from tests.seg.test_tables import ROWS
from tests.tools.commands import run
from tools.benchmark import benchmark, bracket_lists


def results_in(out):
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_counts_of_table_7_match_the_paper(tmp_path):
    output = run("benchmark", "suite=table7", "latency=false", "out=counts", cwd=tmp_path)
    results = results_in(tmp_path / "counts")
    assert [entry["paper"]["row"] for entry in results] == [row for row, *_ in ROWS]
    for entry, (number, experiment, params_m, madds_b) in zip(results, ROWS, strict=True):
        assert (entry["name"], entry["source"]) == (experiment, f"seg/{experiment}")
        assert (entry["paper"]["params_m"], entry["paper"]["madds_b"]) == (params_m, madds_b)
        assert entry["params_m"] == pytest.approx(params_m, rel=0.06 if number == 10 else 0.0115)
        assert entry["madds_b"] == pytest.approx(madds_b, rel=0.01)
        assert entry["size"] == [1024, 2048]
        assert entry["latency_ms_p50"] is entry["latency_ms_p95"] is entry["ratio_to_baseline"] is None
    assert "lraspp_v3_small" in output
    assert "lraspp_v3_small" in (tmp_path / "counts" / "results.md").read_text(encoding="utf-8")


def options(*overrides):
    return tool_options(compose_config("benchmark", bracket_lists(overrides)))


SHORT = ["measure.warmup=0", "measure.least=2", "measure.most=2", "out=report"]


def measured(folder, monkeypatch, *overrides):
    monkeypatch.chdir(folder)
    benchmark(options(*overrides, *SHORT))
    return results_in(folder / "report")


@pytest.mark.weekly
def test_rows_of_table_6_including_pre_and_postprocessing(tmp_path, monkeypatch, capsys):
    wanted = ("det/ssdlite_v2_035", "det/ssdlite_v2", "det/ssdlite_v3_small")
    monkeypatch.setattr(paper, "papers_of", lambda _: {name: paper.paper_block(name) for name in wanted})
    results = measured(
        tmp_path, monkeypatch, "suite=table6", "size=[64,64]", "include=all", "memory=false", "device=cpu"
    )
    assert [entry["name"] for entry in results] == ["ssdlite_v2_035", "ssdlite_v2", "ssdlite_v3_small"]
    assert results[1]["ratio_to_baseline"] == 1
    for entry in results:
        assert (entry["baseline"], entry["rounds"], entry["size"]) == ("ssdlite_v2", 2, [64, 64])
        assert (entry["runtime"], entry["threads"], entry["include"]) == ("eager", 1, "all")
        assert (entry["task"], entry["metric"]) == ("det", "map")
        assert 0 < entry["latency_ms_min"] <= entry["latency_ms_p50"] <= entry["latency_ms_p95"]
        assert entry["ratio_p5"] <= entry["ratio_to_baseline"] <= entry["ratio_p95"]
        assert entry["executed_madds_b"] < entry["madds_b"]  # the paper's count is at 320x320
    assert (tmp_path / "report" / "pareto.png").stat().st_size > 10_000
    assert "from pixels to result, 64x64, 2 rounds; ratios are to ssdlite_v2" in capsys.readouterr().out


@pytest.fixture
def trained(tmp_path):
    """A run folder with random weights."""
    config = compose_config("train", ["task=seg", "model.head.filters=16"])
    classes = ClassMap(names=("road", "sky", "car"))
    task = build_task(config, classes)
    folder = RunFolder(tmp_path / "trained")
    run_folder.create(folder, config=to_yaml(config), environment={})
    write_json(folder.classes, classes.to_dict())
    write_json(folder.metrics, {"miou": 0.5})
    checkpoint.write(folder.best, checkpoint.prefixed("model", task.model.state_dict()), {})
    return folder.path


@pytest.mark.slow
def test_a_run_in_several_runtimes(tmp_path, monkeypatch, trained):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    size = ("size=[64,128]", "memory=false")
    eager, onnx = measured(tmp_path, monkeypatch, f"run={trained}", "runtime=[onnx,eager]", *size)
    assert (eager["runtime"], onnx["runtime"]) == ("eager", "onnx")
    assert (onnx["baseline_runtime"], eager["ratio_to_baseline"]) == ("eager", 1)
    assert (eager["channels_last"], onnx["channels_last"]) == (True, None)
    assert eager["size"] == [64, 128]
    assert eager["accuracy"] == {"miou": 0.5}
    assert set(eager["paper"].values()) == {None}


@pytest.mark.weekly
def test_peak_memory_of_a_run(tmp_path, monkeypatch, trained):
    (entry,) = measured(tmp_path, monkeypatch, f"run={trained}", "data.crop=[64,96]")
    assert (entry["name"], entry["size"]) == (f"{tmp_path.name}/trained", [64, 96])
    assert 0 < entry["peak_memory_mb"] < 200


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["suite=tabel7"],
            "suite must be one of table6, table7, table8, imagenet, own, got 'tabel7'; did you mean",
        ),
        ([], "set suite=<table6, table7, table8, imagenet, own> and/or run="),
        (["suite=table7", "runtime=onxx"], "did you mean 'onnx'"),
        (["suite=table7", "thread=1"], "did you mean 'threads'"),
        (["suite=table7", "threads=0"], "threads must be 1 to"),
        (["suite=table7", "threads=two"], "threads must be a whole number"),
        (["suite=table7", "include=everything"], "include must be one of network, all"),
        (["suite=table7", "size=[0,9]"], "size must be [height, width], each at least 32"),
        (["suite=table7", "size=64"], "size must be"),
        (["suite=table7", "measure.least=1"], "2 <= least <= most"),
        (["suite=table7", "measure.budget=1"], "did you mean 'measure.budget_s'"),
        (["suite=table7", "latency=false", "out=file/below"], "choose another out="),
        (["suite=table7", "latency=maybe"], "latency must be true or false"),
        (["run=nowhere"], "not a run folder"),
        (["suite=table7", "artifact=[x.onnx]"], "set run=, not suite="),
        (["run=[x,y]", "artifact=[x.onnx]"], "exported from; set one run=, not 2"),
        (["table=latency", "run=[x,y]", "out=z"], "needs one run=, got 2"),
        (["run=[]"], "run= has no run folder; name at least one"),
        (["table=latency"], "needs spec="),
        (["table=latency", "run=x", "spec=y", "out=z"], "needs spec=<experiment or YAML file> or run="),
        (["table=latency", "suite=table7", "run=x", "out=z"], "needs spec="),
        (["table=latency", "run=x"], "needs out="),
        (["table=latency", "spec=x", "out=z"], "needs out=<file> and, with spec=, size="),
        (["table=latency", "run=x", "out=z", "artifact=[a.onnx]"], "artifact has no effect on table=latency"),
        (["table=latency", "run=x", "out=z", "latency=false"], "latency has no effect on table=latency"),
        (["run=x", "spec=y"], "spec needs table=latency; set that too, or leave it out"),
        (["run=x", "shares=[1,0.5]"], "shares needs table=latency; set that too, or leave it out"),
        (["suite=table7", "space=true"], "space needs table=latency; set that too, or leave it out"),
        (["suite=table7", "remote.python=python3.9"], "remote.python needs device=ssh://... or device=adb;"),
        (["suite=table7", "input=a.png"], "input needs include=all; set that too, or leave it out"),
        (["suite=table7", "latency=false", "threads=2"], "threads needs latency=true; set that too, or"),
        (
            ["run=x", "latency=false", "runtime=onnx"],
            "runtime needs latency=true; set that too, or leave it",
        ),
        (["run=x", "runtime=onnx", "channels_last=false"], "channels_last needs runtime=eager; set that too"),
        (["run=x", "device=ssh://pi", "channels_last=false"], "channels_last needs runtime=eager; set that"),
        (
            ["table=latency", "run=x", "out=z", "channels_last=false"],
            "channels_last has no effect on table=latency; leave it out",
        ),
        (["suite=table7", "checkpoint=last"], "checkpoint needs run=<run folder>; set that too, or leave it"),
        (["run=x", "augment.flip=0"], "augment.flip=0: only training reads this key; leave it out"),
        (["suite=table7", "device=ssh://pi", "include=all"], "include=all runs PyTorch; for device=ssh://pi"),
        (["suite=table7", "device=ssh://pi", "runtime=eager"], "runtime=eager needs PyTorch"),
        (["suite=table7", "device=sh://pi"], "device=sh://pi: no such transport; did you mean 'ssh'?"),
        (["suite=table7", "device=adb"], "Android has no Python; set remote.runner="),
        (["suite=table7", "remote.install=true", "remote.runner=x"], "install is for Python on the device"),
        (
            ["table=latency", "spec=seg/lraspp_v3_larg", "size=[64,64]", "out=x.json"],
            "spec=seg/lraspp_v3_larg: no such option; did you mean 'seg/lraspp_v3_large'?",
        ),
    ],
)
def test_user_errors_are_reported_in_one_line(tmp_path, monkeypatch, overrides, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        benchmark(options(*overrides))
    assert "\n" not in str(caught.value)


def test_an_error_prints_one_line_and_exits_with_status_1(tmp_path):
    output = run("benchmark", "suite=tabel7", cwd=tmp_path, status=1)
    assert output == (
        "error: suite must be one of table6, table7, table8, imagenet, own, got 'tabel7'; "
        "did you mean 'table7'?\n"
    )


@pytest.mark.parametrize(
    ("typed", "composed"),
    [
        ("threads=1,2", "threads=[1,2]"),
        ("runtime=eager,onnx", "runtime=[eager,onnx]"),
        ("threads=[1,2]", "threads=[1,2]"),
        ("run=runs/a,runs/b", "run=[runs/a,runs/b]"),
        ("run=runs/a", "run=runs/a"),
        ("threads=1", "threads=1"),
        ("data.split=a,b", "data.split=a,b"),
    ],
)
def test_comma_separated_values_become_lists(typed, composed):
    assert bracket_lists([typed]) == [composed]


def test_threads_and_runtimes_can_be_single_values_or_lists():
    one = options("suite=table7", "runtime=onnx")
    assert (one.runtimes, one.thread_counts) == (["onnx"], [1])
    several = options("suite=table7", "runtime=eager,onnx", "threads=1,1")
    assert (several.runtimes, several.thread_counts) == (["eager", "onnx"], [1, 1])


def test_what_is_typed_for_another_device_composes():
    there = options(
        "suite=table7", "device=ssh://Pi@board:22", "remote.python=~/my env/python", "threads=1,64"
    )
    assert (there.device, there.on_device, there.runtimes) == ("ssh://Pi@board:22", True, ["onnx"])
    assert there.remote.python == "~/my env/python"
    for effective in ("runtime=eager", "runtime=onnx,eager", "runtime=all"):
        assert not options("suite=table7", effective, "channels_last=false").channels_last
    here = options("suite=table7")
    assert (here.on_device, here.runtimes) == (False, ["eager"])
    assert options("suite=table7", "runtime=torch").runtimes == ["eager"]  # as in tools/search.py once
    assert options("suite=table7", "runtime=torch,onnx").runtimes == ["eager", "onnx"]


@pytest.mark.weekly
def test_a_sweep_over_suites(tmp_path):
    run("benchmark", "-m", "suite=table8", "latency=false", "out=a,b", cwd=tmp_path)
    assert len(results_in(tmp_path / "a")) == len(results_in(tmp_path / "b")) == 8
