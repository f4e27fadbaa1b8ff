"""Segmentation data: mask files -> labels, files of a split -> samples, splits -> a data source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from engine.data.class_map import IGNORE, UNKNOWN, ClassMap
from engine.data.images import count_values, gray_colors, read_image, read_labels, read_palette
from engine.data.loader import MixesSamples, SampleKey, SplitSource, as_tensor, partner_indices, sample_seed
from engine.data.pixel_cache import MaskFiles, PixelCache
from engine.data.preprocessing import Image
from engine.data.splits import keep_all_but, rows_of
from engine.errors import UserError

Label = NDArray[np.uint8]
"""Contiguous class indices [H, W]; 255: ignored."""


Palette = Literal["auto", "ids", "colors"]


_GRAYS = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)


@runtime_checkable
class UsesClasses(Protocol):
    """An augmentation that depends on the classes of the data."""

    def for_classes(self, classes: Sequence[str]) -> Transform:
        """The same augmentation for a dataset with the classes of these names."""
        ...

    def __call__(self, image: Image, label: Label | None, seed: int, /) -> tuple[Image, Label | None]: ...


Transform = (
    Callable[[Image, Label | None, int], tuple[Image, Label | None]]
    | MixesSamples[tuple[Image, Label]]
    | UsesClasses
)
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

    def without(self, indices: Iterable[int]) -> SegmentationSplit:
        """The same split without the images at `indices`, in the same order."""
        return self.take(np.flatnonzero(keep_all_but(len(self), indices)))

    def take(self, rows: NDArray[np.int64]) -> SegmentationSplit:
        """The images at `rows`, in this order; -1 is an empty position."""
        return SegmentationSplit(
            images=rows_of(self.images, rows),
            names=rows_of(self.names, rows),
            labels=None if self.labels is None else rows_of(self.labels, rows),
            instances=None if self.instances is None else rows_of(self.instances, rows),
        )


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Map-style: `dataset[SampleKey(index, epoch)]` depends only on (seed, epoch, index).

    A sample is {"image": uint8 [3, h, w] RGB, "index": int} and, if the split has masks, "label": uint8
    [H, W] of contiguous indices or 255; with a transform that `keeps_labels` (evaluation) also "instances":
    int32 [H, W].

    cache: decoded images and masks, read instead of the files; it must have been built from the same files.

    Raises (from `[]` and `read`): UserError naming the file, if it is unreadable, a mask's size differs from
    its image's, or a mask contains an unknown value.
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
        self.transform = transform
        self._seed = seed
        self.read_pixels: Callable[[str], Image] = read_image if cache is None else cache.image
        self._label = read_label if cache is None else cache.mask

    def __len__(self) -> int:
        return len(self._split)

    @property
    def has_labels(self) -> bool:
        return self._split.labels is not None

    def name(self, index: int) -> str:
        """The image's name in reports and output files (no folder, no suffix)."""
        return os.fsdecode(self._split.names[index])

    def image_path(self, index: int) -> str:
        return os.fsdecode(self._split.images[index])

    def sample_files(self, index: int) -> tuple[str, ...]:
        """The image and its mask, with the instances if they are read."""
        keeps_instances = getattr(self.transform, "keeps_labels", False)
        others = (self._split.labels, self._split.instances if keeps_instances else None)
        return (
            self.image_path(index),
            *(os.fsdecode(paths[index]) for paths in others if paths is not None),
        )

    def masks(self) -> MaskFiles | None:
        """The mask files, for a cache; None if the split has none."""
        if self._split.labels is None:
            return None
        paths = [os.fsdecode(path) for path in self._split.labels]
        return MaskFiles(paths=paths, read=self._read_label, key=self._read_label.key)

    def instance_files(self) -> NDArray[np.bytes_]:
        """The files of instance ids, packed; empty if the split has none."""
        return np.empty(0, "S1") if self._split.instances is None else self._split.instances

    def read(self, index: int) -> tuple[Image, Label | None, NDArray[np.int32] | None]:
        """Image [H, W, 3], label [H, W] and instances [H, W] before any transform; read-only from a cache."""
        image = self.read_pixels(self.image_path(index))
        label = instances = None
        if self._split.labels is not None:
            path = os.fsdecode(self._split.labels[index])
            label = self._label(path)
            _check_size(path, label, image)
        if self._split.instances is not None and getattr(self.transform, "keeps_labels", False):
            path = os.fsdecode(self._split.instances[index])
            instances = read_labels(path).astype(np.int32)
            _check_size(path, instances, image)
        return image, label, instances

    def augment(self, image: Image, seed: int) -> Image:
        """The transform, applied to an image without a mask."""
        return self.transform(image, None, seed)[0]

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        image, label, instances = self.read(key.index)
        sample: dict[str, Any] = {"index": key.index}
        if instances is not None:
            sample["instances"] = torch.from_numpy(instances)
        image, label = self._augmented(image, label, key)
        sample["image"] = as_tensor(image.transpose(2, 0, 1))
        if label is not None:
            sample["label"] = as_tensor(label)
        return sample

    def _augmented(self, image: Image, label: Label | None, key: SampleKey) -> tuple[Image, Label | None]:
        transform, seed = self.transform, sample_seed(self._seed, key)
        if isinstance(transform, MixesSamples) and label is not None and (count := transform.partners(seed)):
            parts = [(image, label)]
            for other in partner_indices(self, key.index, seed, count):
                other_image, other_label, _ = self.read(other)
                assert other_label is not None  # all samples of a split have labels, or none
                parts.append((other_image, other_label))
            return transform.combine(parts, seed)
        return transform(image, label, seed)


