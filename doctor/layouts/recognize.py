"""Recognizes the layout of the files in a folder."""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from engine.contracts import Layout, TaskInfo
from engine.data.splits import subfolders
from engine.data.survey.files import survey
from engine.errors import UserError, some
from engine.io.progress import announced

_PAGE = "docs/guides/data.md"
_DEPTH = 3
_MOST_INNER = 20  # folders that are tried if the folder itself is not a dataset


def recognize(root: Path, tasks: Iterable[TaskInfo]) -> list[Layout]:
    """The layouts in a folder that one of the tasks can train on, best first.

    If there is none, the folders up to three levels below are tried, because archives often contain one.

    Raises: UserError that says what the folder contains, if no layout matches or it cannot be read.
    """
    root, tasks = (root.parent if root.is_file() else root).expanduser(), list(tasks)
    with announced(f"looking at the files in {root}"):
        found, reasons = _in(root, tasks)
        if not found and root.is_dir():
            for inner in _inner(root):
                found += _in(inner, tasks)[0]
    if not found:
        raise UserError(_unknown(root, reasons))
    return sorted(found, key=lambda layout: -layout.rank)


def _in(root: Path, tasks: list[TaskInfo]) -> tuple[list[Layout], list[str]]:
    """The layouts of the folder itself, and the reasons for near misses."""
    found: list[Layout] = []
    reasons: list[str] = []
    for task in tasks:
        if task.layouts is not None:
            try:
                found += [layout for layout in task.layouts(root) if _can_be_read(layout, root, reasons)]
            except UserError as error:
                reasons.append(str(error))
    return found, reasons


def _can_be_read(layout: Layout, root: Path, reasons: list[str]) -> bool:
    """Whether a conversion would find images; otherwise, adds why not to the reasons."""
    chosen = dict(argument.split("=", 1) for argument in layout.conversion)
    try:
        if "format" in chosen:
            import_module(f"doctor.convert.readers.{chosen['format']}").read(root)
    except UserError as error:
        reasons.append(str(error))
        return False
    return True


def _inner(root: Path) -> list[Path]:
    """Folders up to three levels below, the upper ones first; none if a folder cannot be read."""
    found: list[Path] = []
    level = [root]
    try:
        for _ in range(_DEPTH):
            level = [folder / name for folder in level[:_MOST_INNER] for name in subfolders(folder)]
            found += level
    except UserError:
        return []
    return found[:_MOST_INNER]


def _unknown(root: Path, reasons: list[str]) -> str:
    """What the folder contains, why that was not enough, and what is expected."""
    seen = survey(root)
    kinds = [f"{number} {suffix or 'without a suffix'}" for suffix, number in seen.counts.most_common(6)]
    within = "1 folder" if len(seen.folders) == 1 else f"{len(seen.folders)} folders"
    noun = "1 image" if seen.num_images == 1 else f"{seen.num_images} images"
    what = f"{noun} among {some(kinds, 6)} in {within}" if kinds else "no files"
    unreadable = f"; {some(seen.unreadable, 2)} cannot be read" if seen.unreadable else ""
    almost = f"; {reasons[0]}" if reasons else ""
    if packed := [
        suffix for suffix in seen.counts if suffix in (".zip", ".gz", ".tar", ".tgz", ".7z", ".rar")
    ]:
        almost += f"; unpack the {' and '.join(packed)} files"
    return (
        f"{root}: unknown layout: {what}{unreadable}{almost}; expected "
        f"images with masks, COCO, VOC, YOLO, LabelMe or CVAT files, or a folder per class ({_PAGE})"
    )
