"""Builds objects from config nodes, restricted to an allow-list.

A node is a dict with `_target_` (the dotted name of a class or function) and its keyword arguments. The
constructor's signature is the schema. Configs are untrusted, so everything is checked before anything is
built.
"""

import functools
import importlib
import inspect
import math
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from engine.config import extensions
from engine.config.overrides import is_set_by_experiment
from engine.contracts import TaskInfo
from engine.errors import UserError, nearest

T = TypeVar("T")

ALLOWED = (
    "engine.config.options.",
    "engine.train.optimization.",
    "engine.train.trainer.",
    "backbones.",
    "cls.",
    "seg.",
    "det.",
    "deploy.options.",
    "deploy.remote.options.",
    "deploy.serve.options.",
    "deploy.timing.latency.",
    "nas.",
    "torch.optim.",
    "albumentations.",
)
"""Packages that a config can build objects from, in addition to extensions. The rest of `engine` and `deploy`
is excluded, because it can write, download and load arbitrary files."""

_THIRD_PARTY = ("torch.", "albumentations.")
_SPECIAL_KEYS = ("_target_", "_partial_")
_UNKNOWN = ": unknown option"


class AtLeast(NamedTuple):
    """A lower bound in a type hint: `Annotated[int, AtLeast(1)]`."""

    minimum: float

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, (int, float)) and value >= self.minimum

    def __str__(self) -> str:
        return f"of at least {self.minimum:g}"


class UnitInterval(NamedTuple):
    """The bounds 0..1 in a type hint: `Annotated[float, UnitInterval()]`."""

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, (int, float)) and 0 <= value <= 1

    def __str__(self) -> str:
        return "in 0..1"


class ConfigError(UserError):
    """The value at `key` of a configuration is invalid."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{key}{text}")
        self.key, self.text = key, text

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[str, str]]:
        return type(self), (self.key, self.text)


def build(node: Any, *, key: str, **arguments: Any) -> Any:
    """Build the object that a node of a configuration describes.

    Args:
        key: the node's key in the configuration, for messages.
        arguments: passed on to the outermost constructor.

    Raises:
        UserError: if a value is missing, or for the reasons listed in `build_plain`. The message names the
            key that the user set: an error in a value that refers to another key (`${data.crop}`) is
            reported under that key.
    """
    try:
        return build_plain(plain(node, key), key, **arguments)
    except ConfigError as error:
        raise _with_user_key(error, node, key) from None


def check_node(node: Any, key: str, *, complete: bool = False) -> None:
    """Check a node without building it. Raises: UserError, like `build`."""
    try:
        check(plain(node, key), key, complete=complete)
    except ConfigError as error:
        raise _with_user_key(error, node, key) from None


def options(kind: type[T], node: DictConfig, key: str = "", **arguments: Any) -> T:
    """Build the dataclass `kind` from the keys of `node` that match its fields.

    Raises:
        UserError: if a value has the wrong type, or the dataclass rejects it.
    """
    fields = [
        name for name in inspect.signature(kind).parameters if name in set(node) and name not in arguments
    ]
    values = {name: plain(_get(node, name), _join_keys(key, name)) for name in fields}
    target = f"{kind.__module__}.{kind.__qualname__}"
    try:
        _check_options(kind, {"_target_": target, **values}, key, None)
        for name, value in values.items():
            check(value, _join_keys(key, name))
        built: T = _build({"_target_": target, **values}, key, arguments, constructor=kind)
        return built
    except ConfigError as error:
        raise _with_user_key(error, node, key) from None


def tool_options(config: DictConfig) -> Any:
    """Build a tool's options: the dataclass that `_target_` names in its YAML file, filled from its keys."""
    return options(_resolve(config["_target_"], ""), config)


def task_info(config: DictConfig) -> TaskInfo:
    """The `TASK` of the task package that a training configuration names.

    Raises:
        UserError: if neither the built-in tasks nor the extensions include the package, or it has no `TASK`.
    """
    package = config._get_node("package")
    name = package._value() if isinstance(package, Node) else None
    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(f"package must be the name of a task's package, got {name!r}; leave it out")
    return find_task(name)


def find_task(package: str) -> TaskInfo:
    """The `TASK` of a task package; see `task_info`."""
    if f"{package}." in ALLOWED:
        module = importlib.import_module(package)
    else:
        module = extensions.load_module(package, key="package")
    info = getattr(module, "TASK", None)
    if not isinstance(info, TaskInfo):
        raise UserError(
            f"package={package}: this package does not define TASK (a TaskInfo); see docs/extend/task.md"
        )
    return info


def build_plain(node: Any, key: str, **arguments: Any) -> Any:
    """Build the object that a plain node (dicts, lists, numbers, strings) describes.

    Raises:
        ConfigError: if a target is outside the allowed packages, an option is unknown or missing, a value has
            the wrong type, or the constructor raises a ValueError.
    """
    check(node, key, passed=set(arguments))
    return _build(node, key, arguments)


