"""Describes the machine and the library versions that a time was measured with."""

import os
import time
from typing import Any

import torch

from deploy import formats, libraries
from deploy.device import hardware
from engine.run.run_folder import git_revision

LIBRARIES = ("torch", "torchvision", "numpy", "nncf", "torchao")
"""Libraries to report, besides those of the formats."""


def describe(device: str = "cpu") -> dict[str, Any]:
    """Device, CPU model, cores, load, versions, date and more, as plain values for JSON."""
    return {
        "device": _device(device),
        **hardware.describe(),
        "versions": {**libraries.versions(LIBRARIES), **formats.versions()},
        "openmp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": git_revision(),
    }


def _device(name: str) -> str:
    device = torch.device(name)
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
