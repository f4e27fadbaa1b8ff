"""Composes a tool's configuration with Hydra, from `conf/<tool>.yaml` and the command line."""

import copy
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.config import extensions
from engine.config.instantiate import first_line
from engine.config.overrides import (
    CONF,
    TRAINING_TOOLS,
    add_recipe,
    add_task_prefix,
    apply_extend,
    as_typed,
    chosen_task,
    cleared_alternatives,
    extensions_in_use,
    groups,
    of_another_group,
    options_by_task,
    parse_override,
    quote_path,
    shortened,
    split_overrides,
    without_empty_groups,
)
from engine.errors import UserError, nearest

FORMAT = 2
"""Format number of a run's config.yaml. Format 1 refers to classes by their old module paths."""

_PATHS = (
    "data.root",
    "data.cache",
    "data.exclude",
    "weights",
    "init_from",
    "distill.teacher",
    "distill.images",
)
_PATHS_OF_SPLITS = ("images", "annotations")

# Resolvers for configs: scale a learning rate linearly with the batch size; convert epochs to steps.
OmegaConf.register_new_resolver("linear", lambda lr, of_batch, batch: lr * batch / of_batch)
OmegaConf.register_new_resolver("steps", lambda epochs, images, batch: max(1, round(epochs * images / batch)))


def compose_config(tool: str, overrides: Sequence[str]) -> DictConfig:
    """Compose `conf/<tool>.yaml` with command-line overrides.

    `backbone=<file>.yaml` reads the network from a file (`engine.config.network_file`). `extend=<folder>`
    makes the modules and YAML files in a folder available to the configuration (`engine.config.extensions`).
    The name of the chosen experiment is stored as `experiment`. Overrides of an existing run's configuration
    (in every tool that takes a run, and in train with `resume=` or `replay=`) are stored as `overrides`.

    Raises:
        UserError: if a key, group or option is unknown (the message suggests the nearest known one), or a
            value cannot be parsed.
    """
    own, for_run = split_overrides(tool, [quote_path(override) for override in apply_extend(overrides)])
    if for_run and tool not in TRAINING_TOOLS:
        from engine.config.help import check_keys

        check_keys(tool, for_run)
    typed = add_task_prefix(tool, own)
    own, network = split_network(without_empty_groups(tool, add_recipe(tool, typed)))
    for override in own:
        parse_override(override)
    outer = Singleton.get_state()  # within a sweep, Hydra already holds a configuration
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            try:
                searched = [*own, *cleared_alternatives(own), *search_path()]
                config = compose(tool, searched, return_hydra_config=True)
                config = finish_config(config, config.hydra.runtime.choices, for_run, typed)
            except UserError:
                raise
            # For backbone=null, trainer=-1 or data=[[]], Hydra fails with built-in exceptions of all kinds.
            except Exception as error:
                raise UserError(_explain(tool, typed or for_run, error)) from None
    finally:
        Singleton.set_state(outer)
    return with_network_file(config, network)


