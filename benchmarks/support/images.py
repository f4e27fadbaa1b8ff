"""Images for benchmarks: those of a Cityscapes tree, or scenes drawn into a temporary folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.data.images import write_png
from seg.data.cityscapes import cityscapes
from seg.data.dataset import SegmentationSource
from seg.data.streets import streets


@contextmanager
def cityscapes_images(root: str, count: int) -> Iterator[SegmentationSource]:
    """The first `count` training images of a Cityscapes tree."""
    source = cityscapes(root=root)
    if "train" not in source.splits:
        raise SystemExit(f"{root}: no training split; pass the root of a whole Cityscapes tree")
    split = source.splits["train"]
    source.splits["train"] = split.without(range(count, len(split)))
    yield source


@contextmanager
def drawn_images(count: int, size: tuple[int, int]) -> Iterator[SegmentationSource]:
    """`count` training scenes of `size` (height, width)."""
    with TemporaryDirectory() as folder:
        yield streets(root=f"{folder}/streets", num_train=count, num_val=1, num_test=0, size=size)


def as_strings(packed_paths: NDArray[np.bytes_]) -> list[str]:
    """A split's packed paths as strings."""
    return [path.decode() for path in packed_paths.tolist()]


def write_training_ids(source: SegmentationSource, folder: Path) -> list[str]:
    """Write the masks of the training split as contiguous classes, for a loader that translates none.

    Returns: their paths.
    """
    masks = source.dataset("train", _unchanged).masks()
    assert masks is not None
    written = []
    for number, path in enumerate(masks.paths):
        written.append(str(folder / f"{number:05d}.png"))
        write_png(written[-1], masks.read(path))
    return written


def _unchanged(image: Any, label: Any, seed: int) -> tuple[Any, Any]:
    return image, label
