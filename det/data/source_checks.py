"""Builds a data source from its splits, after checks that involve all of them."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from det.data.cleaning import AnnotationIssues, plural
from det.data.dataset import DetectionSource, DetectionSplit
from engine.data.class_map import ClassMap
from engine.data.splits import refuse_shared_files, refuse_shared_names
from engine.errors import UserError, some
from engine.io.files import evenly_spaced

_FILES_COMPARED = 1000  # images of val that are compared with those of train


def checked_source(
    *,
    name: str,
    classes: ClassMap,
    splits: Mapping[str, DetectionSplit],
    issues: AnnotationIssues,
    warnings: Sequence[str] = (),
    allow_same_names: bool = False,
) -> DetectionSource:
    """The data source of these splits; `name` is what all messages call it.

    A split of which all images are also in train is left out, with a line in `warnings`: to evaluate on the
    training images, as a small dataset's yaml means by val = train, data.split=train is enough.

    Raises:
        UserError: if the training split has no boxes, or train and val share an image, by name (unless
            `allow_same_names`) or by content (of a sample).
    """
    if (train := splits.get("train")) is not None:
        if train.ignored.all():  # also if there are none
            raise _nothing_to_train_on(name, train, issues)
        splits, left_out = _without_copies_of_train(name, splits)
        warnings = [*warnings, *left_out]
        if (val := splits.get("val")) is not None:
            if not allow_same_names:
                refuse_shared_names(name, train.names, val.names)
            refuse_shared_files(train.images, val.images[evenly_spaced(len(val), _FILES_COMPARED)])
    counts = ", ".join(
        f"{split} {len(part)} images {len(part.boxes)} boxes"
        if part.has_labels
        else f"{split} {len(part)} images"
        for split, part in splits.items()
    )
    return DetectionSource(
        classes=classes,
        splits=splits,
        description=f"{name} ({counts}; {len(classes)} {plural('class', len(classes))})",
        warnings=[*warnings, *issues.lines(name), *_absent_classes(name, classes, splits)],
    )


def _without_copies_of_train(
    name: str, splits: Mapping[str, DetectionSplit]
) -> tuple[dict[str, DetectionSplit], list[str]]:
    """The splits with images of their own, and a line for each of the others."""
    kept, lines = {}, []
    for split, part in splits.items():
        if split != "train" and _all_in(part, splits["train"]):
            lines.append(
                f"{name}: {split}: all of its {len(part)} images are also in train; the split is left out"
            )
        else:
            kept[split] = part
    return kept, lines


def _all_in(part: DetectionSplit, train: DetectionSplit) -> bool:
    """Whether the files of `part` are files of `train`, also by symbolic links."""
    if not set(part.images.tolist()) <= set(train.images.tolist()):
        if not set(part.names.tolist()) <= set(train.names.tolist()):
            return False
        files = {os.path.realpath(path) for path in train.images.tolist()}
        return all(os.path.realpath(path) in files for path in part.images.tolist())
    return True


def _nothing_to_train_on(name: str, train: DetectionSplit, issues: AnnotationIssues) -> UserError:
    findings = issues.findings()
    if ignored := len(train.boxes):
        what = f"{ignored} {plural('box', ignored)} marked iscrowd or difficult"
        findings.insert(0, what)
    known = f" ({'; '.join(findings)})" if findings else ""
    return UserError(f"{name}: the training split has no boxes to train on{known}; correct its annotations")


def _absent_classes(name: str, classes: ClassMap, splits: Mapping[str, DetectionSplit]) -> list[str]:
    lines = []
    for split in ("train", "val"):
        if split not in splits or not splits[split].has_labels:
            continue
        part = splits[split]
        counts = np.bincount(part.labels[~part.ignored], minlength=len(classes))
        absent = [classes.names[index] for index in np.flatnonzero(counts == 0)]
        if absent:
            noun = plural("class", len(absent))
            lines.append(f"{name}: {len(absent)} {noun} without a box in {split} ({some(absent, 3)})")
    return lines
