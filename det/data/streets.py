"""Drawn street scenes: boxes around road users and signs, without a download."""

from collections.abc import Sequence
from functools import partial

from det.data.coco import read_pairs
from det.data.dataset import DetectionSource
from engine.data.coco_layout import Layout
from engine.io.progress import with_progress
from streets import cached_streets


def streets(
    *,
    root: str | None = None,
    num_train: int = 400,
    num_val: int = 100,
    num_test: int = 50,
    size: Sequence[int] = (128, 256),
    seed: int = 0,
) -> DetectionSource:
    """Drawn street scenes with boxes of 10 classes; the same images as for segmentation.

    The classes are traffic lights and signs, people, riders and six kinds of vehicles, with Cityscapes' label
    ids. The rarest, truck, has 139 boxes in 400 scenes.

    Args:
        root: folder of the scenes (None: one named after the arguments, in the user's cache); scenes drawn
            with the same arguments are reused.
        num_train, num_val, num_test: number of scenes.
        size: (height, width) of the scenes.

    Raises:
        UserError: if a number is out of range, or `root` contains something else or cannot be written.
    """
    draw = partial(
        cached_streets,
        root=root,
        num_train=num_train,
        num_val=num_val,
        num_test=num_test,
        size=size,
        seed=seed,
    )
    folder = with_progress(draw, num_train + num_val + num_test, unit="street scene")
    counts = {"train": num_train, "val": num_val, "test": num_test}
    pairs = {
        split: (folder / "leftImg8bit" / split, folder / "annotations" / f"instances_{split}.json")
        for split, count in counts.items()
        if count
    }
    return read_pairs(Layout(pairs), name=f"built-in street scenes at {folder}")
