"""Numbers of detection's report, worked out by hand."""

import numpy as np
import pytest

from det.eval.report_charts import class_rows, precision_recall, threshold_curves
from det.eval.true_positives import FALSE_POSITIVE, IGNORED_MATCH
from engine.data.class_map import ClassMap
from tests.det.eval.scenes import CLASSES, annotate, detections, evaluated, scene


def test_f1_precision_and_recall_by_threshold():
    # By descending score: right (.9), wrong (.8), right and ignored (.7), right (.7); four objects.
    scores = np.array([0.9, 0.8, 0.7, 0.7])
    matches = np.array([3, FALSE_POSITIVE, IGNORED_MATCH, 1])
    curves = threshold_curves(scores, matches, 4)
    assert curves["precision"] == [(0.7, pytest.approx(2 / 3)), (0.8, 0.5), (0.9, 1.0)]
    assert curves["recall"] == [(0.7, 0.5), (0.8, 0.25), (0.9, 0.25)]
    assert [value for _, value in curves["F1"]] == pytest.approx([4 / 7, 2 / 6, 2 / 5])


def test_equal_scores_are_one_threshold():
    curves = threshold_curves(np.array([0.5, 0.5]), np.array([0, FALSE_POSITIVE]), 1)
    assert curves["precision"] == [(0.5, 0.5)]
    assert threshold_curves(np.zeros(0), np.zeros(0, int), 3)["F1"] == []


def test_the_best_f1_is_on_the_curve():
    evaluator = evaluated(*scene(0))
    num_objects = int((~evaluator.truth.ignored).sum())
    curve = threshold_curves(evaluator.detections[:, 5], evaluator.matches, num_objects)["F1"]
    best = max(curve, key=lambda point: point[1])
    assert best == pytest.approx((evaluator.operating_point.threshold, evaluator.operating_point.f1))


def test_classes_have_their_ap_and_objects():
    box = [[0, 0, 50, 50]]
    evaluator = evaluated(annotate([box, box], [[0], [1]]), [detections(box, [0.9], [0])] * 2)
    rows = {name: row for name, *row in class_rows(evaluator)}
    assert rows["dog"] == [pytest.approx(100), pytest.approx(100), 1]
    assert rows["car"] == [0, 0, 1]
    assert np.isnan(rows["kite"][0])
    series = precision_recall(evaluator)
    assert list(series) == ["mean", "dog", "car"]
    assert series["dog"][0] == (0.0, pytest.approx(1.0))
    assert series["mean"][50][1] == pytest.approx(0.5)


def test_many_classes_are_shown_by_the_best_and_the_worst():
    assert len(CLASSES) < 8
    names = tuple("abcdefghijk")
    box = [[0, 0, 50, 50]]
    annotations = annotate([box] * 11, [[index] for index in range(11)])
    # Class i has i wrong detections with higher scores in other images.
    outputs = [detections(box * (11 - index), [0.9] * (11 - index), range(index, 11)) for index in range(11)]
    series = precision_recall(evaluated(annotations, outputs, classes=ClassMap(names=names)))
    assert len(series) == 7
    assert next(iter(series)) == "mean"
    assert series["a"][0][1] > series["k"][0][1]
