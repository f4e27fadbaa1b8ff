"""What a YOLO dataset says about itself: data.yaml, or the files of Darknet, CVAT and Label Studio."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from det.data.formats.yolo_layout import resolve
from engine.data.class_map import ClassMap
from engine.errors import UserError, check_command
from engine.io.files import existing_root
from engine.io.text import decode_text

_MAX_BYTES = 1_000_000


_NAMES = ("obj.names", "classes.txt", "data/obj.names", "labels/classes.txt")
"""Files with the name of a class per line, of datasets without a yaml file."""


_SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}


_ALL_IMAGES = ("images", "Images", "obj_train_data", "data/obj_train_data", ".")
"""Folders of all images, of datasets without a yaml file and splits."""


class Config(NamedTuple):
    """The file to name in messages, its content in the layout of data.yaml, and whether train contains all
    images, because there are no splits."""

    file: Path
    content: dict[str, Any]
    divided: bool = False


def find_config(root: Path) -> Config:
    """The configuration of a folder, or in a file.

    Raises:
        UserError: if there is none, or it is not valid.
    """
    if root.is_file():
        return Config(root, _load(root))
    existing_root(root)
    files = [root / "data.yaml"] if (root / "data.yaml").is_file() else sorted(root.glob("*.y*ml"))
    if len(files) == 1:
        return Config(files[0], _load(files[0]))
    if files:
        raise UserError(f"{root}: several .yaml files; set data.root to the file itself")
    names = next((root / name for name in _NAMES if (root / name).is_file()), None)
    if names is None:
        raise UserError(
            f"{root}: no .yaml files, and no {' or '.join(_NAMES[:2])} with the classes; set data.root to "
            f"the file itself, or add data.yaml; for labels of another format: {check_command(root)}"
        )
    return _without_yaml(root, names)


def _without_yaml(root: Path, file: Path) -> Config:
    classes = [line.strip() for line in _text(file).splitlines() if line.strip()]
    content: dict[str, Any] = {"names": classes, "path": str(root), **_darknet_splits(root)}
    for name, split in _SPLITS.items():
        places = (
            f"{name}.txt",
            f"data/{name}.txt",
            f"images/{name}",
            f"{name}/images",
            f"obj_{name}_data",
            name,
        )
        place = next((place for place in places if (root / place).exists()), None)
        if place is not None:
            content.setdefault(split, place)
    divided = "train" not in content
    if divided:
        content["train"] = next(place for place in _ALL_IMAGES if (root / place).is_dir())
    return Config(file, content, divided)


def _darknet_splits(root: Path) -> dict[str, str]:
    """The lists of train, val and test that Darknet's obj.data (`valid = data/test.txt`) names, if they exist
    and there is one such file."""
    files = [*root.glob("*.data"), *root.glob("data/*.data")]
    lines = _text(files[0]).splitlines() if len(files) == 1 else []
    pairs = ([part.strip() for part in line.split("=", 1)] for line in lines if "=" in line)
    places = {_SPLITS[key]: place for key, place in pairs if key in _SPLITS}
    return {split: place for split, place in places.items() if resolve(root, ".", place) is not None}


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise UserError(
                f"{file}: over {_MAX_BYTES // 10**6} MB, too large for a data.yaml; check data.root"
            )
        return decode_text(text)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8 text; save it as UTF-8") from None


def _load(file: Path) -> dict[str, Any]:
    text = _text(file)
    try:
        content = yaml.safe_load(text)
        as_written = yaml.load(text, Loader=_AsWritten)
    except RecursionError:
        raise UserError(f"{file}: nested too deeply to be a data.yaml") from None
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        # Wrong tags ("!!int x") make the yaml library raise any of these.
        raise UserError(f"{file}: not valid YAML ({' '.join(str(error).split()):.100}); correct it") from None
    if not isinstance(content, dict) or "names" not in content:
        raise UserError(f"{file}: names: is missing; list the classes, and train, val and test")
    return content | {"names": as_written.get("names", content["names"])}


class _AsWritten(yaml.BaseLoader):  # type: ignore[misc]
    """Reads all values as text: a class may be called no, 010 or 2024-01-01, which YAML reads as False, 8 and
    a date. A key that occurs twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            again = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"{again} occurs twice", node.start_mark)
        content: dict[Any, Any] = super().construct_mapping(node, deep)
        return content


def read_classes(file: Path, content: dict[str, Any]) -> ClassMap:
    """The classes in the content of `file`. Raises: UserError if they are not valid."""
    names = content["names"]
    if isinstance(names, dict):
        numbers = [str(number).lstrip("0") or "0" for number in names]
        if sorted(numbers) != sorted(map(str, range(len(names)))):
            raise UserError(f"{file}: names: must be numbered 0..{len(names) - 1} without gaps")
        by_number = {int(number): name for number, name in names.items()}
        names = [by_number[number] for number in range(len(by_number))]
    if not isinstance(names, list):
        raise UserError(
            f"{file}: names: must be a list of classes or {{0: name, 1: name}}, got {names!r:.60}"
        )
    count = content.get("nc", len(names))
    if count != len(names):
        raise UserError(f"{file}: nc: is {count!r:.20} but there are {len(names)} names; correct one")
    try:
        return ClassMap(names=tuple(name if isinstance(name, str) else repr(name) for name in names))
    except ValueError as error:
        raise UserError(f"{file}: names: {error}") from None
