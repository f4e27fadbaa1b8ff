"""Extensions: your own code in configs, from folders named by `extend=<folder>` or from installed packages.

A config is data and may come from an untrusted source, so it can never make Python import code that you did
not ask for. Besides this project, configs can only import code from folders that you name on the command line
(`extend=`) or in the environment variable MOBILENET_DENSE_EXTEND (inherited by child processes), and from
installed packages with an entry point in the group `mobilenet_dense.extensions`. A `_target_` can then refer
to an extension's modules, and the YAML files in its `conf` folder are added to the built-in ones.
"""

import functools
import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from engine.errors import UserError

ENTRY_POINTS = "mobilenet_dense.extensions"
VARIABLE = "MOBILENET_DENSE_EXTEND"


def add(folders: Sequence[str]) -> None:
    """Make the modules in these folders available to configs, in this process and its child processes.

    Raises:
        UserError: if a folder does not exist, contains neither a Python module nor `conf`, or contains a
            module with the same name as an installed package or a package of this project.
    """
    paths = [os.path.abspath(os.path.expanduser(folder)) for folder in folders]
    for path in paths:
        names = _modules_in(path)
        if not names and not Path(path, "conf").is_dir():
            raise UserError(
                f"extend={path}: not a folder with a Python module or conf/ in it; check the path"
            )
        for name in names:
            spec = importlib.util.find_spec(name)
            if spec is not None and not _is_inside(spec.origin, path):
                raise UserError(
                    f"extend={path}: module {name!r} has the same name as {spec.origin}; rename it"
                )
    known = [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*known, *paths]))
    _make_importable()


def names() -> tuple[str, ...]:
    """The top-level modules of all extensions."""
    _make_importable()
    return (*(name for folder in _folders() for name in _modules_in(folder)), *_installed())


def conf_folders() -> list[Path]:
    """The `conf` folders of all extensions."""
    folders = [Path(folder) / "conf" for folder in _folders()]
    for name in _installed():
        spec = importlib.util.find_spec(name)
        folders += [Path(path) / "conf" for path in (spec.submodule_search_locations or ())] if spec else []
    return [folder for folder in folders if folder.is_dir()]


def owner(dotted: str) -> str | None:
    """The extension that a dotted name belongs to, or None."""
    top = dotted.partition(".")[0]
    return top if top in names() else None


def load_module(dotted: str, *, key: str) -> ModuleType:
    """Import a module of an extension.

    Raises:
        UserError: if no extension contains this module; the message names `key`.
    """
    if owner(dotted) is None:
        raise UserError(
            f"{key}={dotted}: neither a built-in option nor a module of an extension; to use your own "
            "module, pass extend=<its folder>"
        )
    return _import(dotted, f"{key}={dotted}")


def modules() -> Iterator[ModuleType]:
    """Import and return the top-level modules and packages of all extensions, and their direct submodules.

    Raises:
        UserError: if one of them cannot be imported.
    """
    for name in names():
        module = _import(name, f"extension {name}")
        yield module
        for part in pkgutil.iter_modules(getattr(module, "__path__", ())):
            yield _import(f"{name}.{part.name}", f"extension {name}.{part.name}")


def import_problem(error: BaseException) -> str:
    """Why a module cannot be imported, and the line of its file."""
    if isinstance(error, ImportError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    reason = str(error).strip().partition("\n")[0]
    return f"{last.filename}, line {last.lineno}: {type(error).__name__}{reason and f': {reason}'}"


def _import(dotted: str, subject: str) -> ModuleType:
    try:
        return importlib.import_module(dotted)
    except (Exception, SystemExit) as error:  # the user's own code runs here
        raise UserError(f"{subject}: cannot be imported ({import_problem(error)})") from None


def _folders() -> list[str]:
    folders = [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    for folder in folders:
        if not os.path.isdir(folder):
            raise UserError(f"{VARIABLE}={folder}: no such folder")
    return folders


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


def _is_inside(origin: str | None, folder: str) -> bool:
    return origin is not None and Path(folder) in Path(origin).parents
