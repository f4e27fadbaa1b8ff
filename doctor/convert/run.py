"""Converts a folder of annotations and reports what was left out."""

import importlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from doctor.convert.coco import Coco
from doctor.convert.masks import Masks
from doctor.convert.records import Box, Report, Source
from doctor.convert.writing import Images, checked_size, new_folder
from engine.data.class_map import alike_line
from engine.data.images import DEFAULT_MEGAPIXELS, Orientation, set_max_megapixels
from engine.data.survey.matching import Content
from engine.errors import UserError, counted
from engine.io.progress import PartProgress, announced

Target = Literal["masks", "coco"]
Format = Literal["labelme", "cvat", "coco", "yolo", "label_studio", "supervisely"]


_SIZED = ("coco", "yolo")
"""Formats whose readers open the images: to scale fractions, or to compare sizes."""


@dataclass(frozen=True)
class Result:
    """What to print, the messages of files that were left out, and the next command's arguments."""

    lines: list[str]
    unreadable: list[str]
    overrides: list[str]


def convert(
    root: Path,
    out: Path,
    *,
    to: Target,
    format: Format | None = None,
    fill_boxes: bool = False,
    orientation: Orientation = "upright",
    max_megapixels: float = DEFAULT_MEGAPIXELS,
    copy: bool = False,
) -> Result:
    """Write the images and annotations below `root` into the new folder `out`; nothing else is changed.

    Args:
        to: masks for segmentation, or COCO's JSON for detection.
        format: of the annotations; None: recognized.
        fill_boxes: whether boxes are drawn into masks.
        orientation: whether shapes refer to upright or to stored images (EXIF), as in `data.orientation`.
        max_megapixels: larger images are left out.
        copy: copy images instead of linking them.

    Raises: UserError if there is nothing to convert, a file that lists many images is damaged, or `out`
        exists or cannot be written.
    """
    try:
        set_max_megapixels(max_megapixels)
    except UserError as error:
        raise UserError(str(error).removeprefix("data.")) from None  # the key of this tool
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"out={out}: is inside {root}; choose a folder outside it")
    name = format or _recognized(root, to)
    if name == to:
        raise UserError(f"{root}: already COCO; train with data=coco data.root={root}")
    read = importlib.import_module(f"doctor.convert.readers.{name}").read
    source: Source = read(root, orientation=orientation) if name in _SIZED else read(root)
    report = Report()
    with new_folder(out) as folder:
        images = Images(folder, copy=copy)
        with announced("reading the annotations"):
            labels = _labels(source, boxes=to == "coco" or fill_boxes)
        for line in alike_line(labels):
            report.note(line)
        writer = Coco(folder, labels) if to == "coco" else Masks(folder, labels, fill_boxes=fill_boxes)
        counts = _write(source, images, writer, report, orientation)
        if not counts:
            raise UserError(f"{root}: no image could be converted; {'; '.join(report.unreadable[:1])}")
        try:
            written = writer.finish(report)
        except UserError as error:
            raise UserError("; ".join([f"{root}: {error}", *report.findings()[:2]])) from None
    splits = ", ".join(f"{split} {number}" for split, number in counts.items() if split)
    lines = [f"{source.title} at {root}: {written}", *report.lines(source.title), images.line()]
    total = counted(counts.total(), "image")
    lines.append(f"out: {out} ({splits or f'{total}, no splits'})")
    return Result(lines, report.unreadable, _arguments(out, to, orientation, max_megapixels))


def _write(
    source: Source, images: Images, writer: Coco | Masks, report: Report, orientation: Orientation
) -> Counter[str]:
    """Write all samples; returns the number of images of each split."""
    counts, progress = Counter[str](), PartProgress(unit="image converted")
    for done, sample in enumerate(source.samples(report), start=1):
        try:
            size = checked_size(sample, orientation)
            writer.add(sample, images.put(sample), size, report)
            counts[sample.split] += 1
        except UserError as error:
            # the key of this tool
            report.unreadable.append(str(error).replace("set data.max_megapixels=", "set max_megapixels="))
        progress(done, source.count)
    progress.close()
    return counts


def _arguments(out: Path, to: Target, orientation: Orientation, max_megapixels: float) -> list[str]:
    """Arguments of tools/train.py for the result."""
    chosen = ["task=seg", "data=masks"] if to == "masks" else ["task=det", "data=coco"]
    turned = ["data.orientation=stored"] if orientation == "stored" else []
    larger = [f"data.max_megapixels={max_megapixels:g}"] if max_megapixels > DEFAULT_MEGAPIXELS else []
    return [*chosen, f"data.root={out}", *turned, *larger]


def _labels(source: Source, *, boxes: bool) -> list[str]:
    """The classes that a file lists, and others that shapes have, sorted. boxes: whether boxes count."""
    used = {
        shape.label
        for sample in source.samples(Report())
        for shape in sample.shapes
        if not shape.ignored and (boxes or not isinstance(shape.geometry, Box))
    }
    return [*source.labels, *sorted(used - set(source.labels))]


def _recognized(root: Path, to: Target) -> Format:
    """The format of the annotations in a folder. Raises: UserError if there are none or several."""
    content = Content(root)
    formats: dict[Format, bool] = {
        "label_studio": "label_studio" in content.json,
        "supervisely": "supervisely" in content.json,
        "labelme": "labelme" in content.json,
        "cvat": not {"cvat", "cvat_video"}.isdisjoint(content.xml),  # the reader names the export to use
        "coco": "coco" in content.json and to != "coco",
        "yolo": content.yolo is not None,
    }
    found = [name for name, is_there in formats.items() if is_there]
    if not found and "coco" in content.json:
        return "coco"
    if len(found) != 1:
        seen = f"annotations of {' and '.join(found)}" if found else "no annotations that can be converted"
        raise UserError(f"{root}: {seen}; set format= to one of {', '.join(formats)}")
    return found[0]
