"""The diagnosis of an AP of 0, for each usual cause."""

import numpy as np
import pytest

from tests.det.eval.scenes import annotate, detections, evaluated

TRUE = np.array([[160, 80, 300, 180], [300, 100, 420, 400], [30, 300, 130, 470]], float)
LABELS = [0, 1, 2]


def diagnosis(boxes, labels, scores=(0.95, 0.6, 0.04)):
    annotations = annotate([TRUE, []], [LABELS, []])
    outputs = [detections(boxes, list(scores)[: len(labels)], labels), detections([], [], [])]
    table = evaluated(annotations, outputs).table()
    return table[table.index("AP is 0") :] if "AP is 0" in table else ""


def test_there_is_no_diagnosis_if_something_is_right():
    assert diagnosis(TRUE, LABELS) == ""


def test_nothing_detected():
    text = diagnosis([], [])
    assert "there are no detections at all" in text
    assert "score_threshold" in text
    assert "scored as detections, have an AP of 1.000: the evaluation and the annotations are fine" in text


def test_classes_that_are_shifted():
    text = diagnosis(TRUE, [1, 2, 0])
    assert "3 of the 3 classes with objects were detected" in text
    assert "100% of the objects are detected at IoU .5 if classes are ignored" in text
    assert "class indices may be shifted" in text
    assert "dog is detected as car (1x)" in text


def test_classes_that_have_no_objects():
    text = diagnosis(TRUE, [3, 3, 3])
    assert (
        "no detected class has objects (detected: kite (90); objects: person (1), car (3), dog (18))" in text
    )


CENTERS = (TRUE[:, :2] + TRUE[:, 2:]) / 2
SIDES = TRUE[:, 2:] - TRUE[:, :2]


@pytest.mark.parametrize(
    ("boxes", "cause"),
    [
        (TRUE / [640, 480, 640, 480], "they are fractions of the image, but pixels are expected"),
        (np.hstack([TRUE[:, :2], SIDES]), "they are (x, y, width, height)"),
        (np.hstack([CENTERS, SIDES]), "they are (center x, center y, width, height)"),
        (TRUE[:, [1, 0, 3, 2]], "x and y are swapped"),
        (
            (TRUE / [640, 480, 640, 480])[:, [1, 0, 3, 2]],
            "they are fractions of the image with x and y swapped",
        ),
    ],
)
def test_boxes_in_another_format(boxes, cause):
    text = diagnosis(boxes, LABELS)
    assert f"the boxes fit 100% of the objects if {cause}" in text
    assert "none overlaps an object of any class with IoU >= .5" in text


def test_boxes_that_fit_no_object_in_any_format():
    text = diagnosis([[500, 10, 520, 40], [560, 10, 620, 40], [500, 420, 600, 470]], LABELS)
    assert "the boxes fit" not in text
    assert "median box: detected 60 x 30 at (500, 10), true 120 x 170 at (160, 100)" in text
    assert "images: 1 of the 1 images with objects have detections, and 0 without objects" in text
    assert "scores (0.04 to 0.95): >=0.01: 1, >=0.5: 1, >=0.9: 1" in text


def test_objects_without_area():
    annotations = annotate([[[10, 10, 10, 50], [60, 60, 60, 60]]], [[0, 0]])
    text = evaluated(annotations, [detections([[200, 200, 250, 250]], [0.9], [0])]).table()
    assert ", not 1: 2 of 2 have no area; correct the annotations" in text


def test_crowds_and_many_objects_have_an_ap_of_1():
    rng = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(np.arange(15) * 40, np.arange(10) * 40), axis=-1).reshape(-1, 2)
    boxes = np.hstack([corners, corners + rng.uniform(10, 30, corners.shape)])
    annotations = annotate([boxes], [np.zeros(150, int)], crowd=np.arange(150) == 7)
    text = evaluated(annotations, [detections([], [], [])]).table()
    assert "have an AP of 1.000" in text
