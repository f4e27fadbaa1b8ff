"""Accuracies counted by hand, in any order and with any number of processes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cls.eval.evaluator import ClassificationEvaluator
from engine.data.class_map import ClassMap

CLASSES = ClassMap(names=tuple("abcdefg"))
SCORES = torch.tensor(
    [
        [9.0, 1, 2, 3, 4, 5, 6],  # a: right
        [9.0, 1, 2, 3, 4, 5, 6],  # b: the seventh of seven
        [0.0, 0, 9, 8, 7, 6, 5],  # g: fifth
        [0.0, 0, 9, 8, 7, 6, 5],  # a: sixth, before b with the same score
        [1.0, 1, 1, 1, 1, 1, 1],  # a: first among equals
    ]
)
LABELS = torch.tensor([0, 1, 6, 0, 0])


def filled(rows=range(5)):
    evaluator = ClassificationEvaluator(classes=CLASSES, name_of="PQRST".__getitem__)
    for row in rows:
        batch = {"label": LABELS[row : row + 1], "index": torch.tensor([row])}
        evaluator.update(SCORES[row : row + 1], batch)
    return evaluator


def test_top1_and_top5_by_hand():
    results = filled().compute()
    assert results["top1"] == pytest.approx(2 / 5)
    assert results["top5"] == pytest.approx(3 / 5)
    assert results["accuracy/a"] == pytest.approx(2 / 3)
    assert results["accuracy/b"] == 0
    assert results["accuracy/g"] == 0
    assert np.isnan(results["accuracy/c"])
    assert results["mean_class_accuracy"] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert results["num_images"] == 5
    assert results["num_classes_present"] == 3


def test_confusion_matrix_and_confused_pairs():
    evaluator = filled()
    expected = np.zeros((7, 7), int)
    expected[0, 0], expected[1, 0], expected[6, 2], expected[0, 2] = 2, 1, 1, 1
    assert np.array_equal(evaluator.confusion, expected)
    assert ("b", "a", 1) in evaluator.confused(9)
    assert len(evaluator.confused(9)) == 3


def test_the_worst_are_wrong_predictions_with_the_least_probability():
    names = [name for name, _, _ in filled().worst(9)]
    # P(b) = e^1 / (e^9 + e^1 + ...), P(a) = 1 / (e^9 + ...), P(g) = e^5 / (e^9 + ...)
    assert names == ["S", "Q", "R"]


@given(st.permutations(range(5)), st.integers(0, 5))
def test_parts_of_several_processes_add_up(order, cut):
    parts = [filled(order[:cut]), filled(order[cut:])]
    merged = ClassificationEvaluator(classes=CLASSES, name_of="PQRST".__getitem__)
    merged.merge([part.state() for part in parts])
    one, several = filled().compute(), merged.compute()
    assert one.keys() == several.keys()
    for key, value in one.items():
        assert several[key] == value or (value != value and several[key] != several[key])
    assert merged.worst(3) == filled().worst(3)


def test_an_image_counts_once():
    evaluator = filled()
    with pytest.raises(ValueError, match=r"image 2 \(R\) was counted already"):
        evaluator.update(SCORES[2:3], {"label": LABELS[2:3], "index": torch.tensor([2])})
    with pytest.raises(ValueError, match="counted by two processes"):
        filled().merge([filled([1]).state(), filled([1]).state()])


def test_scores_that_are_not_numbers_count_as_wrong():
    scores = torch.full((2, 7), float("nan"))
    scores[1] = torch.arange(7.0)
    scores[1, 6] = float("nan")
    evaluator = ClassificationEvaluator(classes=CLASSES)
    evaluator.update(scores, {"label": torch.tensor([0, 6]), "index": torch.tensor([0, 1])})
    results = evaluator.compute()
    assert results["top1"] == results["top5"] == 0


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.zeros(2, 6), [0, 1], "must be"),
        (torch.zeros(1, 7), [0, 1], "must be"),
        (torch.zeros(2, 7), [0, 7], r"labels must be in 0\.\.6, got 0\.\.7"),
        (torch.zeros(2, 7), [-1, 0], r"labels must be in 0\.\.6"),
    ],
)
def test_bad_batches_are_rejected(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        ClassificationEvaluator(classes=CLASSES).update(
            scores, {"label": torch.tensor(labels), "index": torch.tensor([0, 1])}
        )


def test_the_table_names_every_class_or_the_lowest_of_many():
    assert "accuracy" not in filled().table()
    assert [line for line in filled().table().splitlines() if line.startswith("a ")]
    many = ClassMap(names=tuple(f"class {number}" for number in range(100)))
    evaluator = ClassificationEvaluator(classes=many)
    labels = torch.arange(100)
    evaluator.update(torch.eye(100)[(labels + (labels % 2)) % 100], {"label": labels, "index": labels})
    table = evaluator.table()
    assert "the 20 lowest of 100 classes" in table
    assert table.count("class ") < 30
    assert "50.00" in table


def test_nothing_counted_is_nan():
    results = ClassificationEvaluator(classes=CLASSES).compute()
    assert np.isnan(results["top1"])
    assert results["num_images"] == 0
