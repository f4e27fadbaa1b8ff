"""Describes the machine that it runs on, as plain values for JSON.

Copied to devices by `deploy.remote`, so it needs nothing but Python 3.8.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_CPUS = Path("/sys/devices/system/cpu")


def describe() -> dict[str, Any]:
    """Board, CPU model, cores, governor, load, frequency, temperature, platform; None where unknown."""
    return {
        "board": _text(Path("/proc/device-tree/model")),
        "cpu": cpu_model(),
        "cores": cores(),
        "governor": ", ".join(_distinct(_CPUS.glob("cpu[0-9]*/cpufreq/scaling_governor"))) or None,
        **state(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def state() -> dict[str, Any]:
    """What changes over time: load, the frequencies of the cores in MHz, and a temperature in degrees C."""
    frequencies = _distinct(_CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    temperature = _text(Path("/sys/class/thermal/thermal_zone0/temp"))
    return {
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "mhz": sorted({int(text) // 1000 for text in frequencies if text.isdigit()}) or None,
        "temperature_c": int(temperature) / 1000 if temperature and temperature.isdigit() else None,
    }


def cores() -> int:
    """Number of cores that this process can use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The CPU's name; on Linux with family and model number, because virtual machines can hide the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or platform.machine()
    return f"{name} (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else name


def _distinct(files: Iterable[Path]) -> list[str]:
    return sorted({text for text in map(_text, files) if text})


def _text(file: Path) -> str | None:
    """The content of a kernel file; None if it is empty or does not exist."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip(" \n\0") or None
    except OSError:
        return None
