"""Swapped labels are found, and ranked by how strongly they are contradicted."""

import numpy as np
import pytest
import torch

from cls.eval.evaluator import ClassificationEvaluator
from cls.eval.suspicious import suspicious_labels
from engine.data.class_map import ClassMap

CLASSES = ClassMap(names=("cat", "dog", "owl"))


def evaluated(probabilities, labels):
    evaluator = ClassificationEvaluator(classes=CLASSES)
    scores = torch.log(torch.tensor(probabilities, dtype=torch.float64))
    evaluator.update(scores, {"label": torch.tensor(labels), "index": torch.arange(len(labels))})
    return evaluator


def test_a_confident_prediction_of_another_class_contradicts_a_label():
    places = suspicious_labels(
        evaluated(
            [[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.05, 0.95, 0.0], [0.02, 0.97, 0.01], [0.1, 0.6, 0.3]],
            [0, 0, 1, 0, 2],
        )
    )
    # A prediction of dog is confident from .95, the only label's probability: the owl's .6 is not.
    assert list(places) == [3]
    assert places[3].score == pytest.approx(0.95)
    assert places[3].text == "label cat, predicted as dog (97% sure)"


def test_planted_swaps_rank_first_among_noisy_predictions():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    logits = rng.normal(0, 1, (300, 3))
    logits[np.arange(300), labels] += 4
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    planted = [10, 111, 222]
    for index in planted:
        probabilities[index] = 0.005
        probabilities[index, labels[index]] = 0.99
        labels[index] = (labels[index] + 1) % 3
    places = suspicious_labels(evaluated(probabilities.tolist(), labels.tolist()))
    order = sorted(places, key=lambda index: -places[index].score)
    assert sorted(order[:3]) == planted


def test_a_network_that_has_learned_nothing_contradicts_no_label():
    assert suspicious_labels(evaluated([[0.34, 0.33, 0.33]] * 4, [0, 1, 2, 1])) == {}
