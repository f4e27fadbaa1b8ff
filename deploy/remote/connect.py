"""Connects to the device that `device=` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from deploy.device.models import LIBRARIES
from deploy.remote.device import Device
from deploy.remote.kit import Kit, Show, Times
from deploy.remote.options import Remote
from deploy.remote.python_timer import PythonTimer
from deploy.remote.runner_timer import RunnerTimer
from deploy.remote.transports import open_device
from engine.errors import UserError

RUNTIMES = tuple(LIBRARIES)
"""The runtimes that can be measured on devices."""


class DeviceTimer(Protocol):
    """A device that has everything it needs to measure."""

    @property
    def device(self) -> Device: ...

    @property
    def cores(self) -> int: ...

    def version(self, runtime: str) -> str:
        """The version of a runtime there."""
        ...

    def time(self, kit: Kit, *, show: Show) -> Times:
        """Copy the kit to the device, run it there, and return what it measured.

        Args:
            show: called with its progress.

        Raises:
            UserError: if it cannot be reached or cannot run a model, or if its outputs are wrong.
        """
        ...


def connect(
    address: str,
    options: Remote,
    *,
    runtimes: Sequence[str],
    threads: Sequence[int],
    log: Callable[[str], None],
) -> DeviceTimer:
    """Connect to a device and check that it can measure.

    Args:
        log: called before anything is installed on the device, with the command.

    Raises:
        UserError: if it cannot.
    """
    device = open_device(address)
    _check_runtimes(address, options, runtimes)
    timer: DeviceTimer
    if options.runner is not None:
        timer = RunnerTimer.open(device, Path(options.runner))
    elif address.partition("://")[0] == "adb":
        raise UserError(
            f"device={address}: Android has no Python; set remote.runner=<onnxruntime_perf_test built for "
            "it>, or install Python and sshd in Termux and use device=ssh://"
        )
    else:
        timer = PythonTimer.open(device, options, runtimes, log)
    for count in threads:
        if count > timer.cores:
            raise UserError(f"threads must be 1 to {timer.cores} (the cores of {address}), got {count}")
    return timer


def _check_runtimes(address: str, options: Remote, runtimes: Sequence[str]) -> None:
    known = ("onnx",) if options.runner is not None else RUNTIMES
    for name in runtimes:
        if name not in known:
            why = "needs PyTorch" if name == "eager" else "cannot be measured there"
            raise UserError(
                f"device={address}: runtime={name} {why}; set runtime={' or runtime='.join(known)}"
            )
