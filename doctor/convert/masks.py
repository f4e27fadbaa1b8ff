"""Writes masks: images/, masks/ and classes.json, as `data=masks` reads them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from doctor.convert.geometry import run_lengths
from doctor.convert.records import Box, Report, Sample, Shape
from engine.data.class_map import IGNORE, ClassMap
from engine.data.images import write_png
from engine.errors import UserError, counted
from engine.io.files import write_json

BACKGROUND = "background"


class Masks:
    """Class 0 is the background, the others are the labels in their order. Where objects overlap, the smaller
    one is on top, as in `seg.data.coco`. Pixels that only an ignored object covers are not counted (255).

    Raises: UserError if there are too many classes.
    """

    def __init__(self, folder: Path, labels: Sequence[str], *, fill_boxes: bool) -> None:
        self.folder, self.fill_boxes = folder, fill_boxes
        self.num_drawn = self.num_boxes = 0
        objects = [label for label in labels if not _is_background(label)]
        try:
            self.classes = ClassMap(names=(BACKGROUND, *objects), ignore=(IGNORE,))
            self.classes.lut()
        except ValueError as error:
            raise UserError(f"the labels cannot be classes: {error}") from None
        self._values = {label: value for value, label in enumerate(objects, start=1)}

    def add(self, sample: Sample, name: str, size: tuple[int, int], report: Report) -> None:
        write_png(self.folder / "masks" / sample.split / f"{name}.png", self.draw(sample, size, report))

    def draw(self, sample: Sample, size: tuple[int, int], report: Report) -> NDArray[np.uint8]:
        """Class indices [H, W]."""
        from pycocotools import mask as coco_masks

        mask, layers = np.zeros(size, np.uint8), []
        for shape in sample.shapes:
            if isinstance(shape.geometry, Box) and not self.fill_boxes:
                self.num_boxes += 1
                continue
            try:
                code = run_lengths(shape.geometry, *size)
            except Exception:  # pycocotools raises many exception classes
                report.add("shape", "with an invalid outline: left out", [sample.image.name])
                continue
            layers.append((not shape.ignored, -int(coco_masks.area(code)), self._value(shape), code))
            self.num_drawn += 1
        for *_, value, code in sorted(layers, key=lambda layer: layer[:2]):
            mask[np.asarray(coco_masks.decode(code), bool)] = value
        return mask

    def _value(self, shape: Shape) -> int:
        return IGNORE if shape.ignored else self._values.get(shape.label, 0)

    def finish(self, report: Report) -> str:
        """Write the classes; returns a line. Raises: UserError if nothing was drawn."""
        if self.num_boxes:
            boxes = counted(self.num_boxes, "box")
            if not self.num_drawn:
                raise UserError(f"no outlines, only {boxes}; set to=coco, or boxes=fill to draw them")
            report.note(f"{boxes} left out; set boxes=fill to draw them")
        if not self.num_drawn:
            raise UserError("there are no outlines to draw")
        write_json(self.folder / "classes.json", self.classes.to_dict())
        outlines, classes = counted(self.num_drawn, "outline"), counted(len(self.classes) - 1, "class")
        return f"{outlines} of {classes}, and the background"


def _is_background(label: str) -> bool:
    return label.strip("_ ").lower() == BACKGROUND
