"""Stopping on request: SIGTERM and SIGINT set a flag that the training loop reads between two steps."""

import signal
from types import FrameType

EXIT_STOPPED = 75
"""Exit status of a run that was stopped, saved itself and can be resumed (EX_TEMPFAIL of sysexits.h)."""


class Stopped(Exception):
    """The run was asked to stop and has saved itself."""


class StopRequest:
    """Catches SIGTERM and SIGINT while it is installed; a second signal ends the process at once."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._before: dict[int, object] = {}

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)

    def remove(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        self.remove()
