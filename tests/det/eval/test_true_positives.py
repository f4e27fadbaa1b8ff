"""Which detections are hits, the best threshold and the scores of images, by hand."""

import numpy as np
import pytest

from det.eval.average_precision import Objects
from det.eval.true_positives import (
    FALSE_POSITIVE,
    IGNORED_MATCH,
    best_threshold,
    image_scores,
    match_detections,
)


def truth_of(*rows):
    """Rows (image, class, box as x, y, width, height[, "crowd" or "difficult"])."""
    kinds = [row[3] if len(row) > 3 else "" for row in rows]
    boxes = np.array([row[2] for row in rows], float).reshape(-1, 4)
    return Objects(
        image_ids=np.array([row[0] for row in rows], np.int64),
        category_ids=np.array([row[1] for row in rows], np.int64),
        boxes=boxes,
        areas=boxes[:, 2:].prod(1),
        crowd=np.array([kind == "crowd" for kind in kinds], bool),
        ignored=np.array([kind != "" for kind in kinds], bool),
    )


def found(*rows):
    """Rows (image, class, box, score) -> [D, 7]."""
    return np.array([(image, *box, score, label) for image, label, box, score in rows], float).reshape(-1, 7)


BOX, HALF, FAR = (10, 10, 20, 20), (10, 10, 20, 10), (100, 10, 20, 20)  # HALF has an IoU of .5 with BOX


def test_an_object_is_hit_once_by_the_best_detection():
    truth = truth_of((1, 3, BOX))
    detections = found((1, 3, BOX, 0.5), (1, 3, BOX, 0.9), (1, 3, BOX, 0.7))
    assert match_detections(detections, truth).tolist() == [FALSE_POSITIVE, 0, FALSE_POSITIVE]


def test_a_taken_object_leaves_the_next_best_one():
    """The second detection overlaps the taken object more, and is a hit of the other all the same."""
    truth = truth_of((1, 3, BOX), (1, 3, (10, 16, 20, 20)))
    detections = found((1, 3, BOX, 0.9), (1, 3, (10, 12, 20, 20), 0.8), (1, 3, (10, 12, 20, 20), 0.7))
    assert match_detections(detections, truth).tolist() == [0, 1, FALSE_POSITIVE]


def test_of_two_objects_the_one_that_overlaps_more_is_hit():
    truth = truth_of((1, 3, (10, 14, 20, 20)), (1, 3, BOX))
    assert match_detections(found((1, 3, (10, 11, 20, 20), 0.9)), truth).tolist() == [1]


