"""The rows of a suite, and its baseline."""

from pathlib import Path

import numpy as np
import pytest

from deploy.benchmark import paper
from deploy.benchmark.rows import comparisons
from deploy.benchmark.runtimes import files_by_name
from deploy.options import Suite
from engine.config.compose import compose_config, to_yaml
from engine.config.instantiate import tool_options
from engine.data.class_map import ClassMap
from engine.data.images import write_png
from engine.errors import UserError
from engine.io.files import write_json
from tests.refusals import refuses


def options(*overrides):
    return tool_options(compose_config("benchmark", list(overrides)))


@pytest.mark.slow
def test_a_baseline_of_another_table_is_measured_beside_the_rows(monkeypatch):
    halves = ("seg/table8_v3_small_os32", "seg/table8_v3_small_os32_half")
    monkeypatch.setattr(paper, "papers_of", lambda _: {name: paper.paper_block(name) for name in halves})
    table_8 = options("suite=table8", "size=[64,128]")
    (part,) = comparisons(table_8)
    rows = part.rows
    assert [(row.source, row.size) for row in rows] == [
        ("seg/raspp_v2", (64, 128)),
        (halves[0], (64, 128)),
        (halves[1], (32, 64)),
    ]
    assert part.baseline is rows[0]
    assert rows[0].paper["table"] == 7
    counts = comparisons(options("suite=table8", "latency=false"))[0].rows
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
    assert comparisons(chosen)[0].rows[0].accuracy == {"miou": expected}


def test_a_run_reads_the_image_as_in_training(tmp_path):
    # 12-bit values: with the run's range, 2048 of 4095 becomes 128; without it, 2048 of 65535 becomes 8.
    config = compose_config("train", ["task=seg", "data.pixel_range=[0,4095]"])
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    ClassMap(names=("a", "b")).write(tmp_path / "classes.json")
    write_png(tmp_path / "deep.png", np.full((4, 6), 2048, np.uint16))
    row = comparisons(options(f"run={tmp_path}", "latency=false", "size=[64,128]"))[0].rows[0]
    assert (row.read(str(tmp_path / "deep.png")) == 128).all()


@pytest.mark.parametrize("override", ["data.crop=64", "data.eval_size=64"])
def test_the_size_of_a_run_cannot_be_set_twice(tmp_path, override):
    config = compose_config("train", ["task=seg"])
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    ClassMap(names=("a", "b")).write(tmp_path / "classes.json")
    chosen = options(f"run={tmp_path}", override, "latency=false", "size=[64,128]")
    refuses(lambda: comparisons(chosen), f"^{override.partition('=')[0]}= and size= both set the input size")


def test_the_own_suite_compares_the_papers_heads_with_ours_for_each_task():
    segmentation, detection = comparisons(options("suite=own", "latency=false"))
    for part, ours, theirs, size in [
        (segmentation, "multi_scale", "lraspp", (512, 1024)),
        (detection, "panlite", "ssdlite", (320, 320)),
    ]:
        assert part.baseline.name == f"{theirs}_v3_large"
        rows = {row.name: row for row in part.rows}
        assert set(rows) == {f"{head}_v3_{width}" for head in (ours, theirs) for width in ("large", "small")}
        assert all(row.size == size and row.paper == {} for row in rows.values())
        for width in ("large", "small"):  # the same backbone, and about the same work
            assert rows[f"{ours}_v3_{width}"].madds < 1.1 * rows[f"{theirs}_v3_{width}"].madds


def test_a_baseline_is_looked_up_in_every_part_of_a_suite():
    parts = comparisons(options("suite=own", "latency=false", "baseline=panlite_v3_small"))
    assert [part.baseline.name for part in parts] == ["lraspp_v3_large", "panlite_v3_small"]
    with pytest.raises(UserError, match="baseline=panlit: no such row; did you mean 'panlite_v3"):
        comparisons(options("suite=own", "latency=false", "baseline=panlit"))


def test_a_run_is_compared_with_the_networks_of_its_task(tmp_path):
    config = compose_config("train", ["task=seg", "backbone.width_mult=0.25"])
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    ClassMap(names=("a", "b")).write(tmp_path / "classes.json")
    beside = ("latency=false", f"run={tmp_path}", "size=[64,64]")
    segmentation, detection = comparisons(options("suite=own", *beside))
    assert [row.source for row in segmentation.rows[4:]] == [str(tmp_path)]
    assert segmentation.baseline.name == "lraspp_v3_large"
    assert len(detection.rows) == 4
    table, alone = comparisons(options("suite=table6", *beside))
    assert {row.task for row in table.rows} == {"det"}
    assert alone.rows == [alone.baseline]


def test_several_runs_are_compared_with_each_other(tmp_path):
    runs = [tmp_path / "a" / "seg" / "run", tmp_path / "b" / "seg" / "run"]
    for run, width in zip(runs, (0.25, 0.5), strict=True):
        run.mkdir(parents=True)
        config = compose_config("train", ["task=seg", f"backbone.width_mult={width}"])
        (run / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        ClassMap(names=("a", "b")).write(run / "classes.json")
    several = f"run=[{runs[0]},{runs[1]}]"
    (part,) = comparisons(options(several, "latency=false", "size=[64,64]"))
    assert [row.name for row in part.rows] == ["a/seg/run", "b/seg/run"]  # seg/run would be both
    assert part.baseline is part.rows[0]
    assert part.rows[0].params < part.rows[1].params
    other = options(several, "latency=false", "size=[64,64]", "baseline=b/seg/run")
    assert comparisons(other)[0].baseline.source == str(runs[1])
    twice = options(f"run=[{runs[0]},{runs[0]}]", "latency=false", "size=[64,64]")
    refuses(lambda: comparisons(twice), "contains a run twice; name each of them once$")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either tables or networks"),
        ({"tables": [7], "networks": {"a": []}, "size": [64, 64]}, "either tables or networks"),
        ({"networks": {"a": []}}, r"size must be \[height, width\], got \[\]"),
        (
            {"networks": {"a": []}, "size": [64, 64], "accuracy": {"b": 1.0}},
            "unknown network 'b'; must be one of a",
        ),
    ],
)
def test_bad_suites_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        Suite(task="seg", **arguments)
