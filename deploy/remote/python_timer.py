"""Times a kit with Python on the device."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import device as programs
from deploy.device.models import LIBRARIES
from deploy.remote.copies import copied
from deploy.remote.device import Device, ScriptError
from deploy.remote.kit import Kit, Show, Times, describe_device
from deploy.remote.options import Remote
from engine.errors import UserError

OLDEST = (3, 8)
_PROBE = Path(programs.__file__).parent / "probe.py"


@dataclass(frozen=True, kw_only=True)
class PythonTimer:
    """A device whose Python has NumPy and the runtimes.

    packages: the folder on it that `remote.install=true` installs into.
    """

    device: Device
    python: str
    cores: int
    versions: Mapping[str, str]
    packages: str

    @classmethod
    def open(
        cls, device: Device, options: Remote, runtimes: Sequence[str], log: Callable[[str], None]
    ) -> PythonTimer:
        """Check what the device has, and install what is missing if `options` say so.

        Raises:
            UserError: if it cannot be reached, or lacks something.
        """
        needed = ["numpy", *(LIBRARIES[name] for name in runtimes)]
        about = _probe(device, options, needed)
        if about["missing"]:
            _install(device, options, about, log)
            about = _probe(device, options, needed)
        if about["missing"]:
            name, reason = next(iter(about["missing"].items()))
            raise UserError(
                f"device={device.address}: {name} was installed there but cannot be imported: {_line(reason)}"
            )
        names = ("cores", "versions", "packages")
        return cls(device=device, python=options.python, **{name: about[name] for name in names})

    def version(self, runtime: str) -> str:
        return self.versions[LIBRARIES[runtime]]

    def time(self, kit: Kit, *, show: Show) -> Times:
        kit.write()
        with copied(self.device, kit.folder) as folder:
            inside = f"cd {shlex.quote(folder)}"
            packages = f"PYTHONPATH={shlex.quote(self.packages)}"
            # Without `exec`: if the program is killed, only its shell can tell us.
            script = f"{inside} && {packages} {_word(self.python)} measure.py --remove; exit $?"
            try:
                self.device.run(script, line=lambda text: _pass_on(text, show))
                printed = self.device.run(f"{inside} && cat results.json")
            except ScriptError as error:
                raise UserError(f"device={self.device.address}: {_failed(error)}") from None
        results = json.loads(printed.strip().splitlines()[-1])
        if "failure" in results:
            raise UserError(f"device={self.device.address}: {self._explained(results['failure'], kit)}")
        results["machine"] = describe_device(self.device.address, results["machine"])
        return Times(**results)

    def _explained(self, failure: Mapping[str, str], kit: Kit) -> str:
        name, text = failure["model"], failure["text"]
        runtime = kit.models[name]["runtime"]
        library = f"{LIBRARIES[runtime]} {self.version(runtime)} there"
        if failure["kind"] == "differs":
            return (
                f"{library} returns wrong outputs for {name}: only {float(text):.1%} of the numbers "
                "match; nothing was measured. Install another version there"
            )
        kinds = {"load": "cannot load", "run": "cannot run", "memory": "failed when measuring the memory of"}
        return f"{library} {kinds[failure['kind']]} {name} ({text})"


def _probe(device: Device, options: Remote, needed: Sequence[str]) -> dict[str, Any]:
    script = f"exec {_word(options.python)} - {shlex.join(needed)}"
    remedy = "install Python there, or set remote.python=<its path there>"
    try:
        printed = device.run(script, data=_PROBE.read_bytes())
    except ScriptError as error:
        raise UserError(
            f"device={device.address}: {options.python} does not run there ({error.reason}); {remedy}"
        ) from None
    try:
        about: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise UserError(
            f"device={device.address}: {options.python} there is not Python 3; {remedy}"
        ) from None
    if tuple(about["python"]) < OLDEST:
        version, oldest = (".".join(map(str, number)) for number in (about["python"], OLDEST))
        raise UserError(
            f"device={device.address}: {options.python} there is Python {version}, and {oldest} or newer is "
            "needed; set remote.python=<path of a newer one there>"
        )
    return about


def _install(device: Device, options: Remote, about: Mapping[str, Any], log: Callable[[str], None]) -> None:
    """Install NumPy and the runtimes into a folder of their own, or say how to."""
    # All of them, so their versions fit together. Not --user, which Debian's own Python refuses.
    names = shlex.join(sorted([*about["versions"], *about["missing"]]))
    script = (
        f"{_word(options.python)} -m pip install --upgrade --target {shlex.quote(about['packages'])} {names}"
    )
    if not options.install:
        name, reason = next(iter(about["missing"].items()))
        raise UserError(
            f"device={device.address}: {name} cannot be imported there ({_line(reason)}); run "
            f"this, or let remote.install=true run it: {device.login} {shlex.quote(script)}"
        )
    log(f"{device.address}: {script}")
    try:
        device.run(script, line=lambda text: log(f"  {text}"))
    except ScriptError as error:
        raise UserError(f"device={device.address}: {script} failed ({error.reason})") from None


def _pass_on(text: str, show: Show) -> None:
    try:
        content = json.loads(text)
    except ValueError:  # printed by a runtime or a login shell
        return
    if isinstance(content, dict):
        show(content)


def _failed(error: ScriptError) -> str:
    if error.status in (137, -9):
        return "the program was killed, probably because memory ran out there; set a smaller size="
    return f"measuring failed there ({error.reason})"


def _word(path: str) -> str:
    """Quotes the interpreter for a shell script; a leading ~ is the home folder on the device."""
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") else shlex.quote(path)


def _line(text: str) -> str:
    return text.strip().splitlines()[0][:300]
