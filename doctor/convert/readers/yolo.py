"""YOLO: label files whose rows are polygons (Ultralytics) or boxes, in fractions of the image."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from det.data.cleaning import AnnotationIssues, read_size
from det.data.formats.yolo_config import find_config, read_classes
from det.data.formats.yolo_layout import images_of_split, label_file
from doctor.convert.records import Box, Geometry, Polygons, Report, Sample, Shape, Source
from engine.data.splits import SPLIT_NAMES, read_lines
from engine.errors import UserError


def read(root: Path) -> Source:
    """All images of data.yaml, or of the folders that `det.data.yolo` finds; those without a label file have
    no objects.

    Raises: UserError if a file is damaged, or no split exists.
    """
    file, content, divided = find_config(root.absolute())
    classes = read_classes(file, content).names
    splits: dict[str, list[str]] = {}
    for split, names in SPLIT_NAMES.items():
        place = next((content[name] for name in names if content.get(name)), None)
        found = images_of_split(file, content, split, place, AnnotationIssues()) if place else None
        if found:
            splits["" if divided else split] = found
    if not splits:
        raise UserError(f"{file}: none of its train, val and test exists; correct the paths")
    return Source(
        title="YOLO",
        count=sum(map(len, splits.values())),
        samples=lambda report: _samples(splits, classes, report),
        labels=classes,
    )


def _samples(splits: Mapping[str, list[str]], classes: tuple[str, ...], report: Report) -> Iterator[Sample]:
    for split, images in splits.items():
        shared = os.path.dirname(images[0]) if len(images) == 1 else os.path.commonpath(images)
        for image in images:
            path = Path(label_file(image))
            try:
                shapes = _shapes(path, classes, read_size(image)) if path.is_file() else []
            except UserError as error:
                report.unreadable.append(str(error))
                continue
            name = os.path.splitext(os.path.relpath(image, shared))[0]
            yield Sample(
                image=Path(image), name=name, split=split, size=None, shapes=shapes, origin=str(path)
            )


def _shapes(path: Path, classes: tuple[str, ...], size: tuple[int, int] | None) -> list[Shape]:
    height, width = size or (1, 1)  # an unreadable image is reported later
    shapes = []
    for line in read_lines(path, "labels"):
        try:
            label, *numbers = map(float, line.split())
            name = classes[int(label)] if label >= 0 and label == int(label) else ""
        except (ValueError, IndexError, OverflowError):
            name, numbers = "", []
        is_box = len(numbers) in (4, 5)
        if not name or not (is_box or (len(numbers) >= 6 and len(numbers) % 2 == 0)):
            raise UserError(
                f"{path}: must be rows of a class number below {len(classes)} and a polygon or box, got "
                f"{line:.60}; correct it"
            )
        shapes.append(Shape(name, _geometry(numbers, is_box, np.array([width, height]))))
    return shapes


def _geometry(numbers: list[float], is_box: bool, scale: np.ndarray) -> Geometry:
    if not is_box:
        return Polygons((np.array(numbers).reshape(-1, 2) * scale,))
    center, sides = np.array(numbers[:2]) * scale, np.array(numbers[2:4]) * scale
    return Box(*(center - sides / 2).tolist(), *(center + sides / 2).tolist())