def _build(node: Any, key: str, arguments: dict[str, Any], constructor: Any = None) -> Any:
    if isinstance(node, list):
        return [_build(item, f"{key}[{number}]", {}) for number, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    made = {
        name: _build(item, _join_keys(key, name), {})
        for name, item in node.items()
        if name not in _SPECIAL_KEYS
    }
    if "_target_" not in node:
        return made
    constructor = constructor or pkgutil.resolve_name(node["_target_"])
    call = functools.partial(_construct, constructor, key, **made, **arguments)
    return call if node.get("_partial_") else call()


def _construct(constructor: Any, key: str, /, *arguments: Any, **options: Any) -> Any:
    try:
        return constructor(*arguments, **options)
    except UserError:
        raise
    except ValueError as error:
        raise _constructor_error(error, options, key) from None


def _constructor_error(error: ValueError, made: Mapping[str, Any], key: str) -> ConfigError:
    """The constructor's error, under the option's key if the message starts with the option's name."""
    text = str(error)
    option = re.match(r"\w+", text)
    if option and option[0] in made:
        return ConfigError(_join_keys(key, option[0]), text[option.end() :])
    return ConfigError(key, f": {text}" if key else text)


def check(node: Any, key: str, *, passed: Collection[str] = (), complete: bool = True) -> None:
    """Check every `_target_` in `node`, recursively: allowed packages, known options, types, nothing missing.

    Args:
        passed: names of arguments that the caller will add.
        complete: False if those are not known yet; missing options are then accepted.
    """
    if isinstance(node, list):
        for number, item in enumerate(node):
            check(item, f"{key}[{number}]")
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        _check_options(_resolve(node["_target_"], key), node, key, passed if complete else None)
    for name, item in node.items():
        check(item, _join_keys(key, name), complete=complete)


def _is_allowed(dotted: str) -> bool:
    """Whether a config can use this dotted name."""
    return dotted.startswith(ALLOWED) or extensions.owner(dotted) is not None


def _resolve(target: Any, key: str) -> Any:
    target = target if isinstance(target, str) else repr(target)
    if not _is_allowed(target):
        raise ConfigError(
            _join_keys(key, "_target_"),
            f"={target}: configs can only build {', '.join(p + '*' for p in ALLOWED)}; to use your own code, "
            "pass extend=<its folder>",
        )
    try:
        thing = pkgutil.resolve_name(target)
    except (Exception, SystemExit) as error:
        own = extensions.owner(target) is not None  # its modules run the user's code
        if not own and not isinstance(error, (ImportError, AttributeError, ValueError)):
            raise
        reason = _why_not_imported(target) if own else ""
        raise ConfigError(
            _join_keys(key, "_target_"), f"={target}: no such class or function{reason}"
        ) from None
    # The path must not reach other packages through what our modules import, as in cls.data.imagenet.os.
    home = getattr(thing, "__module__", None) or ""
    if not _is_allowed(f"{home}.") or not _is_constructor(thing, target):
        raise ConfigError(
            _join_keys(key, "_target_"),
            f"={target}: not a public class or factory function defined in its package",
        )
    return thing


def _why_not_imported(target: str) -> str:
    """The import error of an extension's module, which `resolve_name` hides."""
    try:
        importlib.import_module(target.rpartition(".")[0])
    except (Exception, SystemExit) as error:
        return f" ({extensions.import_problem(error)})"
    return ""


def _is_constructor(thing: Any, target: str) -> bool:
    """Whether `thing` is a public class, or one of our own functions or class methods that returns a value.

    Other functions can have side effects: albumentations.save, for example, writes to any path.
    """
    if any(part.startswith("_") for part in target.split(".")):
        return False
    if inspect.isclass(thing):
        return True
    is_plain_function = inspect.isfunction(thing) and thing.__qualname__ == thing.__name__
    if target.startswith(_THIRD_PARTY) or not (is_plain_function or inspect.ismethod(thing)):
        return False
    return inspect.signature(thing).return_annotation not in (None, "None", inspect.Signature.empty)


def _check_options(constructor: Any, node: dict[str, Any], key: str, passed: Collection[str] | None) -> None:
    parameters = inspect.signature(constructor).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    hints = typing.get_type_hints(function, include_extras=True)
    for name, value in node.items():
        if name in _SPECIAL_KEYS:
            continue
        if name not in parameters:
            raise ConfigError(_join_keys(key, name), f"{_UNKNOWN}{nearest(name, parameters)}")
        if name in hints and not _matches(value, hints[name]):
            raise ConfigError(_join_keys(key, name), f" must be {_describe_type(hints[name])}, got {value!r}")
    if passed is None or node.get("_partial_"):
        return
    needed = {n for n, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL}
    if missing := sorted(needed - node.keys() - set(passed)):
        name = _join_keys(key, missing[0])
        raise ConfigError(name, f" is not set; pass {name}=<value>")


def _matches(value: Any, hint: Any) -> bool:
    """Whether a plain config value matches a type hint; unsupported hints match any value."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        base, *bounds = typing.get_args(hint)
        return _matches(value, base) and all(value in bound for bound in bounds if isinstance(bound, _BOUNDS))
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, option) for option in typing.get_args(hint))
    if hint is type(None):
        return value is None
    if isinstance(value, dict):
        values = typing.get_args(hint)[1] if origin is Mapping else None
        return values is None or "_target_" in value or all(_matches(item, values) for item in value.values())
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if hint is Path:
        return isinstance(value, str)
    if origin in (list, tuple, Sequence):
        return isinstance(value, list) and all(_matches(item, typing.get_args(hint)[0]) for item in value)
    is_part = origin is Callable or (inspect.isclass(hint) and hint is not object)
    return origin is not Mapping and not (is_part and isinstance(value, (str, int, float)))


_BOUNDS = (AtLeast, UnitInterval)
_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "null",
}
_LISTS = {int: "[512, 1024]", float: "[0.5, 2.0]", str: "[name, name]"}


def _describe_type(hint: Any) -> str:
    """A type hint in words for messages, such as "a whole number or null"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return " ".join([_describe_type(arguments[0]), *map(str, arguments[1:])])
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe_type(option) for option in arguments))
    if origin in (list, tuple, Sequence):
        parts = "[{_target_: ...}]" if inspect.isclass(arguments[0]) else "[..., ...]"
        return f"a list, such as {_LISTS.get(arguments[0], parts)}"
    if hint in _TYPE_NAMES:
        return _TYPE_NAMES[hint]
    return "a group of keys with _target_" if origin is Callable or inspect.isclass(hint) else str(hint)


