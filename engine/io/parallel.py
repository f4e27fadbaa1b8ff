"""A function called for every item of a range, in several processes, with a progress bar."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from engine.errors import UserError
from engine.io.progress import Progress


class ItemResult(NamedTuple):
    """What the function returned for `item`, or the text of its UserError."""

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
    """`function(item)` for every item, in `workers` processes (0: in this one), in the order of the items.

    A UserError becomes an `ItemResult.error`; any other exception is a bug and is raised. Results travel
    between processes, so they should be small.

    Args:
        unit: what the progress bar counts.
        quiet: no progress bar.
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
    """Set up a DataLoader worker: no signals of the process group, no threads.

    Ctrl-C and a scheduler's SIGTERM go to the whole process group. The main process decides what to do about
    them and needs its workers until then, so they leave the group. It terminates them when it ends (torch's
    own handler ends a worker quietly if its parent asks).
    """
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The workers are the parallelism: threads inside them only fight over the same cores.
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
