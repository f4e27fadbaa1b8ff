"""What all benchmarks share: rounds that take turns, a table, and a description of the machine.

Both sides of a comparison take turns, round by round, so that a load that comes and goes meets them alike.
Figures are medians over the rounds, with the range from the lowest to the highest in brackets.
"""

import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "cityscapesscripts")


def take_turns(sides: Mapping[str, Callable[[], Any]], *, rounds: int) -> dict[str, list[Any]]:
    """Run every side once per round and collect what it returns; a first round, as warm-up, is thrown away.

    The order is reversed from round to round, so that no side always follows the same other.
    """
    results: dict[str, list[Any]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        names = list(sides) if number % 2 else list(reversed(sides))
        for name in names:
            result = sides[name]()
            if number:
                results[name].append(result)
        print(f"round {number} of {rounds}", file=sys.stderr)
    return results


def clocked(run: Callable[[], Any]) -> Callable[[], float]:
    """The same job, returning the seconds that it takes."""

    def timed() -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    return timed


def spread(values: Sequence[float], digits: int = 1) -> str:
    """'median (lowest-highest)'."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def ratio(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """Round by round: how many times as long `slow` took as `fast`."""
    return [one / other for one, other in zip(slow, fast, strict=True)]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(header))]
    lines = [_line(row, widths) for row in cells]
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    return "| " + " | ".join([row[0].ljust(widths[0]), *aligned[1:]]) + " |"


def heading(script: str) -> str:
    """The command, the machine and the versions, for the head of a result."""
    command = shlex.join(["python", f"benchmarks/{Path(script).name}", *sys.argv[1:]])
    return f"```bash\n{command}\n```\n\n{environment()}\n"


def environment() -> str:
    """Machine, threads, versions and date in two lines."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = [
        _cpu(),
        f"{cores} cores",
        f"{_threads()} torch threads",
        f"load {os.getloadavg()[0]:.1f}",
        platform.system(),
        time.strftime("%Y-%m-%d"),
    ]
    return ", ".join(machine) + ";\n" + ", ".join([f"Python {platform.python_version()}", *_versions()]) + "."


def pss_mb(pid: int) -> float:
    """Memory of a process in MB, shared pages counted by their share (Linux)."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python with this project on its path; its output is captured."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=child_environment(), **options)


def child_environment(*, without: Sequence[str] = ()) -> dict[str, str]:
    """This process's environment, with the project on Python's path."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return {name: value for name, value in environment.items() if name not in without}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {line.split(":")[0].strip(): line.split(":")[-1].strip() for line in lines if ":" in line}
    name = found.get("model name", platform.machine())
    return f"{name} (family {found['cpu family']}, model {found['model']})" if "cpu family" in found else name


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found