def plain(node: Any, key: str) -> Any:
    """A config node as plain values, with references resolved. Raises: UserError if a value is missing."""
    if not OmegaConf.is_config(node):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise _missing_or_invalid(error, key) from None


def _get(node: DictConfig, name: str) -> Any:
    try:
        return node[name]
    except OmegaConfBaseException as error:
        raise _missing_or_invalid(error, name) from None


def _missing_or_invalid(error: OmegaConfBaseException, key: str) -> UserError:
    if unknown := re.search(r"Interpolation key '(\w+\.[\w.]+)' not found", str(error)):
        name = unknown[1]
        return UserError(f"{name} is missing, and other keys refer to it; set {name}=<value>")
    missing = re.search(r"Missing mandatory value: (\S+)", str(error))
    if missing is None:
        where = getattr(error, "full_key", None) or key or "the configuration"
        return UserError(f"{where}: {first_line(error)}")
    name = getattr(error, "full_key", None) or missing[1]
    if "." in missing[1] or isinstance(error, InterpolationToMissingValueError):
        name = missing[1]  # the key that this one refers to
    return UserError(f"{name} is not set; pass {name}=<value>")


def source_key(root: DictConfig, key: str) -> str:
    """The key that a value comes from: `data.crop` for `model.input_size` if that is `${data.crop}`.

    A part of a key can be a reference too: `backbone.name` for `model.backbone.name` if `model.backbone` is
    `${backbone}`.
    """
    for _ in range(10):
        source = _follow_first_reference(root, key)
        if source is None:
            return key
        key = source
    return key


def _follow_first_reference(root: DictConfig, key: str) -> str | None:
    node: Any = root
    parts = key.split(".")
    for number, name in enumerate(parts, start=1):
        node = node._get_node(name) if isinstance(node, DictConfig) and name in node else None
        text = node._value() if node is not None else None
        if isinstance(text, str) and (reference := re.fullmatch(r"\$\{(\w[\w.]*)\}", text)):
            return ".".join([reference[1], *parts[number:]])
    return None


def _with_user_key(error: ConfigError, node: Any, key: str) -> ConfigError:
    root = node._get_root() if OmegaConf.is_config(node) else None
    if not isinstance(root, DictConfig):
        return error
    experiment = root.get("experiment")
    if error.text.startswith(_UNKNOWN) and experiment and is_set_by_experiment(experiment, error.key):
        what = f"experiment={experiment} sets it, but the options that you chose do not have it"
        return ConfigError(error.key, f"{_UNKNOWN}: {what}; leave out the experiment or those options")
    typed = source_key(root, error.key)
    return error if typed == error.key else ConfigError(typed, error.text.replace(error.key, typed))


def _join_keys(key: str, name: str) -> str:
    return f"{key}.{name}" if key else str(name)


def first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
