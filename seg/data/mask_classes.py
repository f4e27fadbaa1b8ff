"""The classes of masks: classes.json, the lists of other programs, or the values in the masks."""

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.class_map import IGNORE, UNKNOWN, ClassMap, Color
from engine.data.images import read_labels, read_palette
from engine.errors import FileErrors, UserError, counted, some
from engine.io.files import write_json
from engine.io.progress import Progress
from engine.io.text import read_text
from seg.data.dataset import SegmentationSplit, as_displayed

_FILE = "classes.json"


_NAMES = ("classes.txt", "class_names.txt")
"""Files with the name of a class per line."""


_MOST_COLORS = 64


_CODE = np.array([1 << 16, 1 << 8, 1], np.int32)


def find_classes(
    base: Path, splits: Mapping[str, SegmentationSplit], *, skip_damaged: bool = False, write: bool = True
) -> tuple[ClassMap, list[str]]:
    """The classes, and lines to show before training.

    They come from classes.json, or CVAT's labelmap.txt, or Roboflow's _classes.csv. Without these files, they
    are the values of all masks; classes.json is then written, to edit the names (unless `write` is False).

    Raises:
        UserError: if a file is invalid, or the values cannot be classes.
    """
    if (base / _FILE).exists():
        classes = ClassMap.read(base / _FILE)
        try:
            classes.lut()
        except UserError as error:
            raise UserError(f"{base / _FILE}: {error}") from None
        return classes, []
    for name, read in _LISTS.items():
        for path in (base / name, base / "train" / name):
            if path.is_file():
                classes = _checked(path, read)
                return classes, [f"{path}: {counted(len(classes), 'class')}: {some(classes.names, 8)}"]
    return _from_values(base, splits, skip_damaged=skip_damaged, write=write)


def _checked(path: Path, read: Callable[[Path], ClassMap]) -> ClassMap:
    try:
        return read(path)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{path}: not a list of classes ({error}); write classes.json instead") from None


def _from_labelmap(path: Path) -> ClassMap:
    """CVAT: lines `name:red,green,blue:parts:actions`; masks contain colors or line numbers."""
    rows = [line.split(":") for line in _lines(path) if line.strip() and not line.startswith("#")]
    colors = [tuple(int(part) for part in row[1].split(",")) for row in rows]
    return ClassMap(names=tuple(row[0] for row in rows), colors=tuple((r, g, b) for r, g, b in colors))


