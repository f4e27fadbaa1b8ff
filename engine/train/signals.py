"""Stopping on request: SIGTERM and SIGINT set a flag that the training loop reads between two steps."""

import os
import signal
import threading
import time
from types import FrameType

EXIT_STOPPED = 75
"""Exit status of a run that was stopped, saved itself and can be resumed (EX_TEMPFAIL of sysexits.h)."""


ONE_REQUEST_S = 2.0
"""Signals that come within this many seconds are one request: a terminal and torchrun both pass Ctrl-C on."""


class Stopped(Exception):
    """The run was asked to stop and has saved itself."""


class StopRequest:
    """Catches SIGTERM and SIGINT while installed; asking again, seconds later, ends the process at once."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._at = 0.0
        self._before: dict[int, object] = {}

    def install(self) -> None:
        """Start to listen; without effect outside of the main thread, where signals cannot be caught."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)

    def remove(self) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._at = signal.Signals(number).name, now
        elif now - self._at > ONE_REQUEST_S:
            self.remove()
            os.kill(os.getpid(), number)
