"""Finds the images of a YOLO data set's splits, and the label file of each image."""

import os
from pathlib import Path
from typing import Any

from det.data.cleaning import AnnotationIssues
from engine.data.images import IMAGE_SUFFIXES
from engine.errors import UserError

_NOT_IMAGES = (".cache", ".csv", ".db", ".ini", ".json", ".md", ".names", ".npy", ".xml", ".yaml", ".yml", "")
"""Suffixes of files that programs write next to images, in lower case."""


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
"""Text files next to images that are no label files."""


def label_file(image: str) -> str:
    """The path of an image's label file: `labels` instead of the last folder `images`, else next to it."""
    head, middle, tail = image.rpartition(f"{os.sep}images{os.sep}")
    return os.path.splitext(f"{head}{os.sep}labels{os.sep}{tail}" if middle else image)[0] + ".txt"


def find_images(
    file: Path, content: dict[str, Any], split: str, place: Any, issues: AnnotationIssues
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
        images += _walk(path, issues) if path.is_dir() else _read_list(path)
    if not images:
        raise UserError(f"{existing[0]}: no images; check {split} in {file}")
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


def _walk(folder: Path, issues: AnnotationIssues) -> list[str]:
    """The images of a folder, sorted; counts other files, and label files that belong to no image."""
    images, others, labels = [], [], set()
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            path, suffix = os.path.join(parent, name), os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in IMAGE_SUFFIXES:
                images.append(path)
            elif suffix == ".txt":
                labels.add(path)
            elif suffix not in _NOT_IMAGES:
                others.append(path)
    label_folder = os.path.dirname(label_file(os.path.join(folder, "image")))
    if images and label_folder != str(folder):
        labels = {os.path.join(parent, name) for parent, _, names in os.walk(label_folder) for name in names}
    labels = {path for path in labels if path.endswith(".txt") and _is_label_file(path)}
    unread = (f"{os.path.basename(path)}" for path in sorted(others))
    issues.add("file", f"that is no {', '.join(IMAGE_SUFFIXES)} image: left out", unread)
    lost = labels - set(map(label_file, images))
    issues.add("label file", "without an image: left out", map(os.path.basename, sorted(lost)))
    return sorted(images)


def _is_label_file(path: str) -> bool:
    name = os.path.basename(path)
    return not name.startswith(".") and name.lower() not in _LISTS


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