def _from_csv(path: Path) -> ClassMap:
    """Roboflow: lines `value, name` after a header."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(_lines(path)) if row]
    return ClassMap(names=tuple(row[1] for row in rows[1:]), ids=tuple(int(row[0]) for row in rows[1:]))


def _from_object_info(path: Path) -> ClassMap:
    """ADE20K: rows of columns, the first of which is the value and the last the names; 0 is not labeled."""
    rows = [line.split("\t") for line in _lines(path)[1:] if line.strip()]
    names = tuple(row[-1].split(",")[0].strip() for row in rows)
    ids = tuple(int(row[0]) for row in rows)
    unique = tuple(n if names.count(n) == 1 else f"{n} {id_}" for n, id_ in zip(names, ids, strict=True))
    return ClassMap(names=unique, ids=ids, ignore=(0,))


_LISTS: Mapping[str, Callable[[Path], ClassMap]] = {
    "labelmap.txt": _from_labelmap,
    "_classes.csv": _from_csv,
    "objectInfo150.txt": _from_object_info,
}
"""The lists of classes of other programs and datasets, and how they are read, in place of classes.json."""


def _lines(path: Path) -> list[str]:
    return read_text(path).splitlines()


class _Values:
    """The ids and RGB colors in masks, with their numbers of pixels; `files` are examples of each."""

    def __init__(self) -> None:
        self.ids: Counter[int] = Counter()
        self.colors: Counter[Color] = Counter()
        self.palette: dict[int, Color] = {}
        self.displayed: dict[int, tuple[int, str]] = {}  # gray of 8 bits -> value of fewer bits, and the file
        self.files: dict[str, str] = {}

    def add(self, path: str) -> None:
        """Count the values of a mask. Raises: UserError if its palette contradicts an earlier one."""
        stored = read_labels(path)
        if stored.ndim == 3 and (stored == stored[..., :1]).all():
            stored = stored[..., 0]
        self.files.setdefault("ids" if stored.ndim == 2 else "colors", path)
        if stored.ndim == 3:
            codes, counts = np.unique(stored.astype(np.int32) @ _CODE, return_counts=True)
            colors = [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in codes]
            self.colors.update(dict(zip(colors, counts.tolist(), strict=True)))
            return
        values, counts = np.unique(stored, return_counts=True)
        self.ids.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        if (shown := as_displayed(path)) is not None:
            grays = {int(shown[value]): (value, path) for value in values.tolist() if shown[value] != value}
            self.displayed = grays | self.displayed
        if (palette := read_palette(path)) is None:
            return
        for value in values.tolist():
            red, green, blue = palette[value].tolist()
            if self.palette.setdefault(value, (red, green, blue)) != (red, green, blue):
                raise UserError(
                    f"{path}: index {value} has a different color in other palette masks, so the colors are "
                    "the classes; list them in classes.json and set data.source.palette=colors"
                )


def _from_values(
    base: Path, splits: Mapping[str, SegmentationSplit], *, skip_damaged: bool, write: bool
) -> tuple[ClassMap, list[str]]:
    paths = [os.fsdecode(p) for s in splits.values() if s.labels is not None for p in s.labels.tolist()]
    values, number = _read_values(paths, skip_damaged=skip_damaged)
    classes, lines = _with_names(base, _as_classes(base, values), by_id=bool(values.ids))
    file, found = base / _FILE, f"{some(classes.names, 8)}{'; 255 is ignored' if classes.ignore else ''}"
    if not write:
        line = f"{file}: does not exist; the classes are the values of {counted(number, 'mask')}: {found}"
        return classes, [*lines, f"{line}; training writes the file; edit it to change the names"]
    try:
        write_json(file, classes.to_dict())
    except UserError as error:
        content = json.dumps(classes.to_dict())
        return classes, [
            *lines,
            f"{error}; the classes are the values of {counted(number, 'mask')}; to name them: {content}",
        ]
    return classes, [
        *lines,
        f"{file}: created, with the values of {counted(number, 'mask')} as classes: {found}; to change the "
        "names or what is ignored, edit it and start again",
    ]


def _with_names(base: Path, classes: ClassMap, *, by_id: bool) -> tuple[ClassMap, list[str]]:
    """The classes with the names in classes.txt, one per line, if their number fits the values; and a line.

    The first line is the name of value 0, unless there is one name too few: then 0 is the background.

    Raises: UserError if the file cannot be read.
    """
    places = (place / name for place in (base, base / "masks") for name in _NAMES)
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return classes, []
    try:
        names = [line.strip() for line in _lines(file) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); correct or remove it") from None
    ids, count = classes.ids, len(names)
    without_background = ids[0] == 0 and count < max(len(ids), max(ids) + 1)
    names = ["background", *names] if without_background and count + 1 in (len(ids), max(ids) + 1) else names
    if max(ids) < len(names):
        ids = tuple(range(len(names)))
    if not by_id or len(names) != len(ids) or len(set(names)) != len(names):
        return classes, [f"{file}: not used, because its {count} names do not fit the values of the masks"]
    colors = classes.colors if ids == classes.ids else ()
    first = f"{file}: used as class names: value {ids[0]} is {names[0]}, {ids[1]} is {names[1]}"
    return replace(classes, names=tuple(names), ids=ids, colors=colors), [first]


def _read_values(paths: Sequence[str], *, skip_damaged: bool) -> tuple[_Values, int]:
    """The values of the masks, and how many were read. Raises: UserError that counts the unreadable ones."""
    values, errors, progress = _Values(), FileErrors(), Progress(len(paths), unit="mask read")
    for done, path in enumerate(paths, start=1):
        with errors.of(path):
            values.add(path)
        progress.update(done)
    progress.close()
    if not skip_damaged:
        errors.check()
    return values, len(paths) - len(errors)


def _as_classes(base: Path, values: _Values) -> ClassMap:
    """A class for each value; 255 is ignored if there are at least two others. Raises: UserError."""
    remedy = f"correct the masks, or create {base / _FILE} with their classes"
    if values.ids and values.colors:
        raise UserError(
            f"{values.files['colors']}: contains colors, but {values.files['ids']} contains ids; {remedy}"
        )
    found: Counter[Any] = values.ids or values.colors
    if not found:
        raise UserError(
            f"{base}: no masks from which to determine the classes; add some, or create {base / _FILE}"
        )
    example = next(iter(values.files.values()), base)
    if len(found) < 2:
        raise UserError(f"{example}: all masks contain only the value {next(iter(found))}; {remedy}")
    if values.displayed and values.displayed.keys() <= values.ids.keys():
        gray, (value, path) = max(values.displayed.items())
        raise UserError(
            f"{path}: has fewer than 8 bits per pixel, so its value {value} is displayed like {gray} of "
            f"other masks; create {base / _FILE}: if the two mean the same, list only {gray} as a class, "
            f"otherwise list {value}"
        )
    if len(found) > (UNKNOWN if values.ids else _MOST_COLORS) or _has_soft_edges(values.ids):
        what = "values" if values.ids else "colors"
        raise UserError(
            f"{example}: the masks contain {len(found)} different {what}, which cannot all be classes; were "
            f"they smoothed, or saved with lossy compression? {remedy}"
        )
    if values.colors:
        colors = sorted(values.colors)
        return ClassMap(
            names=tuple("color_{:02x}{:02x}{:02x}".format(*c) for c in colors), colors=tuple(colors)
        )
    ids = sorted(values.ids)
    ignore = (IGNORE,) if len(ids) > 2 and IGNORE in ids else ()
    ids = [value for value in ids if value not in ignore]
    palette = tuple(values.palette[value] for value in ids if value in values.palette)
    unique = len(set(palette)) == len(ids)
    names = tuple(f"class_{value}" for value in ids)
    return ClassMap(names=names, ids=tuple(ids), colors=palette if unique else (), ignore=ignore)


def _has_soft_edges(ids: Mapping[int, int]) -> bool:
    """Whether nearly all pixels are 0 or 255 and many values lie between: smoothed edges."""
    ends = ids.get(0, 0) + ids.get(IGNORE, 0)
    return len(ids) >= 10 and IGNORE in ids and ends > 0.9 * sum(ids.values())
