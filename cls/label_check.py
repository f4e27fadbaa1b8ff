"""Checks the labels of classification data, for `tools/check.py`: identical images in different classes."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls.data.dataset import ClassificationDataset, class_amounts
from cls.drawing import with_lines
from engine import fonts
from engine.contracts import Finding, Image
from engine.data.class_map import ClassMap
from engine.data.labels.report import ExaminedSplit, LabelReport, ReadFacts
from engine.data.loader import SplitSource
from engine.sample_images import panel_size, resize_panel

_SAMPLES = 3  # per class
_COVERED = (" in the folders of several classes ", " has no images of ", " of the images")


def examine(
    *, task: Any, source: SplitSource[Any, Any], splits: Mapping[str, ExaminedSplit], read: ReadFacts
) -> LabelReport:
    """Report problems with the labels. `task` and `read` are not used: labels are folder names."""
    labels = {name: _labels(split.dataset) for name, split in splits.items() if split.dataset.has_labels}
    number = len(source.classes)
    return LabelReport(
        unit="images",
        amounts={name: class_amounts(values, number) for name, values in labels.items()},
        findings=_contradictions(splits, labels, source.classes),
        lines=[line for line in source.warnings if not any(part in line for part in _COVERED)],
        samples=partial(_samples, labels),
        draw=lambda name, index: _draw(splits[name].dataset, index, source.classes),
    )


def _labels(dataset: ClassificationDataset) -> NDArray[np.int64]:
    return np.array([dataset.label(index) for index in range(len(dataset))], np.int64)


def _contradictions(
    splits: Mapping[str, ExaminedSplit], labels: Mapping[str, NDArray[np.int64]], classes: ClassMap
) -> list[Finding]:
    """Identical image files with different labels."""
    names = [name for name in labels if not splits[name].dataset.has_windows]
    if not names:
        return []
    contents = np.concatenate([splits[name].contents for name in names])
    values = np.concatenate([labels[name] for name in names])
    places = [(name, index) for name in names for index in range(len(labels[name]))]
    keys = np.ascontiguousarray(contents).view("V16").ravel()
    _, group = np.unique(keys, return_inverse=True)
    known = contents.any(axis=1)
    lowest, highest = np.full(group.max() + 1, len(classes)), np.full(group.max() + 1, -1)
    np.minimum.at(lowest, group[known], values[known])
    np.maximum.at(highest, group[known], values[known])
    wrong = np.flatnonzero(highest > lowest)
    if not len(wrong):
        return []
    examples = []
    for number in wrong[:3]:
        rows = [places[row] for row in np.flatnonzero(group == number)]
        examples.append(" and ".join(os.fspath(splits[name].dataset.image_path(at)) for name, at in rows[:3]))
    noun = "1 image is" if len(wrong) == 1 else f"{len(wrong)} images are"
    return [
        Finding(
            code="image_in_two_classes",
            severity="error",
            title=f"{noun} in several classes",
            count=len(wrong),
            examples=tuple(examples),
            why="At most one of the labels is right; the network learns both.",
            remedy="keep the file in the right class, and delete the others",
        )
    ]


def _samples(labels: Mapping[str, NDArray[np.int64]], index: int) -> list[tuple[str, int]]:
    found = [
        (name, int(row))
        for name, values in labels.items()
        for row in np.flatnonzero(values == index)[:_SAMPLES]
    ]
    return found[:_SAMPLES]


def _draw(dataset: ClassificationDataset, index: int, classes: ClassMap) -> Image:
    image, label = dataset.read(index), dataset.label(index)
    assert label is not None
    return with_lines(
        resize_panel(image, panel_size(image)), [(fonts.shown_names(classes)[label], None, None)]
    )
