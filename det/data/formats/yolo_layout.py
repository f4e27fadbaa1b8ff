"""Finds the images of a YOLO dataset's splits, and the label file of each image."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from det.data.cleaning import AnnotationIssues
from det.data.reader_options import OnError
from engine.data.images import find_images, left_out
from engine.data.splits import read_lines
from engine.errors import UserError
from engine.io.files import is_hidden, walk_files

_NOT_IMAGES = (".cache", ".csv", ".db", ".ini", ".json", ".md", ".names", ".npy", ".xml", ".yaml", ".yml")
"""Suffixes of files that programs write next to images, in lower case."""


_IMAGES_FOLDER = re.compile(rf"(?<={re.escape(os.sep)})(images)(?={re.escape(os.sep)})", re.IGNORECASE)


_LABELS_FOLDER = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}


_LISTS = (
    "classes.txt",
    "labels.txt",
    "readme.txt",
    "train.txt",
    "val.txt",
    "valid.txt",
    "test.txt",
    "notes.txt",
)
"""Names of text files that often lie next to images but hold no labels."""


def label_file(image: str) -> str:
    """The path of an image's label file: `labels` instead of the last folder `images`, else next to it."""
    stem = os.path.splitext(image)[0]
    places = [match.span(1) for match in _IMAGES_FOLDER.finditer(stem)]
    if not places:
        return _spelled(stem)
    start, end = places[-1]
    usual = _LABELS_FOLDER.get(stem[start:end], "labels")
    names = [name for name in (usual, "labels", "Labels") if os.path.isdir(stem[:start] + name)] or [usual]
    return _spelled(f"{stem[:start]}{names[0]}{stem[end:]}")


def _spelled(stem: str) -> str:
    """A label file, whose suffix some programs write as .TXT."""
    upper = f"{stem}.TXT"
    return upper if not os.path.isfile(f"{stem}.txt") and os.path.isfile(upper) else f"{stem}.txt"


def check_folders(files: Iterable[str]) -> None:
    """Refuse label folders that cannot be entered; their images would count as without objects.

    Raises: UserError.
    """
    for folder in sorted(set(map(os.path.dirname, files))):
        place = folder
        while not os.path.isdir(place) and place != os.path.dirname(place):
            place = os.path.dirname(place)
        if not os.access(place, os.X_OK):
            raise UserError(f"{place}: cannot be read (Permission denied); check its permissions")


def images_of_split(
    file: Path,
    content: dict[str, Any],
    split: str,
    place: Any,
    issues: AnnotationIssues,
    *,
    on_error: OnError = "fail",
) -> list[str] | None:
    """The images of a split, sorted within each folder; None if none of its paths exists.

    on_error: `skip` keeps listed images that do not exist, which is an error when they are read.
    """
    places = place if isinstance(place, list) else [place]
    if not all(isinstance(item, str) and item.isprintable() for item in places):
        raise UserError(
            f"{file}: {split}: must be a folder, a .txt list or several of them, got {place!r:.60}"
        )
    base = content.get("path") or "."
    if not isinstance(base, str) or not base.isprintable():
        raise UserError(f"{file}: path: must be a folder, got {base!r:.60}")
    resolved = {item: resolve(file.parent, base, item) for item in places}
    existing = [path for path in resolved.values() if path is not None]
    if not existing:
        return None
    for item in (item for item, path in resolved.items() if path is None):
        issues.note(f"{split}: {item} does not exist; the other folders or lists of the split are used")
    homes = (file.parent / os.path.expanduser(base), file.parent)
    images: list[str] = []
    for path in existing:
        images += _walk(path, issues) if path.is_dir() else _read_list(path, file, homes, on_error)
    if not images:
        reasons = "".join(f"; {finding}" for finding in issues.findings())
        of_yaml = file.suffix in (".yaml", ".yml")
        remedy = f"set {split} in {file} to the folder with the images" if of_yaml else "add some"
        raise UserError(f"{existing[0]}: no images{reasons}; {remedy}")
    distinct = dict.fromkeys(images)
    repeated = [image for image, count in Counter(images).items() for _ in range(count - 1)]
    issues.add("image", "listed again: used once", map(os.path.basename, repeated))
    return list(distinct)


