"""A parallel map over a range of integers, with a progress bar."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from engine.errors import UserError
from engine.io.progress import Progress


class ItemResult(NamedTuple):
    """The function's return value for `item`, or the message of its UserError."""

    item: int
    value: Any
    error: str = ""


def parallel_map(
    function: Callable[[int], Any],
    items: range,
    *,
    workers: int = 0,
    unit: str = "file",
    quiet: bool = False,
) -> Iterator[ItemResult]:
    """Call `function(item)` for every item in `workers` processes (0: in this one); yields results in order.

    A UserError becomes an `ItemResult.error`; any other exception is raised. Results are sent between
    processes, so they should be small.

    Args:
        unit: unit of the progress bar.
        quiet: show no progress bar.
    """
    calls: Any = _Calls(function)
    order: Any = items
    results = DataLoader(
        calls,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=init_worker,
        prefetch_factor=8 if workers else None,
    )
    progress = None if quiet else Progress(len(items), unit=unit)
    try:
        for done, result in enumerate(results, start=1):
            yield result
            if progress is not None:
                progress.update(done)
    finally:
        if progress is not None:
            progress.close()


class _Calls:
    def __init__(self, function: Callable[[int], Any]) -> None:
        self.function = function

    def __getitem__(self, item: int) -> ItemResult:
        try:
            return ItemResult(item, self.function(item))
        except UserError as error:
            return ItemResult(item, None, str(error))


def _unchanged(result: Any) -> Any:
    return result


def init_worker(worker: int) -> None:
    """Set up a DataLoader worker: it leaves the process group and uses one thread.

    Ctrl-C and a scheduler's SIGTERM go to the whole process group. The main process handles them and still
    needs its workers while it does, so workers leave the group. The main process terminates them when it
    exits (torch's own handler lets a worker exit quietly).
    """
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Workers already run in parallel; threads inside them would only compete for the same cores.
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
