"""Suspicious labels of images: those that a confident prediction of another class contradicts."""

import numpy as np

from cls.eval.evaluator import ClassificationEvaluator
from engine.report.suspicious import Place, class_thresholds


def suspicious_labels(evaluator: ClassificationEvaluator) -> dict[int, Place]:
    """Index of an image -> what contradicts its label, for all images of an evaluation.

    The score is the difference between the probabilities of the predicted class and of the label.
    """
    records, names = evaluator.records(), evaluator.classes.names
    known = np.isfinite(records.of_label)
    labels, size = records.label[known], len(names)
    sums = np.bincount(labels, records.of_label[known], minlength=size).astype(np.float64)
    thresholds = class_thresholds(sums, np.bincount(labels, minlength=size))
    wrong = known & (records.predicted != records.label)
    confident = wrong & (records.of_prediction >= thresholds[records.predicted])
    places = {}
    for row in np.flatnonzero(confident).tolist():
        label, predicted = names[records.label[row]], names[records.predicted[row]]
        sure = float(records.of_prediction[row])
        text = f"label {label}, predicted as {predicted} ({sure:.0%} sure)"
        places[int(records.position[row])] = Place(text, sure - float(records.of_label[row]))
    return places
