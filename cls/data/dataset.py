"""Classification data: files of a split -> samples, splits -> a data source."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from engine.data.class_map import ClassMap
from engine.data.images import read_image
from engine.data.labels.report import ClassAmounts
from engine.data.loader import SampleKey, SplitSource, as_tensor, sample_seed
from engine.data.pixel_cache import PixelCache
from engine.data.preprocessing import Image
from engine.data.splits import keep_all_but, rows_of
from engine.errors import UserError, counted

Transform = Callable[[Image, int], Image]
"""(image [H, W, 3], seed) -> image [h, w, 3]."""


@dataclass(frozen=True, kw_only=True)
class ClassificationSplit:
    """The files of one split, as packed arrays of equal length.

    root: the folder that `files` are relative to. labels: class index of each file (None: unknown). windows:
    the part of each image to use as the sample, [N, 4] as (left, top, right, bottom) in pixels (None: the
    whole image).
    """

    root: str
    files: NDArray[np.bytes_]
    labels: NDArray[np.int32] | None = None
    windows: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        for field in (self.labels, self.windows):
            if field is not None and len(field) != len(self.files):
                raise ValueError(f"a split needs one label and window per file ({len(self.files)})")

    def __len__(self) -> int:
        return len(self.files)

    def without(self, indices: Iterable[int]) -> "ClassificationSplit":
        """The same split without the files at `indices`, in the same order."""
        return self.take(np.flatnonzero(keep_all_but(len(self), indices)))

    def take(self, rows: NDArray[np.int64]) -> "ClassificationSplit":
        """The files at `rows`, in this order; -1 is an empty position."""
        return replace(
            self,
            files=rows_of(self.files, rows),
            labels=None if self.labels is None else rows_of(self.labels, rows),
            windows=None if self.windows is None else rows_of(self.windows, rows),
        )


class ClassificationDataset(Dataset[dict[str, Any]]):
    """Map-style: `dataset[SampleKey(index, epoch)]` depends only on (seed, epoch, index).

    A sample is {"image": uint8 [3, h, w] RGB, "index": int} and, if the split has labels, "label": int.

    Raises (from `[]` and `read`): UserError naming the file that cannot be read.
    """

    def __init__(
        self, *, split: ClassificationSplit, transform: Transform, seed: int, cache: PixelCache | None = None
    ) -> None:
        self._split, self._transform, self._seed = split, transform, seed
        self.read_pixels: Callable[[str], Image] = read_image if cache is None else cache.image

    def __len__(self) -> int:
        return len(self._split)

    @property
    def has_labels(self) -> bool:
        return self._split.labels is not None

    @property
    def has_windows(self) -> bool:
        """Whether samples are parts of images, of which several can be in one file."""
        return self._split.windows is not None

    def name(self, index: int) -> str:
        """The sample's name in reports: its file, relative to the split's folder, without the suffix."""
        name = os.path.splitext(os.fsdecode(self._split.files[index]))[0]
        if self._split.windows is None:
            return name
        left, top, _, _ = self._split.windows[index].tolist()
        return f"{name}_{left}_{top}"

    def image_path(self, index: int) -> str:
        return os.path.join(self._split.root, os.fsdecode(self._split.files[index]))

    def label(self, index: int) -> int | None:
        return None if self._split.labels is None else int(self._split.labels[index])

    def read(self, index: int) -> Image:
        """The sample before any transform, RGB [H, W, 3]."""
        image = self.read_pixels(self.image_path(index))
        if self._split.windows is None:
            return image
        left, top, right, bottom = self._split.windows[index].tolist()
        return image[top:bottom, left:right]

    def augment(self, image: Image, seed: int) -> Image:
        """The transform, applied to an image without a label."""
        return self._transform(image, seed)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        image = self.augment(self.read(key.index), sample_seed(self._seed, key))
        sample: dict[str, Any] = {"index": key.index, "image": as_tensor(image.transpose(2, 0, 1))}
        if (label := self.label(key.index)) is not None:
            sample["label"] = label
        return sample


class ClassificationSource(SplitSource[ClassificationSplit, ClassificationDataset]):
    """A classification data source: classes, splits by name, and a dataset per split."""

    fewest_classes = 2

    def _dataset(
        self, split: ClassificationSplit, transform: Transform, seed: int, cache: PixelCache | None
    ) -> ClassificationDataset:
        return ClassificationDataset(split=split, transform=transform, seed=seed, cache=cache)


def describe(what: str, root: Path, classes: ClassMap, splits: Mapping[str, ClassificationSplit]) -> str:
    """One line for logs: what the data is, its folder, and the sizes of its splits."""
    sizes = ", ".join(f"{name} {len(split)}" for name, split in splits.items())
    return f"{what} at {root}: {counted(len(classes), 'class')}; images: {sizes}"


def check_not_empty(splits: Mapping[str, ClassificationSplit], root: Path) -> None:
    """Raises: UserError if a split has no images."""
    for name, split in splits.items():
        if not len(split):
            raise UserError(f"{root / name}: no images; add some or remove the folder")


def class_amounts(labels: NDArray[np.integer], classes: int) -> ClassAmounts:
    """The number of images of each class, from their labels [N]."""
    counts = np.bincount(labels, minlength=classes)
    total = counts.astype(np.float64)  # an image has one class, so squares are the same
    return ClassAmounts(images=len(labels), total=total, squares=total, present=counts.astype(np.int64))
