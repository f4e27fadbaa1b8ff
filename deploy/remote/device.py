"""A device that runs shell scripts."""

from __future__ import annotations

import contextlib
import io
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from engine.errors import UserError

PREFIX = "mobilenet-dense."
"""Names of temporary folders on devices begin with it."""


@runtime_checkable
class Device(Protocol):
    """What the `open` of a transport returns."""

    @property
    def address(self) -> str:
        """As the user typed it."""
        ...

    @property
    def login(self) -> str:
        """What to type before a command to run it there, such as `ssh pi@board`; for messages."""
        ...

    def run(self, script: str, *, data: bytes = b"", line: Callable[[str], None] | None = None) -> str:
        """Run a POSIX shell script on the device, and return what it printed.

        Args:
            data: its standard input. Without data, standard input stays open until the script ends or this
                process does.
            line: called with each line of its output.

        Raises:
            UserError: if the device cannot be reached.
            ScriptError: if the script fails.
        """
        ...

    def push(self, folder: Path) -> str:
        """Copy the files in a folder to a new temporary folder on the device, and return its path.

        Raises: as `run`.
        """
        ...


class ScriptError(Exception):
    """A script failed on the device, with this exit status and standard error."""

    def __init__(self, status: int, errors: str) -> None:
        super().__init__(f"status {status}")
        self.status = status
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        self.reason = lines[-1][:300] if lines else f"it ended with status {status}"
        self.errors = errors


@dataclass(frozen=True, kw_only=True)
class ShellDevice:
    """A device on which a command of this machine, such as ssh, runs scripts.

    Attributes:
        command: script -> the command that runs it in a POSIX shell on the device, with standard input,
            output and error connected to it.
        refusal: (status, standard error) of that command -> why the device cannot be reached, for the user;
            None if it was reached, and the script failed.
        folder: where to create temporary folders; empty: the device's own place for them.
    """

    address: str
    login: str
    command: Callable[[str], Sequence[str]]
    refusal: Callable[[int, str], str | None] = lambda status, errors: None
    folder: str = ""

    def run(self, script: str, *, data: bytes = b"", line: Callable[[str], None] | None = None) -> str:
        words = self.command(script)
        with tempfile.TemporaryFile() as errors:
            status, printed = self._finished(words, data, line, errors)
            errors.seek(0)
            text = errors.read().decode(errors="replace")
        if status:
            if (reason := self.refusal(status, text)) is not None:
                raise UserError(f"device={self.address}: {reason}")
            raise ScriptError(status, text)
        return printed

    def _finished(
        self, words: Sequence[str], data: bytes, line: Callable[[str], None] | None, errors: Any
    ) -> tuple[int, str]:
        """(exit status, output) of a command."""
        with contextlib.ExitStack() as stack:
            stdin: Any = subprocess.PIPE
            if data:
                stdin = stack.enter_context(tempfile.TemporaryFile())
                stdin.write(data)
                stdin.seek(0)
            try:
                # In its own session, so Ctrl-C reaches only us, and we can still remove the folder there.
                process = subprocess.Popen(
                    words, stdin=stdin, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
                )
            except OSError as error:
                raise UserError(
                    f"device={self.address}: {words[0]} cannot be run here ({error.strerror}); install it"
                ) from None
            stack.enter_context(process)
            try:
                printed = []
                assert process.stdout is not None
                for raw in process.stdout:
                    printed.append(raw.decode(errors="replace"))
                    if line is not None:
                        line(printed[-1].rstrip("\n"))
                return process.wait(), "".join(printed)
            except BaseException:
                process.terminate()
                raise

    def push(self, folder: Path) -> str:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:  # random weights cannot be compressed
            for path in sorted(folder.iterdir()):
                tar.add(path, path.name, filter=_anonymous)
        return new_folder(self, 'tar -xf - -C "$d"', folder=self.folder, data=archive.getvalue())


def new_folder(device: Device, fill: str, *, folder: str = "", data: bytes = b"") -> str:
    """Create a temporary folder on the device, in `folder` if that is not empty, and return its path.

    fill: a script that writes its standard input to the folder "$d".
    """
    parent = shlex.quote(folder) if folder else '"${TMPDIR:-/tmp}"'
    # Also removed if its path cannot be printed: then nobody here knows it.
    script = (
        f"trap '' HUP PIPE; umask 077; d=$(mktemp -d {parent}/{PREFIX}XXXXXX) && "
        f'{{ {{ {fill} && echo "$d"; }} || {{ rm -rf "$d"; exit 1; }}; }}'
    )
    try:
        lines = device.run(script, data=data).split("\n")
    except ScriptError as error:
        raise UserError(
            f"device={device.address}: files cannot be copied to it ({error.reason}); is its storage full?"
        ) from None
    # A login shell may print something before it.
    path = next((line for line in reversed(lines) if PREFIX in line), "").strip()
    if not path.startswith("/"):
        raise UserError(f"device={device.address}: has no temporary folder (mktemp printed {lines[-1]!r})")
    return path


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
