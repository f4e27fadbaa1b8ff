"""What to do with a folder, in words and as arguments: the layout that is recognized in it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from engine.contracts import Layout
from engine.errors import UserError


class Recognized(NamedTuple):
    """lines: for the console. arguments: of tools/train.py; empty if the folder must be converted first."""

    lines: list[str]
    arguments: list[str]


def as_arguments(folder: Path, layouts: Sequence[Layout]) -> Recognized:
    """The first layout is the one that is meant. Raises: UserError if there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check the path")
    if not layouts:
        raise UserError(
            f"{folder}: no layout that is known; set task=, data= and the keys of that data format "
            "(docs/guides/data.md lists the layouts)"
        )
    best, *others = layouts
    arguments = [f"task={best.task}", f"data={best.data}", *best.overrides]
    lines = [f"{folder}: {best.title} (task={best.task})"]
    for other in others:
        lines.append(f"also possible: {other.title}, task={other.task} data={other.data}")
    command = shlex.join(["python", "tools/train.py", *arguments])
    if best.conversion:
        convert = shlex.join(["python", "tools/convert.py", *best.conversion])
        return Recognized([*lines, f"convert it first: {convert}", f"then train: {command}"], [])
    return Recognized([*lines, f"train: {command}"], arguments)
