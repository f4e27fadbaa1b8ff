"""Builds a data source from its splits, after checks that involve all of them."""

from collections.abc import Mapping, Sequence

import numpy as np

from det.data.cleaning import AnnotationIssues
from det.data.dataset import DetectionSource, DetectionSplit
from det.data.reader_options import ReaderOptions
from engine.data.class_map import ClassMap
from engine.data.labels.balance import balance_lines
from engine.data.labels.report import ClassAmounts
from engine.data.splits import check_leaks, refuse_shared_names, without_repeated
from engine.errors import UserError, counted, raise_or_collect, some


def checked_source(
    *,
    name: str,
    classes: ClassMap,
    splits: Mapping[str, DetectionSplit],
    issues: AnnotationIssues,
    warnings: Sequence[str] = (),
    options: ReaderOptions = ReaderOptions(),  # noqa: B008 (it is frozen)
) -> DetectionSource:
    """The data source of these splits; `name` is what all messages call it.

    If all images of a split are also in an earlier one, the split is left out, with a line in `warnings`. If
    a small dataset's YAML file sets val = train, data.split=train evaluates on the training images.

    Raises:
        UserError: if the training split has no boxes, train and val share a name, or two splits share an
            image (unless it has a single color).
    """
    train = splits.get("train")
    if train is not None and train.has_labels and train.ignored.all():  # also true for no boxes
        raise_or_collect(_nothing_to_train_on(name, train, issues))
    if not options.allow_same_files:
        splits, left_out = without_repeated(name, splits, lambda part: part.images.tolist())
        warnings = [*warnings, *left_out]
        images = {split: part.images for split, part in splits.items()}
        leaks = check_leaks(images, override="data.source.allow_same_files=true")
        warnings = [*warnings, *(f"{name}: {line}" for line in leaks)]
        if not options.allow_same_names and {"train", "val"} <= splits.keys():
            refuse_shared_names(name, splits["train"].names, splits["val"].names)
    counts = ", ".join(
        f"{split} {counted(len(part), 'image')} {counted(len(part.boxes), 'box')}"
        if part.has_labels
        else f"{split} {counted(len(part), 'image')}"
        for split, part in splits.items()
    )
    amounts = {split: class_amounts(part, len(classes)) for split, part in splits.items() if part.has_labels}
    source = DetectionSource(
        classes=classes,
        splits=splits,
        description=f"{name} ({counts}; {counted(len(classes), 'class')})",
        warnings=[
            *warnings,
            *issues.lines(name),
            *_absent_classes(name, classes, splits),
            *(f"{name}: {line}" for line in balance_lines(classes, amounts, "boxes")),
        ],
    )
    source.issues, source.notes = issues, tuple(warnings)
    return source


def _nothing_to_train_on(name: str, train: DetectionSplit, issues: AnnotationIssues) -> UserError:
    findings = issues.findings()
    if ignored := len(train.boxes):
        what = f"{counted(ignored, 'box')} marked iscrowd or difficult"
        findings.insert(0, what)
    known = f" ({'; '.join(findings)})" if findings else ""
    return UserError(f"{name}: the training split has no boxes to train on{known}; correct its annotations")


def class_amounts(split: DetectionSplit, classes: int) -> ClassAmounts:
    """The boxes of each class per image; ignored ones do not count."""
    owners = np.repeat(np.arange(len(split)), np.diff(split.offsets))
    counted = ~split.ignored
    pairs = owners[counted] * np.int64(classes) + split.labels[counted]
    unique, numbers = np.unique(pairs, return_counts=True)
    labels = unique % classes
    return ClassAmounts(
        images=len(split),
        total=np.bincount(labels, numbers, minlength=classes).astype(np.float64),
        squares=np.bincount(labels, numbers**2.0, minlength=classes).astype(np.float64),
        present=np.bincount(labels, minlength=classes).astype(np.int64),
        ignored=float(split.ignored.mean()) if len(split.ignored) else 0.0,
    )


def _absent_classes(name: str, classes: ClassMap, splits: Mapping[str, DetectionSplit]) -> list[str]:
    lines = []
    for split in ("train", "val"):
        if split not in splits or not splits[split].has_labels:
            continue
        part = splits[split]
        counts = np.bincount(part.labels[~part.ignored], minlength=len(classes))
        absent = [classes.names[index] for index in np.flatnonzero(counts == 0)]
        if absent:
            lines.append(
                f"{name}: {counted(len(absent), 'class')} without a box in {split} ({some(absent, 3)})"
            )
    return lines
