"""Streets that are drawn, not photographed: a Cityscapes tree without a download, made on first use."""

import os
from collections.abc import Sequence
from pathlib import Path

from engine.errors import UserError
from seg.cityscapes import cityscapes
from seg.dataset import SegmentationData
from streets.write import VERSION, write_streets


def streets(
    *,
    root: str | None = None,
    num_train: int = 400,
    num_val: int = 100,
    num_test: int = 0,
    size: Sequence[int] = (128, 256),
    seed: int = 0,
) -> SegmentationData:
    """Drawn street scenes with the 19 classes of Cityscapes; `size` is (height, width).

    root: where the tree is kept (default: a folder named after the arguments in the user's cache). A tree
    that was made with the same arguments is used again.

    Raises: ValueError for bad numbers, UserError when `root` holds something else or cannot be written.
    """
    if num_train < 1 or num_val < 1 or num_test < 0:
        raise ValueError(
            f"num_train and num_val must be >= 1, num_test >= 0, got {num_train}, {num_val}, {num_test}"
        )
    if len(size) != 2 or min(size) < 32:
        raise ValueError(f"size must be (height, width), each at least 32, got {tuple(size)}")
    height, width = (int(side) for side in size)
    name = f"streets-v{VERSION}-{num_train}-{num_val}-{num_test}-{height}x{width}-seed{seed}"
    folder = Path(root).expanduser() if root is not None else _cache() / name
    try:
        write_streets(
            folder, num_train=num_train, num_val=num_val, num_test=num_test, size=(height, width), seed=seed
        )
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); give another folder as root"
        ) from error
    except ValueError as error:
        raise UserError(str(error)) from error
    return cityscapes(root=str(folder))


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mobilenet-dense"
