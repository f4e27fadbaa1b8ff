"""The death of a process that reads data, as an error where data is waited for and nowhere else."""

import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from engine.errors import UserError
from engine.task import Batch

A_MOMENT_S = 1.0
"""How much later than its workers the main process may get a signal that is sent to all of a job."""


class LostWorker(UserError):
    """A process that reads data was killed."""


class Batches(Iterator[Batch]):
    """A loader's batches.

    torch raises the death of a worker out of a signal handler, so in the middle of whatever the main process
    does: an optimizer step, a checkpoint. Here it is noted, and raised by the next `next`; by one that waits
    already within the 5 s after which torch looks at its workers.
    """

    _deaths: list[str] = []  # noqa: RUF012  one list per process, as there is one signal handler

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._deaths.clear()
        _surround_torchs_handler()

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            LostWorker: a process that reads data was killed.
        """
        try:
            if self._deaths:
                raise RuntimeError(self._deaths[-1])
            return next(self._batches)
        except (RuntimeError, ConnectionError, EOFError) as error:
            if not _tells_of_a_death(error):
                raise
            time.sleep(A_MOMENT_S)
            cause = re.search(r"signal: ([^.]*)", " ".join([*self._deaths, str(error)]))
            raise LostWorker(
                f"a process that reads data was killed ({cause[1] if cause else 'cause unknown'}); usually "
                "memory, or shared memory in /dev/shm, ran out: lower data.workers or trainer.batch, or give "
                "the run more; go on with resume=<run folder>"
            ) from None


def _tells_of_a_death(error: Exception) -> bool:
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid" in str(error)
    # A batch lies in shared memory that its worker hands over: a dead one cannot. What goes wrong inside of a
    # worker that lives is told as "Caught ..." instead.
    return not str(error).startswith("Caught ")


def _surround_torchs_handler() -> None:
    # torch's own is there once a first loader has started its workers.
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and not hasattr(handler, "notes_deaths"):
        signal.signal(signal.SIGCHLD, _noting(handler))


def _noting(handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
    def note(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except RuntimeError as error:
            Batches._deaths.append(str(error))

    note.notes_deaths = True  # type: ignore[attr-defined]
    return note
