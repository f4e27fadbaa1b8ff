"""YOLO: data.yaml, folders of images, and label files at the same path with `labels` instead of `images`."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from det.data.cleaning import AnnotationIssues, RawSplit, clean_split, read_size
from det.data.dataset import DetectionSource
from det.data.source_checks import SPLIT_NAMES, checked_source
from engine.data.class_map import ClassMap
from engine.data.images import find_images, left_out
from engine.errors import UserError

_MAX_BYTES = 1_000_000


_SMALLEST_FRACTION, _LARGEST_FRACTION = -1.0, 2.0
"""Numbers beyond these are not rounding errors at the border: they are pixels, not fractions."""


def yolo(*, root: str, allow_same_names: bool = False) -> DetectionSource:
    """A data set described by a data.yaml with class names and the paths of the splits.

    data.yaml: `names`, a list or {0: name}; `train`, `val` (or `valid`) and `test`: a folder of images, a
    .txt list of images, or several of either; `path`, the folder that they are relative to (default: that
    of the yaml file). The labels of a/images/b/c.jpg are a/labels/b/c.txt or, if no folder is called images,
    c.txt next to the image. An image without a label file has no objects; a split without any is not
    annotated. `det.data.cleaning` has the rules for boxes, `det.data.source_checks` those for splits.

    Args:
        root: the folder of data.yaml (or of another .yaml, if it is the only one), or that file.
        allow_same_names: whether images of train and val may have the same names.

    Raises:
        UserError: if a file is wrong; names the file and the line or key, before training.
    """
    file = _find_yaml(Path(root).expanduser().absolute())
    content = _load(file)
    classes = _classes(file, content)
    issues, splits = AnnotationIssues(), {}
    warnings: list[str] = []
    for split, names in SPLIT_NAMES.items():
        place = next((content[name] for name in names if content.get(name)), None)
        if place is None:
            continue
        images = _images(file, content, split, place, warnings)
        if images is None:
            warnings.append(f"{file}: {split}: {place} does not exist; the split is left out")
            continue
        splits[split] = clean_split(_raw_split(images, split, len(classes), issues), issues)
    if not splits:
        reason = warnings[0] if warnings else f"{file}: has no train, val or test"
        raise UserError(f"{reason}; add folders of images below {file.parent}")
    return checked_source(
        name=f"YOLO at {file}",
        classes=classes,
        splits=splits,
        issues=issues,
        warnings=warnings,
        allow_same_names=allow_same_names,
    )


def _find_yaml(root: Path) -> Path:
    if root.is_file():
        return root
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; check data.root")
    files = [root / "data.yaml"] if (root / "data.yaml").is_file() else sorted(root.glob("*.y*ml"))
    if len(files) != 1:
        raise UserError(
            f"{root}: {'several' if files else 'no'} .yaml files; set data.root to the file itself"
        )
    return files[0]


def _load(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise UserError(
                f"{file}: over {_MAX_BYTES // 10**6} MB, too large for a data.yaml; check data.root"
            )
        content = yaml.safe_load(text.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check the path") from None
    except RecursionError:
        raise UserError(f"{file}: nested too deeply to be a data.yaml") from None
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        # Wrong tags ("!!int x") make the yaml library raise any of these.
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
        # A class can be named 1 or yes, which yaml does not read as text.
        return ClassMap(names=tuple(name if isinstance(name, str) else repr(name) for name in names))
    except ValueError as error:
        raise UserError(f"{file}: names: {error}") from None


def _images(
    file: Path, content: dict[str, Any], split: str, place: Any, warnings: list[str]
) -> list[str] | None:
    """The images of a split, sorted within each folder; None if none of its paths exists."""
    places = place if isinstance(place, list) else [place]
    if not all(isinstance(item, str) and item.isprintable() for item in places):
        raise UserError(
            f"{file}: {split}: must be a folder, a .txt list or several of them, got {place!r:.60}"
        )
    base = content.get("path") or "."
    if not isinstance(base, str) or not base.isprintable():
        raise UserError(f"{file}: path: must be a folder, got {base!r:.60}")
    existing = [path for item in places if (path := _resolve(file.parent, base, item)) is not None]
    if not existing:
        return None
    images = []
    for path in existing:
        found, unread = _walk(path) if path.is_dir() else (_read_list(path), [])
        images += found
        warnings += unread
    if not images:
        reason = "".join(f"; {line}" for line in warnings if line.startswith(f"{existing[0]}: "))
        raise UserError(f"{existing[0]}: no images{reason}; check {split} in {file}")
    return list(dict.fromkeys(images))


def _resolve(home: Path, base: str, item: str) -> Path | None:
    # `path` is often from another machine, and Roboflow writes ../train for ./train.
    inside = item
    while inside.startswith("../"):
        inside = inside.removeprefix("../")
    for candidate in (home / os.path.expanduser(base) / item, home / item, home / inside):
        if os.path.exists(candidate):
            return Path(os.path.normpath(candidate))
    return None


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    """The images below a folder, and a line about files of other kinds."""
    images, others = find_images(folder, known=(".txt", ".cache", ".json", ".xml", ".yaml", ".yml", ".npy"))
    return [str(image) for image in images], left_out(folder, others)


def _read_list(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a readable list of images ({error}); write one path per line") from None
    images = [os.path.normpath(file.parent / line.strip()) for line in lines if line.strip()]
    missing = next((image for image in images if not os.path.isfile(image)), None)
    if missing is not None:
        raise UserError(f"{missing}: no such image; correct {file} (paths are relative to it)")
    return images


def _raw_split(images: list[str], split: str, num_classes: int, issues: AnnotationIssues) -> RawSplit:
    names = _names(images)
    files = [_label_file(image) for image in images]
    exist = [os.path.isfile(file) for file in files]
    sizes = [read_size(image) for image in images]
    if not any(exist):
        if split == "train":
            raise UserError(
                f"{images[0]}: no label file {files[0]}, and none for the other images of train; add them"
            )
        return RawSplit(images=images, names=names, files=files, sizes=sizes, has_labels=False)
    owners, boxes, labels = [], [], []
    for owner, file in enumerate(files):
        if exist[owner]:
            row_labels, fractions = read_rows(file, num_classes)
            height, width = sizes[owner] or (0, 0)  # boxes of unreadable images are left out later
            owners.append(np.full(len(row_labels), owner, np.int64))
            boxes.append(fractions * (width, height, width, height))
            labels.append(row_labels)
    absent = [os.path.basename(image) for image, exists in zip(images, exist, strict=True) if not exists]
    issues.add("image", "without a label file: treated as having no objects", absent)
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
    """Names without suffix, relative to the folder that all images share."""
    shared = os.path.dirname(images[0]) if len(images) == 1 else os.path.commonpath(images)
    names = [os.path.splitext(os.path.relpath(image, shared))[0] for image in images]
    if len(set(names)) < len(names):
        duplicate = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(
            f"{os.path.join(shared, duplicate)}: two images share this name and its label file; rename one"
        )
    return names


def _label_file(image: str) -> str:
    head, middle, tail = image.rpartition(f"{os.sep}images{os.sep}")
    return os.path.splitext(f"{head}{os.sep}labels{os.sep}{tail}" if middle else image)[0] + ".txt"


def read_rows(path: str | Path, num_classes: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read a label file: labels [M], and boxes [M, 4] xyxy as fractions of width and height.

    A row is `class cx cy w h`, or a polygon `class x1 y1 x2 y2 x3 y3 ...`, which becomes its bounding box.

    Raises:
        UserError: naming the file and the line.
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
            f"{where}: must be class cx cy w h, or a class and the points of a polygon, got {len(values)} "
            "values"
        )
    if any(number < _SMALLEST_FRACTION or number > _LARGEST_FRACTION for number in numbers):
        raise UserError(
            f"{where}: must be fractions of the image in 0..1, got {' '.join(values[1:5])!r:.60}; divide "
            "by its width and height"
        )
    if len(numbers) == 4:
        x, y, width, height = numbers
        return int(label), [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    xs, ys = numbers[::2], numbers[1::2]
    return int(label), [min(xs), min(ys), max(xs), max(ys)]
