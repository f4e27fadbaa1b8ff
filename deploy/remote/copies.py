"""Temporary folders on devices, removed at the end or, if that fails, before the next copy."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from deploy.remote.device import PREFIX, Device, ScriptError
from engine.errors import UserError
from engine.io.files import user_cache, write_json


@contextlib.contextmanager
def copied(device: Device, folder: Path) -> Iterator[str]:
    """Copies a folder to the device, and removes the copy at the end, even after Ctrl-C.

    Copies that an earlier measurement could not remove are removed first.
    """
    for earlier in _leftovers(device):
        remove(device, earlier)
    path = device.push(folder)
    try:
        yield path
    finally:
        remove(device, path)


def remove(device: Device, path: str) -> None:
    """Remove a folder from the device. If that fails, print a line and try again before the next copy."""
    others = [other for other in _leftovers(device) if other != path]
    try:
        device.run(f"rm -rf {shlex.quote(path)}")
    except BaseException as error:  # also Ctrl-C during the removal
        others.append(path)
        # The program on the device also removes it if it notices that the connection was lost.
        print(
            f"device={device.address}: could not remove {path}; the next measurement on this device tries "
            f"again, or run: {device.login} {shlex.quote(f'rm -rf {shlex.quote(path)}')}",
            file=sys.stderr,
        )
        if not isinstance(error, UserError | ScriptError):
            raise
    finally:
        _remember(device, others)


def _remember(device: Device, paths: list[str]) -> None:
    """Record which folders were left on a device."""
    with contextlib.suppress(OSError, UserError):  # then only the line printed by `remove` names them
        record = _record(device)
        if paths:
            record.parent.mkdir(parents=True, exist_ok=True)
            write_json(record, paths)
        else:
            record.unlink(missing_ok=True)


def _record(device: Device) -> Path:
    """The file on this machine that lists the folders left on a device."""
    name = hashlib.sha256(device.address.encode()).hexdigest()[:16]
    return user_cache() / "left_on_devices" / f"{name}.json"


def _leftovers(device: Device) -> list[str]:
    try:
        paths = json.loads(_record(device).read_text(encoding="utf-8"))
    except (OSError, ValueError, UserError):
        return []
    known = [path for path in paths if isinstance(path, str)] if isinstance(paths, list) else []
    return [path for path in known if path.rpartition("/")[2].startswith(PREFIX) and path.startswith("/")]