class SegmentationSource(SplitSource[SegmentationSplit, SegmentationDataset]):
    """A segmentation data source: classes, splits by name, and a dataset per split."""

    fewest_classes = 2

    def __init__(
        self,
        *,
        classes: ClassMap,
        splits: Mapping[str, SegmentationSplit],
        read_label: LabelReader,
        description: str,
        warnings: Sequence[str] = (),
    ) -> None:
        super().__init__(classes=classes, splits=splits, description=description, warnings=warnings)
        self._read_label = read_label

    def _dataset(
        self, split: SegmentationSplit, transform: Transform, seed: int, cache: PixelCache | None
    ) -> SegmentationDataset:
        if isinstance(transform, UsesClasses):
            transform = transform.for_classes(self.classes.names)
        return SegmentationDataset(
            split=split, read_label=self._read_label, transform=transform, seed=seed, cache=cache
        )


class UnknownValuesError(UserError):
    """A mask contains values that are neither classes nor ignored."""


class LabelReader:
    """Reads a mask of ids [H, W] or of RGB colors [H, W, 3] as contiguous indices, with one table lookup.

    table: uint8 [65536], stored value -> contiguous index, 255 (ignore) or 254 (unknown); default
    `classes.lut()`. remedy: what the user should do about an unknown value; it ends the error message.
    palette: what the pixels of a palette image mean: `ids`, the stored indices; `colors`, the palette's
    colors; `auto`, whichever of the two the class map lists for all pixels. The same holds for gray images,
    of one channel or of three equal ones. gray: what the latter mean if `auto` fits both. With `auto`, a gray
    mask of fewer than 8 bits whose values are no ids contains the values that it is displayed as.
    """

    def __init__(
        self,
        *,
        classes: ClassMap,
        remedy: str,
        table: NDArray[np.uint8] | None = None,
        palette: Palette = "ids",
        gray: Palette = "auto",
    ) -> None:
        self._palette, self._gray = palette, gray
        self._classes = classes
        self._remedy = remedy
        self._table = classes.lut() if table is None else table
        self._has_grays = any(len(set(color)) == 1 for color in (*classes.colors, *classes.ignore_colors))

    @property
    def key(self) -> str:
        """A digest of the mapping: readers with the same key read every file in the same way."""
        palette = () if self._palette == "ids" else (self._palette, self._gray, "gray")
        colors = repr((self._classes.ignore_colors, self._classes.colors, *palette))
        return hashlib.blake2b(self._table.tobytes() + colors.encode(), digest_size=16).hexdigest()

    def __call__(self, path: str) -> Label:
        """-> uint8 [H, W].

        Raises: UserError naming the file and its unknown values, with pixel counts, or if its palette can
        mean two things.
        """
        stored = read_labels(path)
        if stored.dtype == np.uint8:
            stored = self._meaning(path, stored)
        labels = self._from_colors(stored) if stored.ndim == 3 else self._from_ids(stored)
        unknown = labels == UNKNOWN
        if unknown.any() and stored.ndim == 2 and self._palette == "auto":
            shown = as_displayed(path)
            displayed = labels if shown is None else self._from_ids(shown[stored])
            if (displayed < UNKNOWN).all():  # all are classes
                return displayed
        if unknown.any():
            raise UnknownValuesError(f"{path}: {_list_values(stored[unknown])}; {self._remedy}")
        return labels

    def colors_of(self, path: str, stored: NDArray[Any]) -> tuple[NDArray[np.uint8] | None, bool]:
        """The colors [256, 3] of the values of a palette or gray image, and whether it is gray; None if the
        class map has no gray colors, and for other images."""
        if stored.dtype != np.uint8:
            return None, False
        if stored.ndim == 3:
            return (_GRAYS, True) if is_gray(stored) else (None, False)
        if (colors := read_palette(path)) is not None:
            return colors, False
        return gray_colors(path) if self._has_grays else None, True

    def fits(self, used: NDArray[np.integer], colors: NDArray[np.uint8]) -> tuple[Label, Label]:
        """The labels of the values `used` as ids and as colors; `UNKNOWN` where the class map lists none."""
        return self._table[used], self._from_colors(colors[used])

    def _meaning(self, path: str, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The ids [H, W] or colors [H, W, 3] of a palette or gray image; `stored` of other images."""
        choice = self._palette
        if choice == "ids" and stored.ndim == 2:
            return stored
        colors, gray = self.colors_of(path, stored)
        if colors is None:
            return stored
        three, stored = stored.ndim == 3, np.ascontiguousarray(stored[..., 0] if stored.ndim == 3 else stored)
        if choice == "ids":
            return stored
        used = np.flatnonzero(count_values(stored))
        by_id, by_color = self.fits(used, colors)
        fits_ids, fits_colors = (bool((labels != UNKNOWN).all()) for labels in (by_id, by_color))
        if choice == "auto" and fits_ids and fits_colors and (by_id != by_color).any():
            choice = self._gray if gray else choice
            if choice == "auto":
                kind = f"gray {'RGB ' if three else ''}whose value" if gray else "a palette image whose index"
                value = used[by_id != by_color][0]
                raise UserError(
                    f"{path}: {kind} {value} is a class id, but has another class's color "
                    f"({colors[value].tolist()}); set data.source.palette=ids or data.source.palette=colors"
                )
        if choice == "colors" and gray and not three and not fits_colors:
            choice = "ids"  # masks of one channel may contain ids next to palette images with colors
        by_color_only = choice == "colors" or (fits_colors and not fits_ids)
        return colors[stored] if by_color_only else stored

    def _from_ids(self, stored: NDArray[Any]) -> Label:
        if stored.dtype == np.uint8:
            return np.asarray(cv2.LUT(stored, self._table[:256]), np.uint8)
        inside = (stored >= 0) & (stored < len(self._table))
        return np.where(inside, self._table[np.where(inside, stored, 0)], np.uint8(UNKNOWN))

    def _from_colors(self, stored: NDArray[np.uint8]) -> Label:
        return _color_table(self._classes)[_color_codes(stored)]


def as_displayed(path: str) -> NDArray[np.uint8] | None:
    """The gray [256] of 8 bits that each value of a gray mask of 1, 2 or 4 bits is displayed as; None for
    other masks.

    Programs that shrink PNG files store black and white in 1 bit: 255 becomes 1.
    """
    colors = gray_colors(path)
    if colors is None or colors[0, 0] or colors[IGNORE, 0]:  # white at 0, or 8 bits
        return None
    return np.ascontiguousarray(colors[:, 0])


def _check_size(path: str, mask: NDArray[np.integer], image: Image) -> None:
    if mask.shape != image.shape[:2]:
        raise UserError(
            f"{path}: the mask is {mask.shape[0]} x {mask.shape[1]} but its image is {image.shape[0]} x "
            f"{image.shape[1]} (height x width); export both at the same size"
        )


def is_gray(colors: NDArray[np.uint8]) -> bool:
    """Whether the channels of an image [H, W, 3] are equal."""
    first = colors[..., 0]
    return bool((first == colors[..., 1]).all() and (first == colors[..., 2]).all())


def _color_codes(colors: NDArray[np.integer]) -> NDArray[np.int32]:
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


@lru_cache(maxsize=2)
def _color_table(classes: ClassMap) -> NDArray[np.uint8]:
    """uint8 [2^24]: one entry per color (16 MB, built on first use; ten times faster than a search)."""
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    for colors, values in ((classes.ignore_colors, IGNORE), (classes.colors, range(classes.num_classes))):
        if colors:
            table[_color_codes(np.array(colors, np.uint8))] = values
    return table


def _list_values(values: NDArray[np.integer]) -> str:
    """'unknown values 7 (120 pixels), 9 (3 pixels)', the most frequent first, five at most."""
    # Colors as single numbers: NumPy takes a second per megapixel to compare rows.
    colors = values.ndim == 2
    unique, counts = np.unique(_color_codes(values) if colors else values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:5]
    parts = []
    for row in order:
        value = int(unique[row])
        shown = [value >> 16, value >> 8 & 255, value & 255] if colors else value
        parts.append(f"{shown} ({counts[row]} pixels)")
    more = f" and {len(unique) - 5} more" if len(unique) > 5 else ""
    return f"unknown value{'s' if len(unique) > 1 else ''} {', '.join(parts)}{more}"
