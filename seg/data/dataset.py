"""Segmentation samples: files in, tensors out, all randomness from the draw."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from engine.data.class_map import ClassMap
from engine.data.images import read_image, read_labels
from engine.data.loader import as_tensor
from engine.data.pixel_cache import MaskFiles, PixelCache
from engine.data.sample_stream import Draw, draw_seed
from engine.errors import UserError, no_split
from seg.data.labels import LabelReader

Image = NDArray[np.uint8]


Transform = Callable[[Image, Image | None, int], tuple[Image, Image | None]]
"""(image [H, W, 3], label [H, W] or None, seed) -> (image [h, w, 3], label)."""


@dataclass(frozen=True, kw_only=True)
class SegmentationSplit:
    """The files of one split, as packed arrays of equal length; labels and instances may be absent."""

    images: NDArray[np.bytes_]
    names: NDArray[np.bytes_]
    labels: NDArray[np.bytes_] | None = None
    instances: NDArray[np.bytes_] | None = None

    def __post_init__(self) -> None:
        for field in (self.names, self.labels, self.instances):
            if field is not None and len(field) != len(self.images):
                raise ValueError(
                    f"a split needs one name, label and instance file per image ({len(self.images)})"
                )

    def __len__(self) -> int:
        return len(self.images)

    def without(self, indices: Iterable[int]) -> "SegmentationSplit":
        """The same files but those at `indices`, in the same order."""
        kept = np.ones(len(self), bool)
        kept[list(indices)] = False
        return SegmentationSplit(
            images=self.images[kept],
            names=self.names[kept],
            labels=None if self.labels is None else self.labels[kept],
            instances=None if self.instances is None else self.instances[kept],
        )


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Map-style: `dataset[Draw(index, epoch)]` depends on nothing but (seed, epoch, index).

    A sample is {"image": uint8 [3, h, w] RGB, "index": int} and, where the split has masks, "label": uint8
    [H, W] of contiguous indices or 255; with a transform that `keeps_labels` (evaluation) also "instances":
    int32 [H, W].

    cache: where decoded images and masks come from, instead of their files; it must have been made for them.

    Raises (from `[]` and `read`): UserError naming the file that is unreadable, of another size than its
    image, or holds an unknown value.
    """

    def __init__(
        self,
        *,
        split: SegmentationSplit,
        read_label: LabelReader,
        transform: Transform,
        seed: int,
        cache: PixelCache | None = None,
    ) -> None:
        self._split = split
        self._read_label = read_label
        self._transform = transform
        self._seed = seed
        self._image = read_image if cache is None else cache.image
        self._label = read_label if cache is None else cache.mask

    def __len__(self) -> int:
        return len(self._split)

    @property
    def has_labels(self) -> bool:
        return self._split.labels is not None

    def name(self, index: int) -> str:
        """What the image is called in reports and in names of output files (no folder, no suffix)."""
        return os.fsdecode(self._split.names[index])

    def image_path(self, index: int) -> str:
        return os.fsdecode(self._split.images[index])

    def masks(self) -> MaskFiles | None:
        """The mask files, for a cache; None where the split has none."""
        if self._split.labels is None:
            return None
        paths = [os.fsdecode(path) for path in self._split.labels]
        return MaskFiles(paths=paths, read=self._read_label, key=self._read_label.key)

    def read(self, index: int) -> tuple[Image, Image | None, NDArray[np.int32] | None]:
        """Image [H, W, 3], label [H, W] and instances [H, W] as they are stored; read-only from a cache."""
        image = self._image(self.image_path(index))
        label = instances = None
        if self._split.labels is not None:
            path = os.fsdecode(self._split.labels[index])
            label = self._label(path)
            _check_size(path, label, image)
        if self._split.instances is not None and getattr(self._transform, "keeps_labels", False):
            path = os.fsdecode(self._split.instances[index])
            instances = read_labels(path).astype(np.int32)
            _check_size(path, instances, image)
        return image, label, instances

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        image, label, instances = self.read(draw.index)
        sample: dict[str, Any] = {"index": draw.index}
        if instances is not None:
            sample["instances"] = torch.from_numpy(instances)
        image, label = self._transform(image, label, draw_seed(self._seed, draw))
        sample["image"] = as_tensor(image.transpose(2, 0, 1))
        if label is not None:
            sample["label"] = as_tensor(label)
        return sample


class SegmentationData:
    """What a data config builds: the classes, the splits, and a data set per split.

    Attributes: classes; splits (name -> Split, in the order train, val, test, ...); description (one line for
    logs); warnings (lines worth showing before training).
    """

    def __init__(
        self,
        *,
        classes: ClassMap,
        splits: Mapping[str, SegmentationSplit],
        read_label: LabelReader,
        description: str,
        warnings: Sequence[str] = (),
    ) -> None:
        self.classes = classes
        self.splits = dict(splits)
        self.description = description
        self.warnings = tuple(warnings)
        self._read_label = read_label

    def dataset(
        self, split: str, transform: Transform, seed: int = 0, cache: PixelCache | None = None
    ) -> SegmentationDataset:
        """Raises: UserError when there is no such split."""
        if split not in self.splits:
            raise no_split(split, self.splits, source=self.description)
        return SegmentationDataset(
            split=self.splits[split],
            read_label=self._read_label,
            transform=transform,
            seed=seed,
            cache=cache,
        )


def _check_size(path: str, mask: NDArray[np.integer], image: Image) -> None:
    if mask.shape != image.shape[:2]:
        raise UserError(
            f"{path}: the mask is {mask.shape[0]} x {mask.shape[1]} but its image {image.shape[0]} x "
            f"{image.shape[1]} (height x width); export both at the same size"
        )
