"""Street scenes in the user's cache: drawn when they are first used, and reused after that."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from streets.files.writing import write_streets


def cached_streets(
    *,
    root: str | None,
    num_train: int,
    num_val: int,
    num_test: int,
    size: Sequence[int],
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The folder with these scenes, written by `write_streets` if it does not exist yet.

    Args:
        root: the folder; None: one named after the arguments, in the user's cache.
        progress: called with (scenes done, scenes in total) after each scene.

    Raises:
        ValueError: if a number is out of range, or the folder contains something else or cannot be written.
    """
    if len(size) != 2 or min(size) < 32:
        raise ValueError(f"size must be (height, width), each at least 32, got {tuple(size)}")
    if num_train < 1 or num_val < 1:
        raise ValueError(f"num_train and num_val must be at least 1, got {num_train} and {num_val}")
    counts, size = (num_train, num_val, num_test), (size[0], size[1])
    folder = Path(root).expanduser() if root is not None else cache_folder(counts, size, seed)
    try:
        if (folder / "leftImg8bit").is_dir() and not (folder / "streets.json").exists():
            raise ValueError(
                f"{folder}: a Cityscapes folder that was not drawn here; read it with data=cityscapes"
            )
        return write_streets(
            folder,
            num_train=num_train,
            num_val=num_val,
            num_test=num_test,
            size=size,
            seed=seed,
            progress=progress,
        )
    except OSError as error:
        raise ValueError(
            f"{folder}: street scenes cannot be written ({error.strerror or error}); choose another data.root"
        ) from None


def cache_folder(counts: tuple[int, int, int], size: tuple[int, int], seed: int) -> Path:
    """Where scenes with these arguments are cached, below `$XDG_CACHE_HOME` or `~/.cache`.

    Raises: ValueError if the user has no home folder.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise ValueError(
            "street scenes: there is no home folder; set XDG_CACHE_HOME or data.root to a folder"
        ) from None
    name = f"streets-{'-'.join(map(str, counts))}-{size[0]}x{size[1]}-seed{seed}"
    return cache / "mobilenet-dense" / name
