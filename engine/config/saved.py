"""Reads a run's `config.yaml`, checks it, and applies overrides."""

import copy
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.config import extensions, untrusted
from engine.config.compose import FORMAT, compose_config, keys, to_yaml
from engine.config.instantiate import first_line
from engine.config.options import DataOptions
from engine.config.overrides import (
    CONF,
    add_task_prefix,
    cleared_alternatives,
    groups,
    parse_override,
    quote_path,
    shortened,
)
from engine.data.images import DEFAULT_MEGAPIXELS
from engine.errors import UserError
from engine.report import settings
from engine.report.settings import Difference, Settings, flatten
from engine.run.run_folder import RunFolder

_FIXED_GROUPS = ("task", "experiment", "debug")
"""Groups that cannot be changed for an existing run, because they set keys of other groups."""
_NEW_KEYS: dict[str, dict[str, Any]] = {
    "data": {"max_megapixels": DEFAULT_MEGAPIXELS, "exclude": None},
    "distill": {"method": "pixels", "images": None},
    "trainer": {"minutes": None, "patience": None, "tracker": None},
}
"""Group -> keys that runs of older versions lack, with their defaults."""
_NEW_AUGMENT_KEYS: dict[str, dict[str, Any]] = {
    "seg": {
        "mosaic": 0.0,
        "copy_paste": 0.0,
        "copy_paste_classes": None,
        "gray": 0.0,
        "blur": 0.0,
        "noise": 0.0,
        "extra": [],
    },
    "det": {"extra": [], "mixup": 0.0},
}
"""Task -> keys of its default augmentation that older runs lack; other augmentations may reject them."""
_NEW_GROUPS = {"det": {"inference": "whole"}}
"""Task -> groups that its older runs lack, with their default option; `task.<group>` refers to each."""
_NETWORK_KEYS = "of_the_network"
"""The key of a data config that lists the keys a run keeps when it is evaluated on other data."""


def load_config(path: Path, overrides: Sequence[str]) -> DictConfig:
    """Read a run's `config.yaml` and apply `key=value` overrides to its existing keys.

    Raises:
        UserError: if the file is unreadable or has another format, it needs an extension that `extend=` did
            not name, or an override has a key that the configuration does not contain.
    """
    try:
        config = OmegaConf.load(io.StringIO(untrusted.read(path)))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: not a readable configuration ({first_line(error)})") from None
    contents = OmegaConf.to_container(config)
    untrusted.check(contents, path, format_number=FORMAT)
    assert isinstance(config, DictConfig)
    _add_new_keys(config)
    _use_own_list(config, path.parent)
    _require_extensions(config, path)
    _apply(config, [quote_path(override) for override in overrides])
    untrusted.check(OmegaConf.to_container(config), path, format_number=FORMAT)
    OmegaConf.set_struct(config, True)
    return config


Reads = Literal["dataset", "images", "network"]
_OF_IMAGES = ("pixel_range", "orientation", "max_megapixels")
"""The keys of `data` that affect how a single image is read."""


def refuse_unused_data(config: DictConfig, overrides: Sequence[str], *, reads: Reads) -> None:
    """Raise a UserError if an override sets a key of `data` that has no effect.

    Args:
        reads: what the tool reads: a `dataset`, single `images`, or only the `network`. A network for images
            of any size is timed at the size of the training crops, so `data.crop` has an effect then.
    """
    nodes = dict(config.items_ex(resolve=False))
    used = [nodes[key] for key in nodes if key not in ("data", "augment")]
    names = set(_OF_IMAGES)
    if reads == "dataset":
        used.append(config.data.get("source"))
        names |= {"source", *(field.name for field in fields(DataOptions))}
    text = "".join(to_yaml(node) for node in used if isinstance(node, DictConfig))
    if reads != "network":  # the constructor only checks input_size
        text = text.replace("input_size: ${data.crop}", "")
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        group, _, name = key.partition(".")
        name = name.partition(".")[0]
        if (
            group != "data"
            or name in names
            or f"${{data.{name}}}" in text
            or (reads, name) == ("dataset", "")
        ):
            continue
        why = (
            "only training reads this key"
            if reads == "dataset"
            else "has no effect, because no dataset is read"
        )
        raise UserError(f"{key}: {why}; leave it out")


def effective(config: DictConfig, overrides: Sequence[str], *, reads: Reads) -> list[str]:
    """The overrides that `refuse_unused_data` accepts."""
    accepted = []
    for override in overrides:
        with suppress(UserError):
            refuse_unused_data(config, [override], reads=reads)
            accepted.append(override)
    return accepted


