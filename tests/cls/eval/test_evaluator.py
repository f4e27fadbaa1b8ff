"""Accuracies counted by hand, in any order and with any number of processes."""

import warnings

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


def test_the_numbers_of_the_table_are_below_each_other_for_any_letters():
    """In a terminal, each Chinese letter takes two columns; the title `mean of classes` 15."""
    evaluator = ClassificationEvaluator(classes=ClassMap(names=("road", "\u9053\u8def")))
    evaluator.update(torch.eye(2), {"label": torch.arange(2), "index": torch.arange(2)})
    gap = " " * 11
    assert evaluator.table().splitlines()[1:3] == [
        f"road{gap}   100.00       1",
        f"\u9053\u8def{gap}   100.00       1",
    ]


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


def test_the_worst_have_the_probability_of_the_true_class():
    evaluator = filled()
    total = sum(np.exp(SCORES[1].numpy()))
    (_, index, probability) = evaluator.worst(9)[1]
    assert (index, probability) == (1, pytest.approx(np.e / total, rel=1e-5))
    assert evaluator.worst(1) == evaluator.worst(9)[:1]
    unnamed = ClassificationEvaluator(classes=CLASSES)
    unnamed.update(SCORES[1:2], {"label": LABELS[1:2], "index": torch.tensor([8])})
    assert unnamed.worst(1) == [("8", 8, pytest.approx(np.e / total, rel=1e-5))]
    never = SCORES[:2].clone()
    never[1, 1] = float("-inf")  # has a rank, but no probability to be sorted by
    infinite = ClassificationEvaluator(classes=CLASSES)
    infinite.update(never, {"label": LABELS[:2], "index": torch.tensor([0, 1])})
    assert infinite.compute()["top1"] == 0.5
    assert [index for _, index, _ in infinite.worst(9)] in ([], [1])


def test_confusions_are_sorted_by_their_number():
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 0])
    predictions = torch.tensor([1, 1, 2, 2, 2, 0, 0])
    evaluator = ClassificationEvaluator(classes=CLASSES)
    evaluator.update(torch.eye(7)[predictions], {"label": labels, "index": torch.arange(7)})
    assert evaluator.confused(9) == [("b", "c", 3), ("a", "b", 2), ("c", "a", 1)]
    assert evaluator.confused(2) == [("b", "c", 3), ("a", "b", 2)]
    assert evaluator.confusion[0].tolist() == [1, 2, 0, 0, 0, 0, 0]  # and is not changed by that


def test_top5_counts_the_fifth_and_not_the_sixth():
    scores = torch.arange(7.0).flip(0).repeat(7, 1)
    evaluator = ClassificationEvaluator(classes=CLASSES, predicted="one crop")
    evaluator.update(scores, {"label": torch.arange(7), "index": torch.arange(7)})
    results = evaluator.compute()
    assert (results["top1"], results["top5"]) == pytest.approx((1 / 7, 5 / 7))
    assert results["protocol"] == "7 of 7 classes present; one crop"
    assert filled().compute()["protocol"] == "3 of 7 classes present"


@pytest.mark.parametrize(
    "outputs", [SCORES.bfloat16(), SCORES.clone().requires_grad_(), SCORES.numpy().astype(np.float16)]
)
def test_outputs_of_any_kind_are_counted_alike(outputs):
    evaluator = ClassificationEvaluator(classes=CLASSES)
    evaluator.update(outputs, {"label": LABELS, "index": torch.arange(5)})
    assert evaluator.compute()["top5"] == pytest.approx(3 / 5)
    probabilities = [probability for *_, probability in evaluator.worst(9)]
    assert probabilities == pytest.approx([probability for *_, probability in filled().worst(9)], rel=1e-6)
    evaluator.update(outputs[:0], {"label": LABELS[:0], "index": torch.arange(0)})
    assert evaluator.compute()["num_images"] == 5
    evaluator.reset()
    assert evaluator.compute()["num_images"] == 0


def test_of_equal_scores_the_first_class_wins_among_many():
    """40 classes with the scores 1 and 0 in turns: the order is 0, 2, 4, ..., 38, 1, 3, ..."""
    classes = ClassMap(names=tuple(f"class {number}" for number in range(40)))
    evaluator = ClassificationEvaluator(classes=classes)
    scores = torch.tensor([1.0, 0.0]).repeat(4, 20)
    evaluator.update(scores, {"label": torch.tensor([0, 8, 10, 1]), "index": torch.arange(4)})
    results = evaluator.compute()
    assert (results["top1"], results["top5"]) == (1 / 4, 2 / 4)
    assert evaluator.confusion[:, 0].sum() == 4


def test_a_score_that_is_not_a_number_is_never_predicted_and_warns_of_nothing():
    scores = torch.tensor([[float("nan"), 3.0, 1, 1, 1, 1, 1], [float("inf"), 3.0, 1, 1, 1, 1, 1]])
    evaluator = ClassificationEvaluator(classes=CLASSES)
    with np.errstate(all="warn"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(evaluator.compute()["mean_class_accuracy"])
        evaluator.update(scores, {"label": torch.tensor([1, 1]), "index": torch.tensor([0, 1])})
        assert evaluator.compute()["top1"] == 1


def test_the_columns_are_as_wide_as_the_longest_name():
    for name in ("a", "a class with a long name"):
        evaluator = ClassificationEvaluator(classes=ClassMap(names=(name,)))
        evaluator.update(
            torch.ones(3, 1), {"label": torch.zeros(3, dtype=torch.int64), "index": torch.arange(3)}
        )
        width = max(len(name), len("mean of classes"))
        first, second, *_ = evaluator.table().splitlines()
        assert first == f"{'class':<{width}}  top-1 %  images"
        assert second == f"{name:<{width}}   100.00       3"


def test_the_table_by_hand():
    lines = filled().table().splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["class", "top-1", "%", "images"],
        ["a", "66.67", "3"],
        ["b", "0.00", "1"],
        ["c", "n/a", "0"],
    ]
    assert lines[8] == "-" * len(lines[0])
    assert [line.split()[-1] for line in lines[9:12]] == ["40.00", "60.00", "22.22"]
    assert lines[11].startswith("mean of classes ")
    assert lines[12:] == ["3 of 7 classes, 5 images"]


@pytest.mark.parametrize(("count", "listed"), [(60, 60), (61, 20)])
def test_of_more_than_60_classes_the_lowest_20_that_occur_are_listed(count, listed):
    """Class 0 does not occur; the even ones are wrong, and the lowest come first."""
    classes = ClassMap(names=tuple(f"class {number}" for number in range(count)))
    labels = torch.arange(1, count)
    evaluator = ClassificationEvaluator(classes=classes)
    guesses = torch.where(labels % 2 == 0, 0, labels)
    evaluator.update(torch.eye(count)[guesses], {"label": labels, "index": labels})
    rows = [line.split() for line in evaluator.table().splitlines() if line.startswith("class ")][1:]
    assert len(rows) == listed
    if listed == 20:
        assert [int(row[1]) for row in rows] == list(range(2, 42, 2))
        assert "(the 20 lowest of 61 classes)" in evaluator.table()
    else:
        assert rows[0][2] == "n/a"
        assert "lowest" not in evaluator.table()


def test_nothing_counted_is_nan():
    results = ClassificationEvaluator(classes=CLASSES).compute()
    assert np.isnan(results["top1"])
    assert np.isnan(results["mean_class_accuracy"])
    assert results["num_images"] == 0
