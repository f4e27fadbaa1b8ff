"""The layout recognized in a folder, in words and as arguments of a tool."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from doctor.layouts.recognize import recognize
from engine.config.overrides import groups, options_by_task
from engine.contracts import Layout, TaskInfo
from engine.errors import UserError


class Recognized(NamedTuple):
    """lines: for the console. arguments: of tools/train.py; empty if the folder must be converted first."""

    lines: list[str]
    arguments: list[str]


def as_arguments(folder: Path, layouts: Sequence[Layout]) -> Recognized:
    """For the first layout; the lines mention the others. Raises: UserError if there is none."""
    if not layouts:
        raise UserError(
            f"{folder}: unknown layout; set task=, data= and that format's keys (see docs/guides/data.md)"
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
    return Recognized([*lines, f"reading it with: {shlex.join(arguments)}"], arguments)


def is_folder(argument: str) -> bool:
    """Whether an argument is a folder and not a flag or an override; a folder may be called "a=b"."""
    return not argument.startswith("-") and ("=" not in argument or Path(argument).is_dir())


def with_root_as_folder(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `data.root=<folder>` as the folder itself if no format was typed with it.

    The default format, the built-in street scenes, would refuse a folder of the user's.
    """
    prefix = "data.root="
    if any(each.startswith("data=") or is_folder(each) for each in arguments):
        return list(arguments)
    roots = [Path(each.removeprefix(prefix)) for each in arguments if each.startswith(prefix)]
    if len(roots) != 1 or not roots[0].is_dir() or (roots[0] / "streets.json").is_file():
        return list(arguments)
    return [str(roots[0]), *(each for each in arguments if not each.startswith(prefix))]


def with_layout(folder: str, others: Sequence[str], tasks: Sequence[TaskInfo]) -> list[str]:
    """The arguments for a folder and the `others` that were typed after it; prints what was recognized.

    Args:
        tasks: all tasks; `task=` among the others chooses one, and `data=` one of the layouts.

    Returns: the arguments; empty if the folder must be converted first.
    Raises: UserError if there is no known layout.
    """
    typed = dict(argument.split("=", 1) for argument in others if argument.startswith(("task=", "data=")))
    candidates = [task for task in tasks if typed.get("task", task.name) == task.name]
    if not candidates:
        raise UserError(f"task={typed['task']}: no such task; one of {', '.join(t.name for t in tasks)}")
    if not Path(folder).exists():
        raise UserError(f"{folder}: no such folder; check the path")
    layouts = _layouts(folder, candidates, tasks)
    wanted = [layout for layout in layouts if typed.get("data", layout.data) == layout.data]
    if not wanted:
        seen = ", ".join(f"data={layout.data} ({layout.title})" for layout in layouts)
        raise UserError(
            f"{folder}: not in the layout of data={typed['data']}, but of {seen}; leave out data="
        )
    found = as_arguments(Path(folder), wanted)
    print("\n".join(found.lines), flush=True)
    rest = [argument for argument in others if not argument.startswith(("task=", "data="))]
    return [*found.arguments, *rest] if found.arguments else []


def _layouts(folder: str, candidates: Sequence[TaskInfo], tasks: Sequence[TaskInfo]) -> list[Layout]:
    """The layouts of the candidates. Raises: UserError; names that of another task, if any."""
    try:
        return recognize(Path(folder), candidates)
    except UserError:
        best = _of_other_tasks(folder, [task for task in tasks if task not in candidates])
        if best is None:
            raise
    task = candidates[0].name
    formats = ", ".join(options_by_task("data", groups()["data"])[task])
    raise UserError(
        f"{folder}: no layout of task={task} (data={formats}), but {best.title}; set task={best.task}, or "
        f"leave out task={task}"
    )


def _of_other_tasks(folder: str, others: Sequence[TaskInfo]) -> Layout | None:
    try:
        return recognize(Path(folder), others)[0] if others else None
    except UserError:
        return None
