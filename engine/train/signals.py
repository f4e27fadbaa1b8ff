"""Stopping on request: SIGTERM and SIGINT set a flag that the training loop reads between two steps."""

import os
import signal
import threading
import time
from types import FrameType

EXIT_STOPPED = 75
"""Exit status of a run that was stopped, has saved itself and can be resumed (EX_TEMPFAIL of sysexits.h)."""


ONE_REQUEST_S = 2.0
"""Signals within this many seconds are one request: a terminal and torchrun both pass Ctrl-C on."""


class Stopped(Exception):
    """The run was asked to stop and has saved itself."""


class StopRequest:
    """Records SIGTERM and SIGINT while installed; a second one, seconds later, ends the process at once."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._received_at = 0.0
        self._previous: dict[int, object] = {}

    def install(self) -> None:
        """Start listening; without effect outside the main thread, where signals cannot be caught."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._record)

    def remove(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def _record(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._received_at = signal.Signals(number).name, now
        elif now - self._received_at > ONE_REQUEST_S:
            self.remove()
            os.kill(os.getpid(), number)
