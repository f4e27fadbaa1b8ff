"""Drawn street scenes in the layout of Cityscapes, without a download."""

from collections.abc import Sequence
from functools import partial

from engine.io.progress import with_progress
from seg.data.cityscapes import cityscapes
from seg.data.dataset import SegmentationSource
from streets import cached_streets


def streets(
    *,
    root: str | None = None,
    num_train: int = 400,
    num_val: int = 100,
    num_test: int = 50,
    size: Sequence[int] = (128, 256),
    seed: int = 0,
) -> SegmentationSource:
    """Drawn street scenes with the 19 classes of Cityscapes.

    Args:
        root: folder of the scenes (None: one named after the arguments, in the user's cache); scenes drawn
            with the same arguments are reused.
        num_train, num_val, num_test: number of scenes.
        size: (height, width) of the scenes.

    Raises: UserError if a number is out of range, or `root` contains something else or cannot be written.
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
    source = cityscapes(root=str(folder), allow_same_files=True)  # every scene has a seed of its own
    source.description = source.description.replace("Cityscapes at", "built-in street scenes at")
    source.warnings = ()  # they are about the official numbers of images
    return source
