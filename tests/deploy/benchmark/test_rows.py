"""The rows of a suite, and its baseline."""

from pathlib import Path

import pytest

from deploy.benchmark import paper
from deploy.benchmark.rows import baseline_row, benchmark_rows
from deploy.benchmark.runtimes import files_by_name
from engine.config.compose import compose_config, to_yaml
from engine.config.instantiate import tool_options
from engine.data.class_map import ClassMap
from engine.io.files import write_json


def options(*overrides):
    return tool_options(compose_config("benchmark", list(overrides)))


@pytest.mark.slow
def test_a_baseline_of_another_table_is_measured_beside_the_rows(monkeypatch):
    halves = ("seg/table8_v3_small_os32", "seg/table8_v3_small_os32_half")
    monkeypatch.setattr(paper, "papers_of", lambda _: {name: paper.paper_block(name) for name in halves})
    table_8 = options("suite=table8", "size=[64,128]")
    rows = benchmark_rows(table_8)
    assert [(row.source, row.size) for row in rows] == [
        ("seg/raspp_v2", (64, 128)),
        (halves[0], (64, 128)),
        (halves[1], (32, 64)),
    ]
    assert baseline_row(table_8, rows) is rows[0]
    assert rows[0].paper["table"] == 7
    counts = benchmark_rows(options("suite=table8", "latency=false"))
    assert [row.source for row in counts] == list(halves)
    assert all(row.predictor is row.executed_madds is None for row in counts)


@pytest.mark.parametrize("value", ["[a b/x.onnx,y.xml]", "a b/x.onnx,y.xml", "[a b/x.onnx, y.xml]"])
def test_several_artifacts_are_several_files(value):
    config = compose_config("benchmark", ["suite=table7", f"artifact={value}"])
    files = files_by_name(config.artifact)
    assert list(files) == ["x.onnx", "y.xml"]
    assert files["x.onnx"] == Path("a b/x.onnx").absolute()


@pytest.mark.parametrize(("checkpoint", "expected"), [("best", 0.8), ("last", 0.7)])
def test_the_accuracy_of_a_run_is_that_of_the_checkpoint_that_is_measured(tmp_path, checkpoint, expected):
    config = compose_config("train", ["task=seg"])
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    ClassMap(names=("a", "b")).write(tmp_path / "classes.json")
    write_json(tmp_path / "metrics.json", {"miou": 0.7, "best_miou": 0.8, "best_step": 3})
    chosen = options(f"run={tmp_path}", f"checkpoint={checkpoint}", "latency=false", "size=[64,128]")
    assert benchmark_rows(chosen)[0].accuracy == {"miou": expected}
