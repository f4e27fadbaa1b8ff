"""Checks the config.yaml of a run folder from an untrusted source before anything is built from it.

A few lines of YAML can expand to gigabytes, with aliases of aliases or references to references. The files
that runs write contain no aliases, and their references only lead to keys of the same file.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from engine.errors import UserError

_MAX_BYTES = 1_000_000
_MAX_DEPTH = 40
_MAX_DIGITS = 100
_MAX_EXPANDED = 200_000
_REFERENCE = re.compile(r"\$\{(?:(\.*[\w.\[\]-]+)|(?:oc\.env|now):[^${}]*)\}")
_REQUIRED = {
    "package": str,
    "data": dict,
    "data.source": dict,
    "data.split": str,
    "task": dict,
    "model": dict,
    "trainer": dict,
}


def read(path: Path) -> str:
    """Read the text of a `config.yaml` after checking that parsing it takes little time and memory.

    Raises:
        UserError: if the file is unreadable, too large, nested too deeply, not YAML, or contains aliases.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: not a readable configuration ({reason})") from None
    if len(text) > _MAX_BYTES:
        raise UserError(f"{path}: more than {_MAX_BYTES} characters; not a training configuration")
    depth = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if problem := _find_problem(event, depth):
                raise UserError(f"{path}: {problem}; not a training configuration")
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: not a readable configuration ({' '.join(str(error).split())[:200]})"
        ) from None
    return text


def _find_problem(event: Any, depth: int) -> str | None:
    if isinstance(event, yaml.AliasEvent):
        return f"contains an alias, *{event.anchor}"
    if depth > _MAX_DEPTH:
        return f"nested more than {_MAX_DEPTH} levels deep"
    # Python raises its own error for numbers of more than 4300 digits.
    if isinstance(event, yaml.ScalarEvent) and event.style is None and len(event.value) > _MAX_DIGITS:
        number = re.fullmatch(r"[-+]?[\d_a-fA-FxXoO.:]+", event.value)
        return f"contains a number of {len(event.value)} digits" if number else None
    return None


def check(config: Any, path: Path, *, format_number: int) -> None:
    """Check that plain, unresolved contents are a training configuration of limited size once expanded.

    Args:
        format_number: the `format` that this version reads.

    Raises:
        UserError: if a required key is missing or has the wrong type, a reference is not `${key}`,
            `${oc.env:NAME}` or `${now:format}`, or values and characters exceed 200,000 after all
            references are resolved.
    """
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a training configuration")
    if config.get("format", 1) != format_number and ("format" in config or "data" in config):
        raise UserError(
            f"{path}: has format {config.get('format', 1)!r}, this version reads format {format_number}; use "
            "the version that trained the run, or train it again"
        )
    for key, kind in _REQUIRED.items():
        if not isinstance(_at(config, key), kind):
            raise UserError(
                f"{path}: not a training configuration ({key} is missing or not a {_TYPE_NAMES[kind]})"
            )
    if not config["package"].isidentifier():
        raise UserError(f"{path}: not a training configuration (package is not a name)")
    _Expansion(config, path).count(config, (), 0)


_TYPE_NAMES = {str: "string", dict: "mapping"}


class _Expansion:
    """Counts the values of a configuration with all references resolved; raises if there are too many."""

    def __init__(self, config: Any, path: Path) -> None:
        self._config, self._path, self._left = config, path, _MAX_EXPANDED

    def count(self, value: Any, parents: tuple[str, ...], depth: int) -> None:
        self._left -= 1
        if depth > 3 * _MAX_DEPTH or self._left < 0:
            raise UserError(f"{self._path}: its references are circular or expand to too many values")
        if isinstance(value, dict):
            for key, item in value.items():
                self.count(item, (*parents, str(key)), depth + 1)
        elif isinstance(value, list):
            for number, item in enumerate(value):
                self.count(item, (*parents, str(number)), depth + 1)
        elif isinstance(value, str):
            self._left -= len(value)
            self._follow(value, parents, depth)

    def _follow(self, text: str, parents: tuple[str, ...], depth: int) -> None:
        if "${" in _REFERENCE.sub("", text):
            place = ".".join(parents)
            raise UserError(
                f"{self._path}: {place}={text[:80]!r}: only the references ${{key}}, ${{oc.env:NAME}} and "
                "${now:format} are allowed; replace this one with its value"
            )
        for match in _REFERENCE.finditer(text):
            if (name := match[1]) is None:
                continue
            target = name.lstrip(".")
            up = len(name) - len(target)  # ${.a} is a sibling, ${..a} is one level up
            base = parents[: max(len(parents) - up, 0)] if up else ()
            keys = (*base, *(key for key in re.split(r"[.\[\]]+", target) if key))
            self.count(_at(self._config, keys), keys, depth + 1)


def _at(config: Any, key: str | tuple[str, ...]) -> Any:
    """The value at a key, or None if it does not exist."""
    for name in key.split(".") if isinstance(key, str) else key:
        if isinstance(config, list) and name.isdecimal() and int(name) < len(config):
            config = config[int(name)]
        elif isinstance(config, dict):
            config = config.get(name, config.get(int(name)) if name.isdecimal() else None)
        else:
            return None
    return config
