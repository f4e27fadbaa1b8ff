"""From a plain config node to an object, in one jump, and to nothing but what is allowed.

A node is a dict with `_target_`, the dotted name of a class or function, and its keyword arguments: the
constructor is the schema. Everything is checked before anything is built: a config is data, whoever wrote it.
"""

import difflib
import functools
import inspect
import pkgutil
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import UserError

ALLOWED = (
    "engine.train.optimizers.",
    "engine.train.settings.",
    "engine.train.schedules.",
    "backbones.",
    "cls.",
    "seg.",
    "det.",
    "deploy.timing.latency.",
    "nas.",
    "torch.optim.",
    "albumentations.",
)
"""What a config may build: this framework, torch's optimizers, albumentations' transforms. Not the rest of
the engine and of deploy, which write, fetch and load files wherever they are told."""


_FOREIGN = ("torch.", "albumentations.")


_MARKS = ("_target_", "_partial_")


def make(node: Any, key: str, **arguments: Any) -> Any:
    """Build the object that a plain node (dicts, lists, numbers, strings) describes.

    Args:
        key: where the node stands in the configuration, for messages.
        arguments: passed on to the outermost constructor.

    Raises:
        UserError: a target outside of the allowed packages, an unknown or missing option, a value of the
            wrong type, or whatever the constructor refuses.
    """
    check(node, key, given=set(arguments))
    return _make(node, key, arguments)


def _make(node: Any, key: str, arguments: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_make(item, f"{key}[{number}]", {}) for number, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    made = {name: _make(item, f"{key}.{name}", {}) for name, item in node.items() if name not in _MARKS}
    if "_target_" not in node:
        return made
    constructor = pkgutil.resolve_name(node["_target_"])
    if node.get("_partial_"):
        return functools.partial(constructor, **made, **arguments)
    try:
        return constructor(**made, **arguments)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{key}: {error}") from None


def check(node: Any, key: str, *, given: Collection[str] = (), complete: bool = True) -> None:
    """Check all `_target_`s in and below `node`: allowed package, known options, plain types, all given.

    Args:
        given: arguments that the caller will add.
        complete: False where it is not known yet what the caller will add.
    """
    if isinstance(node, list):
        for number, item in enumerate(node):
            check(item, f"{key}[{number}]")
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        _check_options(_resolve(node["_target_"], key), node, key, given if complete else None)
    for name, item in node.items():
        check(item, f"{key}.{name}", complete=complete)


def _resolve(target: Any, key: str) -> Any:
    target = target if isinstance(target, str) and target.isprintable() else repr(target)
    if not target.startswith(ALLOWED):
        raise UserError(
            f"{key}._target_={target}: configs may only build {', '.join(p + '*' for p in ALLOWED)}"
        )
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError):
        raise UserError(f"{key}._target_={target}: there is no such class or function") from None
    # A module of ours imports other things, and an attribute path must not lead to them.
    home = getattr(found, "__module__", None) or ""
    if not f"{home}.".startswith(ALLOWED) or not _makes_something(found, target):
        raise UserError(f"{key}._target_={target}: is no class or function of its own package")
    return found


def _makes_something(found: Any, target: str) -> bool:
    """Whether it is a public class or, of ours, a function or class method that returns something.

    Other functions and methods act: albumentations.save, say, writes to any path.
    """
    if any(part.startswith("_") for part in target.split(".")):
        return False
    if inspect.isclass(found):
        return True
    alone = inspect.isfunction(found) and found.__qualname__ == found.__name__
    if target.startswith(_FOREIGN) or not (alone or inspect.ismethod(found)):
        return False
    return inspect.signature(found).return_annotation not in (None, "None", inspect.Signature.empty)


def _check_options(constructor: Any, node: dict[str, Any], key: str, given: Collection[str] | None) -> None:
    parameters = inspect.signature(constructor).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    hints = typing.get_type_hints(constructor.__init__ if inspect.isclass(constructor) else constructor)
    for name, value in node.items():
        if name in _MARKS:
            continue
        if name not in parameters:
            raise UserError(f"{key}.{name}: unknown option{nearest(name, parameters)}")
        if name in hints and not _fits(value, hints[name]):
            raise UserError(f"{key}.{name} must be {_type_name(hints[name])}, got {value!r}")
    if given is None or node.get("_partial_"):
        return
    needed = {n for n, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL}
    if missing := sorted(needed - node.keys() - set(given)):
        raise UserError(f"{key}.{missing[0]} is not set; give {key}.{missing[0]}=<value>")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain config value fits a type hint; hints other than plain ones always fit."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if hint is type(None):
        return value is None
    if isinstance(value, dict):
        values = typing.get_args(hint)[1] if origin is Mapping else None
        return values is None or "_target_" in value or all(_fits(item, values) for item in value.values())
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if hint is Path:
        return isinstance(value, str)
    if origin in (list, tuple, Sequence):
        return isinstance(value, list) and all(_fits(item, typing.get_args(hint)[0]) for item in value)
    return origin is not Mapping


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is None:
        return getattr(hint, "__name__", str(hint))
    return str(hint).replace("collections.abc.", "")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean '...'?`, or nothing where no known name is near."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
