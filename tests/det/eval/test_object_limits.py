"""More objects in an image than are predicted or counted."""

import numpy as np
import pytest

from det.eval.object_limits import ObjectLimits, over_limits, scored_limits
from engine.data.class_map import ClassMap
from tests.det.eval.scenes import annotate, detections, evaluated

ONE = ClassMap(names=("cell",))


def grid(count):
    """So many boxes of 10 x 10 pixels that do not touch."""
    corners = np.array([(12 * (n % 20), 12 * (n // 20)) for n in range(count)], np.float32)
    return np.hstack([corners, corners + 10])


def crowded(count=200):
    """An image with many objects and one with a single one, and perfect detections."""
    boxes, labels = [grid(count), grid(1)], [np.zeros(count, np.int64), np.zeros(1, np.int64)]
    outputs = [
        detections(b, np.linspace(1, 0.5, len(b)), label) for b, label in zip(boxes, labels, strict=True)
    ]
    return annotate(boxes, labels), outputs


def test_the_limit_decides_the_average_precision_and_the_table_says_so():
    truth, outputs = crowded()
    limits = ObjectLimits(300, 300, 100)
    evaluator = evaluated(truth, outputs, classes=ONE, limits=limits)
    # 101 of 201 objects are found without a mistake: precision 1 at the recalls 0, .01, ..., .50.
    assert evaluator.compute()["map"] == pytest.approx(51 / 101)
    assert evaluator.table().splitlines()[-1] == (
        "1 image has up to 200 objects, of which at most 200 can be predicted and 100 of a class count; to "
        "predict and count all, set task.scored_per_class=200"
    )
    raised = evaluated(truth, outputs, classes=ONE, limits=limits._replace(scored_per_class=200))
    assert raised.compute()["map"] == 1
    assert raised.compute()["ar_200"] == 1
    assert "image has" not in raised.table()


def test_only_the_keys_that_matter_are_named():
    truth, _ = crowded()
    (line,) = over_limits(truth, ObjectLimits(100, 100, 100))
    assert line.endswith(
        "set task.postprocess.max_detections=200 task.postprocess.per_class=200 task.scored_per_class=200"
    )
    (line,) = over_limits(truth, ObjectLimits(150, None, 200))
    assert line == (
        "1 image has up to 200 objects, of which at most 150 can be predicted and 200 of a class count; to "
        "predict and count all, set task.postprocess.max_detections=200"
    )
    assert over_limits(truth, ObjectLimits(200, None, 200)) == []
    assert over_limits(truth, ObjectLimits(100, 100, 100), images=[1]) == []
    assert over_limits(crowded(100)[0], ObjectLimits(100, 100, 100)) == []


def test_ignored_objects_do_not_count():
    labels = np.zeros(200, np.int64)
    truth = annotate([grid(200)], [labels], difficult=np.arange(200) >= 100)
    assert over_limits(truth, ObjectLimits(100, 100, 100)) == []
    truth = annotate([grid(200)], [labels], difficult=np.ones(200, bool))
    assert over_limits(truth, ObjectLimits(100, 100, 100)) == []


def test_the_limit_is_per_class():
    truth = annotate([grid(200)], [np.arange(200) % 2])
    (line,) = over_limits(truth, ObjectLimits(100, 100, 100))
    assert line.endswith("set task.postprocess.max_detections=200")
    assert over_limits(truth, ObjectLimits(200, 100, 100)) == []


def test_limits_below_ten_replace_the_usual_ones():
    assert scored_limits(300) == [1, 10, 300]
    assert scored_limits(5) == [1, 5]
    assert scored_limits(1) == [1]


def test_several_images_over_several_limits_by_hand():
    """Two images over the limit per class, one of them over the limit per image too; one is at both."""
    sizes = (30, 21, 20, 1)
    truth = annotate(
        [grid(count) for count in sizes],
        [np.arange(30) % 3 == 0, np.zeros(21, np.int64), np.arange(20) % 2, np.zeros(1, np.int64)],
    )
    (line,) = over_limits(truth, ObjectLimits(25, 20, 19))
    assert line == (
        "2 images have up to 30 objects, of which at most 25 can be predicted and 19 of a class count; to "
        "predict and count all, set task.postprocess.max_detections=30 task.postprocess.per_class=21 "
        "task.scored_per_class=21"
    )
    (line,) = over_limits(truth, ObjectLimits(25, 20, 40), images=[0, 2, 3])
    assert line.startswith("1 image has up to 30 objects, of which at most 25 can be predicted and 20 of a")
    assert line.endswith("set task.postprocess.max_detections=30")
    (line,) = over_limits(truth, ObjectLimits(21, None, 21))
    assert line.startswith("1 image has up to 30 objects")  # the one with 21 is at the limit
    assert over_limits(truth, ObjectLimits(30, 21, 21)) == []
    assert over_limits(truth, ObjectLimits(20, 20, 20), images=[2]) == []
    assert over_limits(truth, ObjectLimits(20, None, 10), images=[2]) == []


def test_limits_are_distinct_and_sorted():
    assert scored_limits(10) == [1, 10]
    assert scored_limits(100) == [1, 10, 100]
    assert scored_limits(11) == [1, 10, 11]
