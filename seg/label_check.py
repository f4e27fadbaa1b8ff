"""Checks every mask of a dataset, for `tools/check.py`: sizes, values, empty masks, classes."""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.contracts import Finding, Image
from engine.data.class_map import IGNORE, ClassMap
from engine.data.images import count_values, read_labels
from engine.data.labels.report import ClassAmounts, ExaminedSplit, Fact, LabelReport, ReadFacts
from engine.data.loader import SplitSource
from engine.io.files import pack_paths
from engine.sample_images import panel_size, resize_panel
from seg.data.dataset import Label, SegmentationDataset, UnknownValuesError
from seg.drawing import overlay, present_classes, with_legend

_COUNTS = np.dtype([("value", "u1"), ("count", "<u4")])
_SIZE = np.dtype("<i4")

_EXCLUDE = "data.exclude=<out>/exclude.json"
_SAMPLES = 3  # per class, those with the largest share


def examine(
    *, task: Any, source: SplitSource[Any, Any], splits: Mapping[str, ExaminedSplit], read: ReadFacts
) -> LabelReport:
    """Read all masks and report their problems. `task` is not used."""
    classes = source.classes
    masks = _Masks(classes)
    for name, split in splits.items():
        masks.examine(name, split, read)
        if name != "train":
            masks.examine_instances(name, split, read)
    sampled = (" masks read", "the mask read")  # the lines about a sample of the masks; here all are read
    return LabelReport(
        unit="pixels",
        amounts=masks.amounts,
        findings=masks.findings(splits, upright=source.upright),
        lines=[line for line in source.warnings if not any(part in line for part in sampled)],
        samples=lambda index: [(split, row) for _, split, row in masks.largest[index]],
        draw=lambda name, index: _draw(splits[name].dataset, index, classes),
    )


def mask_facts(path: str, read_label: Callable[[str], Label]) -> bytes:
    """Height and width, then the classes in a mask and their pixels. Raises: UserError, like `read_label`."""
    label = read_label(path)
    counts = count_values(label)
    present = np.flatnonzero(counts)
    table = np.zeros(len(present), _COUNTS)
    table["value"], table["count"] = present, counts[present]
    return np.array(label.shape, _SIZE).tobytes() + table.tobytes()


def instance_facts(path: str) -> bytes:
    """Height and width of a file of instance ids. Raises: UserError, like `read_labels`."""
    return np.array(read_labels(path).shape[:2], _SIZE).tobytes()


