"""Opens experiment trackers; a tracker that fails never stops a training."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from engine.errors import UserError, printable
from engine.run.run_folder import RunFolder
from engine.train.run_log import Tracker
from engine.train.trackers.tracked_run import TrackedRun

_CLASSES = {"wandb": "Wandb", "mlflow": "MLflow", "trackio": "Trackio"}


class Opener(Protocol):
    def __call__(self, run: TrackedRun, /) -> Tracker: ...


def check_installed(names: Sequence[str]) -> None:
    """Raise a UserError if the library of a tracker is not installed."""
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # None: a folder that happens to have this name
            raise UserError(
                f"trainer.tracker={name}: the package {name} is not installed; pip install -e '.[{name}]'"
            )


def open_trackers(names: Sequence[str], run: TrackedRun) -> list[Tracker]:
    """Open the trackers `wandb`, `mlflow` and `trackio`, or continue their record of a resumed run."""
    return [Guarded(name, _opener(name), run) for name in names]


def track_samples(trackers: Sequence[Tracker], run: RunFolder, step: int, names: Sequence[str]) -> None:
    """Record the sample predictions of a run in the trackers, and in TensorBoard if it is among the names."""
    images = sorted(run.samples.glob("*.png"))
    for tracker in trackers:
        tracker.images(step, images)
    if "tensorboard" in names:
        from engine.train.trackers.tensorboard_samples import add_samples

        add_samples(run, step, images)


def _opener(name: str) -> Opener:
    module = importlib.import_module(f"engine.train.trackers.{name}_tracker")
    opener: Opener = getattr(module, _CLASSES[name])
    return opener


class Guarded:
    """A tracker whose first error, of the network for example, is printed, and ends its use.

    Args:
        name: the value of trainer.tracker, for the message.
        opener: builds the tracker.
    """

    def __init__(self, name: str, opener: Opener, run: TrackedRun) -> None:
        self._name = name
        self._tracker: Tracker | None = None
        self._tracker = self._attempt(lambda: opener(run))

    def row(self, row: Mapping[str, Any]) -> None:
        if (tracker := self._tracker) is not None:
            self._attempt(lambda: tracker.row(row))

    def images(self, step: int, paths: Sequence[Path]) -> None:
        if (tracker := self._tracker) is not None:
            self._attempt(lambda: tracker.images(step, paths))

    def close(self) -> None:
        if (tracker := self._tracker) is not None:
            self._attempt(tracker.close)

    def _attempt(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:
            self._tracker = None
            reason = printable(str(error).strip().partition("\n")[0][:200])
            kind = type(error).__name__
            line = f"trainer.tracker={self._name}: {kind} ({reason}); training continues without it"
            print(line, flush=True)
            return None
