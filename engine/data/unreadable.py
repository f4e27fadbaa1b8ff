"""Samples that cannot be read are left out before training, so that everything after is exact.

Replacing a broken sample during training would make the stream depend on when a file broke, and evaluations
with other samples cannot be compared. So a split is read once, completely, before the first step; what cannot
be read is left out of it and listed in `skipped.json`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.contracts import Dataset
from engine.errors import UserError
from engine.io.parallel import parallel_map

SkippedFile = dict[str, str]
"""One entry of `skipped.json`: {"file": ..., "name": ..., "error": ...}."""


class UnreadableSample(NamedTuple):
    """A sample that cannot be read: its index, its image, and what is wrong with the image or its mask."""

    index: int  # type: ignore[assignment]  # shadows tuple.index
    file: str
    error: str


def find_unreadable(
    dataset: Dataset, *, workers: int = 0, rank: int = 0, world_size: int = 1, split: str = ""
) -> list[UnreadableSample]:
    """Read every sample as training will; those that raise a UserError, in order.

    Args:
        workers: processes that read.
        rank, world_size: which share of the samples is read here; rank 0 shows a progress bar.
        split: what the bar calls the files.
    """

    def read(index: int) -> None:
        dataset.read(index)

    share = range(rank, len(dataset), world_size)
    results = parallel_map(read, share, workers=workers, unit=f"{split} file read".lstrip(), quiet=rank > 0)
    return [UnreadableSample(r.item, dataset.image_path(r.item), r.error) for r in results if r.error]


def check_error_budget(
    unreadable: Sequence[UnreadableSample], *, total: int, budget: float, split: str
) -> None:
    """Raises: UserError if more than the share `budget` of `total` samples is unreadable, or all of them."""
    count = len(unreadable)
    if not count or (count <= budget * total and count < total):
        return
    raise UserError(
        f"{count} of {total} files of {split} cannot be read ({count / total:.2%}; data.error_budget allows "
        f"{budget:.2%}), the first: {unreadable[0].error}; repair or remove the files, or raise "
        "data.error_budget"
    )


def skipped_files(dataset: Dataset, unreadable: Iterable[UnreadableSample]) -> list[SkippedFile]:
    """The entries of `skipped.json` for these samples."""
    return [{"file": s.file, "name": dataset.name(s.index), "error": s.error} for s in unreadable]


def skipped_indices(dataset: Dataset, skipped: Iterable[SkippedFile]) -> list[int]:
    """Indices of listed samples that the data set still has: by file, or by name if the data moved."""
    by_file = {entry["file"]: entry for entry in skipped}
    indices = [index for index in range(len(dataset)) if dataset.image_path(index) in by_file]
    if indices or not by_file:
        return indices
    names = {entry["name"] for entry in by_file.values()}
    return [index for index in range(len(dataset)) if dataset.name(index) in names]


def read_skipped(path: Path) -> dict[str, list[SkippedFile]]:
    """What a run left out, by split; empty if there is no `skipped.json`.

    Raises: UserError if the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(split): [{key: str(entry[key]) for key in ("file", "name", "error")} for entry in entries]
            for split, entries in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: unreadable, so the run's samples are unknown; restore it, or start a new run"
        ) from None
