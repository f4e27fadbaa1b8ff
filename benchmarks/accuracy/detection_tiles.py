"""Average precision in large images, predicted whole and in tiles.

Usage: python benchmarks/accuracy/detection_tiles.py <run folder> <image folder> <instances .json>

Each large image is a grid of 4 x 4 photographs, each in a square of 640 pixels.
"""

import contextlib
import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from benchmarks.accuracy.detector_preparation import average_precision, parse, results
from benchmarks.support.report import heading, table
from engine.config.runs import TrainedRun
from engine.contracts import Image
from engine.data.images import read_image
from engine.io.progress import Progress

_ROW, _SIDE, _MOST = 4, 640, 300

SETTINGS = {
    "whole image": [],
    "tiles of 640 and the whole image": ["inference.tiles=640"],
    "tiles of 640": ["inference.tiles=640", "inference.with_whole=false"],
}


def large_images(folder: Path, content: dict[str, Any]) -> tuple[list[Image], dict[str, Any]]:
    """The large images, and their annotations in COCO's format."""
    objects = defaultdict(list)
    for annotation in content["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    number = _ROW * _ROW
    images, entries, annotations = [], [], []
    for start in range(0, len(content["images"]) - number + 1, number):
        image = np.full((_ROW * _SIDE, _ROW * _SIDE, 3), 114, np.uint8)
        for place, entry in enumerate(content["images"][start : start + number]):
            left, top = place % _ROW * _SIDE, place // _ROW * _SIDE
            photo = read_image(folder / entry["file_name"])[:_SIDE, :_SIDE]
            image[top : top + photo.shape[0], left : left + photo.shape[1]] = photo
            for annotation in objects[entry["id"]]:
                x, y, *size = annotation["bbox"]
                moved = {"bbox": [x + left, y + top, *size], "image_id": len(images), "segmentation": []}
                annotations.append({**annotation, **moved, "id": len(annotations) + 1})
        entries.append({"id": len(images), "width": image.shape[1], "height": image.shape[0]})
        images.append(image)
    return images, {"images": entries, "annotations": annotations, "categories": content["categories"]}


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments, __doc__)

    images, content = large_images(
        options.images, json.loads(options.annotations.read_text(encoding="utf-8"))
    )
    truth = COCO()
    truth.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    limits = [f"task.postprocess.{name}={_MOST}" for name in ("max_detections", "per_class")]
    progress, rows = Progress(len(SETTINGS) * len(images), unit="image"), []
    for place, (name, overrides) in enumerate(SETTINGS.items()):
        task = TrainedRun.open(options.run, overrides=[*limits, *overrides]).task().eval()
        found: list[Any] = []
        for number, image in enumerate(images):
            found += results(task.predict_image, image, number, list(task.classes.ids))
            progress.update(place * len(images) + number + 1)
        rows.append([name, f"{average_precision(truth, found):.1f}"])
    progress.close()
    print(heading(__file__))
    print(table([f"{len(images)} images of {_ROW * _SIDE} x {_ROW * _SIDE}", "AP"], rows))


if __name__ == "__main__":
    main()
