"""Between a split's files and the loader: some of its samples, without unreadable ones, through a cache."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.data import unreadable
from engine.data.pixel_cache import PixelCache
from engine.io.files import spread, write_json
from engine.runtime import Runtime

_OPTIONS = ("on_error", "error_budget", "cache", "workers")


class DatasetBuilder:
    """Makes the data sets of one run, the same in each of its processes.

    `data` is what a data config builds: `splits`, by name, each with `without(indices)`; and
    `dataset(split, transform, seed, cache)`, whose result has what `sift.Readable` asks for and, where there
    are masks, `masks()`.

    Args:
        on_error: what happens to samples that cannot be read: `fail` when one is met, which costs nothing, or
            `skip`: every file is read once beforehand, and what cannot be read is left out.
        error_budget: the largest share of a split that may be left out.
        cache: folder of decoded pixels; what it lacks is built (None: files are decoded every time).
        workers: processes that read or decode.
        runtime: its processes share the reading.
        known: `skipped.json` of a run that goes on: of the splits that it lists the same is left out, and
            nothing is read.

    Attributes:
        skipped: by split, what was left out; empty with `fail`.

    Raises:
        ValueError: another `on_error`, or a budget that is no share.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        on_error: str = "fail",
        error_budget: float = 0.01,
        cache: str | None = None,
        workers: int = 0,
        known: Path | None = None,
    ) -> None:
        if on_error not in ("fail", "skip"):
            raise ValueError(f"data.on_error must be fail or skip, got {on_error!r}")
        if type(error_budget) not in (int, float) or not 0 <= error_budget <= 1:
            raise ValueError(f"data.error_budget must be a share in 0..1, got {error_budget!r}")
        self.on_error, self.error_budget = on_error, error_budget
        self.cache = None if cache is None else Path(cache).expanduser()
        self.workers, self.runtime = workers, runtime
        self.skipped: dict[str, list[unreadable.Entry]] = {}
        self._known = {} if known is None else unreadable.read_skipped(known)

    @classmethod
    def of(
        cls, options: Mapping[str, Any], *, runtime: Runtime, known: Path | None = None
    ) -> "DatasetBuilder":
        """With what a `data` group says; that of an older run lacks some keys."""
        given = {name: options[name] for name in _OPTIONS if name in options}
        return cls(**given, runtime=runtime, known=known)

    def dataset(
        self, data: Any, split: str, transform: Any, *, seed: int = 0, limit: int | None = None
    ) -> Any:
        """`data.dataset(split, transform, seed)`, of `limit` samples, evenly spread, where that is not None.

        Raises:
            UserError: there is no such split, too much of it cannot be read, or the cache is stale or cannot
                be built.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"data.limit must be at least 1, got {limit}")
        dataset = data.dataset(split, transform, seed=seed)
        if limit is not None and limit < len(dataset):
            kept = set(spread(len(dataset), limit))  # the first ones may all be of one class, or one town
            data = _without(data, split, [index for index in range(len(dataset)) if index not in kept])
            dataset = data.dataset(split, transform, seed=seed)
        if bad := self._unreadable(dataset, split):
            data = _without(data, split, bad)
            dataset = data.dataset(split, transform, seed=seed)
        if self.cache is None:
            return dataset
        return data.dataset(split, transform, seed=seed, cache=self._open_cache(self.cache, dataset))

    def _unreadable(self, dataset: Any, split: str) -> list[int]:
        """Indices of the samples to leave out."""
        # Evaluating on the training split reads more of each sample (instances) than training on it does.
        key = split if split not in self.skipped else f"{split}, evaluated"
        if key in self._known:
            self.skipped[key] = self._known[key]
            return unreadable.find_listed(dataset, self.skipped[key])
        if self.on_error == "fail":
            return []
        where = self.runtime
        share = unreadable.find_unreadable(
            dataset, workers=self.workers, rank=where.rank, world_size=where.world_size, split=split
        )
        faults = sorted(fault for part in where.gather(share) for fault in part)
        unreadable.check_budget(faults, total=len(dataset), budget=self.error_budget, split=split)
        self.skipped[key] = unreadable.entries(dataset, faults)
        return [fault.index for fault in faults]

    def _open_cache(self, folder: Path, dataset: Any) -> PixelCache:
        images = [dataset.image_path(index) for index in range(len(dataset))]
        masks = dataset.masks() if hasattr(dataset, "masks") else None
        return PixelCache.open_or_build(folder, images=images, masks=masks, workers=self.workers)

    @property
    def counts(self) -> dict[str, Any]:
        """{"skipped": {split: samples it lacks}} for `metrics.json`; empty where nothing was sifted."""
        counts = {split: len(listed) for split, listed in self.skipped.items()}
        return {"skipped": counts} if counts else {}

    def notes(self) -> list[str]:
        """A line per split that lacks samples."""
        return [
            f"{len(listed)} {split} file{'s' if len(listed) > 1 else ''} left out (skipped.json), the first: "
            f"{listed[0]['error']}"
            for split, listed in self.skipped.items()
            if listed
        ]

    def write(self, folder: Path) -> None:
        """Write `skipped.json`, where anything was sifted. Raises: UserError when it cannot be written."""
        if self.skipped:
            write_json(folder / "skipped.json", {**self._known, **self.skipped})


def _without(data: Any, split: str, indices: Iterable[int]) -> Any:
    """`data` with some samples less in one split; the original stays."""
    narrowed = copy.copy(data)
    narrowed.splits = {**data.splits, split: data.splits[split].without(indices)}
    return narrowed
