"""Describes the machine and the library versions that a time was measured with."""

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from deploy import formats, libraries
from engine.run.run_folder import git_revision

LIBRARIES = ("torch", "torchvision", "numpy", "nncf", "torchao")
"""Libraries to report, besides those of the formats."""


def describe(device: str = "cpu") -> dict[str, Any]:
    """Device, CPU model, cores, load, versions, date, as plain values for JSON."""
    return {
        "device": _device(device),
        "cpu": cpu_model(),
        "cores": cores(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {**libraries.versions(LIBRARIES), **formats.versions()},
        "openmp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": git_revision(),
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


def _device(name: str) -> str:
    device = torch.device(name)
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
