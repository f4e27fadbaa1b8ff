"""The samples of a run, by name, so that a resumed run uses the same ones in the same order.

The position of a sample in its split decides when it is used and how it is augmented. If files were removed
after the run began, their positions stay empty, and all other samples are used as before.
"""

import copy
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import UserError, some

_LOST_SHARE = 0.5
"""Largest share of missing samples; if more are gone, it must be different data."""


def read(path: Path, split: str = "train") -> list[str] | None:
    """The names of a split in a run's `train_names.json`; None for a run that did not write it, or that
    evaluated another split.

    Raises: UserError if the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = content["train"]
        if split not in content:
            return None
        names = content[split]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: damaged; it lists the samples of the run: restore it, or start a new run")
    return names


def changed(split: str, names: list[str], present: list[str]) -> list[str]:
    """Lines about samples of an evaluated split that are gone or new since the run began."""
    gone, new = Counter(names), Counter(present)
    lost, added = list((gone - new).elements()), list((new - gone).elements())
    lines = []
    if lost:
        verb = "is" if len(lost) == 1 else "are"
        lines.append(f"{len(lost)} of the run's {len(names)} {split} samples {verb} gone ({some(lost)})")
    if added:
        lines.append(f"{split} samples added since the run began: {len(added)} ({some(added)})")
    return [f"{line}; scores are not comparable with the earlier ones of this run" for line in lines]


def changed_since(path: Path, split: str, dataset: Any) -> list[str]:
    """The lines of `changed` for the evaluated split of a run; none if it is evaluated on train.

    path: of the run's `train_names.json`.
    """
    names = None if split == "train" else read(path, split)
    if names is None:
        return []
    return changed(split, names, [dataset.name(index) for index in range(len(dataset))])


def in_places(
    source: Any, names: list[str], present: list[str], *, partial: bool = False
) -> tuple[Any, list[str]]:
    """A copy of `source` whose split train has the samples `names`, in this order, and a line about missing
    ones.

    Args:
        present: the names of the samples of the split, in its order.
        partial: whether the run used only part of the split.

    Raises:
        UserError: if more than half of the samples are gone, or there are new ones (unless `partial`).
    """
    if names == present or not hasattr(source.splits["train"], "take"):
        return source, []
    places: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(present):
        places[name].append(row)
    rows = np.array([places[name].pop(0) if places[name] else -1 for name in names], np.int64)
    lost = np.flatnonzero(rows < 0)
    gone = [names[index] for index in lost]
    if len(gone) > _LOST_SHARE * len(names):
        raise UserError(
            f"{len(gone)} of the run's {len(names)} training samples are gone ({some(gone)}); set "
            "data.root to the run's data, or start a new run"
        )
    new = [name for name, rows_left in places.items() for _ in rows_left]
    if new and not partial:
        raise UserError(
            f"training samples added since the run began: {len(new)} ({some(new)}); remove them, or "
            "start a new run with init_from=<this run>"
        )
    arranged = copy.copy(source)
    arranged.splits = {**source.splits, "train": source.splits["train"].take(rows)}
    if not gone:
        return arranged, []
    arranged.gaps = {"train": frozenset(lost.tolist())}
    verb = "is" if len(gone) == 1 else "are"
    place = "its position in the order stays" if len(gone) == 1 else "their positions in the order stay"
    return arranged, [
        f"{len(gone)} of the run's {len(names)} training samples {verb} gone ({some(gone)}); "
        f"{place} empty, and all others are used as before"
    ]
