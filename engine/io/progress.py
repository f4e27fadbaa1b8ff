"""Progress of a long job: a bar on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from engine.errors import UserError

T = TypeVar("T")


class Progress:
    """A bar on a terminal; elsewhere a line every few seconds, one for the first step and one for the last.

    Args:
        total: steps of the whole job.
        first: steps that were done before.
        every_seconds: seconds between lines if the output is not a terminal.
        say: prints a line (for tests).
    """

    def __init__(
        self,
        total: int,
        *,
        first: int = 0,
        unit: str = "step",
        every_seconds: float = 10.0,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.total, self.first, self.unit = total, first, unit
        self.say = say or partial(print, flush=True)
        self._started = time.monotonic()
        self._next = self._started
        self._bar = None
        self._every = every_seconds
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._every = 0.2
            self._bar = tqdm(total=total, initial=first, unit=unit, dynamic_ncols=True)

    def due(self, done: int) -> bool:
        """Whether it is time for `update` to show something."""
        return done >= self.total or time.monotonic() >= self._next

    def update(self, done: int, text: str = "") -> None:
        """Show that `done` of `total` steps are done, with `text`, if it is time."""
        if not self.due(done):
            return
        now = time.monotonic()
        self._next = now + self._every
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        parts = [f"{self.unit} {done}/{self.total}", text, f"ETA {self._eta(done, now)}"]
        self.say("  ".join(part for part in parts if part))

    def _eta(self, done: int, now: float) -> str:
        steps = max(done - self.first, 1)
        seconds = int((now - self._started) / steps * (self.total - done))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def print(self, text: str) -> None:
        """Print a line, above the bar."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            self.say(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def with_progress(work: Callable[..., T], total: int, *, unit: str) -> T:
    """`work(progress=...)` with a bar; `work` calls `progress(done, total)`.

    Raises: UserError for a ValueError of `work`, which may belong to a package that does not know UserError.
    """
    bar = Progress(total, unit=unit)
    try:
        return work(progress=lambda done, _: bar.update(done))
    except ValueError as error:
        raise UserError(str(error)) from None
    finally:
        bar.close()
