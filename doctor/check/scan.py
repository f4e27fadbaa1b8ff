"""Reads every image of a dataset once: the facts about each file, as flat arrays."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doctor.check.cache import FactCache
from doctor.check.image_facts import FACTS, THUMBNAIL, facts_key, image_facts, thumbnail_of
from doctor.check.near_duplicates import LEAST_CONTRAST, near_duplicates
from engine.data.images import Range
from engine.data.labels.report import Fact
from engine.io.files import pack_paths

_MOST = 0.5  # share of a split


@dataclass(kw_only=True, eq=False)
class Scan:
    """The U image files of a dataset.

    Attributes:
        datasets: the dataset of each split, in the order train, val, test, others.
        rows: split -> int64 [N], the file of each of its samples.
        paths: packed [U].
        facts: `FACTS` [U]; zeros for a file that cannot be read.
        contents: uint8 [U, 16], a hash of each file's bytes.
        errors: file -> why it cannot be read.
        upright: whether images are rotated by their orientation.
        pixel_range: what is black and white in images of more than 8 bits, if it is set.
    """

    datasets: Mapping[str, Any]
    rows: Mapping[str, NDArray[np.int64]]
    paths: NDArray[np.bytes_]
    facts: NDArray[np.void]
    contents: NDArray[np.uint8]
    errors: Mapping[int, Fact]
    upright: bool
    pixel_range: Range | None
    cache: FactCache
    key: str

    def path(self, file: int) -> str:
        return os.fsdecode(self.paths[file])

    def sizes(self, split: str) -> NDArray[np.int32]:
        """(height, width) of each sample's image [N, 2]; 0 for one that cannot be read."""
        facts = self.facts[self.rows[split]]
        return np.column_stack([facts["height"], facts["width"]]).astype(np.int32)

    @property
    def first_split(self) -> NDArray[np.int64]:
        """int64 [U]: the position of the first split that contains each file."""
        first = np.full(len(self.paths), len(self.rows))
        for place, rows in reversed(list(enumerate(self.rows.values()))):
            first[rows] = place
        return first

    def samples_of(self, split: str, files: Iterable[int]) -> tuple[str, ...]:
        """The names of the samples of a split that are in these files."""
        wanted = np.isin(self.rows[split], list(files))
        return tuple(self.datasets[split].name(int(index)) for index in np.flatnonzero(wanted))

    def by_split(self, files: Iterable[int]) -> dict[str, tuple[str, ...]]:
        """Split -> the names of its samples that are in these files."""
        files = list(files)
        return {split: names for split in self.rows if (names := self.samples_of(split, files))}

    def is_most(self, split: str, count: int) -> bool:
        """Whether `count` samples are so many of a split's that leaving them out is no remedy."""
        return count > _MOST * len(self.rows[split])

    def near_duplicates(self) -> NDArray[np.int64]:
        """Pairs [P, 2] of files that are near-duplicates but not identical."""
        usable = np.flatnonzero(self.facts["contrast"] >= LEAST_CONTRAST)
        hashes, groups = self.facts["hash"][usable], self.first_split[usable]
        pairs = usable[near_duplicates(hashes, groups, lambda positions: self.thumbnails(usable[positions]))]
        equal = (self.contents[pairs[:, 0]] == self.contents[pairs[:, 1]]).all(axis=1)
        different: NDArray[np.int64] = pairs[~equal]
        return different

    def thumbnails(self, files: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB [M, 16, 16, 3], from the cache."""
        empty = bytes(FACTS.itemsize + THUMBNAIL * THUMBNAIL * 3)
        values = (self.cache.value(self.contents[file].tobytes(), self.key) or empty for file in files)
        return np.stack([thumbnail_of(value) for value in values])


def scan_images(source: Any, datasets: Mapping[str, Any], cache: FactCache) -> Scan:
    """Read the images of all splits, as they are read in training."""
    parts = {split: _image_paths(dataset) for split, dataset in datasets.items()}
    paths, inverse = np.unique(np.concatenate(list(parts.values())), return_inverse=True)
    ends = np.cumsum([len(part) for part in parts.values()])
    rows = dict(zip(parts, np.split(inverse.astype(np.int64), ends[:-1]), strict=True))
    pixel_range, upright = getattr(source, "pixel_range", None), getattr(source, "upright", True)
    key = facts_key(pixel_range, upright)
    facts, contents = np.zeros(len(paths), FACTS), np.zeros((len(paths), 16), np.uint8)
    errors: dict[int, Fact] = {}
    read = partial(image_facts, pixel_range=pixel_range, upright=upright)
    for file, fact in cache.read(paths, read, key=key, unit="image read"):
        if fact.content:
            contents[file] = np.frombuffer(fact.content, np.uint8)
        if fact.error:
            errors[file] = fact
        else:
            facts[file] = np.frombuffer(fact.value, FACTS, count=1)[0]
    return Scan(
        datasets=datasets,
        rows=rows,
        paths=paths,
        facts=facts,
        contents=contents,
        errors=dict(sorted(errors.items())),
        upright=upright,
        pixel_range=pixel_range,
        cache=cache,
        key=key,
    )


def _image_paths(dataset: Any) -> NDArray[np.bytes_]:
    return pack_paths([dataset.image_path(index) for index in range(len(dataset))])
