"""Writes predictions as a data set for training, with one class per format.

`confident` of `engine.contracts.Reporter` decides what in a prediction is confident enough.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from numpy.typing import NDArray

from engine.data.class_map import IGNORE, ClassMap
from engine.data.preprocessing import Size
from engine.errors import UserError, counted
from engine.io.files import flat_name, link_or_copy, write_json, write_text
from engine.io.png import write_rows

SPLIT = "train"


class LabelWriter(Protocol):
    """Writes one format. data: the value of `data=` in tools/train.py that reads it."""

    data: str

    def place(self, name: str, label: Any) -> Path:
        """Path of the image in the data set, without its suffix."""
        ...

    def add(self, image: Path, size: Size, label: Any) -> None:
        """Write the label of an image that is already in its place. size: (height, width)."""
        ...

    def finish(self) -> None:
        """Write the files that describe the whole data set."""
        ...


class LabeledImages:
    """The images of a data set, and the labels that a `LabelWriter` writes for them.

    Images without a confident label are left out: an empty label would say that nothing is in them.

    Args:
        folder: new, or empty.
        kind: a key of `WRITERS`.
    """

    def __init__(self, folder: Path, kind: str, classes: ClassMap) -> None:
        self.folder, self.kind = folder, kind
        self.writer: LabelWriter = WRITERS[kind](folder, classes)
        self.num_labeled = self.num_left_out = 0
        self._names: set[str] = set()

    def add(self, file: Path, name: str, size: Size, label: Any | None) -> None:
        """Add an image with its label; None: no prediction is confident enough.

        name: unique, such as its path below the folder that all images share.

        Raises: UserError if a file cannot be written.
        """
        if label is None:
            self.num_left_out += 1
            return
        # COCO's JSON cannot name a file with control characters, or whose name is not UTF-8.
        readable = "".join(letter if letter.isprintable() else "_" for letter in flat_name(name))
        target = self.writer.place(self._unique(readable), label)
        target = target.with_name(target.name + file.suffix.lower())
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(file, target)
            self.writer.add(target, size, label)
        except BaseException as error:  # Ctrl-C too: without a label, the image would be one without objects
            target.unlink(missing_ok=True)
            if not isinstance(error, OSError):
                raise
            raise UserError(f"{target}: cannot be written ({error.strerror}); choose another out=") from None
        self.num_labeled += 1

    def _unique(self, name: str) -> str:
        unique, number = name, 1
        while unique.lower() in self._names:
            number += 1
            unique = f"{name}_{number}"
        self._names.add(unique.lower())
        return unique

    def finish(self, *, task: str, run: str, min_score: float, settings: Sequence[str] = ()) -> list[str]:
        """Complete the data set; returns what to print: the counts and the command that trains on it.

        settings: `key=value` that training needs to read the images as they were predicted on.
        """
        left_out = (
            f"{counted(self.num_left_out, 'image')} left out, without a prediction of at least {min_score:g} "
            "(min_score=)"
            if self.num_left_out
            else ""
        )
        if not self.num_labeled:
            return [f"labels: none; {left_out}" if left_out else "labels: none"]
        self.writer.finish()
        counts = "; ".join(part for part in (counted(self.num_labeled, "image"), left_out) if part)
        data = [f"data={self.writer.data}", f"data.root={self.folder}", *settings]
        command = ["python", "tools/train.py", f"task={task}", *data, f"init_from={run}"]
        return [f"labels: {counts}", f"next: {shlex.join(command)}"]


class CocoLabels:
    """`images/train/`, and boxes in COCO's format in `train.json`.

    A label is boxes [n, 4] (xyxy in pixels) and class indices [n].
    """

    data = "coco"

    def __init__(self, folder: Path, classes: ClassMap) -> None:
        self.folder, self.classes = folder, classes
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def place(self, name: str, label: Any) -> Path:
        return self.folder / "images" / SPLIT / name

    def add(self, image: Path, size: Size, label: tuple[NDArray[Any], NDArray[Any]]) -> None:
        entry = {"id": len(self._images) + 1, "file_name": image.name, "height": size[0], "width": size[1]}
        self._images.append(entry)
        for (left, top, right, bottom), index in zip(label[0].tolist(), label[1].tolist(), strict=True):
            width, height = right - left, bottom - top
            self._annotations.append({
                "id": len(self._annotations) + 1,
                "image_id": len(self._images),
                "category_id": self.classes.ids[index],
                "bbox": [round(number, 2) for number in (left, top, width, height)],
                "area": round(width * height, 2),
                "iscrowd": 0,
            })  # fmt: skip

    def finish(self) -> None:
        categories = [
            {"id": number, "name": name}
            for number, name in zip(self.classes.ids, self.classes.names, strict=True)
        ]
        content = {"images": self._images, "annotations": self._annotations, "categories": categories}
        write_json(self.folder / f"{SPLIT}.json", content)


class YoloLabels:
    """`images/train/`, `labels/train/` and `data.yaml`, in YOLO's format. A label is as for `CocoLabels`."""

    data = "yolo"

    def __init__(self, folder: Path, classes: ClassMap) -> None:
        self.folder, self.classes = folder, classes

    def place(self, name: str, label: Any) -> Path:
        return self.folder / "images" / SPLIT / name

    def add(self, image: Path, size: Size, label: tuple[NDArray[Any], NDArray[Any]]) -> None:
        height, width = size
        rows = [
            f"{index} {(left + right) / 2 / width:.6f} {(top + bottom) / 2 / height:.6f} "
            f"{(right - left) / width:.6f} {(bottom - top) / height:.6f}\n"
            for (left, top, right, bottom), index in zip(label[0].tolist(), label[1].tolist(), strict=True)
        ]
        folder = self.folder / "labels" / SPLIT
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{image.stem}.txt", "".join(rows))

    def finish(self) -> None:
        content = {SPLIT: f"images/{SPLIT}", "names": dict(enumerate(self.classes.names))}
        write_text(self.folder / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


class MaskLabels:
    """`images/train/`, `masks/train/` and `classes.json`.

    A label is class indices [H, W], 255 where the class is unknown.
    """

    data = "masks"

    def __init__(self, folder: Path, classes: ClassMap) -> None:
        self.folder = folder
        ignored = next(number for number in (*classes.ignore, 255, *range(256)) if number not in classes.ids)
        self.classes = replace(classes, ignore=tuple(dict.fromkeys((*classes.ignore, ignored))))
        wide = max(*classes.ids, ignored) > 255
        self._ids: NDArray[Any] = np.full(IGNORE + 1, ignored, np.uint16 if wide else np.uint8)
        self._ids[: len(classes)] = classes.ids
        self._palette = None if wide else classes.palette

    def place(self, name: str, label: Any) -> Path:
        return self.folder / "images" / SPLIT / name

    def add(self, image: Path, size: Size, label: NDArray[np.uint8]) -> None:
        path = self.folder / "masks" / SPLIT / f"{image.stem}.png"
        write_rows(path, [label], lookup=self._ids, palette=self._palette)

    def finish(self) -> None:
        self.classes.write(self.folder / "classes.json")


class FolderLabels:
    """`train/<class>/<image>`. A label is a class index.

    A folder has the name of its class if it can: names with a slash, or that begin with a dot, which hides a
    folder, are changed.
    """

    data = "folders"

    def __init__(self, folder: Path, classes: ClassMap) -> None:
        self.folder = folder
        self._folders = _folder_names(classes.names)

    def place(self, name: str, label: int) -> Path:
        return self.folder / SPLIT / self._folders[label] / name

    def add(self, image: Path, size: Size, label: int) -> None:
        """Nothing: the folder is the label."""

    def finish(self) -> None:
        """Nothing."""


WRITERS: Mapping[str, Any] = {
    "coco": CocoLabels,
    "yolo": YoloLabels,
    "masks": MaskLabels,
    "folders": FolderLabels,
}


def _folder_names(classes: Sequence[str]) -> list[str]:
    """A visible folder for each class; those that have to be renamed do not take the name of another."""
    names = [f"_{name[1:]}" if name.startswith(".") else name for name in map(flat_name, classes)]
    taken = {name for name, own in zip(names, classes, strict=True) if name == own}
    for index, own in enumerate(classes):
        if names[index] == own:
            continue
        name, number = names[index], 1
        while names[index] in taken:
            number += 1
            names[index] = f"{name}_{number}"
        taken.add(names[index])
    return names
