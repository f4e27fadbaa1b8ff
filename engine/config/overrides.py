"""What can be typed after a tool's name: groups and options of conf/, and `key=value` in Hydra's grammar."""

import os
import re
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from engine.config import extensions
from engine.errors import UserError, nearest

CONF = Path(__file__).resolve().parents[2] / "conf"
TRAINING_TOOLS = ("train", "prepare")
"""Tools that compose a whole training configuration; the others work on a run that has one."""
_SPELLED_OUT = ("experiment",)
"""Groups whose options are typed with the name of their task: experiment=seg/camvid."""
EITHER_OR = (("trainer.steps", "trainer.epochs"),)
"""Keys of which only one may be set: naming one on the command line empties the other."""
PATH_KEYS = re.compile(
    r"run|input|out|resume|replay|init_from|weights|labels|distill\.teacher|spec|artifact|data\.(root|cache)"
    r"|data\.\w+\.(images|annotations)"
)
"""Keys whose values are paths, which may hold characters that mean something in Hydra's grammar."""


def top_keys(tool: str) -> list[str]:
    """The keys that `conf/<tool>.yaml` sets beside its groups."""
    content = _read(CONF / f"{tool}.yaml")
    inherited = [root for root in content["defaults"] if root in TRAINING_TOOLS]
    own = [key for key in content if key not in ("defaults", "hydra", "_target_")]
    return [key for root in inherited for key in top_keys(root)] + own


def own_groups(tool: str) -> list[str]:
    """The groups that belong to a tool which works on runs, and to no training."""
    if tool in TRAINING_TOOLS:
        return []
    keys = [
        key for entry in _read(CONF / f"{tool}.yaml")["defaults"] if isinstance(entry, dict) for key in entry
    ]
    return [key for key in keys if not key.startswith("override ")]


def groups(tool: str = "train") -> dict[str, list[str]]:
    """All config groups and their options, as the YAML files have them, without those of other tools."""
    others = {group for root in CONF.glob("*.yaml") if root.stem != tool for group in own_groups(root.stem)}
    options: dict[str, list[str]] = {}
    for conf in (CONF, *(extensions.conf_folders() if extensions_in_use() else ())):
        for folder in sorted(path for path in conf.iterdir() if path.is_dir() and path.name not in others):
            names = [str(file.relative_to(folder).with_suffix("")) for file in sorted(folder.rglob("*.yaml"))]
            public = [name for name in names if not name.rpartition("/")[2].startswith("_")]
            options[folder.name] = [*options.get(folder.name, []), *public]
    return {group: names for group, names in options.items() if names}


def tasks() -> list[str]:
    """The values of `task=`."""
    return groups()["task"]


def by_task(group: str, options: Sequence[str]) -> dict[str, list[str]]:
    """{task: its options} for a group whose files lie in a folder per task; {} for any other group."""
    if group in _SPELLED_OUT or not any("/" in option for option in options):
        return {}
    sorted_out: dict[str, list[str]] = {}
    for option in options:
        task, slash, name = option.partition("/")
        if slash:
            sorted_out.setdefault(task, []).append(name)
    return sorted_out


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def parsed(override: str) -> tuple[str, Any]:
    """(key, value) of one `key=value`.

    Raises:
        UserError: it cannot be parsed, or has several values where one is expected.
    """
    try:
        parsed_override = OverridesParser.create().parse_override(override)
        if parsed_override.is_sweep_override():
            raise UserError(f"{shown(override)}: several values are a sweep, which needs -m")
        value = None if parsed_override.is_delete() else parsed_override.value()
        return parsed_override.key_or_group, value
    except UserError:
        raise
    except (HydraException, ValueError, RecursionError):  # Python itself refuses numbers of 4300 digits
        raise UserError(
            f"{shown(override)}: cannot be parsed; write key=value, and put a value with special characters "
            "in quotes inside of quotes: 'key=\"value\"'"
        ) from None


