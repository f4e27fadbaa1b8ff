"""YOLO: data.yaml, folders of pictures, and label files where their path says labels instead of images."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from det.data.assembly import SPLIT_NAMES, assemble
from det.data.cleaning import AnnotationIssues, RawSplit, finish, header_size
from det.data.dataset import DetectionData
from engine.data.class_map import ClassMap
from engine.data.images import IMAGE_SUFFIXES
from engine.errors import UserError

_MAX_BYTES = 1_000_000


def yolo(*, root: str, allow_same_names: bool = False) -> DetectionData:
    """The folder `root` with its data.yaml (or another .yaml, where it is the only one), or that file itself.

    data.yaml: `names`, a list or {0: name}; `train`, `val` (or `valid`) and `test`: a folder of pictures, a
    list of pictures as .txt, or several of either; `path`, below which they lie (default: the yaml's folder).
    The labels of a/images/b/c.jpg are a/labels/b/c.txt, or c.txt beside the picture where no folder is called
    images. A picture without a label file has no objects; a split without any is not annotated.

    The rules about boxes are in `det.data.cleaning`, what splits must not share in `det.data.assembly`.

    Raises: UserError, before training, naming the file and line or key.
    """
    file = _find_yaml(Path(root).expanduser().absolute())
    content = _load(file)
    classes = _classes(file, content)
    findings, warnings, splits = AnnotationIssues(), [], {}
    for split, names in SPLIT_NAMES.items():
        place = next((content[name] for name in names if content.get(name)), None)
        if place is None:
            continue
        images = _images(file, content, split, place)
        if images is None:
            warnings.append(f"{file}: {split}: {place} is not there; the split is left out")
            continue
        splits[split] = finish(_raw(images, split, len(classes), findings), findings)
    if not splits:
        reason = warnings[0] if warnings else f"{file}: names no train, val or test"
        raise UserError(f"{reason}; give folders of pictures below {file.parent}")
    return assemble(
        source=f"YOLO at {file}",
        classes=classes,
        splits=splits,
        findings=findings,
        warnings=warnings,
        allow_same_names=allow_same_names,
    )


def _find_yaml(root: Path) -> Path:
    if root.is_file():
        return root
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; check data.root")
    found = [root / "data.yaml"] if (root / "data.yaml").is_file() else sorted(root.glob("*.y*ml"))
    if len(found) != 1:
        raise UserError(
            f"{root}: {'several' if found else 'no'} .yaml files; give data.root=<that with names, train>"
        )
    return found[0]


def _load(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise UserError(f"{file}: more than {_MAX_BYTES // 10**6} MB is no data.yaml; check data.root")
        content = yaml.safe_load(text.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check the path") from None
    except RecursionError:
        raise UserError(f"{file}: nested too deeply to be a data.yaml") from None
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        # The yaml library stumbles over wrong tags ("!!int x") in any of these ways.
        raise UserError(f"{file}: not valid YAML ({' '.join(str(error).split()):.100}); correct it") from None
    if not isinstance(content, dict) or "names" not in content:
        raise UserError(f"{file}: names: is missing; list the classes, and train, val and test")
    return content


def _classes(file: Path, content: dict[str, Any]) -> ClassMap:
    names = content["names"]
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
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
        # A class may be called 1 or yes; yaml reads those as something else than text.
        return ClassMap(names=tuple(name if isinstance(name, str) else repr(name) for name in names))
    except ValueError as error:
        raise UserError(f"{file}: names: {error}") from None


def _images(file: Path, content: dict[str, Any], split: str, place: Any) -> list[str] | None:
    """The pictures of a split, sorted within each folder; None where none of its places exists."""
    places = place if isinstance(place, list) else [place]
    if not all(isinstance(item, str) and item.isprintable() for item in places):
        raise UserError(
            f"{file}: {split}: must be a folder, a .txt list or several of them, got {place!r:.60}"
        )
    base = content.get("path") or "."
    if not isinstance(base, str) or not base.isprintable():
        raise UserError(f"{file}: path: must be a folder, got {base!r:.60}")
    found = [where for item in places if (where := _resolve(file.parent, base, item)) is not None]
    if not found:
        return None
    images = [image for where in found for image in (_walk(where) if where.is_dir() else _listed(where))]
    if not images:
        raise UserError(f"{found[0]}: no pictures; check {split} in {file}")
    return list(dict.fromkeys(images))


def _resolve(home: Path, base: str, item: str) -> Path | None:
    # `path` is often that of another machine, and Roboflow writes ../train where it means ./train.
    inside = item
    while inside.startswith("../"):
        inside = inside.removeprefix("../")
    for candidate in (home / os.path.expanduser(base) / item, home / item, home / inside):
        if os.path.exists(candidate):
            return Path(os.path.normpath(candidate))
    return None


def _walk(folder: Path) -> list[str]:
    found = [
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    ]
    return sorted(found)


def _listed(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a readable list of pictures ({error}); write one path a line") from None
    images = [os.path.normpath(file.parent / line.strip()) for line in lines if line.strip()]
    missing = next((image for image in images if not os.path.isfile(image)), None)
    if missing is not None:
        raise UserError(f"{missing}: no such picture; correct {file} (paths are relative to it)")
    return images


def _raw(images: list[str], split: str, num_classes: int, findings: AnnotationIssues) -> RawSplit:
    names = _names(images)
    files = [_label_file(image) for image in images]
    there = [os.path.isfile(file) for file in files]
    sizes = [header_size(image) for image in images]
    if not any(there):
        if split == "train":
            raise UserError(
                f"{images[0]}: no {files[0]}, nor labels for any other picture of train; add them"
            )
        return RawSplit(images=images, names=names, files=files, sizes=sizes, has_labels=False)
    owners, boxes, labels = [], [], []
    for owner, file in enumerate(files):
        if there[owner]:
            found, fractions = read_rows(file, num_classes)
            height, width = sizes[owner] or (0, 0)  # of a picture that cannot be read no box is taken
            owners.append(np.full(len(found), owner, np.int64))
            boxes.append(fractions * (width, height, width, height))
            labels.append(found)
    absent = [os.path.basename(image) for image, exists in zip(images, there, strict=True) if not exists]
    findings.note("image", "without a label file: taken as without objects", absent)
    return RawSplit(
        images=images,
        names=names,
        files=[os.path.basename(file) for file in files],
        sizes=sizes,
        owners=np.concatenate(owners),
        boxes=np.concatenate(boxes),
        labels=np.concatenate(labels),
    )


def _names(images: list[str]) -> list[str]:
    """Names without suffix, below the folder that all pictures share."""
    shared = os.path.dirname(images[0]) if len(images) == 1 else os.path.commonpath(images)
    names = [os.path.splitext(os.path.relpath(image, shared))[0] for image in images]
    twice = (
        next((name for name in names if names.count(name) > 1), None)
        if len(set(names)) < len(names)
        else None
    )
    if twice is not None:
        raise UserError(
            f"{os.path.join(shared, twice)}: two pictures share this name and its labels; rename one"
        )
    return names


def _label_file(image: str) -> str:
    head, middle, tail = image.rpartition(f"{os.sep}images{os.sep}")
    return os.path.splitext(f"{head}{os.sep}labels{os.sep}{tail}" if middle else image)[0] + ".txt"


_FURTHEST = 2.0
"""A fraction beyond this, or below -1, is no rounding at the border: the numbers are pixels."""


def read_rows(path: str | Path, num_classes: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Classes [M], and boxes [M, 4] xyxy as fractions of width and height.

    A row is `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`, a polygon, of which the box around it is
    taken.

    Raises: UserError naming the file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file; export the labels again") from None
    labels, boxes = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if values := line.split():
            label, box = _row(values, num_classes, f"{path}: line {number}")
            labels.append(label)
            boxes.append(box)
    return np.array(labels, np.int64), np.array(boxes, np.float64).reshape(-1, 4)


def _row(values: list[str], num_classes: int, where: str) -> tuple[int, list[float]]:
    try:
        label, *numbers = map(float, values)
    except ValueError:
        raise UserError(f"{where}: must be numbers, got {' '.join(values)!r:.60}") from None
    if not (0 <= label < num_classes and label == int(label)):
        raise UserError(
            f"{where}: class {values[0]:.20} is not one of 0..{num_classes - 1}; correct it, or add its name "
            "to data.yaml"
        )
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise UserError(
            f"{where}: must be class cx cy w h, or a class and a polygon's points, got {len(values)} values"
        )
    if any(number > _FURTHEST or number < -1 for number in numbers):
        raise UserError(
            f"{where}: must be fractions of the picture in 0..1, got {' '.join(values[1:5])!r:.60}; divide "
            "by its width and height"
        )
    if len(numbers) == 4:
        x, y, width, height = numbers
        return int(label), [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    xs, ys = numbers[::2], numbers[1::2]
    return int(label), [min(xs), min(ys), max(xs), max(ys)]
