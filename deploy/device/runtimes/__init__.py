"""One module per runtime that needs no PyTorch, with `load(path, threads=...)`: images -> outputs."""

import pkgutil

from engine.errors import UserError

RUNTIMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
"""The formats that they run."""


def check(name: str, *, key: str) -> None:
    """Raises: UserError if files of this format cannot be run without PyTorch."""
    if name not in RUNTIMES:
        known = ", ".join(RUNTIMES)
        raise UserError(f"{key} must be one of {known} (their runtimes need no PyTorch), got {name!r}")
