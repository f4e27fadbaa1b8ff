"""A run's `config.yaml`: read, judged, and changed by overrides."""

import copy
import io
from collections.abc import Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.config import extensions, untrusted
from engine.config.compose import FORMAT, compose_config, keys
from engine.config.instantiate import first_line
from engine.config.overrides import emptied, groups, parsed, quoted, shown, with_task
from engine.errors import UserError, nearest

_COMPOSED_ONLY = ("task", "experiment", "debug")
"""Groups that write to keys of other groups."""
_OF_THE_NETWORK = "of_the_network"
"""The key of a data config that lists the keys which a run keeps when it reads other data."""


def load_config(path: Path, overrides: Sequence[str]) -> DictConfig:
    """Read a run's `config.yaml` and apply `key=value` overrides to keys that it has.

    Raises:
        UserError: the file is unreadable or of another format, it needs code that `extend=` did not name, or
            an override names a key that the run's configuration lacks.
    """
    try:
        config = OmegaConf.load(io.StringIO(untrusted.read(path)))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: not a readable configuration ({first_line(error)})") from None
    contents = OmegaConf.to_container(config)
    untrusted.check(contents, path, format_number=FORMAT)
    assert isinstance(config, DictConfig)
    _require_extensions(config, path)
    _apply(config, [quoted(override) for override in overrides])
    untrusted.check(OmegaConf.to_container(config), path, format_number=FORMAT)
    OmegaConf.set_struct(config, True)
    return config


def _require_extensions(config: DictConfig, path: Path) -> None:
    needed = config.get("extensions") or []
    missing = [str(name) for name in needed if str(name) not in extensions.names()]
    if missing:
        raise UserError(
            f"{path}: was trained with code from {', '.join(missing)}, which is not imported just because a "
            f"file asks for it; give extend=<the folder that holds {missing[0]}>"
        )


def _apply(config: DictConfig, overrides: Sequence[str]) -> None:
    known = set(keys(config))
    options = groups()
    typed = with_task("train", [*overrides, *emptied(overrides)], task=str(config.package))
    parts = [(override, *parsed(override)) for override in typed]
    # A group first, whatever the order, as when a training is composed.
    for override, key, value in sorted(parts, key=lambda part: part[2] not in options.get(part[1], ())):
        if key in _COMPOSED_ONLY:
            raise UserError(f"{override!r}: a run keeps its {key}; override single keys, or train a new run")
        if key in known and value in options.get(key, ()):
            _replace_group(config, key, str(value))
            known = set(keys(config))
            continue
        if key not in known and not override.startswith("+"):
            raise UserError(f"{override!r}: the run has no key {key!r}{nearest(key, known)}")
        try:
            OmegaConf.update(config, key, value, force_add=True)
        except OmegaConfBaseException as error:
            raise UserError(f"{shown(override)}: {first_line(error)}") from None


def _replace_group(config: DictConfig, group: str, option: str) -> None:
    """Choose another option of a group, such as other data, as a training would compose it."""
    composed = compose_config("train", [f"task={config.package}", f"{group}={option}"])
    node = copy.deepcopy(composed[group])
    OmegaConf.set_struct(node, False)
    for name in config[group].get(_OF_THE_NETWORK) or ():
        if name in config[group] and name in node:
            OmegaConf.update(node, name, config[group][name])
    OmegaConf.update(config, group, node, merge=False)
