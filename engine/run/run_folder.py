"""The run folder, which contains everything that eval, predict, benchmark and export need.

config.yaml        the composed configuration; references between keys are kept, so overrides of keys work
environment.json   versions, git revision, device
classes.json       class map of the dataset
log.jsonl          one row per log line or evaluation
metrics.json       the last evaluation
report.html        the results, curves, sample images and settings, for people
curves.png         losses and metrics over steps
checkpoints/       last.safetensors, last.previous.safetensors, best.safetensors
train_names.json   the names of the samples for training, in order, and for evaluation
skipped.json       with data.on_error=skip: the files that could not be read
excluded.json      with data.exclude: a copy of that file
replay.safetensors if the loss or gradient was not finite: the state before that step
tensorboard/       the rows of log.jsonl as TensorBoard events
samples/           predictions on the evaluation split
tracker.json       the run's ids in experiment trackers
.lock              while a process writes into the folder
"""

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.io.files import hold, write_json, write_text

_LOCK = ".lock"


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
    def excluded(self) -> Path:
        return self.path / "excluded.json"

    @property
    def train_names(self) -> Path:
        return self.path / "train_names.json"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def checkpoint(self, name: str) -> Path:
        """The checkpoint `best` or `last`; in a run that was never evaluated, `best` is `last`."""
        if name not in ("best", "last"):
            raise UserError(f"checkpoint must be best or last, got {name!r}")
        return self.best if name == "best" and self.best.exists() else self.last


@dataclass(frozen=True)
class Claim:
    """A folder that only this process writes into, until `release`; the operating system releases it if the
    process dies.

    Attributes:
        path: the folder.
        created: the folders that were created for it, the innermost first.
    """

    path: Path
    lock: Any
    created: tuple[Path, ...] = field(default=())

    def release(self) -> None:
        """Let other processes claim the folder; a new folder without files is removed."""
        with contextlib.suppress(OSError):
            (self.path / _LOCK).unlink(missing_ok=True)
        self.lock.release()
        with contextlib.suppress(OSError):
            for folder in self.created:
                folder.rmdir()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.release()


def claim(
    path: Path, *, renames: bool = False, key: str = "run", remedy: str = "", unwritable: str = ""
) -> Claim:
    """Claim a folder for this process, and create it if needed.

    Args:
        renames: the name is a default: if it exists, `_2`, `_3` ... is appended.
        key: the key that names the folder, for messages.
        remedy: what else can be done; unwritable: what can be done if the folder cannot be written.

    Raises:
        UserError: if another process has claimed the folder, or it cannot be created.
    """
    remedy = remedy or f"choose another {key}="
    try:
        path, created = _make_new(path, renames=renames)
        lock = hold(path / _LOCK)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be created or written ({error.strerror}); {unwritable or remedy}"
        ) from None
    if lock is None:
        raise UserError(
            f"{path}: another process is writing into this folder; wait until it has ended, or {remedy}"
        )
    return Claim(path, lock, created)


def claim_run(run: RunFolder, *, resumes: bool, renames: bool) -> Claim:
    """Claim the folder of a run that starts or is resumed, before its data are read.

    Raises:
        UserError: if the run is in progress in another process, a new run's folder already contains one, or
            the folder cannot be created.
    """
    claimed = claim(
        run.path,
        renames=renames,
        remedy="stop it first" if resumes else "",
        unwritable="get write access, or resume a copy of the folder" if resumes else "",
    )
    if not resumes and run.config.exists():
        claimed.release()
        raise _contains_a_run(run)
    return claimed


def _make_new(path: Path, *, renames: bool) -> tuple[Path, tuple[Path, ...]]:
    """Create a folder, under another name if `renames` and it exists; returns (folder, created folders)."""
    folder, number = path, 1
    missing = [parent for parent in path.parents if not parent.exists()]
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not renames:
                return folder, ()
            number += 1
            folder = path.with_name(f"{path.name}_{number}")
        else:
            return folder, (folder, *missing)


def _contains_a_run(run: RunFolder) -> UserError:
    return UserError(
        f"{run.path}: already contains a run; continue it with resume={run.path}, or choose another run="
    )


def create(run: RunFolder, *, config: str, environment: Mapping[str, Any]) -> None:
    """Create a run folder with its configuration (YAML text) and its environment.

    Raises:
        UserError: if the folder already contains a run, or cannot be created.
    """
    if run.config.exists():
        raise _contains_a_run(run)
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
        outer = next((parent for parent in [*path.parents][:2] if RunFolder(parent).config.is_file()), None)
        remedy = (
            f"did you mean {key}={outer}?" if outer is not None else "pass the path that training printed"
        )
        raise UserError(f"{key}={path}: not a run folder (it has no config.yaml); {remedy}")
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


@contextlib.contextmanager
def claim_file(file: Path) -> Iterator[Path]:
    """Claim the file `out` for this process, before the long work whose result it gets; creates its folder.

    Raises:
        UserError: if it exists, another process has claimed it, or it cannot be written.
    """
    make(file.parent)
    if file.is_dir():
        raise UserError(f"{file}: is a folder; set out=<a file in it>")
    beside = file.with_name(f".{file.name}{_LOCK}")
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            lock = hold(beside)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); choose another out=") from None
    if lock is None:
        raise UserError(
            f"{file}: another process is writing this file; wait until it has ended, or choose another out="
        )
    try:
        if file.exists():
            raise UserError(f"{file}: exists already; choose another out=, or delete it")
        yield file
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        lock.release()


def default_path(task: str, experiment: str) -> Path:
    """The default name of a run's folder, `runs/<task>/<experiment>/<time>`, for `claim` with `renames`."""
    return Path("runs") / task / experiment / time.strftime("%Y-%m-%d_%H-%M-%S")


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
