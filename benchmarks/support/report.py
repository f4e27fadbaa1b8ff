"""Output of the benchmarks: the command and the machine, and Markdown tables."""

import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.support.processes import ROOT

PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "cityscapesscripts")


def heading(script: str) -> str:
    """The command, the machine and the versions. `script`: its `__file__`."""
    path = Path(script).resolve().relative_to(ROOT)
    command = shlex.join(["python", path.as_posix(), *sys.argv[1:]])
    return f"```bash\n{command}\n```\n\n{machine()}\n"


def machine() -> str:
    """Processor, threads, date and versions in two lines."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = [
        _processor(),
        f"{cores} cores",
        f"{_threads()} torch threads",
        f"load {os.getloadavg()[0]:.1f}",
        platform.system(),
        time.strftime("%Y-%m-%d"),
    ]
    return ", ".join(facts) + ";\n" + ", ".join([f"Python {platform.python_version()}", *_versions()]) + "."


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; all columns except the first are right-aligned."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(header))]
    lines = [_line(row, widths) for row in cells]
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    return "| " + " | ".join([row[0].ljust(widths[0]), *aligned[1:]]) + " |"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {line.split(":")[0].strip(): line.split(":")[-1].strip() for line in lines if ":" in line}
    name = facts.get("model name", platform.machine())
    return f"{name} (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else name


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _versions() -> list[str]:
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return versions
