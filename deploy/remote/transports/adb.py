"""Android devices, reached by this machine's `adb`: `device=adb` or, if there are several, `adb://SERIAL`."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.remote.copies import remove
from deploy.remote.device import Device, ShellDevice, new_folder
from engine.errors import UserError

FOLDER = "/data/local/tmp"
"""The only folder where adb may write and execute files."""


def open(address: str, rest: str) -> Device:
    words = ["adb", *(["-s", rest] if rest else [])]

    def refusal(status: int, errors: str) -> str | None:
        return _reason(errors)

    def command(script: str) -> list[str]:
        return [*words, "shell", "-T", script]

    login = shlex.join([*words, "shell"])
    shell = ShellDevice(address=address, login=login, command=command, refusal=refusal, folder=FOLDER)
    return AdbDevice(address=address, login=login, words=tuple(words), shell=shell)


@dataclass(frozen=True, kw_only=True)
class AdbDevice:
    """Runs scripts as `shell` does, but copies files with `adb push`. words: the adb command."""

    address: str
    login: str
    words: tuple[str, ...]
    shell: ShellDevice

    def run(self, script: str, *, data: bytes = b"", line: Callable[[str], None] | None = None) -> str:
        return self.shell.run(script, data=data, line=line)

    def push(self, folder: Path) -> str:
        path = new_folder(self.shell, "true", folder=FOLDER)
        try:
            done = subprocess.run(
                [*self.words, "push", f"{folder}/.", path],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except BaseException:  # Ctrl-C
            remove(self, path)
            raise
        if done.returncode:
            remove(self, path)
            lines = (done.stderr or done.stdout).strip().splitlines() or ["adb push failed"]
            raise UserError(f"device={self.address}: files cannot be copied to it ({lines[-1]})")
        return path


def _reason(errors: str) -> str | None:
    """Why adb could not reach the device; None if it did."""
    own = [line for line in errors.splitlines() if line.startswith(("adb:", "error:"))]
    for line in own:
        for known, text in _KNOWN.items():
            if re.search(known, line):
                return text
    return own[0] if own else None


_KNOWN = {
    "more than one device": "there are several; choose one that `adb devices` lists: device=adb://SERIAL",
    "no devices": "there is no device; connect one, and allow USB debugging on it",
    "unauthorized": "it does not trust this computer yet; allow USB debugging on its screen",
    "offline": "it is offline; reconnect it",
    "device '.*' not found": "there is no device with this serial number (`adb devices` lists them)",
}
