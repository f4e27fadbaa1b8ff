"""Streets that are drawn, not photographed: a Cityscapes tree without a download, made on first use."""

from collections.abc import Sequence
from functools import partial

from engine.io.progress import with_progress
from seg.data.cityscapes import cityscapes
from seg.data.dataset import SegmentationData
from streets.cached import cached_streets


def streets(
    *,
    root: str | None = None,
    num_train: int = 400,
    num_val: int = 100,
    num_test: int = 50,
    size: Sequence[int] = (128, 256),
    seed: int = 0,
) -> SegmentationData:
    """Drawn street scenes with the 19 classes of Cityscapes; `size` is (height, width).

    root: where the tree is kept (default: a folder named after the arguments in the user's cache). A tree
    that was made with the same arguments is used again.

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
    tree = cityscapes(root=str(folder))
    tree.description = tree.description.replace("Cityscapes at", "built-in street scenes at")
    tree.warnings = ()  # about the numbers of images, which are not Cityscapes' by choice
    return tree
