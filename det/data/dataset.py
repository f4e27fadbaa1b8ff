"""Detection samples: files in, tensors out; all randomness comes from the sample key."""

import os
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from det.transforms import EvalTransform
from engine.contracts import Image
from engine.data.class_map import ClassMap
from engine.data.images import read_image
from engine.data.loader import (
    MixesSamples,
    SampleKey,
    SplitSource,
    VariableLength,
    as_tensor,
    partner_indices,
    sample_seed,
)
from engine.data.pixel_cache import PixelCache
from engine.data.splits import keep_all_but, rows_of
from engine.errors import UserError

Boxes = NDArray[np.float32]


Labels = NDArray[np.int64]


Sample = tuple[Image, Boxes, Labels]
"""(image [H, W, 3], boxes [M, 4] in its pixels, labels [M])"""


Augment = Callable[[Image, Boxes, Labels, int], Sample]
"""(image, boxes, labels, seed) -> image, boxes and labels at the network's input size."""


Transform = Augment | MixesSamples[Sample] | EvalTransform


_PER_IMAGE = ("images", "names", "image_ids", "sizes")


_PER_BOX = ("boxes", "labels", "crowd", "ignored", "areas")


@dataclass(frozen=True, kw_only=True)
class DetectionSplit:
    """One split of N images and B boxes, as flat arrays, which forked workers share without copying.

    Attributes:
        images, names: packed paths and names [N].
        image_ids: int64 [N], COCO's own, or 1..N.
        sizes: int32 [N, 2], (height, width) of the upright image.
        offsets: int64 [N + 1]; image i has the boxes offsets[i] to offsets[i + 1].
        boxes: float32 [B, 4], xyxy in pixels.
        labels: int32 [B], the class index.
        crowd: bool [B], COCO's iscrowd.
        ignored: bool [B], crowds and difficult objects: not trained on, and neither hits nor misses.
        areas: float32 [B]; evaluation uses them to sort objects into small, medium and large.
        has_labels: False if the split is not annotated (not the same as having no objects).

    Raises:
        ValueError: if the lengths of the arrays do not match.
    """

    images: NDArray[np.bytes_]
    names: NDArray[np.bytes_]
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    crowd: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    areas: NDArray[np.float32]
    has_labels: bool = True

    def __post_init__(self) -> None:
        images, boxes = len(self.images), len(self.boxes)
        for names, count in ((_PER_IMAGE, images), (_PER_BOX, boxes)):
            for name in names:
                if len(getattr(self, name)) != count:
                    raise ValueError(f"{name} must have {count} rows, got {len(getattr(self, name))}")
        if len(self.offsets) != images + 1 or self.offsets[0] != 0 or self.offsets[-1] != boxes:
            raise ValueError(f"offsets must be {images + 1} numbers from 0 to {boxes}")

    def __len__(self) -> int:
        return len(self.images)

    def objects(self, index: int) -> tuple[Boxes, NDArray[np.int32], NDArray[np.bool_]]:
        """Boxes [M, 4], labels [M] and `ignored` [M] of an image, as views."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        return self.boxes[rows], self.labels[rows], self.ignored[rows]

    def without(self, indices: Iterable[int]) -> "DetectionSplit":
        """The same split without these images and their boxes, in the same order."""
        return self.take(np.flatnonzero(keep_all_but(len(self), indices)))

    def take(self, rows: NDArray[np.int64]) -> "DetectionSplit":
        """The images at `rows`, in this order, and their boxes; -1 is an empty position."""
        counts = rows_of(np.diff(self.offsets), rows)
        offsets = to_offsets(counts)
        # Box i of the result is box i - offsets[image] + self.offsets[row] of this split.
        boxes = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], counts)
        changed: dict[str, Any] = {name: rows_of(getattr(self, name), rows) for name in _PER_IMAGE}
        changed |= {name: getattr(self, name)[boxes] for name in _PER_BOX}
        return replace(self, offsets=offsets, **changed)

    @property
    def num_bytes(self) -> int:
        """Memory used by all arrays."""
        arrays = (getattr(self, field.name) for field in fields(self))
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def to_offsets(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Boxes per image [N] -> `DetectionSplit.offsets` [N + 1]."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


class DetectionDataset(Dataset[dict[str, Any]]):
    """Map-style: `dataset[SampleKey(index, epoch)]` depends only on (seed, epoch, index).

    A training sample is {"image": uint8 [3, h, w] RGB, "boxes": VariableLength float32 [M, 4] in pixels of
    that image, "labels": VariableLength int64 [M], "index": int}, without `ignored` boxes. With an
    `EvalTransform` it is {"image", "size": int64 [2], (height, width) of the file, "index"}; where that
    divides images, "image" is VariableLength uint8 [T, 3, h, w].

    Args:
        cache: decoded images, read instead of the files.

    Raises (from `[]` and `read`):
        UserError: naming a file that is unreadable or does not have the annotated size.
    """

    def __init__(
        self,
        *,
        split: DetectionSplit,
        classes: ClassMap,
        transform: Transform,
        seed: int = 0,
        cache: PixelCache | None = None,
    ) -> None:
        self.split = split
        self.classes = classes
        self._transform = transform
        self._seed = seed
        self.read_pixels: Callable[[str], Image] = read_image if cache is None else cache.image
        self.gaps: Set[int] = frozenset()  # positions of a resumed run whose images are gone

    def __len__(self) -> int:
        return len(self.split)

    @property
    def has_labels(self) -> bool:
        return self.split.has_labels

    def name(self, index: int) -> str:
        """The image's name in reports and output files (no suffix)."""
        return os.fsdecode(self.split.names[index])

    def image_path(self, index: int) -> str:
        return os.fsdecode(self.split.images[index])

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        if isinstance(self._transform, EvalTransform):
            image = self.read(key.index)[0]
            pixels = as_tensor(np.moveaxis(self._transform(image), -1, -3))
            return {
                "image": pixels if pixels.ndim == 3 else VariableLength(pixels),
                "size": torch.tensor(image.shape[:2]),
                "index": key.index,
            }
        image, boxes, labels = self._augmented(self._transform, key.index, sample_seed(self._seed, key))
        return {
            "image": as_tensor(image.transpose(2, 0, 1)),
            "boxes": VariableLength(torch.from_numpy(np.ascontiguousarray(boxes, np.float32).reshape(-1, 4))),
            "labels": VariableLength(torch.from_numpy(np.ascontiguousarray(labels, np.int64))),
            "index": key.index,
        }

    def _augmented(self, augment: Augment | MixesSamples[Sample], index: int, seed: int) -> Sample:
        if isinstance(augment, MixesSamples) and (partners := augment.partners(seed)):
            others = partner_indices(self, index, seed, partners)
            return augment.combine([self.read(other) for other in (index, *others)], seed)
        return augment(*self.read(index), seed)

    def read(self, index: int) -> Sample:
        """Image [H, W, 3] as stored (read-only if cached), boxes [M, 4] and labels [M] to train on."""
        path = self.image_path(index)
        image = self.read_pixels(path)
        height, width = self.split.sizes[index]
        if image.shape[:2] != (height, width):
            raise UserError(
                f"{path}: is {image.shape[0]} x {image.shape[1]} but annotated as {height} x {width} "
                "(height x width); scale the boxes with the image, or restore the file"
            )
        boxes, labels, ignored = self.split.objects(index)
        return image, boxes[~ignored], labels[~ignored].astype(np.int64)


class DetectionSource(SplitSource[DetectionSplit, DetectionDataset]):
    """A detection data source: classes, splits by name, and a dataset per split.

    Attributes:
        issues: the `det.data.cleaning.AnnotationIssues` of a source that was read from files, else None.
        notes: the warnings that are not about annotations.
    """

    issues: Any = None
    notes: Sequence[str] = ()

    def _dataset(
        self, split: DetectionSplit, transform: Transform, seed: int, cache: PixelCache | None
    ) -> DetectionDataset:
        return DetectionDataset(
            split=split, classes=self.classes, transform=transform, seed=seed, cache=cache
        )
