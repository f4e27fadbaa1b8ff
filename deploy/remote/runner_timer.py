"""Times a kit with ONNX Runtime's own `onnxruntime_perf_test` on the device, which needs no Python.

Each start of it measures one model and returns no outputs. So it is started for each turn of each model, and
outputs are not checked.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.remote.copies import copied
from deploy.remote.device import Device, ScriptError
from deploy.remote.kit import Kit, Show, Times, describe_device
from engine.errors import UserError

CALLS = 20
"""Calls per turn of a model, after warm-up."""
CALLS_ALONE = 100
"""Calls of a model that is measured alone, after warm-up."""
_FACTS = r"""
p() { getprop "$1" 2>/dev/null; }
f() { cat $1 2>/dev/null | sort -u | tr '\n' ' '; }
echo "board=$(p ro.product.manufacturer) $(p ro.product.model)"
echo "cpu=$(p ro.soc.model)"
echo "name=$(grep -m1 -E '^(Hardware|model name)' /proc/cpuinfo | cut -d: -f2)"
echo "android=$(p ro.build.version.release)"
echo "platform=$(uname -srm)"
echo "cores=$(OMP_NUM_THREADS= nproc)"
echo "load=$(cut -d' ' -f1 /proc/loadavg 2>/dev/null)"
echo "governor=$(f '/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor')"
"""

_WATCHED = """
trap '' HUP PIPE
cd {folder} || exit 1
exec 3<&0
sh measure.sh 3<&- &
worker=$!
{{ cat <&3; : > abandoned; kill $worker; }} > /dev/null 2>&1 &
watcher=$!
wait $worker
status=$?
kill $watcher 2> /dev/null
if [ -e abandoned ]; then cd / && rm -rf {folder}; fi
exit $status
"""
"""Runs measure.sh. If standard input closes first (a lost connection), stops it and removes the folder."""


@dataclass(frozen=True, kw_only=True)
class RunnerTimer:
    """A device that runs a copy of `runner`, which was built for it.

    Attributes:
        facts: what the device says about itself.
    """

    device: Device
    runner: Path
    facts: Mapping[str, str]

    @classmethod
    def open(cls, device: Device, runner: Path) -> RunnerTimer:
        """Raises: UserError if the device cannot be reached or the runner does not exist."""
        if not runner.is_file():
            raise UserError(
                f"remote.runner={runner}: no such file; build onnxruntime_perf_test for the device"
            )
        try:
            printed = device.run(_FACTS)
        except ScriptError as error:
            raise UserError(f"device={device.address}: cannot be examined ({error.reason})") from None
        lines = [line.partition("=") for line in printed.splitlines()]
        return cls(device=device, runner=runner, facts={key: value.strip() for key, _, value in lines})

    @property
    def cores(self) -> int:
        text = self.facts.get("cores", "")
        return int(text) if text.isdigit() else 1

    def version(self, runtime: str) -> str:
        """Name and hash of the runner, which does not report the version of its runtime."""
        return f"{self.runner.name} {hashlib.sha256(self.runner.read_bytes()).hexdigest()[:12]}"

    def time(self, kit: Kit, *, show: Show) -> Times:
        shutil.copyfile(self.runner, kit.folder / "runner")
        (kit.folder / "measure.sh").write_text("\n".join(_script(kit)) + "\n", encoding="ascii")
        shutil.rmtree(kit.folder / "expected")
        machine = self._machine()
        with copied(self.device, kit.folder) as folder:
            try:
                script = _WATCHED.format(folder=shlex.quote(folder))
                self.device.run(script, line=lambda text: _pass_on(text, show))
                printed = self.device.run(f"cd {shlex.quote(folder)} && cat times")
            except ScriptError as error:
                raise UserError(
                    f"device={self.device.address}: {self.runner.name} failed there ({error.reason})"
                ) from None
        try:
            seconds = dict(_seconds(kit, printed))
        except (ValueError, IndexError, KeyError):
            raise UserError(
                f"device={self.device.address}: {self.runner.name} did not write the times of every call; it "
                "must be onnxruntime_perf_test"
            ) from None
        return Times(machine=machine, seconds=seconds, agreement={}, peak_memory_mb={})

    def _machine(self) -> dict[str, Any]:
        facts = {key: value or None for key, value in self.facts.items()}
        load = facts.get("load")
        android = f"Android {facts['android']}, " if facts.get("android") else ""
        about: dict[str, Any] = {
            "board": facts.get("board"),
            "cpu": facts.get("cpu") or facts.get("name") or "unknown",
            "cores": self.cores,
            "governor": facts.get("governor"),
            "load": float(load) if load else None,
            "platform": f"{android}{facts.get('platform')}",
            "python": None,
            "versions": {},
            "runner": self.version("onnx"),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        return describe_device(self.device.address, about)


def _turns(group: Mapping[str, Any]) -> tuple[int, int]:
    """(turns, calls in each after warm-up) of a group's models."""
    return (group["rounds"]["least"], CALLS) if len(group["models"]) > 1 else (1, CALLS_ALONE)


def _script(kit: Kit) -> Iterator[str]:
    """The lines of a shell script that appends the times of every call to the file `times`."""
    yield from ("set -e", "trap '' PIPE", "trap 'kill $!; exit 1' TERM", "chmod 700 runner", ": > times")
    for number, group in enumerate(kit.groups, start=1):
        turns, calls = _turns(group)
        options = f"-I -m times -r {calls + group['rounds']['warmup']} -e cpu -x {kit.threads} -y 1"
        for turn in range(turns):
            for name in group["models"] if turn % 2 == 0 else reversed(group["models"]):
                file = kit.models[name]["file"]
                yield f"echo '# {file}' >> times"
                yield f"./runner {options} {file} times > log 2>&1 &"
                yield "wait $! || { tail -n 3 log >&2; exit 1; }"
            progress = {"group": number - 1, "groups": len(kit.groups), "round": turn + 1}
            if turn + 1 == turns:
                progress = {"group": number, "groups": len(kit.groups)}
            yield f"echo {shlex.quote(json.dumps(progress))} || :"


def _seconds(kit: Kit, text: str) -> Iterator[tuple[str, list[float]]]:
    """(model, seconds) of each model: all calls if it was measured alone, otherwise the median of each turn.

    The runner writes lines of `<name>,<seconds>,...`.
    """
    starts: dict[str, list[list[float]]] = {model["file"]: [] for model in kit.models.values()}
    for line in text.splitlines():
        if line.startswith("# "):
            current: list[float] = []
            starts[line[2:]].append(current)
        elif line.strip():
            current.append(float(line.split(",")[1]))
    for group in kit.groups:
        turns, calls = _turns(group)
        for name in group["models"]:
            counted = [times[group["rounds"]["warmup"] :] for times in starts[kit.models[name]["file"]]]
            if [len(times) for times in counted] != [calls] * turns:
                raise ValueError(f"{name} has other times than expected")
            yield name, counted[0] if turns == 1 else [statistics.median(times) for times in counted]


def _pass_on(text: str, show: Show) -> None:
    if text.startswith("{"):
        show(json.loads(text))
