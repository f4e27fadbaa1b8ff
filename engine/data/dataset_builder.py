"""Builds the datasets of a run: leaves out excluded and unreadable samples, and caches decoded pixels."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.contracts import Dataset, DataSource
from engine.errors import UserError, counted
from engine.io.files import evenly_spaced, write_json
from engine.runtime import Runtime


class DatasetBuilder:
    """Builds the datasets of one run; all processes of the run get the same datasets.

    Args:
        runtime: its processes share the work of reading files.
        on_error: what to do with unreadable samples: `fail` raises an error when such a sample is read;
            `skip` reads every file once in advance and leaves out the unreadable ones.
        error_budget: the largest fraction of a split that can be skipped.
        cache: folder for decoded pixels; missing files are added (None: decode files every time).
        exclude: JSON file of samples to leave out (`engine.data.exclude`).
        workers: number of processes that read or decode.
        resumed_from: `skipped.json` of a resumed run. The samples that it lists are skipped again, without
            reading any files.
        samples: names of the training samples of a resumed run (`engine.data.sample_list`).

    Attributes:
        skipped: the skipped samples by split; empty with `fail`.

    Raises:
        UserError: if `on_error` is unknown, the budget is not in 0..1, or `exclude` or `resumed_from` cannot
            be read.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        on_error: str = "fail",
        error_budget: float = 0.01,
        cache: str | None = None,
        exclude: str | None = None,
        workers: int = 0,
        resumed_from: Path | None = None,
        samples: list[str] | None = None,
    ) -> None:
        if on_error not in ("fail", "skip"):
            raise UserError(f"data.on_error must be fail or skip, got {on_error!r}")
        if type(error_budget) not in (int, float) or not 0 <= error_budget <= 1:
            raise UserError(f"data.error_budget must be a number in 0..1, got {error_budget!r}")
        self.on_error, self.error_budget = on_error, error_budget
        self.cache = None if cache is None else Path(cache).expanduser()
        self.workers, self.runtime = workers, runtime
        self._samples, self._lost = samples, list[str]()
        self._excluded: dict[str, dict[str, str]] = {}
        self._exclusions: dict[str, list[str]] = {}
        if exclude is not None:
            from engine.data.exclude import read_excluded

            self._excluded = read_excluded(Path(exclude).expanduser())
        self.skipped: dict[str, list[dict[str, str]]] = {}
        self._skipped_before: dict[str, list[dict[str, str]]] = {}
        if resumed_from is not None and resumed_from.exists():
            from engine.data.unreadable import read_skipped

            self._skipped_before = read_skipped(resumed_from)

    @classmethod
    def from_config(
        cls,
        options: Any,
        *,
        runtime: Runtime,
        resumed_from: Path | None = None,
        samples: list[str] | None = None,
    ) -> "DatasetBuilder":
        """Build from the options of the `data` config (`engine.config.options.DataOptions`)."""
        return cls(
            on_error=options.on_error,
            error_budget=options.error_budget,
            cache=options.cache,
            exclude=options.exclude,
            workers=options.workers,
            runtime=runtime,
            resumed_from=resumed_from,
            samples=samples,
        )

    def dataset(
        self, source: DataSource, split: str, transform: Any, *, seed: int = 0, limit: int | None = None
    ) -> Any:
        """`source.dataset(split, transform, seed)`, or only `limit` of its samples, evenly spaced.

        In a resumed run, the first dataset of train has the samples of that run.

        Raises:
            UserError: if there is no such split, all samples are excluded, too many are unreadable, or the
                cache is stale or cannot be built.
        """
        if limit is not None and limit < 1:
            raise UserError(f"data.limit must be at least 1, got {limit}")
        dataset = source.dataset(split, transform, seed=seed)
        if split in self._excluded:
            source = self.without_excluded(source, split)
            dataset = source.dataset(split, transform, seed=seed)
        names, self._samples = (self._samples, None) if split == "train" else (None, self._samples)
        if limit is not None and limit < len(dataset) and names is None:
            # Evenly spaced, because the first ones could all belong to one class or one city.
            chosen = set(evenly_spaced(len(dataset), limit))
            source = _without(source, split, [i for i in range(len(dataset)) if i not in chosen])
            dataset = source.dataset(split, transform, seed=seed)
        if unreadable := self._unreadable(dataset, split):
            source = _without(source, split, unreadable)
            dataset = source.dataset(split, transform, seed=seed)
        if names is not None:
            source = self._in_places(source, dataset, names, limit)
            dataset = source.dataset(split, transform, seed=seed)
        if self.cache is None:
            return dataset
        cache = self._open_cache(self.cache, dataset, source)
        return source.dataset(split, transform, seed=seed, cache=cache)

    def without_excluded(self, source: Any, split: str) -> Any:
        """`source` without the samples of a split that `exclude` lists.

        Raises: UserError if no sample would be left.
        """
        names = self._excluded.get(split)
        if not names:
            return source
        from engine.data.exclude import excluded_indices

        dataset = source.dataset(split, None)
        indices, self._exclusions[split] = excluded_indices(dataset, names, split)
        return _without(source, split, indices)

    def _in_places(self, source: Any, dataset: Dataset, names: list[str], limit: int | None) -> Any:
        from engine.data.sample_list import in_places

        skipped = len(self._skipped_before.get("train", ()))
        if limit is not None and (limit < len(names) or len(names) + skipped < min(limit, len(dataset))):
            raise UserError(
                f"data.limit={limit}: the run began with {len(names)} training samples; restore it, or "
                "start a new run with init_from=<this run>"
            )
        present = [dataset.name(index) for index in range(len(dataset))]
        partial = limit is not None or skipped > 0
        source, self._lost = in_places(source, names, present, partial=partial)
        return source

    def _unreadable(self, dataset: Dataset, split: str) -> list[int]:
        """Indices of the samples to leave out."""
        # Evaluation on the training split reads more files (instances) than training: check it separately.
        key = split if split not in self.skipped else f"{split}, evaluated"
        resumed = key in self._skipped_before
        if not resumed and self.on_error == "fail":
            return []
        from engine.data import unreadable

        if resumed:
            self.skipped[key] = self._skipped_before[key]
            return unreadable.skipped_indices(dataset, self.skipped[key])
        runtime = self.runtime
        share = unreadable.find_unreadable(
            dataset, workers=self.workers, rank=runtime.rank, world_size=runtime.world_size, split=split
        )
        samples = sorted(sample for part in runtime.gather(share) for sample in part)
        unreadable.check_error_budget(samples, total=len(dataset), budget=self.error_budget, split=split)
        self.skipped[key] = unreadable.skipped_files(dataset, samples)
        return [sample.index for sample in samples]

    def _open_cache(self, folder: Path, dataset: Any, source: Any) -> Any:
        from engine.data.pixel_cache import PixelCache

        present = [index for index in range(len(dataset)) if index not in getattr(dataset, "gaps", ())]
        images = [dataset.image_path(index) for index in present]
        masks = dataset.masks() if hasattr(dataset, "masks") else None
        if masks is not None:
            masks = replace(masks, paths=[masks.paths[index] for index in present])
        return PixelCache.open_or_build(
            folder,
            images=images,
            masks=masks,
            workers=self.workers,
            pixel_range=getattr(source, "pixel_range", None),
            upright=getattr(source, "upright", True),
        )

    @property
    def skipped_counts(self) -> dict[str, Any]:
        """{"skipped": {split: number of samples}} for `metrics.json`; empty if nothing was checked."""
        counts = {split: len(entries) for split, entries in self.skipped.items()}
        return {"skipped": counts} if counts else {}

    def notes(self) -> list[str]:
        """Lines for the console about excluded and skipped samples, and those that a resumed run has lost."""
        lines = [line for lines in self._exclusions.values() for line in lines]
        return (
            lines
            + self._lost
            + [
                f"{counted(len(entries), f'{split} file')} left out (skipped.json)"
                f"{', the first' if len(entries) > 1 else ''}: {entries[0]['error']}"
                for split, entries in self.skipped.items()
                if entries
            ]
        )

    def write(self, folder: Path) -> None:
        """Write `skipped.json` if anything was checked, and `excluded.json` if anything was excluded.

        Raises: UserError if they cannot be written.
        """
        if self._excluded:
            from engine.data.exclude import write_excluded

            write_excluded(folder / "excluded.json", self._excluded)
        if self.skipped:
            write_json(folder / "skipped.json", {**self._skipped_before, **self.skipped})


def _without(source: Any, split: str, indices: Iterable[int]) -> Any:
    """A copy of `source` without some samples of one split."""
    reduced = copy.copy(source)
    reduced.splits = {**source.splits, split: source.splits[split].without(indices)}
    return reduced
