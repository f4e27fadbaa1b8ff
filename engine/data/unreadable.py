"""Samples that cannot be read are left out before training, so that everything after is exact.

Replacing a broken sample while training would make the stream depend on when a file broke, and an evaluation
that meets one could not be compared with another. So a split is read once, whole, before the first step; what
fails is taken out of it, and written down.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from engine.errors import UserError
from engine.io.parallel import parallel_map

Entry = dict[str, str]
"""One line of `skipped.json`: {"file": ..., "name": ..., "error": ...}."""


class Readable(Protocol):
    """What sifting asks of a data set: names, and the stored parts of a sample, before any transform."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Any: ...

    def name(self, index: int) -> str: ...

    def image_path(self, index: int) -> str: ...


class UnreadableSample(NamedTuple):
    """A sample that cannot be read: its index, its image, and what is wrong with that or with its mask."""

    index: int  # type: ignore[assignment]  # shadows tuple.index
    file: str
    error: str


def find_unreadable(
    dataset: Readable, *, workers: int = 0, rank: int = 0, world_size: int = 1, split: str = ""
) -> list[UnreadableSample]:
    """Read every sample as training will; those that raise a UserError, in order.

    Args:
        workers: processes that read.
        rank, world_size: which share of the samples is read here; rank 0 shows a bar.
        split: what the bar calls the files.
    """

    def read(index: int) -> None:
        dataset.read(index)

    share = range(rank, len(dataset), world_size)
    visits = parallel_map(read, share, workers=workers, unit=f"{split} file read".lstrip(), quiet=rank > 0)
    return [UnreadableSample(v.index, dataset.image_path(v.index), v.error) for v in visits if v.error]


def check_budget(faults: Sequence[UnreadableSample], *, total: int, budget: float, split: str) -> None:
    """Raises: UserError when more than the share `budget` of `total` samples is at fault, or all of them."""
    if not faults or (len(faults) <= budget * total and len(faults) < total):
        return
    share = len(faults) / total
    raise UserError(
        f"{len(faults)} of {total} files of {split} cannot be read ({share:.2%}; data.error_budget allows "
        f"{budget:.2%}), the first: {faults[0].error}; mend or remove the files, or raise data.error_budget"
    )


def entries(dataset: Readable, faults: Iterable[UnreadableSample]) -> list[Entry]:
    """The faults as `skipped.json` lists them."""
    return [{"file": f.file, "name": dataset.name(f.index), "error": f.error} for f in faults]


def find_listed(dataset: Readable, listed: Iterable[Entry]) -> list[int]:
    """Indices of the listed samples that the data set still has: by file, or by name where the data moved."""
    by_file = {entry["file"]: entry for entry in listed}
    found = [index for index in range(len(dataset)) if dataset.image_path(index) in by_file]
    if found or not by_file:
        return found
    names = {entry["name"] for entry in by_file.values()}
    return [index for index in range(len(dataset)) if dataset.name(index) in names]


def read_skipped(path: Path) -> dict[str, list[Entry]]:
    """What a run left out, by split; empty where it wrote nothing down.

    Raises: UserError when the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(split): [{key: str(entry[key]) for key in ("file", "name", "error")} for entry in listed]
            for split, listed in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: unreadable, so that the run's samples are unknown; restore it, or start a new run"
        ) from None
