"""From a config node to an object, in one jump, and to nothing but what is allowed.

A node is a dict with `_target_`, the dotted name of a class or function, and its keyword arguments: the
constructor is the schema. Everything is checked before anything is built: a config is data, whoever wrote it.
"""

import functools
import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from engine.config import extensions
from engine.contracts import TaskInfo
from engine.errors import UserError, nearest

T = TypeVar("T")

ALLOWED = (
    "engine.config.options.",
    "engine.train.optimization.",
    "engine.train.trainer.",
    "engine.train.trainer.",
    "engine.train.optimization.",
    "backbones.",
    "cls.",
    "seg.",
    "det.",
    "deploy.options.",
    "deploy.timing.latency.",
    "nas.",
    "torch.optim.",
    "albumentations.",
)
"""What a config may build: this project, torch's optimizers, albumentations' transforms, and extensions. Not
the rest of the engine and of deploy, which write, download and load files wherever they are told."""

_THIRD_PARTY = ("torch.", "albumentations.")
_MARKS = ("_target_", "_partial_")


class AtLeast(NamedTuple):
    """A bound in a type: `Annotated[int, AtLeast(1)]`."""

    least: float

    def __contains__(self, value: Any) -> bool:
        return bool(value >= self.least)

    def __str__(self) -> str:
        return f"of at least {self.least:g}"


class Share(NamedTuple):
    """A bound in a type: `Annotated[float, Share()]` is a number in 0..1."""

    def __contains__(self, value: Any) -> bool:
        return bool(0 <= value <= 1)

    def __str__(self) -> str:
        return "in 0..1"


class ConfigError(UserError):
    """Something is wrong with the value at `key` of a configuration."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{key}{text}")
        self.key, self.text = key, text


def build(node: Any, *, key: str, **arguments: Any) -> Any:
    """Build the object that a node of a configuration describes.

    Args:
        key: where the node stands in the configuration, for messages.
        arguments: passed on to the outermost constructor.

    Raises:
        UserError: a value is missing, or whatever `make` refuses, naming the key that the user set: a value
            that was taken over from another key (`${data.crop}`) is reported under that key.
    """
    try:
        return make(plain(node, key), key, **arguments)
    except ConfigError as error:
        raise _under_typed_key(error, node, key) from None


def check_node(node: Any, key: str, *, complete: bool = False) -> None:
    """Check a node without building it. Raises: UserError, as `build` does."""
    try:
        check(plain(node, key), key, complete=complete)
    except ConfigError as error:
        raise _under_typed_key(error, node, key) from None


def options(kind: type[T], node: DictConfig, key: str = "", **arguments: Any) -> T:
    """The dataclass `kind`, filled from the keys of `node` that are named like its fields.

    Raises:
        UserError: a value of the wrong type, or one that the dataclass refuses.
    """
    fields = [
        name for name in inspect.signature(kind).parameters if name in set(node) and name not in arguments
    ]
    values = {name: plain(_value(node, name), _join(key, name)) for name in fields}
    target = f"{kind.__module__}.{kind.__qualname__}"
    try:
        _check_options(kind, {"_target_": target, **values}, key, None)
        for name, value in values.items():
            check(value, _join(key, name))
        built: T = _make({"_target_": target, **values}, key, arguments, constructor=kind)
        return built
    except ConfigError as error:
        raise _under_typed_key(error, node, key) from None


def tool_options(config: DictConfig) -> Any:
    """The options of a tool: the dataclass that its YAML file names with `_target_`, filled from its keys."""
    return options(_resolve(config["_target_"], ""), config)


def task_info(config: DictConfig) -> TaskInfo:
    """The `TASK` of the package that a training's configuration names.

    Raises:
        UserError: no such package among the built-in tasks and the extensions, or one without a `TASK`.
    """
    return find_task(str(config.package))


def find_task(package: str) -> TaskInfo:
    """The `TASK` of a task package; see `task_info`."""
    if f"{package}." in ALLOWED:
        module = importlib.import_module(package)
    else:
        module = extensions.load_module(package, key="package")
    info = getattr(module, "TASK", None)
    if not isinstance(info, TaskInfo):
        raise UserError(f"package={package}: has no TASK of type TaskInfo; see docs/extend/task.md")
    return info


def make(node: Any, key: str, **arguments: Any) -> Any:
    """Build the object that a plain node (dicts, lists, numbers, strings) describes.

    Raises:
        ConfigError: a target outside of the allowed packages, an unknown or missing option, a value of the
            wrong type, or whatever the constructor refuses.
    """
    check(node, key, given=set(arguments))
    return _make(node, key, arguments)


def _make(node: Any, key: str, arguments: dict[str, Any], constructor: Any = None) -> Any:
    if isinstance(node, list):
        return [_make(item, f"{key}[{number}]", {}) for number, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    made = {name: _make(item, _join(key, name), {}) for name, item in node.items() if name not in _MARKS}
    if "_target_" not in node:
        return made
    constructor = constructor or pkgutil.resolve_name(node["_target_"])
    if node.get("_partial_"):
        return functools.partial(constructor, **made, **arguments)
    try:
        return constructor(**made, **arguments)
    except UserError:
        raise
    except ValueError as error:
        raise _constructor_error(error, made, key) from None


def _constructor_error(error: ValueError, made: Mapping[str, Any], key: str) -> ConfigError:
    """A constructor's message under its key: that of the option if the message begins with its name."""
    text = str(error)
    option = re.match(r"\w+", text)
    if option and option[0] in made:
        return ConfigError(_join(key, option[0]), text[option.end() :])
    return ConfigError(key, f": {text}" if key else text)