def quoted(override: str) -> str:
    """A path in quotes: commas, brackets and equals signs have a meaning in Hydra's grammar."""
    key, _, value = override.partition("=")
    if not PATH_KEYS.fullmatch(key) or value in ("", "null", "???") or value[0] in "'\"$":
        return override
    escaped = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + ("\\'" if end[2] else ""), value)
    return f"{key}='{escaped}'"


def emptied(overrides: Sequence[str]) -> list[str]:
    """`trainer.epochs=null` for `trainer.steps=...`, and the other way round."""
    named = {override.partition("=")[0].lstrip("+") for override in overrides}
    empty = []
    for keys in EITHER_OR:
        if len(named.intersection(keys)) == 1:
            empty += [f"{key}=null" for key in keys if key not in named]
    return empty


def extensions_in_use() -> bool:
    """Whether there is any extension, without importing one."""
    named = os.environ.get(extensions.VARIABLE)
    return bool(named) or bool(entry_points(group=extensions.ENTRY_POINTS))


def take_extensions(arguments: Sequence[str]) -> list[str]:
    """The arguments without `extend=<folder>` (or `[a, b]`), which is put into effect."""
    folders: list[str] = []
    for argument in arguments:
        if argument.startswith("extend=") and argument != "extend=":
            value = argument.partition("=")[2]
            folders += [part.strip() for part in value.strip("[]").split(",")]
    if folders:
        extensions.add(folders)
    return [argument for argument in arguments if not argument.startswith("extend=")]


def split(tool: str, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the tool itself, and those meant for the run that it works on."""
    if tool in TRAINING_TOOLS:
        own = [o for o in overrides if o.startswith(("resume=", "replay="))]
        return (own, [o for o in overrides if o not in own]) if own else (list(overrides), [])
    own_keys = [*top_keys(tool), *own_groups(tool)]
    own = [o for o in overrides if o.partition("=")[0].partition(".")[0].lstrip("+~") in own_keys]
    return own, [o for o in overrides if o not in own]


def with_task(tool: str, overrides: Sequence[str], task: str | None = None) -> list[str]:
    """`data=masks` -> `data=seg/masks`: options that belong to one task are typed without its name.

    Args:
        task: of the run that the overrides are for; by default the one that they choose.

    Raises:
        UserError: an unknown task, or an option that belongs to another task.
    """
    known = groups(tool)
    task = task or chosen_task(overrides)
    return [_with_task(override, known, task) for override in overrides]


def chosen_task(overrides: Sequence[str]) -> str:
    """The task that these overrides of a training choose, by task= or by the folder of experiment=."""
    values = {key: value for key, _, value in (o.partition("=") for o in overrides)}
    task = values.get("task") or values.get("experiment", "").partition("/")[0]
    if "task" in values and "," not in task and task not in tasks():
        listed = ", ".join(tasks())
        raise UserError(f"task={task}: no such task; choose one of {listed}{nearest(task, tasks())}")
    return task if task in tasks() else "seg"


def _with_task(override: str, known: dict[str, list[str]], task: str) -> str:
    group, equals, value = override.partition("=")
    sorted_out = by_task(group, known.get(group, ()))
    if not sorted_out or not equals or value in ("", "null"):
        return override
    names = [_option(group, name.strip(), sorted_out, task) for name in value.split(",")]
    return f"{group}={','.join(names)}"


def _option(group: str, name: str, sorted_out: dict[str, list[str]], task: str) -> str:
    if "/" in name or name[:1] in "[{$'\"":
        return name
    own = sorted_out.get(task, [])
    if name in own:
        return f"{task}/{name}"
    takes = f"task={task} takes {', '.join(own)}" if own else f"task={task} has no {group}= to choose"
    others = [other for other, names in sorted_out.items() if name in names]
    if others:
        raise UserError(f"{group}={name} is for task={' and task='.join(others)}; {takes}")
    raise UserError(f"{group}={name}: no such option; {takes}{nearest(name, own)}")


def shown(override: str) -> str:
    """An override on one line of readable length."""
    text = override if override.isprintable() else repr(override)
    return text if len(text) <= 200 else f"{text[:200]}..."
