"""Finds the layouts of files in a folder."""

from collections.abc import Iterable
from pathlib import Path

from engine.contracts import Layout, TaskInfo


def recognize(root: Path, tasks: Iterable[TaskInfo]) -> list[Layout]:
    """The layouts in a folder that one of `tasks` can train on, the one that is meant first."""
    found = [layout for task in tasks if task.layouts is not None for layout in task.layouts(root)]
    return sorted(found, key=lambda layout: -layout.rank)