def test_the_first_one_wins_ties():
    """40 equal objects and 40 detections in each of two images, whose rows alternate; so do two scores.

    The first 20 objects of an image go to its detections of score .5, the others to those of score .4.
    """
    images = [1 + row % 2 for row in range(80)]
    truth = truth_of(*((image, 3, BOX) for image in images))
    scores = [0.5 - row // 2 % 2 / 10 for row in range(80)]
    detections = found(*((image, 3, BOX, score) for image, score in zip(images, scores, strict=True)))
    matches = match_detections(detections, truth)
    for image in (1, 2):
        for score, rows in ((0.5, range(image - 1, 40, 2)), (0.4, range(image + 39, 80, 2))):
            chosen = (detections[:, 0] == image) & np.isclose(detections[:, 5], score)
            assert matches[chosen].tolist() == list(rows)


def test_the_overlap_must_reach_the_threshold():
    truth, detections = truth_of((1, 3, BOX)), found((1, 3, HALF, 0.9))
    assert match_detections(detections, truth).tolist() == [0]
    assert match_detections(detections, truth, iou=0.51).tolist() == [FALSE_POSITIVE]
    assert match_detections(detections, truth, iou=0.3).tolist() == [0]


def test_images_and_classes_are_kept_apart():
    truth = truth_of((2, 3, BOX), (1, 4, BOX), (5, 3, BOX))
    detections = found(
        (5, 3, BOX, 0.9), (1, 3, BOX, 0.9), (2, 3, BOX, 0.8), (3, 3, BOX, 0.7), (1, 4, FAR, 0.6)
    )
    assert match_detections(detections, truth).tolist() == [2, -1, 0, -1, -1]
    assert match_detections(detections, truth, any_class=True).tolist() == [2, 1, 0, -1, -1]
    assert match_detections(found(), truth).tolist() == []
    assert match_detections(detections, truth_of()).tolist() == [FALSE_POSITIVE] * 5


@pytest.mark.parametrize("kind", ["crowd", "difficult"])
def test_a_detection_of_an_ignored_object_alone_is_not_counted(kind):
    truth = truth_of((1, 3, BOX, kind), (1, 3, FAR))
    detections = found(
        (1, 3, BOX, 0.9), (1, 3, BOX, 0.8), (1, 3, FAR, 0.7), (1, 3, FAR, 0.6), (1, 4, BOX, 0.5)
    )
    # An ignored object can be hit any number of times, but not by another class.
    assert match_detections(detections, truth).tolist() == [IGNORED_MATCH] * 2 + [
        1,
        FALSE_POSITIVE,
        FALSE_POSITIVE,
    ]
    assert match_detections(found((1, 3, HALF, 0.9)), truth).tolist() == [IGNORED_MATCH]
    small = found((1, 3, (12, 12, 4, 4), 0.9))  # IoU .04, but wholly inside
    inside = IGNORED_MATCH if kind == "crowd" else FALSE_POSITIVE
    assert match_detections(small, truth).tolist() == [inside]


def test_an_object_goes_before_an_ignored_one():
    truth = truth_of((1, 3, BOX, "difficult"), (1, 3, (10, 12, 20, 20)))
    assert match_detections(found((1, 3, BOX, 0.9)), truth).tolist() == [1]


def test_the_best_threshold_by_hand():
    """Of 4 objects, by score: hit, miss, hit, hit, (ignored), miss. F1: 2/5, 2/6, 4/7, 6/8, 6/9."""
    scores = np.array([0.6, 0.9, 0.8, 0.7, 0.65, 0.3])
    matches = np.array([2, 0, FALSE_POSITIVE, 1, IGNORED_MATCH, FALSE_POSITIVE])
    assert best_threshold(scores, matches, 4) == pytest.approx((0.6, 6 / 8, 3 / 4, 3 / 4))
    assert best_threshold(scores, np.full(6, FALSE_POSITIVE), 4) is None
    assert best_threshold(scores, np.full(6, IGNORED_MATCH), 4) is None
    assert best_threshold(scores[:0], matches[:0], 4) is None


def test_a_threshold_does_not_separate_equal_scores():
    """A hit and two misses at .5: the F1 of the hit alone, 2/2, does not exist. All three have 2/4."""
    matches = np.array([0, FALSE_POSITIVE, FALSE_POSITIVE])
    assert best_threshold(np.full(3, 0.5), matches, 1) == pytest.approx((0.5, 2 / 4, 1 / 3, 1))
    after_a_miss = np.array([0.9, 0.5, 0.5, 0.5])
    best = best_threshold(after_a_miss, np.array([FALSE_POSITIVE, *matches]), 1)
    assert best == pytest.approx((0.5, 2 / 5, 1 / 4, 1))


def test_the_scores_of_images_by_hand():
    """Image 7: a hit, a miss, an object left; image 2: only a detection; image 5: only an object."""
    truth = truth_of((7, 3, BOX), (7, 3, FAR), (5, 3, BOX), (4, 3, BOX, "difficult"))
    detections = found(
        (7, 3, BOX, 0.9), (7, 4, BOX, 0.5), (7, 3, FAR, 0.4), (2, 3, BOX, 0.6), (4, 3, BOX, 0.9),
        (3, 3, BOX, 0.1),
    )  # fmt: skip
    matches = match_detections(detections, truth)
    assert image_scores(detections, truth, matches, 0.5) == [
        (2, 0.0, 1),
        (5, 0.0, 1),
        (7, 2 / 4, 2),
    ]
    assert image_scores(detections, truth, matches, 0.4)[-1] == (7, 4 / 5, 1)
