"""The run folder, which contains everything that eval, predict, benchmark and export need.

config.yaml        the composed configuration; references between keys are kept, so overrides of keys work
environment.json   versions, git revision, device
classes.json       class map of the dataset
log.jsonl          one row per log line or evaluation
metrics.json       the last evaluation
curves.png         losses and metrics over steps
checkpoints/       last.safetensors, last.previous.safetensors, best.safetensors
skipped.json       with data.on_error=skip: the files that could not be read
replay.safetensors if the loss or gradient was not finite: the state before that step
tensorboard/       the rows of log.jsonl as TensorBoard events
samples/           predictions on the evaluation split
"""

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.io.files import write_json, write_text


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def classes(self) -> Path:
        return self.path / "classes.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.safetensors"

    @property
    def replay(self) -> Path:
        return self.path / "replay.safetensors"

    @property
    def skipped(self) -> Path:
        return self.path / "skipped.json"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def checkpoint(self, name: str) -> Path:
        """The checkpoint `best` or `last`; in a run that was never evaluated, `best` is `last`."""
        if name not in ("best", "last"):
            raise UserError(f"checkpoint must be best or last, got {name!r}")
        return self.best if name == "best" and self.best.exists() else self.last


def create(run: RunFolder, *, config: str, environment: Mapping[str, Any]) -> None:
    """Create a run folder with its configuration (YAML text) and its environment.

    Raises:
        UserError: if the folder already contains a run, or cannot be created.
    """
    if run.config.exists():
        raise UserError(
            f"{run.path}: already contains a run; continue it with resume={run.path}, or choose another run="
        )
    update(run, config=config, environment=environment)


def update(run: RunFolder, *, config: str, environment: Mapping[str, Any]) -> None:
    """Save the configuration and environment of a run that is created or resumed.

    Raises:
        UserError: if the folder cannot be written.
    """
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        write_json(run.path / "environment.json", {**environment, "git": git_revision()})
        write_text(run.config, config)
    except OSError as error:
        raise UserError(
            f"{run.path}: cannot create the run folder ({error.strerror}); choose another run="
        ) from None


def find(path: Path, *, key: str = "run") -> RunFolder:
    """Open an existing run folder.

    key: the option that names it, for messages.

    Raises:
        UserError: if there is no run at `path`.
    """
    run = RunFolder(path)
    if not run.config.is_file():
        raise UserError(
            f"{key}={path}: not a run folder (it has no config.yaml); pass the path that training printed"
        )
    return run


def make(folder: Path) -> Path:
    """Create an output folder.

    Raises:
        UserError: if it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be created ({error.strerror}); choose another out=") from None
    return folder


def default_path(task: str, experiment: str) -> Path:
    """A path `runs/<task>/<experiment>/<time>` that does not exist yet."""
    stem = Path("runs") / task / experiment / time.strftime("%Y-%m-%d_%H-%M-%S")
    path, number = stem, 1
    while path.exists():
        number += 1
        path = stem.with_name(f"{stem.name}_{number}")
    return path


def git_revision() -> str | None:
    """The git revision of this code, with `+` if there are uncommitted changes; None if unknown."""
    folder = Path(__file__).resolve().parent
    try:
        git = ["git", "-C", str(folder)]
        revision = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip() + ("+" if dirty.returncode else "")
