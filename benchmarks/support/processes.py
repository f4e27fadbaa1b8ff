"""Child processes with this project on their path, and the memory of a process."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def python(
    *arguments: str, environment: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run Python with this project on its path and more of an environment; the output is captured."""
    command = [sys.executable, *arguments]
    environment = {**child_environment(), **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def peak_mb(*arguments: str, **options: Any) -> float:
    """Run Python with this project on its path, discarding its output; returns its peak resident memory in MB
    (Linux).

    A process inherits the peak of its parent, so a small process in between starts it.

    Raises:
        SystemExit: if the command fails.
    """
    script = (
        "import resource, subprocess, sys\n"
        "status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(status)"
    )
    done = python("-c", script, sys.executable, *arguments, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stderr}")
    return int(done.stdout) * 1024 / 1e6


def child_environment(*, without: Sequence[str] = ()) -> dict[str, str]:
    """This process's environment, with the project on Python's path."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return {name: value for name, value in environment.items() if name not in without}


def shared_mb(pid: int) -> float:
    """Memory of a process in MB, where shared pages count proportionally: PSS (Linux)."""
    return _smaps_mb(pid, "Pss:")


def private_mb() -> float:
    """Memory of this process in MB that it does not share with other processes (Linux)."""
    return _smaps_mb(os.getpid(), "Private_")


def _smaps_mb(pid: int, prefix: str) -> float:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(prefix)) / 1024
