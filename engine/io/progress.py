"""Progress of long jobs: a bar on a terminal, lines otherwise."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from engine.errors import UserError

T = TypeVar("T")


PATIENCE_S = 1.5
"""How many seconds a job may take before progress is shown."""


_BESIDE_S = 1.5
"""For how many seconds after a shown progress advanced nothing else is announced."""


_announced: set[str] = set()
"""What is being announced; work that calls other work of the same name announces it once."""


_active_at = [-math.inf]
"""When a shown progress last advanced, so that `announced` is silent beside it."""


class Progress:
    """Shows a bar on a terminal; otherwise prints lines: for the first and last step, and every few seconds.

    Args:
        total: number of steps in the whole job; 0 if unknown.
        first: number of steps already done.
        every_seconds: seconds between lines if the output is not a terminal.
        leave: whether the bar stays on the terminal when it is done.
        at_most_s: seconds after which the job ends in any case.
        after: seconds until the first line or the bar; a job that ends sooner shows neither.
        print_line: prints a line (for tests).
    """

    def __init__(
        self,
        total: int,
        *,
        first: int = 0,
        unit: str = "step",
        every_seconds: float = 10.0,
        leave: bool = True,
        at_most_s: float = math.inf,
        after: float = 0.0,
        print_line: Callable[[str], None] | None = None,
    ) -> None:
        self.total, self.first, self.unit = total, first, unit
        self.print_line = print_line or partial(print, flush=True)
        self._started = time.monotonic()
        self._next = self._started + after
        self._bar: Any = None
        self._leave, self._at_most = leave, at_most_s
        self._every, self._shown = every_seconds, not after
        if self._shown:
            self._open_bar()

    def _open_bar(self) -> None:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._every = 0.2
            self._bar = tqdm(
                total=self.total or None,
                initial=self.first,
                unit=self.unit,
                dynamic_ncols=True,
                leave=self._leave,
            )

    def due(self, done: int) -> bool:
        """Whether `update` would show something now."""
        return (0 < self.total <= done and self._shown) or time.monotonic() >= self._next

    def update(self, done: int, text: str = "") -> None:
        """Show that `done` of `total` steps are done, with `text`, if an update is due."""
        if not self.due(done):
            if self._shown:
                _active_at[0] = time.monotonic()
            return
        now = _active_at[0] = time.monotonic()
        if not self._shown:
            self._shown = True
            self._open_bar()
        self._next = now + self._every
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        if self.total > 0:
            parts = [f"{self.unit} {done}/{self.total}", text, f"ETA {self._eta(done, now)}"]
        else:
            parts = [f"{self.unit} {done}", text]
        self.print_line("  ".join(part for part in parts if part))

    def _eta(self, done: int, now: float) -> str:
        steps = max(done - self.first, 1)
        passed = now - self._started
        seconds = int(min(passed / steps * (self.total - done), max(self._at_most - passed, 0)))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def print(self, text: str) -> None:
        """Print a line, above the bar."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            self.print_line(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class PartProgress:
    """Shows how many parts of a job are done, if it takes more than a few seconds.

    Call it as `progress(done, total)` after each part.
    """

    def __init__(self, *, unit: str, least_seconds: float = 4.0) -> None:
        self.unit, self._least = unit, least_seconds
        self._started = self._called = time.monotonic()
        self._progress: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        if done <= 1:  # the first part of another job
            self.close()
            self._started = self._called
        self._called = time.monotonic()
        if self._progress is None:
            if done >= total or (self._called - self._started) * total < self._least * done:
                return
            self._progress = Progress(total, first=done, unit=self.unit, leave=False)
        self._progress.update(done)
        if done >= total:
            self.close()

    def close(self) -> None:
        if self._progress is not None:
            self._progress.close()
        self._progress = None


@contextmanager
def announced(what: str, *, print_line: Callable[[str], None] | None = None) -> Iterator[Callable[[], None]]:
    """Print `what` if it takes longer than `PATIENCE_S`, and again every ten seconds, unless other progress
    advances.

    For work of unknown length. Yields a function that stops it early, when there is other progress to show.
    """
    if what in _announced:
        yield lambda: None
        return
    say = print_line or partial(print, flush=True, file=sys.stdout)  # the work may redirect it
    done, started = threading.Event(), time.monotonic()

    def watch() -> None:
        wait = PATIENCE_S
        while not done.wait(wait):
            now = time.monotonic()
            if 0 <= now - _active_at[0] < _BESIDE_S:
                wait = PATIENCE_S
                continue
            say(f"{what} ... {now - started:.0f} s")
            wait = 10.0

    thread = threading.Thread(target=watch, name="announced", daemon=True)
    _announced.add(what)
    thread.start()
    try:
        yield done.set
    finally:
        done.set()
        _announced.discard(what)
        thread.join()


def counted_off(items: Sequence[T], *, what: str, unit: str) -> Iterator[T]:
    """The items of a job; if it takes long, `what` is announced until the first one is done, and then the
    number of those that are done is shown."""
    progress = Progress(len(items), unit=unit, after=PATIENCE_S)
    with announced(what) as end:
        for done, item in enumerate(items, start=1):
            yield item
            end()
            progress.update(done)
    progress.close()


def with_progress(work: Callable[..., T], total: int, *, unit: str) -> T:
    """Call `work(progress=...)` with a progress bar; `work` calls `progress(done, total)`.

    Raises: UserError if `work` raises a ValueError (packages below the engine do not use UserError).
    """
    bar = Progress(total, unit=unit)
    try:
        return work(progress=lambda done, _: bar.update(done))
    except ValueError as error:
        raise UserError(str(error)) from None
    finally:
        bar.close()