def settings_of(config: DictConfig) -> Settings:
    """A training configuration as a flat dict; references between keys are kept as text."""
    contents = OmegaConf.to_container(config, resolve=False)
    assert isinstance(contents, dict)
    return flatten({str(key): value for key, value in contents.items()})


def differences(config: DictConfig) -> list[Difference]:
    """The keys of a training configuration that differ from the default of its task; an empty list if that
    cannot be composed."""
    try:
        default = compose_config("train", [f"task={config.package}"])
    except UserError:
        return []
    return settings.differences(settings_of(config), settings_of(default))


def _add_new_keys(config: DictConfig) -> None:
    """Add the keys that runs of older versions lack, so that they can be overridden."""
    package = str(config.get("package"))
    for group, new in {**_NEW_KEYS, **_new_augment_keys(config, package)}.items():
        node = config.get(group)
        for key, value in new.items() if isinstance(node, DictConfig) else ():
            if key not in node:
                node[key] = value
    for group, option in _NEW_GROUPS.get(package, {}).items():
        if group not in config:
            file = CONF / group / package / f"{option}.yaml"
            config[group] = OmegaConf.load(file)
            config.task[group] = f"${{{group}}}"


def _new_augment_keys(config: DictConfig, package: str) -> dict[str, dict[str, Any]]:
    if package not in _NEW_AUGMENT_KEYS:
        return {}
    own = OmegaConf.load(CONF / "augment" / package / "default.yaml")
    same = OmegaConf.select(config, "augment._target_") == OmegaConf.select(own, "_target_")
    return {"augment": _NEW_AUGMENT_KEYS[package]} if same else {}


def _use_own_list(config: DictConfig, folder: Path) -> None:
    """Exclude the samples that the run excluded, whatever has become of the user's file."""
    if (own := RunFolder(folder).excluded).exists():
        config.data.exclude = str(own)


def _require_extensions(config: DictConfig, path: Path) -> None:
    needed = config.get("extensions") or []
    missing = [str(name) for name in needed if str(name) not in extensions.names()]
    if missing:
        raise UserError(
            f"{path}: needs code from {', '.join(missing)}, which is not imported without your consent; "
            f"pass extend=<the folder that contains {missing[0]}>"
        )


def _apply(config: DictConfig, overrides: Sequence[str]) -> None:
    known = set(keys(config))
    options = groups()
    typed = add_task_prefix("train", [*overrides, *cleared_alternatives(overrides)], task=str(config.package))
    parts = [(override, *parse_override(override)) for override in typed]
    # Groups come first, whatever the order on the command line, as in composition.
    for override, key, value in sorted(parts, key=lambda part: part[2] not in options.get(part[1], ())):
        if key in _FIXED_GROUPS:
            raise UserError(
                f"{override!r}: the {key} of a run cannot be changed; override single keys or train a new run"
            )
        if key in known and value in options.get(key, ()):
            _replace_group(config, key, str(value))
            known = set(keys(config))
            continue
        if key not in known and not override.startswith("+"):
            from engine.config.help import key_hint

            raise UserError(
                f"{override!r}: the run's config.yaml has no key {key!r}"
                f"{key_hint(key, known, str(config.package), fixed=_FIXED_GROUPS)}"
            )
        try:
            OmegaConf.update(config, key, value, force_add=True)
        except OmegaConfBaseException as error:
            raise UserError(f"{shortened(override)}: {first_line(error)}") from None


def _replace_group(config: DictConfig, group: str, option: str) -> None:
    """Switch a group of the configuration to another option, composed as for a new training."""
    composed = compose_config("train", [f"task={config.package}", f"{group}={option}"])
    node = copy.deepcopy(composed[group])
    OmegaConf.set_struct(node, False)
    for name in config[group].get(_NETWORK_KEYS) or ():
        if name in config[group] and name in node:
            OmegaConf.update(node, name, config[group][name])
    OmegaConf.update(config, group, node, merge=False)


def without_data(config: DictConfig) -> DictConfig:
    """A copy for a run folder created without reading data: unset keys of `data` have the placeholder
    `<key>`, as in a published run."""
    config = copy.deepcopy(config)
    for key in config.data:
        if OmegaConf.is_missing(config.data, key):
            OmegaConf.update(config.data, str(key), f"<data.{key}>")
    return config
