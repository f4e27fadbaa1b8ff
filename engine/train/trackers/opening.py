"""Opens experiment trackers; a tracker that fails never stops a training."""

import importlib
import importlib.util
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from engine.errors import UserError, printable
from engine.io.files import write_json
from engine.run.run_folder import RunFolder
from engine.train.run_log import Tracker, is_number

PROJECT = "mobilenet-dense"
"""The project (in MLflow: experiment) if the tracker's own environment variable does not name one."""

_CLASSES = {"wandb": "Wandb", "mlflow": "MLflow", "trackio": "Trackio"}


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers see it.

    Attributes:
        folder: the run folder.
        config: the configuration as plain values.
        config_file: its YAML file.
    """

    folder: RunFolder
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The last parts of the folder's path, which by default are the experiment and the time."""
        return "/".join(self.folder.path.absolute().parts[-2:])

    @property
    def config_file(self) -> Path:
        return self.folder.config

    @cached_property
    def id(self) -> str:
        """A random name that is unique to this run, and the same when it is resumed."""
        return self.remember("id", lambda: uuid.uuid4().hex[:12])

    def remember(self, key: str, create: Callable[[], str]) -> str:
        """The value of `key` in the run's tracker.json; it is created when it is first asked for."""
        path = self.folder.path / "tracker.json"
        stored: dict[str, str] = {}
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
        if key not in stored:
            stored[key] = create()
            write_json(path, stored)
        return stored[key]


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
            line = f"trainer.tracker={self._name}: {kind} ({reason}); the training goes on without it"
            print(line, flush=True)
            return None


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log row as `train/loss`, `eval/miou` ..., the same names as in TensorBoard."""
    return {
        f"{row['kind']}/{name}": float(value)
        for name, value in row.items()
        if name not in ("step", "time") and is_number(value)
    }


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones; lists stay as they are."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def caption(path: Path) -> str:
    """An image's file name without suffix, with only the characters that every tracker accepts."""
    return re.sub(r"[^\w.\- ]", "_", path.stem)
