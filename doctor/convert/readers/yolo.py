"""YOLO: label files whose rows are polygons (Ultralytics) or boxes, also with keypoints, in fractions of the
image."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from det.data.cleaning import AnnotationIssues, read_size
from det.data.formats.yolo_config import find_config, read_classes
from det.data.formats.yolo_layout import add_unused, images_of_split, label_file
from det.data.formats.yolo_rows import POLYGON, LabelReader, LabelRows, read_rows
from doctor.convert.records import Box, Polygons, Report, Sample, Shape, Source
from engine.data.images import Orientation
from engine.data.splits import SPLIT_NAMES
from engine.errors import UserError
from engine.io.text import read_text


def read(root: Path, *, orientation: Orientation = "upright") -> Source:
    """All images of data.yaml, or of the folders that `det.data.yolo` finds; those without a label file have
    no objects. Of rows with keypoints, a score or a track id, only the box is used.

    Raises: UserError if a file is damaged, no split exists, or polygons cannot be told from keypoints.
    """
    file, content, divided = find_config(root.absolute())
    classes = read_classes(file, content).names
    labels = LabelReader.from_yaml(file, content, len(classes))
    splits, issues = dict[str, list[str]](), AnnotationIssues()
    for split, names in SPLIT_NAMES.items():
        place = next((content[name] for name in names if content.get(name)), None)
        found = images_of_split(file, content, split, place, issues) if place else None
        if found:
            splits["" if divided else split] = found
        elif place:
            issues.note(f"{file}: {split}: {place} does not exist; the split is left out")
    add_unused(file.parent, [image for images in splits.values() for image in images], issues)
    if not splits:
        raise UserError(f"{file}: none of its train, val and test paths exists; correct them")
    return Source(
        title="YOLO",
        count=sum(map(len, splits.values())),
        samples=lambda report: _samples(splits, classes, labels, issues, report, orientation),
        labels=classes,
    )


def _samples(
    splits: Mapping[str, list[str]],
    classes: tuple[str, ...],
    labels: LabelReader,
    issues: AnnotationIssues,
    report: Report,
    orientation: Orientation,
) -> Iterator[Sample]:
    report.include(issues)
    for split, images in splits.items():
        files = list(map(label_file, images))
        rows = _read(files, labels, report)
        shared = os.path.dirname(images[0]) if len(images) == 1 else os.path.commonpath(images)
        for image, file in zip(images, files, strict=True):
            if file not in rows and os.path.isfile(file):
                continue
            size = read_size(image, orientation)
            shapes = _shapes(rows[file], Path(file), classes, size) if file in rows else []
            name = os.path.splitext(os.path.relpath(image, shared))[0]
            yield Sample(image=Path(image), name=name, split=split, size=None, shapes=shapes, origin=file)


def _read(files: Sequence[str], labels: LabelReader, report: Report) -> dict[str, LabelRows]:
    """The rows of those label files that exist and can be read."""
    found: dict[str, LabelRows] = {}
    for file in filter(os.path.isfile, files):
        try:
            found[file] = read_rows(file, labels)
        except UserError as error:
            report.unreadable.append(str(error))
    return dict(zip(found, labels.decide(list(found.values()), list(found), report), strict=True))


def _shapes(
    rows: LabelRows, file: Path, classes: tuple[str, ...], size: tuple[int, int] | None
) -> list[Shape]:
    height, width = size or (1, 1)  # an unreadable image is reported later
    scale, shapes = np.array([width, height]), []
    lines = read_text(file).splitlines() if (rows.kinds == POLYGON).any() else []
    for label, box, kind, line in zip(rows.labels, rows.boxes, rows.kinds, rows.lines, strict=True):
        if kind == POLYGON:
            points = np.array(lines[line - 1].split()[1:], np.float64).reshape(-1, 2)
            shapes.append(Shape(classes[label], Polygons((points * scale,))))
        else:
            shapes.append(Shape(classes[label], Box(*(box.reshape(2, 2) * scale).ravel().tolist())))
    return shapes
