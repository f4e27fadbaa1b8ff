"""Pictures to measure with: a Cityscapes tree, one's own or drawn into a folder that is thrown away."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from engine.data.images import write_png
from seg.data.cityscapes import cityscapes
from seg.data.dataset import SegmentationData, SegmentationSplit
from seg.data.streets import streets


@contextmanager
def opened(root: str, count: int) -> Iterator[SegmentationData]:
    """The first `count` training pictures of a Cityscapes tree."""
    data = cityscapes(root=root)
    if "train" not in data.splits:
        raise SystemExit(f"{root}: no training split; give the root of a whole Cityscapes tree")
    files = data.splits["train"]
    data.splits["train"] = files.without(range(count, len(files)))
    yield data


@contextmanager
def drawn(count: int, size: tuple[int, int]) -> Iterator[SegmentationData]:
    """`count` training scenes of `size` (height, width)."""
    with TemporaryDirectory() as folder:
        yield streets(root=f"{folder}/streets", num_train=count, num_val=1, num_test=0, size=size)


def paths(packed: np.ndarray) -> list[str]:
    """A split's packed paths as strings."""
    return [path.decode() for path in packed.tolist()]


def write_training_ids(data: SegmentationData, folder: Path) -> list[str]:
    """Write the masks of the training split as contiguous classes, which torchvision's way reads directly."""
    split: SegmentationSplit = data.splits["train"]
    assert split.labels is not None
    written = []
    for number, path in enumerate(paths(split.labels)):
        written.append(str(folder / f"{number:05d}.png"))
        write_png(written[-1], data._read_label(path))
    return written
