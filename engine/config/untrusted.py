"""The config.yaml of a run folder, which may come from anyone: checked before anything is built from it.

A few lines of YAML can mean gigabytes: aliases of aliases, references to references. A run's own file has no
aliases, and its references lead to keys of the same file.
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
_NEEDED = {
    "package": str,
    "data": dict,
    "data.source": dict,
    "data.split": str,
    "task": dict,
    "model": dict,
    "trainer": dict,
}


def read(path: Path) -> str:
    """The text of a `config.yaml`, one that can be parsed in time and memory of its own size.

    Raises:
        UserError: the file is unreadable, too large, nested too deeply, not YAML, or has aliases.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: not a readable configuration ({reason})") from None
    if len(text) > _MAX_BYTES:
        raise UserError(f"{path}: more than {_MAX_BYTES} characters; not the configuration of a training")
    depth = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if fault := _fault(event, depth):
                raise UserError(f"{path}: {fault}; not the configuration of a training")
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: not a readable configuration ({' '.join(str(error).split())[:200]})"
        ) from None
    return text


def _fault(event: Any, depth: int) -> str | None:
    if isinstance(event, yaml.AliasEvent):
        return f"an alias, *{event.anchor}"
    if depth > _MAX_DEPTH:
        return f"values nested more than {_MAX_DEPTH} deep"
    # Python refuses numbers of more than 4300 digits with an error of its own.
    if isinstance(event, yaml.ScalarEvent) and event.style is None and len(event.value) > _MAX_DIGITS:
        number = re.fullmatch(r"[-+]?[\d_a-fA-FxXoO.:]+", event.value)
        return f"a number of {len(event.value)} digits" if number else None
    return None


def check(config: Any, path: Path, *, format_number: int) -> None:
    """Check that plain, unresolved contents are those of a training, and that references do not multiply.

    Args:
        format_number: the only `format` that this version reads.

    Raises:
        UserError: a needed key is missing or of another kind; a reference other than `${key}`,
            `${oc.env:NAME}` or `${now:format}`; more than 200,000 values and characters once all are
            followed.
    """
    if not isinstance(config, dict):
        raise UserError(f"{path}: not the configuration of a training")
    if config.get("format", 1) != format_number and ("format" in config or "room" in config):
        raise UserError(
            f"{path}: format {config.get('format', 1)}, and this version reads format {format_number}; use "
            "the version that trained the run, or train it again"
        )
    for key, kind in _NEEDED.items():
        if not isinstance(_at(config, key), kind):
            raise UserError(
                f"{path}: not the configuration of a training ({key} is missing or not a {_NAMES[kind]})"
            )
    _Expansion(config, path).count(config, (), 0)


_NAMES = {str: "name", dict: "group of keys"}


class _Expansion:
    """Counts what a configuration expands to when every reference is followed; stops if it is too much."""

    def __init__(self, config: Any, path: Path) -> None:
        self._config, self._path, self._left = config, path, _MAX_EXPANDED

    def count(self, value: Any, parents: tuple[str, ...], depth: int) -> None:
        self._left -= 1
        if depth > 3 * _MAX_DEPTH or self._left < 0:
            raise UserError(f"{self._path}: its references are circular, or expand to too much")
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
                "${now:format} are allowed; write the value itself"
            )
        for match in _REFERENCE.finditer(text):
            if (name := match[1]) is None:
                continue
            target = name.lstrip(".")
            up = len(name) - len(target)  # ${.a} is a sibling, ${..a} one of the level above
            base = parents[: max(len(parents) - up, 0)] if up else ()
            keys = (*base, *(key for key in re.split(r"[.\[\]]+", target) if key))
            self.count(_at(self._config, keys), keys, depth + 1)


def _at(config: Any, key: str | tuple[str, ...]) -> Any:
    """The value at a key; None if there is none."""
    for name in key.split(".") if isinstance(key, str) else key:
        if isinstance(config, list) and name.isdecimal() and int(name) < len(config):
            config = config[int(name)]
        elif isinstance(config, dict):
            config = config.get(name, config.get(int(name)) if name.isdecimal() else None)
        else:
            return None
    return config
