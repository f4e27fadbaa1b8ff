"""What trackers record of a run: its name, numbers, configuration and images."""

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.io.files import write_json
from engine.run.run_folder import RunFolder
from engine.train.run_log import is_number

PROJECT = "mobilenet-dense"
"""The project (in MLflow: experiment) if the tracker's own environment variable does not name one."""


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