class _Masks:
    """What is known about the masks read so far; sample names are collected only for faulty masks."""

    def __init__(self, classes: ClassMap) -> None:
        self.classes = classes
        self.amounts: dict[str, ClassAmounts] = {}
        self.largest: dict[int, list[tuple[float, str, int]]] = defaultdict(list)
        self.faults: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
        self.unknown_remedy = ""  # what the reader says about such a mask
        self.unreadable_remedy = _EXCLUDE  # or what it says about a mask of a kind that is not read

    def examine(self, name: str, split: ExaminedSplit, read: ReadFacts) -> None:
        files = split.dataset.masks()
        if files is None:
            return
        number = len(self.classes)
        total, squares = np.zeros(number), np.zeros(number)
        present, images, ignored = np.zeros(number, np.int64), 0, 0.0
        reader = partial(mask_facts, read_label=files.read)
        for index, fact in read(pack_paths(files.paths), reader, key=f"mask 1 {files.key}", unit="mask read"):
            if fact.error:
                self._unreadable(name, index, fact)
                continue
            size = np.frombuffer(fact.value, _SIZE, count=2)
            table = np.frombuffer(fact.value, _COUNTS, offset=2 * _SIZE.itemsize)
            self._check_size(name, index, files.paths[index], size, split.sizes[index])
            shares = np.zeros(256)
            shares[table["value"]] = table["count"] / max(1, int(size.prod()))
            if shares[IGNORE] >= 1:
                self.faults["ignored_mask"].append((name, index, files.paths[index]))
            elif len(table) == 1:
                self.faults["single_class_mask"].append((name, index, files.paths[index]))
            counted = shares[:number]
            total += counted
            squares += counted**2
            present += counted > 0
            images, ignored = images + 1, ignored + shares[IGNORE]
            for value in np.flatnonzero(counted):
                row = (float(counted[value]), name, index)
                self.largest[int(value)] = sorted([*self.largest[int(value)], row], reverse=True)[:_SAMPLES]
        self.amounts[name] = ClassAmounts(
            images=images, total=total, squares=squares, present=present, ignored=ignored / max(1, images)
        )

    def examine_instances(self, name: str, split: ExaminedSplit, read: ReadFacts) -> None:
        """Read the files of instance ids, which only evaluation uses."""
        paths = split.dataset.instance_files()
        for index, fact in read(paths, instance_facts, key="instances 1", unit="instance file read"):
            image = split.sizes[index]
            text = fact.error.partition("; ")[0]
            if not fact.error:
                size = np.frombuffer(fact.value, _SIZE)
                if not image.any() or (size == image).all():
                    continue
                path = os.fsdecode(paths[index])
                text = f"{path}: {size[0]} x {size[1]}, image {image[0]} x {image[1]}"
            self.faults["instances"].append((name, index, text))

    def _unreadable(self, name: str, index: int, fact: Fact) -> None:
        code = {
            UnknownValuesError.__name__: "unknown_values",
            "DamagedFileError": "damaged_mask",
            "MissingFile": "missing_mask",
        }.get(fact.kind, "unreadable_mask")
        self.faults[code].append((name, index, fact.error.partition("; ")[0]))
        if code == "unreadable_mask":
            self.unreadable_remedy = fact.error.partition("; ")[2] or self.unreadable_remedy
        if code == "unknown_values":
            self.unknown_remedy = fact.error.rpartition("; ")[2]

    def _check_size(
        self, name: str, index: int, path: str, mask: NDArray[np.int32], image: NDArray[np.int32]
    ) -> None:
        if image.any() and (mask != image).any():
            turned = (mask == image[::-1]).all()
            text = f"{path}: {mask[0]} x {mask[1]}, image {image[0]} x {image[1]}"
            self.faults["rotated_mask" if turned else "mask_size"].append((name, index, text))

    def findings(self, splits: Mapping[str, ExaminedSplit], *, upright: bool) -> list[Finding]:
        other = "stored" if upright else "upright"
        rotated_remedy = f"data.orientation={other}, if the masks match the {other} images"
        unknown, unreadable = self.unknown_remedy, self.unreadable_remedy
        kinds: list[tuple[str, Any, str, str, str]] = [
            ("damaged_mask", "error", "damaged", "Training stops before the first step.", _EXCLUDE),
            ("missing_mask", "error", "missing", "Training stops before the first step.", _EXCLUDE),
            ("unreadable_mask", "error", "in an unsupported format", "Training stops at them.", unreadable),
            (
                "unknown_values",
                "error",
                "with unknown values",
                "Training stops at them.",
                unknown,
            ),
            ("mask_size", "error", "not of the size of their image", "Training stops at them.", _EXCLUDE),
            ("rotated_mask", "error", "rotated by 90 degrees", "Training stops at them.", rotated_remedy),
            (
                "instances",
                "error",
                "damaged or not of the size of their image",
                "Evaluation stops at them.",
                _EXCLUDE,
            ),
            (
                "ignored_mask",
                "warning",
                "with all pixels ignored",
                "Nothing is learned from them.",
                _EXCLUDE,
            ),
            (
                "single_class_mask",
                "note",
                "with a single class",
                "The annotation may be missing.",
                "look at a few of them",
            ),
        ]
        return [
            self._finding(code, severity, what, why, remedy, splits)
            for code, severity, what, why, remedy in kinds
            if self.faults[code]
        ]

    def _finding(
        self, code: str, severity: Any, what: str, why: str, remedy: str, splits: Mapping[str, ExaminedSplit]
    ) -> Finding:
        faults = sorted(self.faults[code])
        noun = "1 mask is" if len(faults) == 1 else f"{len(faults)} masks are"
        if code == "instances":
            noun = noun.replace("mask", "instance file")
        if what.startswith("with"):
            noun = "1 mask" if len(faults) == 1 else f"{len(faults)} masks"
        excluded: dict[str, list[str]] = defaultdict(list)
        for name, index, _ in faults if severity != "note" else ():
            excluded[name].append(splits[name].dataset.name(index))
        return Finding(
            code=code,
            severity=severity,
            title=f"{noun} {what}",
            count=len(faults),
            examples=tuple(text for *_, text in faults[:3]),
            why=why,
            remedy=remedy,
            exclude={name: tuple(names) for name, names in excluded.items()},
        )


def _draw(dataset: SegmentationDataset, index: int, classes: ClassMap) -> Image:
    image, label, _ = dataset.read(index)
    size = panel_size(image)
    assert label is not None
    label, image = resize_panel(label, size, exact=True), resize_panel(image, size)
    return with_legend(overlay(image, label, classes), classes, present_classes(label, classes))
