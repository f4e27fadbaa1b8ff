"""Small splits for the tests of detection data."""

from pathlib import Path

import numpy as np

from det.data.cleaning import AnnotationIssues, RawSplit, clean_split
from det.data.dataset import DetectionDataset
from engine.data.class_map import ClassMap
from engine.data.images import write_png

CLASSES = ClassMap(names=("cat", "dog"))


def write_image(path, height=40, width=60, seed=0):
    """An image of random pixels; returns its path as text."""
    write_png(path, np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
    return str(path)


def make_split(folder, boxes_of, *, height=40, width=60, seed=0, **options):
    """A cleaned split with one image per list of boxes, and the report of the issues."""
    images = [write_image(folder / f"{n}.png", height, width, seed=seed + n) for n in range(len(boxes_of))]
    owners = [n for n, boxes in enumerate(boxes_of) for _ in boxes]
    boxes = np.array([box for boxes in boxes_of for box in boxes], np.float64).reshape(-1, 4)
    raw = RawSplit(
        images=images,
        names=[Path(image).stem for image in images],
        files=[Path(image).name for image in images],
        sizes=options.pop("sizes", [(height, width)] * len(images)),
        owners=np.array(owners, np.int64),
        boxes=boxes,
        labels=options.pop("labels", np.zeros(len(boxes), np.int64)),
        **options,
    )
    issues = AnnotationIssues()
    return clean_split(raw, issues), issues.lines("source")


def make_dataset(split, transform, **options):
    return DetectionDataset(split=split, classes=CLASSES, transform=transform, **options)
