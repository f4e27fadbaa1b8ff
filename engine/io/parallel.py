"""Every item of a list visited once, in several processes, with a bar: to check files, or to decode them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from engine.data.loader import start_worker
from engine.errors import UserError
from engine.io.progress import Progress


class Outcome(NamedTuple):
    """What came of one item: a result, or the user's error."""

    index: int  # type: ignore[assignment]  # shadows tuple.index
    result: Any
    error: str = ""


def parallel_map(
    visit: Callable[[int], Any],
    items: range,
    *,
    workers: int = 0,
    unit: str = "file",
    quiet: bool = False,
) -> Iterator[Outcome]:
    """`visit(item)` for every item, in `workers` processes (0: in this one), in the order of the items.

    A UserError is handed back as a value; any other exception is a bug and is raised. Results travel between
    processes, so `visit` leaves what is large where it belongs and returns what is small.

    Args:
        unit: what the bar counts.
        quiet: no bar.
    """
    calls: Any = _Calls(visit)
    order: Any = items
    visits = DataLoader(
        calls,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=start_worker,
        prefetch_factor=8 if workers else None,
    )
    progress = None if quiet else Progress(len(items), unit=unit)
    try:
        for done, outcome in enumerate(visits, start=1):
            yield outcome
            if progress is not None:
                progress.update(done)
    finally:
        if progress is not None:
            progress.close()


class _Calls:
    def __init__(self, visit: Callable[[int], Any]) -> None:
        self.visit = visit

    def __getitem__(self, index: int) -> Outcome:
        try:
            return Outcome(index, self.visit(index))
        except UserError as error:
            return Outcome(index, None, str(error))


def _as_it_is(outcome: Any) -> Any:
    return outcome
