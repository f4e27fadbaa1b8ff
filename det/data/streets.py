"""Streets that are drawn, not photographed: boxes around road users and signs without a download."""

from collections.abc import Sequence
from functools import partial

from det.data.coco import read_pairs
from det.data.dataset import DetectionData
from engine.io.progress import with_progress
from streets.cached import cached_streets


def streets(
    *,
    root: str | None = None,
    num_train: int = 400,
    num_val: int = 100,
    num_test: int = 50,
    size: Sequence[int] = (128, 256),
    seed: int = 0,
) -> DetectionData:
    """Drawn street scenes with boxes of 10 classes, the same pictures as segmentation has.

    Traffic lights and signs, people, riders and six kinds of vehicles, with Cityscapes' label ids as ids. All
    are kept: the rarest, truck, has 139 boxes in 400 scenes. root: where the tree is kept (default: a folder
    named after the arguments in the user's cache). A tree made with the same arguments is used again.

    Raises: UserError for bad numbers, and when `root` holds something else or cannot be written.
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
    return read_pairs(pairs, source=f"built-in street scenes at {folder}")
