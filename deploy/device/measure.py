"""Times the models that manifest.json lists, in turns, and writes results.json.

    python3 measure.py              in a folder that deploy.remote wrote
    python3 measure.py --remove     stop and remove the folder when standard input ends: nobody is waiting

Needs Python 3.8, NumPy and the models' runtime. Apache-2.0; from mobilenet-dense, deploy/device/measure.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hardware  # type: ignore[import-not-found]
import models  # type: ignore[import-not-found]
from rounds import in_turns  # type: ignore[import-not-found]

FOLDER = Path(__file__).resolve().parent
_SHOW_S = 0.5


def main(arguments: list[str]) -> int:
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    if arguments[:1] == ["--memory"]:
        print(json.dumps(peak_mb(manifest["models"][arguments[1]], manifest["threads"])))
        return 0
    if "--remove" in arguments:
        threading.Thread(target=_remove_when_abandoned, daemon=True).start()
    results: dict[str, Any] = {"machine": hardware.describe()}
    results["machine"]["versions"] = versions(manifest)
    results["machine"]["date"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    try:
        results.update(measured(manifest))
    except Failure as failure:
        results["failure"] = failure.content
    results["machine"]["at_the_end"] = hardware.state()
    partial = FOLDER / "results.json.partial"
    partial.write_text(json.dumps(results), encoding="utf-8")
    os.replace(str(partial), str(FOLDER / "results.json"))
    return 0


class Failure(Exception):
    """A model failed; `content` says which and how, for results.json."""

    def __init__(self, model: str, kind: str, text: str) -> None:
        super().__init__(text)
        self.content = {"model": model, "kind": kind, "text": text}


def measured(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of every round, agreement of the outputs with the expected ones, and peak memory; by model."""
    threads, groups = manifest["threads"], manifest["groups"]
    seconds: dict[str, list[float]] = {}
    agreements: dict[str, float] = {}
    for number, group in enumerate(groups):
        runs = {}
        for name in group["models"]:
            runs[name], agreements[name] = _checked(name, manifest["models"][name], threads)
        show = _Progress(number, len(groups))
        timers = {name: _clocked(run) for name, run in runs.items()}
        seconds.update(in_turns(timers, progress=show, **group["rounds"]))
        show.last()
    memory = {name: _memory(name) for name in manifest["memory"]}
    rounded = {name: [round(value, 9) for value in values] for name, values in seconds.items()}
    return {"seconds": rounded, "agreement": agreements, "peak_memory_mb": memory}


def _checked(name: str, model: Mapping[str, Any], threads: int) -> tuple[Callable[[], Any], float]:
    """A function that runs the model once, and the share of its outputs that matches."""
    try:
        run = models.load(FOLDER, model, threads)
    except Exception as error:  # each runtime has its own exceptions
        raise Failure(name, "load", _line(error)) from None
    arrays = models.inputs(model)
    try:
        outputs = run(arrays)
    except Exception as error:
        raise Failure(name, "run", _line(error)) from None
    share = models.agreement(FOLDER, model, outputs)
    if not share >= model["agreement"]:
        raise Failure(name, "differs", str(share))
    return lambda: run(arrays), share


def versions(manifest: Mapping[str, Any]) -> dict[str, str]:
    needed = sorted({models.LIBRARIES[model["runtime"]] for model in manifest["models"].values()})
    return {name: models.version(name) for name in ["numpy", *needed]}


def peak_mb(model: Mapping[str, Any], threads: int) -> float | None:
    """Peak memory that loading the model and running it twice adds to this process, including the runtime."""
    arrays, before = models.inputs(model), _status_mb("VmRSS")
    run = models.load(FOLDER, model, threads)
    for _ in range(2):
        run(arrays)
    after = _status_mb("VmHWM")
    return None if before is None or after is None else after - before


def _memory(name: str) -> float | None:
    """`peak_mb` in a process of its own."""
    command = [sys.executable, str(FOLDER / "measure.py"), "--memory", name]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    if done.returncode:
        raise Failure(name, "memory", f"the process ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def _status_mb(field: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":")), None)


def _clocked(run: Callable[[], Any]) -> Callable[[], float]:
    def timed() -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    return timed


class _Progress:
    """Prints the progress of a group as JSON, but not too often."""

    def __init__(self, group: int, groups: int) -> None:
        self._about = {"group": group, "groups": groups}
        self._shown = time.monotonic()

    def __call__(self, round_number: int, text: str) -> None:
        if time.monotonic() - self._shown > _SHOW_S:
            self._print({"round": round_number, "text": text})

    def last(self) -> None:
        self._about["group"] += 1
        self._print({})

    def _print(self, more: Mapping[str, Any]) -> None:
        self._shown = time.monotonic()
        print(json.dumps({**self._about, **more}), flush=True)


def _remove_when_abandoned() -> None:
    while os.read(0, 4096):
        pass
    shutil.rmtree(str(FOLDER), ignore_errors=True)
    os._exit(1)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
