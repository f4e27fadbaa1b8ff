"""Splits to a data set: what only shows when they are seen together."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from det.data.cleaning import AnnotationIssues, counted
from det.data.dataset import Annotations, DetectionData
from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.io.files import same_content, spread

SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""The splits, and what their folders and lists are called."""


_TWINS_CHECKED = 1000  # images of val whose content is looked for in train


def assemble(
    *,
    source: str,
    classes: ClassMap,
    splits: Mapping[str, Annotations],
    findings: AnnotationIssues,
    warnings: Sequence[str] = (),
    allow_same_names: bool = False,
) -> DetectionData:
    """Check the splits against each other; `source` names the data in all messages.

    Raises: UserError for a training split without a box, and for pictures that train and val share, by name
    (unless `allow_same_names`) or by content (of a sample).
    """
    train = splits.get("train")
    if train is not None:
        if train.ignored.all():  # also where there are none
            raise UserError(f"{source}: the training split holds no box to train on; check its annotations")
        _refuse_leaks(source, splits, allow_same_names)
    counts = ", ".join(
        f"{split} {len(part)} images {len(part.boxes)} boxes"
        if part.has_labels
        else f"{split} {len(part)} images"
        for split, part in splits.items()
    )
    return DetectionData(
        classes=classes,
        splits=splits,
        description=f"{source} ({counts}; {len(classes)} {counted('class', len(classes))})",
        warnings=[*warnings, *findings.lines(source), *_rare_classes(source, classes, splits)],
    )


def _refuse_leaks(source: str, splits: Mapping[str, Annotations], allow_same_names: bool) -> None:
    """An image in both train and val makes every score of val too good."""
    if "val" not in splits:
        return
    train, val = splits["train"], splits["val"]
    shared = sorted(set(train.names.tolist()) & set(val.names.tolist()))
    if shared and not allow_same_names:
        raise UserError(
            f"{source}: {os.fsdecode(shared[0])!r} is an image of both train and val ({len(shared)} such "
            "names); remove it from one, or, if both just number their files, give "
            "data.source.allow_same_names=true"
        )
    twins = same_content(train.images, val.images[spread(len(val), _TWINS_CHECKED)])
    if twins is not None:
        raise UserError(f"{twins[0]}: the same picture as {twins[1]}; remove it from train or from val")


def _rare_classes(source: str, classes: ClassMap, splits: Mapping[str, Annotations]) -> list[str]:
    lines = []
    for split in ("train", "val"):
        if split not in splits or not splits[split].has_labels:
            continue
        part = splits[split]
        counts = np.bincount(part.labels[~part.ignored], minlength=len(classes))
        absent = [classes.names[index] for index in np.flatnonzero(counts == 0)]
        if absent:
            names = ", ".join(absent[:3]) + (" ..." if len(absent) > 3 else "")
            lines.append(
                f"{source}: {len(absent)} {counted('class', len(absent))} without a box in {split} ({names})"
            )
    return lines