def search_path() -> list[str]:
    """Hydra's override that adds the YAML files of extensions."""
    if not extensions_in_use():
        return []
    folders = [f"'file://{folder}'" for folder in extensions.conf_folders()]
    return [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []


def finish_config(
    config: DictConfig, choices: Any, for_run: Sequence[str], typed: Sequence[str] = ()
) -> DictConfig:
    """Remove Hydra's own node; add the format, the extensions, the experiment's name and the overrides.

    typed: the overrides as the user typed them, without those added automatically.

    Raises:
        UserError: if a key was typed that only other networks use.
    """
    OmegaConf.set_struct(config, False)
    config.pop("hydra", None)
    if "package" in config:  # a training configuration, which is saved with the run
        config.format, config.extensions = FORMAT, _extensions_in(config)
    config.experiment = choices.get("experiment") and as_typed("experiment", choices.experiment)
    config.overrides = list(for_run)
    OmegaConf.set_struct(config, True)
    if "package" in config:
        _refuse_other_than_paths(config)
        _forget_unused_recipe(config, typed)
        _refuse_unused(config, str(choices.get("model")), typed)
    return config


def _forget_unused_recipe(config: DictConfig, typed: Sequence[str]) -> None:
    """Set data.recipe to null unless the experiment was chosen because of it."""
    data, names = config.data, {override.partition("=")[0].lstrip("+") for override in typed}
    if not isinstance(data, DictConfig) or data.get("recipe") is None:
        return
    if "experiment" in names or data.recipe != config.experiment:
        data.recipe = None


def _refuse_other_than_paths(config: DictConfig) -> None:
    """Refuse values such as `resume=true`: these keys are used before the types of all keys are checked."""
    for key, what in {
        "resume": "the path of a run folder",
        "replay": "the path of a replay.safetensors",
        "distill.teacher": "a run folder or a name",
    }.items():
        value = OmegaConf.select(config, key)
        if not isinstance(value, str | None):
            raise UserError(f"{key} must be {what}, got {value!r}")


def _refuse_unused(config: DictConfig, model: str, typed: Sequence[str]) -> None:
    """Refuse typed keys of the data that describe the network, if nothing refers to them."""
    names = {override.partition("=")[0].lstrip("+") for override in typed}
    for key in config.data.get("of_the_network") or () if isinstance(config.data, DictConfig) else ():
        reference = f"${{data.{key}}}"
        if f"data.{key}" in names and reference not in to_yaml(config):
            from engine.config.help import models_that_use

            others = models_that_use(reference, str(config.package))
            choice = f", or choose {' or '.join(others)}" if others else ""
            name = model.rpartition("/")[2]
            raise UserError(f"data.{key} has no effect on model={name}; leave it out{choice}")


def _extensions_in(config: DictConfig) -> list[str]:
    """The extensions whose code the configuration refers to."""
    if not extensions_in_use():
        return []
    text = OmegaConf.to_yaml(config)
    return [
        name for name in extensions.names() if re.search(rf": {re.escape(name)}(\.|$)", text, re.MULTILINE)
    ]


def split_network(overrides: Sequence[str]) -> tuple[list[str], str | None]:
    """Separate `backbone=<file>` from the other overrides: (the others, the file or None)."""
    files = [o for o in overrides if o.startswith("backbone=") and o.endswith((".yaml", ".yml"))]
    if files and (options := [o for o in overrides if o.startswith("backbone.")]):
        raise UserError(f"{options[0]}: {files[-1]} describes the whole network; edit the file instead")
    return [o for o in overrides if o not in files], files[-1].partition("=")[2] if files else None


def with_network_file(config: DictConfig, file: str | None) -> DictConfig:
    if file is None:
        return config
    from engine.config import network_file

    return with_backbone(config, network_file.read(Path(file).expanduser()))


def with_backbone(config: DictConfig, fields: Mapping[str, Any]) -> DictConfig:
    """A copy of a training configuration whose backbone is the network in `fields` (`NetSpec.to_dict`)."""
    from engine.config import network_file

    changed = copy.deepcopy(config)
    OmegaConf.set_struct(changed, False)
    changed.backbone = network_file.node(fields)
    OmegaConf.set_struct(changed, True)
    return changed


def to_yaml(config: DictConfig) -> str:
    """A configuration as YAML text; references between keys are kept."""
    return OmegaConf.to_yaml(config, resolve=False)


def keys(config: Any, prefix: str = "") -> Iterator[str]:
    """All keys of a configuration, dotted."""
    items: Any = ()
    if isinstance(config, DictConfig):
        items = config.items_ex(resolve=False)
    for key, value in items:
        yield f"{prefix}{key}"
        if isinstance(value, (DictConfig, ListConfig)):
            yield from keys(value, f"{prefix}{key}.")


def composition_error(tool: str, overrides: Sequence[str], error: Exception) -> UserError:
    """What is wrong with a command line that Hydra composes itself, such as that of a sweep."""
    typed = [o for o in overrides if "=" in o and not o.startswith(("-", "extend="))]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return UserError(_explain(tool, add_task_prefix(tool, typed), error))


def _explain(tool: str, overrides: Sequence[str], error: Exception) -> str:
    text = str(error)
    key = re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    option = re.search(r"Could not find '([^']+)'", text) or re.search(r"Could not load '([^']+)'", text)
    if emptied := [o for o in overrides if o.partition("=")[0] in groups(tool) and o.endswith("=null")]:
        return needs_an_option(tool, emptied[0])
    if option and "/" in option[1]:
        group, _, name = option[1].partition("/")
        known = groups(tool).get(group, [])
        listed = f"; choose one of {', '.join(known)}" if known else ""
        elsewhere = of_another_group(group, name, groups(tool), chosen_task(overrides))
        if group == "backbone" and not elsewhere:
            listed += f"; for a network of torchvision, backbone=torchvision backbone.name={name}"
        return f"{group}={name}: no such option{elsewhere or nearest(name, known, cutoff=0.6) or listed}"
    if key:
        from engine.config.help import key_hint

        if models := _models_instead_of_recipe(tool, overrides, key[1]):
            return f"unknown key {key[1]!r}; {models}"
        chosen = split_network(add_recipe(tool, overrides))[0]
        known_keys = set(groups(tool)) | set(keys(_with_groups_alone(tool, chosen)))
        return f"unknown key {key[1]!r}{key_hint(key[1], known_keys - {key[1]}, chosen_task(overrides))}"
    if other_kind := re.match(r"Error merging override ([\w.+]+)=(.*)", text):
        return _other_kind(tool, overrides, other_kind[1].lstrip("+"), other_kind[2])
    known_error = isinstance(error, (HydraException, OmegaConfBaseException))
    reason = first_line(error) if known_error else "does not fit the configuration; --help lists the keys"
    return f"{shortened(' '.join(_at_fault(tool, overrides)))}: {reason}"


def _other_kind(tool: str, overrides: Sequence[str], key: str, value: str) -> str:
    """The message for a mapping where a list is needed, or a list where a group of keys is needed."""
    if isinstance(OmegaConf.select(_with_groups_alone(tool, overrides), key), DictConfig):
        return f"{key} must be a group of keys, got {value}; set its keys one by one: {key}.<key>=<value>"
    remedy = f"; write {key}=[{value}]" if "_target_" in value else ""
    return f"{key} must be a list, such as [..., ...], got {value}{remedy}"


def _at_fault(tool: str, overrides: Sequence[str]) -> list[str]:
    """The overrides that cannot be composed even if no other key is typed; if there are none, all."""
    chosen = [override for override in overrides if override.partition("=")[0] in groups(tool)]
    found = []
    for override in overrides:
        try:
            compose(tool, [*search_path(), *dict.fromkeys([*chosen, override])])
        except Exception:
            found.append(override)
    return found or list(overrides)


def needs_an_option(tool: str, override: str) -> str:
    """The message for `group=null` where the group cannot be empty."""
    group = override.partition("=")[0]
    return f"{override}: needs an option; choose one of {', '.join(groups(tool)[group])}"


def _models_instead_of_recipe(tool: str, typed: Sequence[str], key: str) -> str:
    """Which models have a key, if the recipe of the data format chose one that lacks it; "" if none has."""
    added = [override for override in add_recipe(tool, typed) if override not in typed]
    if not added:
        return ""
    task = chosen_task([*typed, *added])
    models = options_by_task("model", groups(tool)["model"])[task]
    choices = {name: _with_groups_alone(tool, [*typed, f"model={task}/{name}"]) for name in models}
    having = [f"model={name}" for name, config in choices.items() if key in keys(config)]
    if not having:
        return ""
    data = next(o.rpartition("=")[2].rpartition("/")[2] for o in typed if o.lstrip("+").startswith("data="))
    return f"data={data} starts from {added[0]}, which lacks it; it is for {' or '.join(having)}"


def _with_groups_alone(tool: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration without the keys that were typed, for suggestions."""
    chosen = [override for override in overrides if override.partition("=")[0] in groups(tool)]
    try:
        return compose(tool, [*search_path(), *chosen])
    except (HydraException, OmegaConfBaseException):
        return compose(tool, search_path())


def make_paths_absolute(config: DictConfig) -> None:
    """Make relative paths absolute, so that the run can later be opened from any working directory."""
    nodes = config.data.items_ex(resolve=False)
    splits = [key for key, node in nodes if isinstance(node, DictConfig) and key != "source"]
    in_splits = [f"data.{split}.{name}" for split in splits for name in _PATHS_OF_SPLITS]
    own_root = not OmegaConf.is_interpolation(config.data.source, "root")
    for key in (*_PATHS, *in_splits, *(["data.source.root"] if own_root else [])):
        value = OmegaConf.select(config, key)
        withheld = value == f"<{key}>"  # of a published run
        if isinstance(value, str) and not withheld and not (not key.startswith("data.") and _is_name(value)):
            OmegaConf.update(config, key, os.path.abspath(os.path.expanduser(value)))


def _is_name(value: str) -> bool:
    from engine.run.initial_weights import is_name

    return is_name(value)
