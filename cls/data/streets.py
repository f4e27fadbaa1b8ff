"""Road users and signs cut out of drawn streets: pictures to classify without a download."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls.data.dataset import ClassificationData, ClassificationSplit, describe
from engine.data.class_map import ClassMap
from engine.io.files import pack
from engine.io.progress import with_progress
from streets.cached import cached_streets

CONTEXT = 1.2
"""Side of a window over the longer side of the box in it: some of the street shows around."""


def street_crops(
    *,
    root: str | None = None,
    num_train: int = 400,
    num_val: int = 100,
    num_test: int = 50,
    size: Sequence[int] = (128, 256),
    seed: int = 0,
    smallest: int = 12,
) -> ClassificationData:
    """A square window around each box of the drawn street scenes that segmentation and detection have.

    10 classes: traffic lights and signs, people, riders and six kinds of vehicles. smallest: pixels that the
    longer side of a box has at least. The other arguments are those of `seg.data.streets.streets`.

    Raises: UserError for bad numbers, and when `root` holds something else or cannot be written.
    """
    if smallest < 1:
        raise ValueError(f"smallest must be at least 1 pixel, got {smallest}")
    counts = {"train": num_train, "val": num_val, "test": num_test}
    draw = partial(
        cached_streets, root=root, size=size, seed=seed, **{f"num_{name}": n for name, n in counts.items()}
    )
    folder = with_progress(draw, sum(counts.values()), unit="street scene")
    classes, splits = None, {}
    for name in (name for name, count in counts.items() if count):
        listed = json.loads((folder / "annotations" / f"instances_{name}.json").read_text(encoding="utf-8"))
        classes = classes or _classes(listed)
        splits[name] = _windows(folder / "leftImg8bit" / name, listed, classes, smallest)
    assert classes is not None
    return ClassificationData(
        classes=classes,
        splits=splits,
        description=describe("crops of built-in street scenes", folder, classes, splits),
    )


def _classes(listed: dict[str, Any]) -> ClassMap:
    categories = sorted(listed["categories"], key=lambda category: category["id"])
    return ClassMap(
        names=tuple(category["name"] for category in categories),
        ids=tuple(category["id"] for category in categories),
    )


def _windows(folder: Path, listed: dict[str, Any], classes: ClassMap, smallest: int) -> ClassificationSplit:
    images = {image["id"]: image for image in listed["images"]}
    index_of = {class_id: index for index, class_id in enumerate(classes.ids)}
    boxes = [box for box in listed["annotations"] if max(box["bbox"][2:]) >= smallest]
    return ClassificationSplit(
        root=str(folder),
        files=pack([images[box["image_id"]]["file_name"] for box in boxes]),
        labels=np.array([index_of[box["category_id"]] for box in boxes], np.int32),
        windows=np.array([_window(box["bbox"], images[box["image_id"]]) for box in boxes], np.int32),
    )


def _window(bbox: Sequence[float], image: dict[str, Any]) -> NDArray[np.int32]:
    """A square around a box [x, y, width, height], moved into the picture: (left, top, right, bottom)."""
    x, y, width, height = bbox
    side = min(round(CONTEXT * max(width, height)), image["width"], image["height"])
    left = np.clip(round(x + width / 2 - side / 2), 0, image["width"] - side)
    top = np.clip(round(y + height / 2 - side / 2), 0, image["height"] - side)
    return np.array([left, top, left + side, top + side], np.int32)
