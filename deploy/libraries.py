"""Imports optional libraries, and shortens their errors to one line."""

import importlib
import importlib.util
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from engine.errors import UserError


def require(module: str, install: str) -> Any:
    """Import a module of an optional library.

    Args:
        install: the command that installs the library, for the message.

    Raises:
        UserError: if the module cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        raise UserError(f"{missing} cannot be imported ({first_line(error)}); {install}") from None


def not_installed(libraries: Iterable[str]) -> str:
    """`onnx is not installed` for the first missing library; an empty string if none is missing."""
    for library in libraries:
        if importlib.util.find_spec(library.replace("-", "_")) is None:
            return f"{library} is not installed"
    return ""


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """The versions of the libraries that are installed."""
    installed = {}
    for library in libraries:
        try:
            installed[library] = version(library)
        except PackageNotFoundError:
            continue
    return installed


def first_line(error: BaseException) -> str:
    """The first informative line of a library's error."""
    lines = [line.strip() for line in str(error).splitlines()]
    # OpenVINO's errors begin with locations in its own source.
    lines = [line for line in lines if line and not line.startswith("Exception from src/")]
    return (lines[0] if lines else type(error).__name__)[:300]
