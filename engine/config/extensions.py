"""Your own code in a config: folders that you name with `extend=<folder>`, and installed extensions.

A config is data and may come from a stranger, so it can never make Python import code that you did not ask
for. What may be imported, beside this project, is what you name on the command line (`extend=`), in the
environment variable MOBILENET_DENSE_EXTEND (child processes inherit it), or have installed with an entry
point in the group `mobilenet_dense.extensions`. An extension's modules may then be named in `_target_`, and
the YAML files below its folder `conf` join the built-in ones.
"""

import functools
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from engine.errors import UserError

ENTRY_POINTS = "mobilenet_dense.extensions"
VARIABLE = "MOBILENET_DENSE_EXTEND"


def add(folders: Sequence[str]) -> None:
    """Let configs name the modules in these folders, in this process and those it starts.

    Raises:
        UserError: if a folder does not exist, holds neither a Python module nor `conf`, or holds a module
            with the name of a package that is installed or belongs to this project.
    """
    paths = [os.path.abspath(os.path.expanduser(folder)) for folder in folders]
    for path in paths:
        names = _modules_in(path)
        if not names and not Path(path, "conf").is_dir():
            raise UserError(f"extend={path}: no such folder, or neither a Python module nor conf/ in it")
        for name in names:
            spec = importlib.util.find_spec(name)
            if spec is not None and not _lies_in(spec.origin, path):
                raise UserError(f"extend={path}: {name!r} is also the name of {spec.origin}; rename yours")
    known = [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*known, *paths]))
    _make_importable()


def names() -> tuple[str, ...]:
    """The top-level modules of all extensions."""
    _make_importable()
    return (*(name for folder in _folders() for name in _modules_in(folder)), *_installed())


def conf_folders() -> list[Path]:
    """The folders of YAML files that extensions bring along."""
    folders = [Path(folder) / "conf" for folder in _folders()]
    for name in _installed():
        spec = importlib.util.find_spec(name)
        folders += [Path(place) / "conf" for place in (spec.submodule_search_locations or ())] if spec else []
    return [folder for folder in folders if folder.is_dir()]


def owner(dotted: str) -> str | None:
    """The extension that a dotted name belongs to; None if it belongs to no known extension."""
    top = dotted.partition(".")[0]
    return top if top in names() else None


def load_module(dotted: str, *, key: str) -> ModuleType:
    """Import a module of an extension.

    Raises:
        UserError: naming `key`, if no extension has this module.
    """
    if owner(dotted) is None:
        raise UserError(
            f"{key}={dotted}: no built-in option, and not a module of an extension; to use a module of your "
            "own, give extend=<its folder>"
        )
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        raise UserError(f"{key}={dotted}: no such module ({error.name} is missing)") from None


def modules() -> Iterator[ModuleType]:
    """All modules that lie directly in an extension, imported."""
    for name in names():
        module = importlib.import_module(name)
        yield module
        for part in pkgutil.iter_modules(getattr(module, "__path__", ())):
            yield importlib.import_module(f"{name}.{part.name}")


def _folders() -> list[str]:
    return [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]


def _make_importable() -> None:
    for folder in _folders():
        if folder not in sys.path:
            sys.path.insert(0, folder)


@functools.cache
def _modules_in(folder: str) -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules([folder]))


@functools.cache
def _installed() -> tuple[str, ...]:
    return tuple(point.value for point in entry_points(group=ENTRY_POINTS))


def _lies_in(origin: str | None, folder: str) -> bool:
    return origin is not None and Path(folder) in Path(origin).parents
