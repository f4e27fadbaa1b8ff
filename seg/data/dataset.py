"""Segmentation data: mask files -> labels, files of a split -> samples, splits -> a data source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from engine.data.class_map import IGNORE, UNKNOWN, ClassMap
from engine.data.images import count_values, read_image, read_labels, read_palette
from engine.data.loader import SampleKey, SplitSource, as_tensor, sample_seed
from engine.data.pixel_cache import MaskFiles, PixelCache
from engine.data.preprocessing import Image
from engine.data.splits import keep_all_but
from engine.errors import UserError, some
from engine.io.files import evenly_spaced

_MASKS_SAMPLED = 24  # per split, every pixel

Label = NDArray[np.uint8]
"""Contiguous class indices [H, W]; 255: ignored."""


Palette = Literal["auto", "ids", "colors"]


Transform = Callable[[Image, Label | None, int], tuple[Image, Label | None]]
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
        keep = keep_all_but(len(self), indices)
        return SegmentationSplit(
            images=self.images[keep],
            names=self.names[keep],
            labels=None if self.labels is None else self.labels[keep],
            instances=None if self.instances is None else self.instances[keep],
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
        self._transform = transform
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

    def masks(self) -> MaskFiles | None:
        """The mask files, for a cache; None if the split has none."""
        if self._split.labels is None:
            return None
        paths = [os.fsdecode(path) for path in self._split.labels]
        return MaskFiles(paths=paths, read=self._read_label, key=self._read_label.key)

    def read(self, index: int) -> tuple[Image, Label | None, NDArray[np.int32] | None]:
        """Image [H, W, 3], label [H, W] and instances [H, W] before any transform; read-only from a cache."""
        image = self.read_pixels(self.image_path(index))
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

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        image, label, instances = self.read(key.index)
        sample: dict[str, Any] = {"index": key.index}
        if instances is not None:
            sample["instances"] = torch.from_numpy(instances)
        image, label = self._transform(image, label, sample_seed(self._seed, key))
        sample["image"] = as_tensor(image.transpose(2, 0, 1))
        if label is not None:
            sample["label"] = as_tensor(label)
        return sample


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
        return SegmentationDataset(
            split=split, read_label=self._read_label, transform=transform, seed=seed, cache=cache
        )


class LabelReader:
    """Reads a mask of ids [H, W] or of RGB colors [H, W, 3] as contiguous indices, with one table lookup.

    table: uint8 [65536], stored value -> contiguous index, 255 (ignore) or 254 (unknown); default
    `classes.lut()`. remedy: what the user should do about an unknown value; it ends the error message.
    palette: what the pixels of a palette image mean: `ids`, the stored indices; `colors`, the palette's
    colors; `auto`, whichever of the two the class map lists for all pixels.
    """

    def __init__(
        self,
        *,
        classes: ClassMap,
        remedy: str,
        table: NDArray[np.uint8] | None = None,
        palette: Palette = "ids",
    ) -> None:
        self._palette = palette
        self._classes = classes
        self._remedy = remedy
        self._table = classes.lut() if table is None else table

    @property
    def key(self) -> str:
        """A digest of the mapping: readers with the same key read every file in the same way."""
        palette = () if self._palette == "ids" else (self._palette,)
        colors = repr((self._classes.ignore_colors, self._classes.colors, *palette))
        return hashlib.blake2b(self._table.tobytes() + colors.encode(), digest_size=16).hexdigest()

    def __call__(self, path: str) -> Label:
        """-> uint8 [H, W].

        Raises: UserError naming the file and its unknown values, with pixel counts, or if its palette can
        mean two things.
        """
        stored = read_labels(path)
        if self._palette != "ids" and stored.dtype == np.uint8 and stored.ndim == 2:
            stored = self._colors_of_palette(path, stored)
        labels = self._from_colors(stored) if stored.ndim == 3 else self._from_ids(stored)
        unknown = labels == UNKNOWN
        if unknown.any():
            raise UserError(f"{path}: {_list_values(stored[unknown])}; {self._remedy}")
        return labels

    def _colors_of_palette(self, path: str, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The colors [H, W, 3] of a palette image if these are what it means, otherwise `stored`."""
        colors = read_palette(path)
        if colors is None:
            return stored
        used = np.flatnonzero(count_values(stored))
        by_id, by_color = self._table[used], self._from_colors(colors[used])
        fits_ids, fits_colors = (bool((labels != UNKNOWN).all()) for labels in (by_id, by_color))
        if self._palette == "auto" and fits_ids and fits_colors and (by_id != by_color).any():
            value = used[by_id != by_color][0]
            raise UserError(
                f"{path}: a palette image whose index {value} is a class id and has another class's color "
                f"({colors[value].tolist()}); set data.source.palette=ids or data.source.palette=colors"
            )
        by_color_only = self._palette == "colors" or (fits_colors and not fits_ids)
        return colors[stored] if by_color_only else stored

    def _from_ids(self, stored: NDArray[Any]) -> Label:
        if stored.dtype == np.uint8:
            return np.asarray(cv2.LUT(stored, self._table[:256]), np.uint8)
        inside = (stored >= 0) & (stored < len(self._table))
        return np.where(inside, self._table[np.where(inside, stored, 0)], np.uint8(UNKNOWN))

    def _from_colors(self, stored: NDArray[np.uint8]) -> Label:
        return _color_table(self._classes)[_color_codes(stored)]


