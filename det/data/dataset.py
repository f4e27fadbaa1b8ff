"""Detection samples: files in, tensors out, all randomness from the draw."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from det.transforms import EvalTransform
from engine.data.class_map import ClassMap
from engine.data.images import read_image
from engine.data.loader import Ragged, as_tensor
from engine.data.pixel_cache import PixelCache
from engine.data.sample_stream import Draw, draw_seed
from engine.errors import UserError, no_split

Image = NDArray[np.uint8]


Boxes = NDArray[np.float32]


Labels = NDArray[np.int64]


Sample = tuple[Image, Boxes, Labels]


Augment = Callable[[Image, Boxes, Labels, int], Sample]
"""(image [H, W, 3], boxes [M, 4] in its pixels, labels [M], seed) -> the same of the network's input."""


Transform = Augment | EvalTransform


_PER_IMAGE = ("images", "names", "image_ids", "sizes")


_PER_BOX = ("boxes", "labels", "crowd", "ignored", "areas")


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """One split as flat arrays, which forked workers go on sharing: N images with B boxes in all.

    images, names: packed paths and names [N]. image_ids: int64 [N], COCO's own, or 1..N. sizes: int32 [N, 2],
    (height, width) of the upright picture. first: int64 [N + 1]; the boxes of image i are the rows
    first[i]..first[i + 1]. boxes: float32 [B, 4], xyxy in pixels. labels: int32 [B], the class index. crowd:
    bool [B], COCO's iscrowd. ignored: bool [B], crowds and difficult objects: not trained, and neither hit
    nor miss. areas: float32 [B], by which evaluation sorts small, medium and large. has_labels: False where
    nobody annotated the split, which differs from images without objects.

    Raises: ValueError for arrays that do not fit together.
    """

    images: NDArray[np.bytes_]
    names: NDArray[np.bytes_]
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int32]
    first: NDArray[np.int64]
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
        if len(self.first) != images + 1 or self.first[0] != 0 or self.first[-1] != boxes:
            raise ValueError(f"first must be {images + 1} offsets from 0 to {boxes}")

    def __len__(self) -> int:
        return len(self.images)

    def of(self, index: int) -> tuple[Boxes, NDArray[np.int32], NDArray[np.bool_]]:
        """Boxes [M, 4], labels [M] and `ignored` [M] of an image, as views."""
        rows = slice(self.first[index], self.first[index + 1])
        return self.boxes[rows], self.labels[rows], self.ignored[rows]

    def without(self, indices: Iterable[int]) -> "Annotations":
        """The same without these images and their boxes."""
        kept = np.ones(len(self), bool)
        kept[list(indices)] = False
        counts = np.diff(self.first)
        rows = np.repeat(kept, counts)
        changed: dict[str, Any] = {name: getattr(self, name)[kept] for name in _PER_IMAGE}
        changed |= {name: getattr(self, name)[rows] for name in _PER_BOX}
        return replace(self, first=offsets(counts[kept]), **changed)

    @property
    def num_bytes(self) -> int:
        """Memory of all arrays."""
        arrays = (getattr(self, field.name) for field in fields(self))
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def offsets(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Boxes per image [N] -> `Annotations.first` [N + 1]."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


class DetectionDataset(Dataset[dict[str, Any]]):
    """Map-style: `dataset[Draw(index, epoch)]` depends on nothing but (seed, epoch, index).

    A training sample is {"image": uint8 [3, h, w] RGB, "boxes": Ragged float32 [M, 4] in pixels of that
    input, "labels": Ragged int64 [M], "index": int}, without the boxes that are `ignored`. With an
    `EvalTransform` it is {"image", "size": int64 [2], (height, width) of the file, "index"}. A transform
    whose `partners(seed)` asks for more samples gets them by its `combine(samples, seed)`.

    cache: where decoded images come from, instead of their files; it must have been made for them.

    Raises (from `[]` and `read`): UserError naming the file that is unreadable or of another size than
    annotated.
    """

    def __init__(
        self,
        *,
        annotations: Annotations,
        classes: ClassMap,
        transform: Transform,
        seed: int = 0,
        cache: PixelCache | None = None,
    ) -> None:
        self.annotations = annotations
        self.classes = classes
        self._transform = transform
        self._seed = seed
        self._image = read_image if cache is None else cache.image

    def __len__(self) -> int:
        return len(self.annotations)

    @property
    def has_labels(self) -> bool:
        return self.annotations.has_labels

    def name(self, index: int) -> str:
        """What the image is called in reports and in names of output files (no suffix)."""
        return os.fsdecode(self.annotations.names[index])

    def image_path(self, index: int) -> str:
        return os.fsdecode(self.annotations.images[index])

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        if isinstance(self._transform, EvalTransform):
            image = self.read(draw.index)[0]
            size = torch.tensor(image.shape[:2])
            return {
                "image": as_tensor(self._transform(image).transpose(2, 0, 1)),
                "size": size,
                "index": draw.index,
            }
        image, boxes, labels = self._augmented(self._transform, draw.index, draw_seed(self._seed, draw))
        return {
            "image": as_tensor(image.transpose(2, 0, 1)),
            "boxes": Ragged(torch.from_numpy(np.ascontiguousarray(boxes, np.float32).reshape(-1, 4))),
            "labels": Ragged(torch.from_numpy(np.ascontiguousarray(labels, np.int64))),
            "index": draw.index,
        }

    def _augmented(self, augment: Augment, index: int, seed: int) -> Sample:
        partners = augment.partners(seed) if hasattr(augment, "partners") else 0
        if not partners:
            return augment(*self.read(index), seed)
        # A stream of its own: the transform draws from the same seed.
        others = np.random.default_rng([seed, 3]).integers(len(self), size=partners).tolist()
        samples = [self.read(number) for number in (index, *others)]
        return augment.combine(samples, seed)  # type: ignore[attr-defined,no-any-return]

    def read(self, index: int) -> Sample:
        """Image [H, W, 3] as it is stored, read-only from a cache; boxes [M, 4], labels [M] to train on."""
        path = self.image_path(index)
        image = self._image(path)
        height, width = self.annotations.sizes[index]
        if image.shape[:2] != (height, width):
            raise UserError(
                f"{path}: {image.shape[0]} x {image.shape[1]} but annotated as {height} x {width} (height x "
                "width); scale the boxes with the picture, or restore the file"
            )
        boxes, labels, ignored = self.annotations.of(index)
        return image, boxes[~ignored], labels[~ignored].astype(np.int64)


class DetectionData:
    """What a data config builds: the classes, the splits, and a data set per split.

    Attributes: classes; splits (name -> Annotations, in the order train, val, test, ...); description (one
    line for logs); warnings (lines worth showing before training).
    """

    def __init__(
        self,
        *,
        classes: ClassMap,
        splits: Mapping[str, Annotations],
        description: str,
        warnings: Sequence[str] = (),
    ) -> None:
        self.classes = classes
        self.splits = dict(splits)
        self.description = description
        self.warnings = tuple(warnings)

    def dataset(
        self, split: str, transform: Transform, seed: int = 0, cache: PixelCache | None = None
    ) -> DetectionDataset:
        """Raises: UserError when there is no such split."""
        if split not in self.splits:
            reasons = [line for line in self.warnings if f": {split}: " in line]
            raise no_split(split, self.splits, source=self.description, reasons=reasons)
        return DetectionDataset(
            annotations=self.splits[split],
            classes=self.classes,
            transform=transform,
            seed=seed,
            cache=cache,
        )
