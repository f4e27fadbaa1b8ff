"""The classes of a dataset: dataset id <-> contiguous index <-> name, color, category.

The dataset, the head, the evaluator, the drawings and the checkpoint share one `ClassMap`, so their class
indices always agree.
"""

import colorsys
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UserError, some
from engine.io.text import read_text

IGNORE = 255
"""Class index of pixels (or boxes) that are excluded from training and metrics."""


UNKNOWN = 254
"""Value in `ClassMap.lut` for ids that are not in the class map, which is an error in the data."""


MAX_ID = 65535


Color = tuple[int, int, int]


_CLASS_KEYS = {"id", "name", "color", "category", "instance_area"}


_MAP_KEYS = {"classes", "ignore", "ignore_colors"}


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """The classes, in the order of their indices.

    names: one per class. ids: the dataset's ids (default 0, 1, 2, ...). colors: RGB colors (default: a fixed
    palette of distinct colors). ignore: ids that are not a class. ignore_colors: the same for masks that
    store colors. categories: the name of each class's group, or empty. instance_areas: mean area of an
    instance in pixels, 0 for classes without instance ids, or empty (used as weights in Cityscapes' iIoU).

    Raises: ValueError for duplicates and for empty or wrongly typed values.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...] = ()
    colors: tuple[Color, ...] = ()
    ignore: tuple[int, ...] = ()
    ignore_colors: tuple[Color, ...] = ()
    categories: tuple[str, ...] = ()
    instance_areas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.names)
        if not 1 <= count <= MAX_ID:
            raise ValueError(f"a class map needs 1 to {MAX_ID} classes, got {count}")
        fields: dict[str, tuple[Any, ...]] = {
            "names": tuple(self.names),
            "ids": tuple(self.ids) or tuple(range(count)),
            "colors": tuple(tuple(color) for color in self.colors) or distinct_colors(count),
            "ignore": tuple(self.ignore),
            "ignore_colors": tuple(tuple(color) for color in self.ignore_colors),
            "categories": tuple(self.categories),
            "instance_areas": tuple(self.instance_areas),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self._check_names(count)
        self._check_ids()
        self._check_colors()

    def _check_names(self, count: int) -> None:
        for name in self.names:
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"every class needs a name, got {name!r}")
            if any("\ud800" <= letter <= "\udfff" for letter in name):  # reports are written as UTF-8
                raise ValueError(f"class name {name!r} is not valid UTF-8; rename the class, or its folder")
        _check_unique("class name", self.names)
        for field in ("ids", "colors", "categories", "instance_areas"):
            values = getattr(self, field)
            if len(values) != count and (values or field in ("ids", "colors")):
                raise ValueError(f"{field} must have one value per class ({count}), got {len(values)}")
        if any(not isinstance(category, str) or not category for category in self.categories):
            raise ValueError("categories must name the group of every class, or be left out for all classes")
        if any(not isinstance(area, int | float) or not 0 <= area < 1e12 for area in self.instance_areas):
            raise ValueError("instance_areas must be pixels >= 0 (0: the class has no instance ids)")

    def _check_ids(self) -> None:
        for value in (*self.ids, *self.ignore):
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_ID:
                raise ValueError(f"class and ignore ids must be integers in 0..{MAX_ID}, got {value!r}")
        _check_unique("class or ignore id", (*self.ids, *self.ignore))

    def _check_colors(self) -> None:
        for color in (*self.colors, *self.ignore_colors):
            if len(color) != 3 or any(type(part) is not int or not 0 <= part <= 255 for part in color):
                raise ValueError(
                    f"colors must be [red, green, blue] with integers in 0..255, got {list(color)}"
                )
        _check_unique("color", (*self.colors, *self.ignore_colors))

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def instances(self) -> tuple[bool, ...]:
        """Per class, whether its objects have instance ids."""
        return tuple(area > 0 for area in self.instance_areas) or (False,) * len(self.names)

    @property
    def category_names(self) -> tuple[str, ...]:
        """The distinct categories, in the order of their first class."""
        return tuple(dict.fromkeys(self.categories))

    def check_same_names(self, other: "ClassMap") -> None:
        """Raise a UserError if a dataset's classes `other` differ in name or order from this run's."""
        if other.names != self.names:
            raise UserError(
                f"the classes of this dataset ({some(other.names)}) differ in name or order from the classes "
                f"that the run was trained on ({some(self.names)}); use data with the run's classes"
            )

    def check_unchanged(self, now: "ClassMap", *, run: Path) -> None:
        """Raise a UserError if the classes of a run that is resumed are not the ones it was trained on.

        Args:
            now: the classes of its data, whose names, order, ids and colors must be those of this class map.
            run: the run folder, for the message.
        """
        before, after = ([*zip(c.names, c.ids, c.colors, strict=True)] for c in (self, now))
        if before == after:
            return
        for index, (old, new) in enumerate(zip(before, after, strict=False)):
            if old != new:
                colors = " and color {2}" if old[:2] == new[:2] else ""
                text = "{0!r} with id {1}" + colors
                change = f"class {index} was {text.format(*old)}, now {text.format(*new)}"
                break
        else:
            change = f"there were {len(before)} classes ({some(self.names)}), now {len(after)}"
        raise UserError(
            f"{run}: the classes of its data differ from the run's classes.json: {change}; restore them, or "
            f"start a new run with init_from={run}"
        )

    def lut(self) -> NDArray[np.uint8]:
        """Lookup table uint8 [65536]: dataset id -> class index, `IGNORE` or `UNKNOWN`.

        Raises: UserError if there are too many classes for 8 bits.
        """
        if len(self) > UNKNOWN:
            raise UserError(
                f"masks can have at most {UNKNOWN} classes, got {len(self)}, because label maps have 8 bits "
                "per pixel; merge some classes, or list those you do not need under ignore"
            )
        table = np.full(MAX_ID + 1, UNKNOWN, np.uint8)
        table[list(self.ignore)] = IGNORE
        table[list(self.ids)] = np.arange(len(self.ids))
        return table

    def to_dict(self) -> dict[str, Any]:
        """The class map as plain JSON values, in the layout of classes.json."""
        classes: list[dict[str, Any]] = []
        for index, name in enumerate(self.names):
            entry: dict[str, Any] = {"id": self.ids[index], "name": name, "color": list(self.colors[index])}
            if self.categories:
                entry["category"] = self.categories[index]
            if self.instance_areas:
                entry["instance_area"] = self.instance_areas[index]
            classes.append(entry)
        result: dict[str, Any] = {"classes": classes, "ignore": list(self.ignore)}
        if self.ignore_colors:
            result["ignore_colors"] = [list(color) for color in self.ignore_colors]
        return result

    @classmethod
    def numbered(cls, names: Sequence[str], *, first_id: int = 0) -> "ClassMap":
        """Classes with consecutive ids from `first_id`."""
        return cls(names=tuple(names), ids=tuple(range(first_id, first_id + len(names))))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ClassMap":
        """The inverse of `to_dict`; "color" can be left out for all classes.

        Raises: ValueError for unknown or missing keys and invalid values.
        """
        if (
            not isinstance(data, Mapping)
            or not isinstance(data.get("classes"), Sequence)
            or not data["classes"]
        ):
            raise ValueError(
                'expected {"classes": [{"id": 0, "name": "road", "color": [128, 64, 128]}], "ignore": [255]}'
            )
        _check_keys("the class map", data, _MAP_KEYS)
        for entry in data["classes"]:
            if not isinstance(entry, Mapping) or not {"id", "name"} <= set(entry):
                raise ValueError(f'every class needs "id" and "name", got {entry!r}')
            _check_keys(f"class {entry['name']!r}", entry, _CLASS_KEYS)
        for key in ("color", "category", "instance_area"):
            without = [entry["name"] for entry in data["classes"] if key not in entry]
            if 0 < len(without) < len(data["classes"]):
                raise ValueError(f'class {without[0]!r} has no "{key}", but others do; give all of them one')
        for key, example in (("ignore", [255]), ("ignore_colors", [[255, 255, 255]])):
            if not isinstance(data.get(key, []), list):
                raise ValueError(f'"{key}" must be a list, such as {example}, got {data[key]!r}')
        try:
            return cls(
                names=tuple(entry["name"] for entry in data["classes"]),
                ids=tuple(entry["id"] for entry in data["classes"]),
                colors=tuple(entry["color"] for entry in data["classes"] if "color" in entry),
                ignore=tuple(data.get("ignore", ())),
                ignore_colors=tuple(data.get("ignore_colors", ())),
                categories=tuple(entry["category"] for entry in data["classes"] if "category" in entry),
                instance_areas=tuple(e["instance_area"] for e in data["classes"] if "instance_area" in e),
            )
        except TypeError as error:
            raise ValueError(f"a value has the wrong type ({error})") from error

    @classmethod
    def read(cls, path: str | Path) -> "ClassMap":
        """Read classes.json. Raises: UserError if the file is missing or invalid."""
        try:
            return cls.from_dict(json.loads(read_text(path)))
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; create it, with the classes of the masks") from error
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        except RecursionError as error:
            raise UserError(f"{path}: nested too deeply to be a class map") from error
        except ValueError as error:  # json.JSONDecodeError and UnicodeDecodeError are ValueErrors
            raise UserError(f"{path}: not a valid class map: {error}") from error

    @property
    def palette(self) -> NDArray[np.uint8] | None:
        """The colors [256, 3] of the ids 0..255, black for ids of no class; None if there are larger ids."""
        if max(self.ids) > 255:
            return None
        palette = np.zeros((256, 3), np.uint8)
        palette[list(self.ids)] = self.colors
        return palette

    def write(self, path: str | Path) -> None:
        """Write classes.json."""
        lines = json.dumps(self.to_dict(), indent=1)
        Path(path).write_text(lines + "\n", encoding="utf-8")


def distinct_colors(count: int) -> tuple[Color, ...]:
    """`count` distinct, reproducible RGB colors: hues by the golden angle, three levels of brightness."""
    colors: dict[Color, None] = {}
    step = 0
    while len(colors) < count:
        saturation, value = ((0.85, 0.95), (0.60, 0.70), (0.40, 1.00))[step % 3]
        red, green, blue = colorsys.hsv_to_rgb(step * 0.6180339887 % 1.0, saturation, value)
        colors[(round(red * 255), round(green * 255), round(blue * 255))] = None
        step += 1
    return tuple(colors)


def _check_unique(what: str, values: Sequence[Any]) -> None:
    counted = Counter(values)
    for value, count in counted.items():
        if count > 1:
            raise ValueError(f"duplicate {what}: {value!r}; each must be unique")


def _check_keys(where: str, entry: Mapping[str, Any], allowed: set[str]) -> None:
    unknown = sorted(str(key) for key in entry if key not in allowed)
    if unknown:
        raise ValueError(f"{where} has unknown keys {unknown}; the allowed keys are {sorted(allowed)}")


def alike_line(names: Iterable[str]) -> list[str]:
    """A line about class names that only differ in case, spaces or punctuation, as typed labels do; none if
    there are none."""
    groups: dict[str, list[str]] = {}
    for name in names:
        key = "".join(character for character in name.casefold() if character.isalnum())
        groups.setdefault(key or name, []).append(name)
    alike = [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    if not alike:
        return []
    return [f"classes of almost the same name: {some(alike)}; if they are one class, correct the labels"]
