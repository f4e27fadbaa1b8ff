"""How devices are reached: one module per transport, named like the part of the address before `://`.

`deploy.remote.transports.ssh` opens `device=ssh://pi@board`, and your own module opens
`device=my_module://name` (with `extend=<its folder>`, see docs/extend/device.md). Its `open(address, rest)`
gets the address as typed and the part after `://`, and returns a `deploy.remote.device.Device`.
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
    """Whether `device=` names another machine, rather than a PyTorch device of this one."""
    return "://" in device or device in BUILT_IN


def open_device(address: str) -> Device:
    """The device at an address such as `ssh://pi@board`, which is not contacted yet.

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
