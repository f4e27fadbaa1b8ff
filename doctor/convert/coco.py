"""Writes COCO's JSON: one file per split, and images/, as `data=coco` reads them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from doctor.convert.geometry import bounds, run_lengths
from doctor.convert.records import Box, Polygons, Report, Sample, Shape
from engine.errors import UserError, counted
from engine.io.files import write_json


class Coco:
    """Categories are the labels in their order, numbered from 1. Polygons stay polygons; pixels become
    run-length codes; a box has no segmentation."""

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self.folder = folder
        self._ids = {label: number for number, label in enumerate(labels, start=1)}
        self._images: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._annotations: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def add(self, sample: Sample, name: str, size: tuple[int, int], report: Report) -> None:
        images, rows = self._images[sample.split], self._annotations[sample.split]
        images.append({
            "id": len(images) + 1,
            "file_name": f"{name}{sample.image.suffix.lower()}",
            "height": size[0],
            "width": size[1],
        })  # fmt: skip
        for shape in sample.shapes:
            if shape.label not in self._ids:
                report.add("shape", "marked as ignored, without a class: left out", [sample.image.name])
                continue
            try:
                found = self._annotation(shape, size)
            except Exception:  # pycocotools raises many exception classes
                report.add("shape", "with an invalid outline: left out", [sample.image.name])
                continue
            rows.append({"id": len(rows) + 1, "image_id": len(images), **found})

    def _annotation(self, shape: Shape, size: tuple[int, int]) -> dict[str, Any]:
        from pycocotools import mask as coco_masks

        geometry = shape.geometry
        code = run_lengths(geometry, *size)
        left, top, right, bottom = bounds(geometry, code)
        segmentation: Any = []
        if isinstance(geometry, Polygons):
            segmentation = [part.round(2).reshape(-1).tolist() for part in geometry.parts]
        elif not isinstance(geometry, Box):
            segmentation = {"size": list(size), "counts": code["counts"].decode()}
        return {
            "category_id": self._ids[shape.label],
            "bbox": [round(number, 2) for number in (left, top, right - left, bottom - top)],
            "area": float(coco_masks.area(code)),
            "iscrowd": int(shape.ignored),
            "segmentation": segmentation,
        }

    def finish(self, report: Report) -> str:
        """Write the files; returns a line. Raises: UserError if there are no objects."""
        count = sum(map(len, self._annotations.values()))
        if not count:
            raise UserError("there are no objects")
        categories = [{"id": number, "name": label} for label, number in self._ids.items()]
        for split, images in self._images.items():
            content = {
                "images": images,
                "annotations": self._annotations[split],
                "categories": categories,
            }
            write_json(self.folder / f"{split or 'annotations'}.json", content)
        return f"{counted(count, 'object')} of {counted(len(categories), 'class')}"
