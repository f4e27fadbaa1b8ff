"""LabelMe: one JSON file per image."""

import base64
import binascii
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from det.data.formats import voc_layout
from det.data.formats.labelme_json import FEWEST_POINTS, IGNORED, decode, is_ignored, read_points, stated_size
from doctor.convert.geometry import ellipse
from doctor.convert.records import Bitmap, Box, Geometry, Polygons, Report, Sample, Shape, Source
from engine.errors import UserError


class _Shape(msgspec.Struct):
    label: Any = None
    points: Any = None
    shape_type: Any = None
    group_id: Any = None
    flags: Any = None
    difficult: Any = None
    mask: Any = None


class _File(msgspec.Struct):
    shapes: list[_Shape]
    imageHeight: Any = None
    imageWidth: Any = None


def read(root: Path) -> Source:
    """The images that have a JSON file; folders and lists are found as by `det.data.labelme`.

    Raises: UserError if there are no images, or none has a JSON file.
    """
    splits, whole = voc_layout.find_undivided(root, suffix=".json")
    count = sum(name in part.annotations for part in splits.values() for name in part.names)
    if not count:
        raise UserError(
            f"{root}: no JSON file has the name of an image; give images and JSON files the same names"
        )
    return Source(
        title="LabelMe",
        count=count,
        samples=lambda report: _samples({"" if whole else s: part for s, part in splits.items()}, report),
    )


def _samples(splits: Mapping[str, voc_layout.SplitFiles], report: Report) -> Iterator[Sample]:
    for line in dict.fromkeys(line for part in splits.values() for line in part.unread):
        report.note(line)
    for split, part in splits.items():
        unlabeled = [part.images.get(name, name) for name in part.names if name not in part.annotations]
        report.add("image", "without a JSON file: left out", (Path(path).name for path in unlabeled))
        unused = [part.annotations[name] for name in part.annotations if name not in part.images]
        report.add("JSON file", "without an image: left out", (Path(path).name for path in unused))
        for name in (name for name in part.names if name in part.annotations):
            file = Path(part.annotations[name])
            if name not in part.images:
                report.unreadable.append(f"{name}: listed in {split}, but there is no such image")
                continue
            try:
                content = decode(file, _File)
                shapes = list(_shapes(content, file, report))
                size = stated_size(content, str(file))
            except UserError as error:
                report.unreadable.append(str(error))
                continue
            yield Sample(
                image=Path(part.images[name]),
                name=name,
                split=split,
                size=size,
                shapes=shapes,
                origin=str(file),
            )


def _shapes(file: _File, path: Path, report: Report) -> Iterator[Shape]:
    """The shapes with an area; the polygons of a group are one object."""
    groups: dict[tuple[str, Any], list[Shape]] = {}
    for number, shape in enumerate(file.shapes, start=1):
        kind = shape.shape_type or "polygon"
        if not isinstance(kind, str) or kind not in FEWEST_POINTS:
            report.add("shape", f"without an area ({kind!s:.20}): left out", [path.name])
            continue
        found = _shape(shape, kind, f"{path}: shape {number}")
        group = shape.group_id if isinstance(shape.group_id, int) else f"alone {number}"
        groups.setdefault((found.label, group), []).append(found)
    for members in groups.values():
        polygons = [each.geometry for each in members if isinstance(each.geometry, Polygons)]
        if polygons:
            parts = tuple(part for each in polygons for part in each.parts)
            yield Shape(members[0].label, Polygons(parts), members[0].ignored)
        yield from (each for each in members if not isinstance(each.geometry, Polygons))


def _shape(shape: _Shape, kind: str, where: str) -> Shape:
    label = shape.label.strip() if isinstance(shape.label, str) else ""
    if not label or not label.isprintable():
        raise UserError(f"{where}: has no label; add the name of its class")
    points = read_points(shape.points, where)
    if len(points) < FEWEST_POINTS[kind]:
        raise UserError(
            f"{where} ({label!r:.40}): a {kind} needs {FEWEST_POINTS[kind]} points; draw it again"
        )
    ignored = label == IGNORED or is_ignored(shape.difficult, shape.flags)
    return Shape(label, _geometry(shape, kind, points, where), ignored)


def _geometry(shape: _Shape, kind: str, points: list[tuple[float, float]], where: str) -> Geometry:
    if kind == "rectangle":
        xs, ys = zip(*points, strict=True)  # two corners or, in files of X-AnyLabeling, four
        return Box(min(xs), min(ys), max(xs), max(ys))
    if kind == "circle":
        radius = math.dist(points[0], points[1])
        return ellipse(*points[0], radius, radius)
    if kind == "mask":
        return _bitmap(shape.mask, points[0], where)
    return Polygons((np.array(points, np.float64),))


def _bitmap(text: Any, corner: tuple[float, float], where: str) -> Bitmap:
    """The PNG image of a mask, in base 64, whose upper left corner is given."""
    try:
        data = np.frombuffer(base64.b64decode(text), np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if len(data) else None
    except (TypeError, ValueError, binascii.Error, cv2.error):
        pixels = None
    if pixels is None or not np.isfinite(corner).all():
        raise UserError(f"{where}: its mask cannot be decoded; draw it again")
    return Bitmap(round(corner[0]), round(corner[1]), pixels > 0)