def add_unused(root: Path, images: Iterable[str], issues: AnnotationIssues) -> None:
    """Count the images with label files in the folders of `images` (or the folder called images around it),
    and in the folders <other>/images in `root` if there is <split>/images, that are not among them."""
    used = set(images)
    folders = set()
    for image in used:
        places = [match.end(1) for match in _IMAGES_FOLDER.finditer(image)]
        folders.add(image[: places[-1]] if places else os.path.dirname(image))
    beside = {str(path) for path in root.glob("*/images") if not is_hidden(path.parent.name)}
    folders |= beside if beside & folders else set()
    others = {str(path) for folder in folders if os.path.isdir(folder) for path in find_images(folder)[0]}
    unused = sorted(image for image in others - used if os.path.isfile(label_file(image)))
    issues.add("image", "with a label file, but in no split: left out", map(os.path.basename, unused))


def resolve(home: Path, base: str, item: str) -> Path | None:
    """The folder or list of a split that a file in `home` names, below `base` or `home`; None if it does not
    exist."""
    # `path` and the entries are often from another machine, and Roboflow writes ../train for ./train.
    for candidate in _candidates(item, (home / os.path.expanduser(base), home)):
        generic = os.path.basename(candidate).lower() == "images" and os.path.dirname(candidate) == str(home)
        if os.path.exists(candidate) and not (generic and item.strip("./\\").lower() != "images"):
            return Path(os.path.normpath(candidate))
    return None


def _walk(folder: Path, issues: AnnotationIssues) -> list[str]:
    """The images of a folder, sorted; counts other files, and label files that belong to no image."""
    found, others = find_images(folder, known=(".txt", *_NOT_IMAGES))
    images = [str(path) for path in found]
    for line in left_out(folder, others):
        issues.note(line)
    label_folder = os.path.dirname(label_file(os.path.join(folder, "image"))) if images else folder
    files = walk_files(label_folder) if os.path.isdir(label_folder) else []
    labels = {os.path.join(label_folder, name) for name in files if _is_label_file(name)}
    lost = labels - set(map(label_file, images))
    issues.add("label file", "without an image: left out", map(os.path.basename, sorted(lost)))
    return images


def _is_label_file(path: str) -> bool:
    name = os.path.basename(path).lower()
    return name.endswith(".txt") and name not in _LISTS


def _read_list(file: Path, config: Path, homes: Sequence[Path], on_error: OnError) -> list[str]:
    """The images in a list; an entry is relative to it or to one of `homes`, or from another machine.

    config: the file that names the list, for messages.
    """
    images, missing = [], []
    lines = read_lines(file, "images")
    _refuse_label_files(file, lines, config.name)
    for line in lines:
        candidates = list(_candidates(line, (file.parent, *homes)))
        image = next((path for path in candidates if os.path.isfile(path)), None)
        images.append(os.path.normpath(image or candidates[0]))
        if image is None:
            missing.append(images[-1])
    if missing and (on_error == "fail" or len(missing) == len(images)):
        other = ", or set data.on_error=skip" if len(missing) < len(images) else ""
        raise UserError(
            f"{missing[0]}: no such image ({len(missing)} of the {len(images)} listed); correct {file} "
            f"(paths are relative to it or to {config.name}){other}"
        )
    return images


def _refuse_label_files(file: Path, lines: Sequence[str], config: str) -> None:
    """Raise a UserError if a list of images is a label file, or a list of label files."""
    for line in lines:
        if line.lower().endswith(".txt"):
            raise UserError(
                f"{file}: lists label files ({line}), not images; list the images, or name the folder with "
                f"the images in {config}, for example train: images/train"
            )
        if re.fullmatch(r"\d+(\s+-?[\d.e-]+){4,}", line):
            raise UserError(
                f"{file}: a label file, not a list of images; name the folder with the images in {config}, "
                "for example train: images/train"
            )


def _candidates(line: str, homes: Sequence[Path]) -> Iterator[str]:
    """Where a listed image may be: first as written, then without the folders of another machine."""
    for home in homes:
        yield os.path.join(home, line)
    parts = [part for part in line.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        for home in homes:
            yield os.path.join(home, *parts[start:])