def read_sample(
    split: SegmentationSplit, read_label: LabelReader, *, least: int, skip_damaged: bool = False
) -> tuple[NDArray[np.int64], int]:
    """Read evenly spaced masks of a split, 24 or, until `least` classes have occurred, all.

    Returns:
        (number of pixels [256] per class, ignored ones at 255; number of masks read)
    """
    assert split.labels is not None
    counts, number = np.zeros(256, np.int64), 0
    first = evenly_spaced(len(split), _MASKS_SAMPLED)
    for index in [*first, *(set(range(len(split))) - set(first))]:
        if number >= len(first) and np.count_nonzero(counts[:IGNORE]) >= least:
            break
        try:
            label = read_label(os.fsdecode(split.labels[index]))
        except UserError:
            if not skip_damaged:
                raise
            continue
        counts += count_values(label)
        number += 1
    return counts, number


def label_shares(
    source: object,
    splits: Mapping[str, SegmentationSplit],
    read_label: LabelReader,
    classes: ClassMap,
    *,
    skip_damaged: bool = False,
) -> list[str]:
    """Lines with the share of each class and of ignored pixels in a sample of the masks, and with the classes
    that do not occur in it.

    Raises:
        UserError: starting with `source`, if no pixel of a split counts, or train has a single class.
    """
    lines: list[str] = []
    for name, split in splits.items():
        if split.labels is None:
            continue
        least = 2 if name == "train" else 1
        counts, number = read_sample(split, read_label, least=least, skip_damaged=skip_damaged)
        if not number:
            continue
        shares = _shares(counts, classes)
        what = f"{source}: {name}: {number} of {len(split)} masks read: {shares}"
        if np.count_nonzero(counts[:IGNORE]) < least and name in ("train", "val"):
            least_words = "at least two classes must occur" if least == 2 else "nothing can be scored"
            raise UserError(f"{what}; {least_words}: check the ids and `ignore` in classes.json")
        lines.append(what)
        absent = [classes.names[index] for index in range(len(classes)) if not counts[index]]
        if absent:
            lines.append(
                f"{source}: {name}: {some(absent)} in none of the {number} masks read; check the ids and "
                "`ignore` in classes.json"
            )
    return lines


def _shares(counts: NDArray[np.int64], classes: ClassMap) -> str:
    """'road 61.2%, car 3.1%, ignored 12%' of the pixels, the most frequent classes first."""
    order = np.argsort(-counts[: len(classes)], kind="stable")
    total = max(1, int(counts.sum()))
    parts = [f"{classes.names[index]} {counts[index] / total:.1%}" for index in order if counts[index]]
    return f"{some(parts, 8) or 'no class'}, ignored {counts[IGNORE] / total:.1%}"


def _check_size(path: str, mask: NDArray[np.integer], image: Image) -> None:
    if mask.shape != image.shape[:2]:
        raise UserError(
            f"{path}: the mask is {mask.shape[0]} x {mask.shape[1]} but its image is {image.shape[0]} x "
            f"{image.shape[1]} (height x width); export both at the same size"
        )


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
