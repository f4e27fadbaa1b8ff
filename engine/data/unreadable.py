"""Finds unreadable samples before training, to leave them out of a split.

Replacing damaged samples during training would make the sequence of samples depend on when a file was
damaged, and evaluations on different samples cannot be compared. Therefore the whole split is read once
before the first step. Unreadable samples are left out and listed in `skipped.json`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.contracts import Dataset
from engine.data.images.messages import DamagedFileError
from engine.errors import UserError
from engine.io.parallel import parallel_map

SkippedFile = dict[str, str]
"""One entry of `skipped.json`: {"file": ..., "name": ..., "error": ...}."""


class UnreadableSample(NamedTuple):
    """An unreadable sample: its index, its image file, and the error for the image or its mask."""

    index: int  # type: ignore[assignment]  # shadows tuple.index
    file: str
    error: str


def find_unreadable(
    dataset: Dataset, *, workers: int = 0, rank: int = 0, world_size: int = 1, split: str = ""
) -> list[UnreadableSample]:
    """Read every sample, as in training, and return those that raise a UserError, in order.

    Args:
        workers: number of processes that read.
        rank, world_size: select this process's share of the samples; rank 0 shows a progress bar.
        split: name of the split, for the progress bar.
    """

    def read(index: int) -> None:
        try:
            dataset.read(index)
        except DamagedFileError as error:
            raise UserError(error.alone) from error  # data.on_error=skip is no remedy: it is set

    share = range(rank, len(dataset), world_size)
    results = parallel_map(read, share, workers=workers, unit=f"{split} file read".lstrip(), quiet=rank > 0)
    return [UnreadableSample(r.item, dataset.image_path(r.item), r.error) for r in results if r.error]


def check_error_budget(
    unreadable: Sequence[UnreadableSample], *, total: int, budget: float, split: str
) -> None:
    """Raise a UserError if all samples, or more than the fraction `budget` of `total`, are unreadable."""
    count = len(unreadable)
    if not count or (count <= budget * total and count < total):
        return
    if count == total:
        raise UserError(
            f"all files of {split} ({total}) cannot be read; restore or replace them; the first: "
            f"{unreadable[0].error}"
        )
    raise UserError(
        f"{count} of {total} files of {split} cannot be read ({count / total:.2%}; data.error_budget allows "
        f"{budget:.2%}); repair or remove them, or raise data.error_budget; the first: {unreadable[0].error}"
    )


def skipped_files(dataset: Dataset, unreadable: Iterable[UnreadableSample]) -> list[SkippedFile]:
    """The entries of `skipped.json` for these samples."""
    return [{"file": s.file, "name": dataset.name(s.index), "error": s.error} for s in unreadable]


def skipped_indices(dataset: Dataset, skipped: Iterable[SkippedFile]) -> list[int]:
    """Indices of the listed samples in the dataset: by file, or by name if the data has moved."""
    by_file = {entry["file"]: entry for entry in skipped}
    indices = [index for index in range(len(dataset)) if dataset.image_path(index) in by_file]
    if indices or not by_file:
        return indices
    names = {entry["name"] for entry in by_file.values()}
    return [index for index in range(len(dataset)) if dataset.name(index) in names]


def read_skipped(path: Path) -> dict[str, list[SkippedFile]]:
    """The skipped samples of a run, by split; empty if there is no `skipped.json`.

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
            f"{path}: damaged; it lists the samples that the run skips: restore it, or start a new run"
        ) from None
