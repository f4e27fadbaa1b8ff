"""Streets that are drawn, not photographed: a Cityscapes tree without a download, made on first use."""

import os
from collections.abc import Sequence
from pathlib import Path

from engine.errors import UserError
from engine.log import Progress
from seg.cityscapes import cityscapes
from seg.dataset import SegmentationData
from streets import write_streets


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

    Raises: ValueError for bad numbers, UserError when `root` holds something else.
    """
    if len(size) != 2 or min(size) < 32:
        raise ValueError(f"size must be (height, width), each at least 32, got {tuple(size)}")
    if num_train < 1 or num_val < 1:
        raise ValueError(f"num_train and num_val must be at least 1, got {num_train} and {num_val}")
    counts = (num_train, num_val, num_test)
    folder = Path(root).expanduser() if root is not None else cache_folder(counts, (size[0], size[1]), seed)
    if (folder / "leftImg8bit").is_dir() and not (folder / "streets.json").exists():
        raise UserError(f"{folder}: a Cityscapes tree, not drawn here; read it with data=cityscapes")
    bar = Progress(sum(counts), unit="street scene")
    try:
        write_streets(
            folder,
            num_train=num_train,
            num_val=num_val,
            num_test=num_test,
            size=(size[0], size[1]),
            seed=seed,
            progress=lambda done, total: bar.update(done),
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(
            f"{folder}: street scenes cannot be written ({error.strerror or error}); choose another data.root"
        ) from None
    finally:
        bar.close()
    tree = cityscapes(root=str(folder))
    tree.description = tree.description.replace("Cityscapes at", "built-in street scenes at")
    tree.warnings = ()  # about the numbers of images, which are not Cityscapes' by choice
    return tree


def cache_folder(counts: tuple[int, int, int], size: tuple[int, int], seed: int) -> Path:
    """Where streets made with these arguments are kept: `$XDG_CACHE_HOME` or `~/.cache`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"streets-{'-'.join(map(str, counts))}-{size[0]}x{size[1]}-seed{seed}"
    return cache / "mobilenet-dense" / name
