"""Planted faults of boxes are found, and rank before the mistakes of a good detector."""

import numpy as np
import pytest

from det.eval.suspicious import find, iou, suspicious_boxes
from engine.config.compose import compose_config
from engine.config.training import build_source
from tests.det.eval.scenes import annotate, detections, evaluated

GRID = np.array([[x, y, x + 40, y + 40] for y in (10, 110, 210) for x in (10, 110, 210)], np.float32)


def good_detector(images=12, seed=0):
    """Nine objects per image, found with scores of about .9 and boxes that are off by about a pixel."""
    rng = np.random.default_rng(seed)
    labels = [rng.integers(0, 3, 9) for _ in range(images)]
    boxes = [GRID.copy() for _ in range(images)]
    outputs = [
        detections(GRID + rng.normal(0, 1, GRID.shape), rng.uniform(0.8, 0.99, 9), label) for label in labels
    ]
    return boxes, labels, outputs


def found(boxes, labels, outputs):
    return suspicious_boxes(evaluated(annotate(boxes, labels), outputs))


def test_a_good_detector_contradicts_no_good_label():
    assert found(*good_detector()) == {}


@pytest.mark.parametrize(
    ("fault", "text", "box"),
    [
        ("swap", "label car, detected as dog", [110, 110, 150, 150]),
        ("shift", "box of dog is shifted from the detection", [130, 110, 170, 150]),
        ("remove", "no label, detected as dog", [110, 110, 150, 150]),
        ("add", "label dog, nothing detected there", [300, 300, 340, 340]),
    ],
)
def test_a_planted_fault_is_the_only_contradiction(fault, text, box):
    boxes, labels, outputs = good_detector()
    labels[5][4] = 0
    outputs[5] = detections(GRID, [0.95] * 9, labels[5])
    labels = [each.copy() for each in labels]
    if fault == "swap":
        labels[5][4] = 1
    elif fault == "shift":
        boxes[5][4] += [20, 0, 20, 0]
    elif fault == "remove":
        boxes[5], labels[5] = np.delete(boxes[5], 4, 0), np.delete(labels[5], 4)
    else:
        boxes[5], labels[5] = np.vstack([boxes[5], box]), np.append(labels[5], 0)
    places = found(boxes, labels, outputs)
    assert list(places) == [5]
    (place,) = places[5]
    assert place.text.startswith(text)
    assert place.box == pytest.approx(tuple(box), abs=1)
    assert place.score > 0.4


def test_planted_faults_rank_before_mistakes_of_the_detector():
    boxes, labels, outputs = good_detector(20)
    for index in (1, 2, 3):  # mistakes: a wrong class, a missed object and a false alarm, none of them sure
        scores, classes = outputs[index].scores.clone(), outputs[index].labels.clone()
        scores[0], classes[0] = 0.5, (classes[0] + 1) % 3
        outputs[index] = detections(outputs[index].boxes[:-1].numpy(), scores[:-1], classes[:-1])
    labels[7] = labels[7].copy()
    labels[7][0] = (labels[7][0] + 1) % 3
    boxes[8][0] += [25, 5, 25, 5]
    places = found(boxes, labels, outputs)
    assert {place.text for index in (1, 2, 3) for place in places[index]} == {
        f"label {name}, nothing detected there" for name in ("dog", "car", "person")
    }
    order = sorted(places, key=lambda index: -places[index][0].score)
    assert order == [7, 8, 1, 2, 3]


def test_ignored_objects_are_neither_contradicted_nor_overlooked():
    boxes, labels, outputs = good_detector(1)
    difficult = np.arange(9) == 4
    labels[0] = np.where(difficult, (labels[0] + 1) % 3, labels[0])
    annotations = annotate(boxes, labels, difficult=difficult)
    assert suspicious_boxes(evaluated(annotations, outputs)) == {}


def test_iou_by_hand():
    a, b = np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6]])
    assert iou(a, b)[0] == pytest.approx([1 / 7, 1, 0])
    assert iou(np.zeros((0, 4)), b).shape == (0, 3)


def test_no_images_no_contradictions():
    assert find({}, 3) == {}


@pytest.mark.data
@pytest.mark.slow
def test_planted_swaps_and_shifts_among_real_boxes_rank_first(data_folder):
    """BCCD's val images, and a detector that misses some cells, finds some twice and some where none is."""
    config = compose_config("train", ["task=det", "data=voc", f"data.root={data_folder / 'bccd'}"])
    split = build_source(config).splits["val"]
    rng = np.random.default_rng(5)
    boxes, labels, outputs = [], [], []
    for index in range(len(split)):
        true, classes, _ = split.objects(index)
        boxes.append(true.copy())
        labels.append(classes.copy())
        seen = rng.random(len(true)) > 0.1
        near = true[seen] + rng.normal(0, 2, true[seen].shape)
        twice, false = near[:2] + 15, np.array([[300, 200, 380, 290]]) + rng.integers(0, 50, (1, 4))
        scores = [rng.uniform(0.6, 0.97, len(near)), rng.uniform(0.1, 0.4, len(twice)), [0.35]]
        said = np.concatenate([classes[seen], classes[seen][:2], [0]])
        outputs.append(detections(np.concatenate([near, twice, false]), np.concatenate(scores), said))
    planted = {}
    for at in (4, 40):
        labels[at][0], planted[at] = (labels[at][0] + 1) % 3, "label "
    for at in (20, 70):
        sides = boxes[at][0][2:] - boxes[at][0][:2]
        boxes[at][0] += 0.45 * np.concatenate([sides, sides])
        planted[at] = "box of "
    for at in planted:  # the detector sees these objects
        true, classes, _ = split.objects(at)
        outputs[at] = detections(true, np.full(len(true), 0.95), classes)
    places = found(boxes, labels, outputs)
    ranking = sorted(places, key=lambda at: -max(place.score for place in places[at]))
    assert set(ranking[:4]) == set(planted)
    for at, start in planted.items():
        assert max(places[at], key=lambda place: place.score).text.startswith(start)
