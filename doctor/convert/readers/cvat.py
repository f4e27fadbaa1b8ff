"""CVAT: XML files that list many images ("CVAT for images 1.1")."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from det.data.cvat import Part, read_parts
from det.data.formats.cvat_xml import CvatShape
from doctor.convert.geometry import corners, ellipse, turned
from doctor.convert.records import Bitmap, Box, Geometry, Polygons, Report, Sample, Shape, Source
from engine.data.coco_layout import find_paths
from engine.data.images.reading import MAX_PIXELS


def read(root: Path) -> Source:
    """All images that the XML files list, also those without shapes; subsets are splits.

    Raises: UserError if a file is damaged, or there are no images.
    """
    parts, labels = read_parts(root, keep_values=True)
    return Source(
        title="CVAT",
        count=sum(len(part.images) for part in parts.values()),
        samples=lambda report: _samples(parts, report),
        labels=labels,
    )


def _samples(parts: Mapping[str, Part], report: Report) -> Iterator[Sample]:
    for split, part in parts.items():
        paths = find_paths(part.folder, [image.name for image in part.images])
        for image, path in zip(part.images, paths, strict=True):
            if path is None:
                report.unreadable.append(
                    f"{part.folder / image.name}: no such image, but {part.path} lists it"
                )
                continue
            for noun, what in image.findings:
                if "left out" in what:
                    report.add(noun, what, [Path(image.name).name])
            shapes = []
            for shape in image.shapes:
                try:
                    shapes.append(Shape(shape.label, _geometry(shape), shape.ignored))
                except (ValueError, KeyError, OverflowError):
                    report.add("shape", "with invalid numbers: left out", [Path(image.name).name])
            yield Sample(
                image=Path(path),
                name=str(Path(image.name.replace("\\", "/")).with_suffix("")),
                split=split,
                size=image.size,
                shapes=shapes,
                origin=f"{part.path} ({image.name})",
            )


def _geometry(shape: CvatShape) -> Geometry:
    """Raises: ValueError, KeyError or OverflowError if a number is missing or not one."""
    values = shape.values
    number = {key: float(text) for key, text in values.items() if key in _NUMBERS}
    angle = number.get("rotation", 0.0)
    if shape.tag == "polygon":
        points = [[float(part) for part in point.split(",")] for point in values["points"].split(";")]
        return Polygons((np.array(points),))
    if shape.tag == "ellipse":
        return ellipse(number["cx"], number["cy"], number["rx"], number["ry"], angle)
    if shape.tag == "mask":
        return _mask(values.get("rle", ""), number)
    box = Box(number["xtl"], number["ytl"], number["xbr"], number["ybr"])
    if angle % 180 == 0:
        return box
    center = ((box.left + box.right) / 2, (box.top + box.bottom) / 2)
    return Polygons((turned(corners(box), angle, center),))


_NUMBERS = frozenset(
    ("xtl", "ytl", "xbr", "ybr", "cx", "cy", "rx", "ry", "rotation", "left", "top", "width", "height")
)


def _mask(text: str, number: Mapping[str, float]) -> Bitmap:
    """Lengths of runs of pixels, row by row in the box of the mask, first those outside the object."""
    height, width = int(number["height"]), int(number["width"])
    lengths = np.array([int(part) for part in text.split(",")])
    inside = np.arange(len(lengths)) % 2 == 1
    if (lengths < 0).any() or lengths.sum() != height * width or lengths.sum() > MAX_PIXELS:
        raise ValueError("the runs do not fill the box of the mask")
    pixels = np.repeat(inside, lengths).reshape(height, width)
    return Bitmap(int(number["left"]), int(number["top"]), pixels)
