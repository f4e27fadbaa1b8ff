"""Road users and signs cut out of drawn street scenes: images to classify without a download."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls.data.dataset import ClassificationSource, ClassificationSplit, describe
from engine.data.class_map import ClassMap
from engine.io.files import pack_paths
from engine.io.progress import with_progress
from streets import cached_streets

CONTEXT = 1.2
"""Side of a crop relative to the longer side of its box: some of the street is visible around the object."""


def street_crops(
    *,
    root: str | None = None,
    num_train: int = 400,
    num_val: int = 100,
    num_test: int = 50,
    size: Sequence[int] = (128, 256),
    seed: int = 0,
    smallest: int = 12,
) -> ClassificationSource:
    """A square crop around each box of the drawn street scenes that segmentation and detection use.

    10 classes: traffic lights and signs, people, riders and six kinds of vehicles.

    Args:
        root: folder of the scenes (None: one named after the arguments, in the user's cache); scenes drawn
            with the same arguments are reused.
        num_train, num_val, num_test: number of scenes, not of crops.
        size: (height, width) of the scenes.
        smallest: minimum length of a box's longer side in pixels; smaller boxes are left out.

    Raises:
        ValueError: if `smallest` is below 1.
        UserError: if another number is out of range, or `root` contains something else or cannot be written.
    """
    if smallest < 1:
        raise ValueError(f"smallest must be at least 1 pixel, got {smallest}")
    counts = {"train": num_train, "val": num_val, "test": num_test}
    draw = partial(
        cached_streets,
        root=root,
        num_train=num_train,
        num_val=num_val,
        num_test=num_test,
        size=size,
        seed=seed,
    )
    folder = with_progress(draw, sum(counts.values()), unit="street scene")
    classes, splits = None, {}
    for name in (name for name, count in counts.items() if count):
        file = folder / "annotations" / f"instances_{name}.json"
        annotations = json.loads(file.read_text(encoding="utf-8"))
        classes = classes or _classes(annotations)
        splits[name] = _crops(folder / "leftImg8bit" / name, annotations, classes, smallest)
    assert classes is not None
    return ClassificationSource(
        classes=classes,
        splits=splits,
        description=describe("crops of built-in street scenes", folder, classes, splits),
    )


def _classes(annotations: dict[str, Any]) -> ClassMap:
    categories = sorted(annotations["categories"], key=lambda category: category["id"])
    return ClassMap(
        names=tuple(category["name"] for category in categories),
        ids=tuple(category["id"] for category in categories),
    )


def _crops(
    folder: Path, annotations: dict[str, Any], classes: ClassMap, smallest: int
) -> ClassificationSplit:
    images = {image["id"]: image for image in annotations["images"]}
    index_of = {class_id: index for index, class_id in enumerate(classes.ids)}
    boxes = [box for box in annotations["annotations"] if max(box["bbox"][2:]) >= smallest]
    return ClassificationSplit(
        root=str(folder),
        files=pack_paths([images[box["image_id"]]["file_name"] for box in boxes]),
        labels=np.array([index_of[box["category_id"]] for box in boxes], np.int32),
        windows=np.array([_crop(box["bbox"], images[box["image_id"]]) for box in boxes], np.int32),
    )


def _crop(bbox: Sequence[float], image: dict[str, Any]) -> NDArray[np.int32]:
    """A square around a box [x, y, width, height], moved into the image: (left, top, right, bottom)."""
    x, y, width, height = bbox
    side = min(round(CONTEXT * max(width, height)), image["width"], image["height"])
    left = np.clip(round(x + width / 2 - side / 2), 0, image["width"] - side)
    top = np.clip(round(y + height / 2 - side / 2), 0, image["height"] - side)
    return np.array([left, top, left + side, top + side], np.int32)