def check(node: Any, key: str, *, given: Collection[str] = (), complete: bool = True) -> None:
    """Check all `_target_`s in and below `node`: allowed package, known options, plain types, all present.

    Args:
        given: arguments that the caller will add.
        complete: False if it is not known yet what the caller will add.
    """
    if isinstance(node, list):
        for number, item in enumerate(node):
            check(item, f"{key}[{number}]")
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        _check_options(_resolve(node["_target_"], key), node, key, given if complete else None)
    for name, item in node.items():
        check(item, _join(key, name), complete=complete)


def _is_allowed(dotted: str) -> bool:
    """Whether a config may use this dotted name."""
    return dotted.startswith(ALLOWED) or extensions.owner(dotted) is not None


def _resolve(target: Any, key: str) -> Any:
    target = target if isinstance(target, str) and target.isprintable() else repr(target)
    if not _is_allowed(target):
        raise ConfigError(
            _join(key, "_target_"),
            f"={target}: configs may only build {', '.join(p + '*' for p in ALLOWED)}; for code of your own "
            "give extend=<its folder>",
        )
    try:
        thing = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError):
        reason = _why_not_imported(target) if extensions.owner(target) else ""
        raise ConfigError(_join(key, "_target_"), f"={target}: no such class or function{reason}") from None
    # A module of ours imports other things, and an attribute path must not lead to them.
    home = getattr(thing, "__module__", None) or ""
    if not _is_allowed(f"{home}.") or not _makes_something(thing, target):
        raise ConfigError(
            _join(key, "_target_"), f"={target}: not a class or a function that is defined in its package"
        )
    return thing


def _why_not_imported(target: str) -> str:
    """What is missing in an extension's module, which `resolve_name` does not tell."""
    try:
        importlib.import_module(target.rpartition(".")[0])
    except ImportError as error:
        return f" ({error})"
    return ""


def _makes_something(thing: Any, target: str) -> bool:
    """Whether it is a public class or, of ours, a function or class method that returns something.

    Other functions and methods act: albumentations.save, say, writes to any path.
    """
    if any(part.startswith("_") for part in target.split(".")):
        return False
    if inspect.isclass(thing):
        return True
    alone = inspect.isfunction(thing) and thing.__qualname__ == thing.__name__
    if target.startswith(_THIRD_PARTY) or not (alone or inspect.ismethod(thing)):
        return False
    return inspect.signature(thing).return_annotation not in (None, "None", inspect.Signature.empty)


def _check_options(constructor: Any, node: dict[str, Any], key: str, given: Collection[str] | None) -> None:
    parameters = inspect.signature(constructor).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    hints = typing.get_type_hints(function, include_extras=True)
    for name, value in node.items():
        if name in _MARKS:
            continue
        if name not in parameters:
            raise ConfigError(_join(key, name), f": unknown option{nearest(name, parameters)}")
        if name in hints and not _fits(value, hints[name]):
            raise ConfigError(_join(key, name), f" must be {_in_words(hints[name])}, got {value!r}")
    if given is None or node.get("_partial_"):
        return
    needed = {n for n, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL}
    if missing := sorted(needed - node.keys() - set(given)):
        name = _join(key, missing[0])
        raise ConfigError(name, f" is not set; give {name}=<value>")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain config value fits a type hint; hints other than plain ones always fit."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        base, *bounds = typing.get_args(hint)
        return _fits(value, base) and all(value in bound for bound in bounds if isinstance(bound, _BOUNDS))
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


_BOUNDS = (AtLeast, Share)
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "null",
}


def _in_words(hint: Any) -> str:
    """A type hint as users read it: "a whole number or null"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return " ".join([_in_words(arguments[0]), *map(str, arguments[1:])])
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_in_words(option) for option in arguments)
    if origin in (list, tuple, Sequence):
        several = _in_words(arguments[0]).removeprefix("a ")
        return f"a list, such as [{several}, ...]"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def plain(node: Any, key: str) -> Any:
    """A config node as plain values, references followed. Raises: UserError if a value is missing."""
    if not OmegaConf.is_config(node):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise _unreadable(error, key) from None


def _value(node: DictConfig, name: str) -> Any:
    try:
        return node[name]
    except OmegaConfBaseException as error:
        raise _unreadable(error, name) from None


def _unreadable(error: OmegaConfBaseException, key: str) -> UserError:
    missing = re.search(r"Missing mandatory value: (\S+)", str(error))
    if missing is None:
        where = getattr(error, "full_key", None) or key or "the configuration"
        return UserError(f"{where}: {first_line(error)}")
    name = getattr(error, "full_key", None) or missing[1]
    if "." in missing[1] or isinstance(error, InterpolationToMissingValueError):
        name = missing[1]  # the key that the other one refers to
    return UserError(f"{name} is not set; give {name}=<value>")


def source_key(root: DictConfig, key: str) -> str:
    """The key that a value comes from: `data.crop` for `model.input_size` where that is `${data.crop}`."""
    for _ in range(10):
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(root, parent, throw_on_missing=False) if parent else root
        raw = node._get_node(name) if isinstance(node, DictConfig) and name in node else None
        text = raw._value() if raw is not None else None
        reference = re.fullmatch(r"\$\{(\w[\w.]*)\}", text) if isinstance(text, str) else None
        if reference is None:
            return key
        key = reference[1]
    return key


def _under_typed_key(error: ConfigError, node: Any, key: str) -> ConfigError:
    root = node._get_root() if OmegaConf.is_config(node) else None
    if not isinstance(root, DictConfig):
        return error
    typed = source_key(root, error.key)
    return error if typed == error.key else ConfigError(typed, error.text.replace(error.key, typed))


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else str(name)


def first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
