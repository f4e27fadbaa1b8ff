"""COCO: JSON files with polygons and run-length codes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from doctor.convert.records import Geometry, Polygons, Report, RunLengths, Sample, Shape, Source
from engine.data.coco_layout import find_layout
from engine.data.images import Orientation
from engine.errors import UserError
from seg.data.coco_files import CocoSplit, read_split


def read(root: Path, *, orientation: Orientation = "upright") -> Source:
    """All images of the JSON files, which are found as by `seg.data.coco`.

    Raises: UserError if there is no file, or one is damaged.
    """
    layout = find_layout(str(root), dict.fromkeys(("train", "val", "test")))
    try:
        splits = {
            "" if layout.whole and split == "train" and len(layout.pairs) == 1 else split: read_split(
                file, folder, skips=True, upright=orientation == "upright"
            )
            for split, (folder, file) in layout.pairs.items()
            if file is not None
        }
    except UserError as error:  # the key of this tool
        raise UserError(str(error).replace("data.orientation=", "orientation=")) from None
    categories = next(iter(splits.values())).categories
    for split in splits.values():
        if split.categories != categories:
            raise UserError(f"{split.file}: its categories are not those of the other files")
    return Source(
        title="COCO",
        count=sum(len(split.images) for split in splits.values()),
        samples=lambda report: _samples(splits, report),
        labels=list(dict.fromkeys(categories[id_] for id_ in sorted(categories))),
    )


def _samples(splits: Mapping[str, CocoSplit], report: Report) -> Iterator[Sample]:
    for name, split in splits.items():
        for line in split.warnings:
            report.note(line)
        for image in split.images:
            shapes = [
                Shape(
                    split.categories[int(row["category_id"])],
                    _geometry(row["segmentation"]),
                    bool(row.get("iscrowd")),
                )
                for row in image.annotations
            ]
            yield Sample(
                image=image.path,
                name=image.name,
                split=name,
                size=(image.height, image.width),
                shapes=shapes,
                origin=str(split.file),
            )


def _geometry(segmentation: Any) -> Geometry:
    """A wrong one becomes a polygon without points, which is refused when it is drawn."""
    if isinstance(segmentation, dict):
        return RunLengths(segmentation)
    try:
        return Polygons(tuple(np.array(part, np.float64).reshape(-1, 2) for part in segmentation))
    except (TypeError, ValueError):
        return Polygons((np.empty((0, 2)),))
