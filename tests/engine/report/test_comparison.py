"""Runs side by side: groups of seeds, means and deviations by hand, and what cannot be compared."""

import dataclasses

import pytest

from engine.errors import UserError
from engine.report.comparison import Comparison, TrainedResult
from engine.report.sections import duration, training_seconds
from tests.engine.html.browser import load


def result(name, *scores, seed=0, lr=0.1, task="seg", split="val", classes=("road", "car")):
    rows = [{"step": 10, "kind": "train", "loss": 2.0, "images_per_s": 8.0, "lr": lr}]
    rows += [
        {"step": 10 * (i + 1), "kind": "eval", "miou": score, "num_images": 4}
        | {f"iou/{each}": score for each in classes}
        for i, score in enumerate(scores)
    ]
    settings = {"seed": seed, "optimizer.lr": lr, "data.root": "/data"}
    return TrainedResult(
        name=name, task=task, split=split, metric="miou", settings=settings, rows=rows, params=1000, batch=4
    )


def rows_of(table):
    return {name: values for name, *values in table}


def test_runs_that_differ_only_in_the_seed_are_one_column():
    comparison = Comparison(
        [result("a", 0.40), result("b", 0.5, lr=0.2), result("c", 0.44, seed=1), result("d", 0.48, seed=2)]
    )
    assert comparison.titles == ["a and 2 more seeds", "b"]
    rows = rows_of(comparison.metric_rows)
    assert next(iter(rows)) == "miou"
    assert rows["miou"] == ["44.00 ± 4.00%", "50.00%"]  # deviations -4, 0, 4; variance 32 / (3 - 1)
    assert rows["num_images"] == ["4", "4"]
    assert rows["parameters"] == ["1,000", "1,000"]
    assert rows["training time"] == ["5 s", "5 s"]
    assert rows_of(comparison.class_rows)["car"] == ["44.00 ± 4.00%", "50.00%"]
    assert rows_of(comparison.setting_rows) == {"seed": ["0, 1, 2", "0"], "optimizer.lr": ["0.1", "0.2"]}
    assert "44.00 ± 4.00%" in comparison.text()


def test_columns_are_below_each_other_for_any_letters():
    """In a terminal, each Chinese letter takes two columns."""
    both = [
        result(name, 0.4, lr=lr, classes=("\u8eca", "road")) for name, lr in (("\u9053\u8def", 1), ("b", 2))
    ]
    assert Comparison(both).text().split("\n\n")[1].splitlines() == [
        "class    \u9053\u8def       b",
        "---------------------",
        "\u8eca     40.00%  40.00%",
        "road   40.00%  40.00%",
    ]


def test_the_parameters_of_a_run_whose_weights_are_gone_are_unknown():
    gone = dataclasses.replace(result("b", 0.5, lr=0.2), params=0)
    rows = rows_of(Comparison([result("a", 0.4), gone]).metric_rows)
    assert rows["parameters"] == ["1,000", "n/a"]


def test_the_best_evaluation_of_a_run_counts():
    rows = rows_of(Comparison([result("a", 0.4, 0.7, 0.6), result("b", 0.2, lr=1)]).metric_rows)
    assert rows["miou"] == ["70.00%", "20.00%"]
    assert rows["best at step"] == ["20", "10"]


def test_runs_of_different_tasks_or_splits_are_refused():
    with pytest.raises(UserError, match="a has task seg, b has task det; compare runs of one task"):
        Comparison([result("a", 0.4), result("b", 0.5, task="det")])
    with pytest.raises(UserError, match="a has split val, b has split test"):
        Comparison([result("a", 0.4), result("b", 0.5, split="test")])


def test_runs_without_results_are_named():
    comparison = Comparison([result("a", 0.4), result("new"), result("b", 0.5, lr=1)])
    assert comparison.titles == ["a", "b"]
    assert comparison.notes == ["not evaluated yet, so left out: new"]
    with pytest.raises(UserError, match="at least two runs with results; not evaluated yet: new"):
        Comparison([result("a", 0.4), result("new")])


def test_a_damaged_log_is_not_a_missing_evaluation():
    damaged = dataclasses.replace(result("c"), damage="log.jsonl is damaged from line 3")
    comparison = Comparison([result("a", 0.4), damaged, result("b", 0.5, lr=1)])
    assert comparison.titles == ["a", "b"]
    assert comparison.notes == ["c: log.jsonl is damaged from line 3, so later results are missing"]
    with pytest.raises(UserError, match=r"with results; c: log\.jsonl is damaged from line 3$"):
        Comparison([result("a", 0.4), damaged])


def test_other_classes_or_images_are_mentioned():
    comparison = Comparison([result("a", 0.4), result("b", 0.5, lr=1, classes=("road", "bus"))])
    assert "different classes" in comparison.notes[0]
    assert rows_of(comparison.class_rows)["bus"] == ["–", "50.00%"]


def test_the_page_has_curves_and_tables(tmp_path):
    Comparison([result("a<b>", 0.4, 0.6), result("c", 0.5, lr=1)]).write(tmp_path / "report.html")
    loaded = load(tmp_path / "report.html", tmp_path)
    assert loaded.console == []
    assert loaded.charts == [3, 2, 4]
    assert "miou, %" in loaded.text
    assert "a&lt;b&gt;" in loaded.text


def test_training_time_is_that_of_the_steps():
    rows = [
        {"step": 1, "kind": "train", "images_per_s": 2.0},
        {"step": 11, "kind": "train", "images_per_s": 4.0},
    ]
    assert training_seconds(rows, 8) == 1 * 8 / 2 + 10 * 8 / 4
    assert [duration(seconds) for seconds in (24, 700, 7500)] == ["24 s", "12 min", "2 h 05 min"]
