"""How devices are reached: one module per transport, with its name.

`device=ssh://pi@board` is opened by `deploy.remote.transports.ssh`, and `device=my_module://name` by your
own module (allowed by `extend=<its folder>`, see docs/extend/device.md): `open(address, rest)` gets what was
typed and what follows `://`, and returns a `deploy.remote.device.Device`.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from deploy.remote.device import Device
from engine.config import extensions
from engine.errors import UserError, nearest

BUILT_IN = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def is_remote(device: str) -> bool:
    """Whether `device=` names another device, not one of PyTorch's on this machine."""
    return "://" in device or device in BUILT_IN


def open_device(address: str) -> Device:
    """The device at an address such as `ssh://pi@board`; nothing is sent to it yet.

    Raises:
        UserError: if there is no such transport, or if it rejects the address.
    """
    scheme, _, rest = address.partition("://")
    if scheme in BUILT_IN:
        module: Any = importlib.import_module(f"{__name__}.{scheme}")
    elif extensions.owner(scheme) is not None:
        module = extensions.load_module(scheme, key="device")
    else:
        known = ", ".join(f"{name}://" for name in BUILT_IN)
        raise UserError(
            f"device={address}: no such transport{nearest(scheme, BUILT_IN)}; use {known} or your own module "
            "with extend=<its folder>"
        )
    if not hasattr(module, "open"):
        raise UserError(f"device={address}: module {scheme} has no open(); see docs/extend/device.md")
    device: Device = module.open(address, rest)
    return device
