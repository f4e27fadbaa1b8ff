"""Command-line arguments of the tools: the groups and options in conf/, and overrides in Hydra's syntax."""

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from engine.config import extensions
from engine.errors import UserError, nearest

CONF = Path(__file__).resolve().parents[2] / "conf"
TRAINING_TOOLS = ("train", "prepare", "check")
"""Tools that compose a whole training configuration; the others work on an existing run."""
_FULL_NAME_GROUPS = ("experiment",)
"""Groups whose options include the task when typed: experiment=seg/camvid."""
_INCLUDED_GROUPS = ("loader",)
"""Groups whose files other files include (`data.workers` is in conf/loader), so they are not typed."""
EXCLUSIVE_KEYS = (("trainer.steps", "trainer.epochs", "trainer.minutes"),)
"""Mutually exclusive keys: setting one on the command line sets the others to null."""
PATH_KEYS = re.compile(
    r"run|input|out|resume|replay|init_from|weights|labels|distill\.(teacher|images)|spec|artifact|data\.(root|cache|exclude)"
    r"|data\.\w+\.(images|annotations)|remote\.(python|runner)|latency|site|certificate|key"
)
"""Keys whose values are paths, which can contain special characters of Hydra's syntax."""
_NO_PATHS = ("", "null", "???", "true", "false")
"""Other values of these keys: in tools/benchmark.py, latency= is not a table, but says whether to measure."""


def top_keys(tool: str) -> list[str]:
    """The keys of `conf/<tool>.yaml` that are not groups."""
    content = read_yaml(CONF / f"{tool}.yaml")
    inherited = [root for root in content["defaults"] if root in TRAINING_TOOLS]
    own = [key for key in content if key not in ("defaults", "hydra", "_target_")]
    return [key for root in inherited for key in top_keys(root)] + own


def own_groups(tool: str) -> list[str]:
    """The groups of a tool that works on runs; training configurations do not include them."""
    if tool in TRAINING_TOOLS:
        return []
    keys = [
        key
        for entry in read_yaml(CONF / f"{tool}.yaml")["defaults"]
        if isinstance(entry, dict)
        for key in entry
    ]
    return [key for key in keys if not key.startswith("override ")]


def groups(tool: str = "train") -> dict[str, list[str]]:
    """All config groups and their options, from the YAML files, except groups of other tools."""
    others = _groups_of_others(tool)
    options: dict[str, list[str]] = {}
    for conf in (CONF, *(extensions.conf_folders() if extensions_in_use() else ())):
        for folder in sorted(path for path in conf.iterdir() if path.is_dir() and path.name not in others):
            names = [str(file.relative_to(folder).with_suffix("")) for file in sorted(folder.rglob("*.yaml"))]
            public = [as_typed(folder.name, name) for name in names if "/_" not in f"/{name}"]
            options[folder.name] = [*options.get(folder.name, []), *public]
    return {group: names for group, names in options.items() if names and group not in _INCLUDED_GROUPS}


def as_typed(group: str, option: str) -> str:
    """`seg/table7/raspp_v2` -> `seg/raspp_v2` for an experiment: folders below its task are not typed."""
    first, slash, rest = option.partition("/")
    return f"{first}{slash}{rest.rpartition('/')[2]}" if group in _FULL_NAME_GROUPS else option


def experiment_options() -> dict[str, str]:
    """{experiment as typed: its path below conf/experiment}: {"seg/raspp_v2": "seg/table7/raspp_v2", ...}."""
    confs = (CONF, *(extensions.conf_folders() if extensions_in_use() else ()))
    folders = [conf / "experiment" for conf in confs]
    options = [
        file.relative_to(folder).with_suffix("").as_posix()
        for folder in folders
        for file in sorted(folder.rglob("*.yaml"))
    ]
    return {as_typed("experiment", option): option for option in options}


@cache
def _groups_of_others(tool: str) -> frozenset[str]:
    return frozenset(
        group for root in CONF.glob("*.yaml") if root.stem != tool for group in own_groups(root.stem)
    )


def tasks() -> list[str]:
    """The values of `task=`."""
    return groups()["task"]


def options_by_task(group: str, options: Sequence[str]) -> dict[str, list[str]]:
    """{task: its options} for a group with one folder per task; {} for any other group."""
    if group in _FULL_NAME_GROUPS or not any("/" in option for option in options):
        return {}
    grouped: dict[str, list[str]] = {}
    for option in options:
        task, slash, name = option.partition("/")
        if slash:
            grouped.setdefault(task, []).append(name)
    return grouped


@cache
def read_yaml(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def is_set_by_experiment(experiment: str, key: str) -> bool:
    """Whether the YAML file of one of this project's experiments sets a key."""
    file = CONF / "experiment" / f"{experiment}.yaml"
    node: Any = read_yaml(file) if file.is_file() else None
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node is not None


def parse_override(override: str) -> tuple[str, Any]:
    """Parse one `key=value` override: (key, value).

    Raises:
        UserError: if it cannot be parsed, or has several values where one is expected.
    """
    try:
        result = OverridesParser.create().parse_override(override)
        if result.is_sweep_override():
            raise UserError(
                f"{shortened(override)}: several values are a sweep; add -m to run one job per value"
            )
        value = None if result.is_delete() else result.value()
        return result.key_or_group, value
    except UserError:
        raise
    except (HydraException, ValueError, RecursionError):  # Python rejects numbers of more than 4300 digits
        raise UserError(
            f"{shortened(override)}: cannot be parsed; write key=value, and quote values with special "
            "characters twice: 'key=\"value\"'"
        ) from None


def with_home(override: str) -> str:
    """Expand `~` at the start of a path, because some shells do not expand it after `=`.

    Raises: UserError if the home folder is unknown; otherwise, a folder called ~ would be created.
    """
    key, _, value = override.partition("=")
    on_this_machine = PATH_KEYS.fullmatch(key) and not key.startswith("remote.")
    if not on_this_machine or not re.match(r"~(?:/|$)", value):
        return override
    expanded = os.path.expanduser(value)
    if expanded.startswith("~"):
        raise UserError(f"{override}: the home folder is unknown; write the path without ~")
    return f"{key}={expanded}"


def quote_path(override: str) -> str:
    """Quote the value if it is a path: commas, brackets and equals signs are special in Hydra's syntax.

    `run=[a,b]` and `run=[a]` are lists of paths, unless there is a folder of that name.
    """
    key, _, value = override.partition("=")
    if key == "run" and re.fullmatch(r"\[.*\]", value) and not os.path.exists(value):
        typed = [path.strip() for path in value[1:-1].split(",") if path.strip()]
        paths = [quote_path(with_home(f"run={path}")).removeprefix("run=") for path in typed]
        return f"run=[{','.join(paths)}]"
    if not PATH_KEYS.fullmatch(key) or value.lower() in _NO_PATHS or value[0] in "'\"$":
        return override
    escaped = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + ("\\'" if end[2] else ""), value)
    return f"{key}='{escaped}'"


def unquote_path(override: str) -> str:
    """The override that `quote_path` made this one from: as it is typed."""
    key, _, value = override.partition("=")
    if not PATH_KEYS.fullmatch(key) or len(value) < 2 or value[0] != "'" or value[-1] != "'":
        return override
    plain = re.sub(r"(\\*)('|$)", lambda end: end[1][: len(end[1]) // 2] + end[2], value[1:-1])
    return f"{key}={plain}" if quote_path(f"{key}={plain}") == override else override


def without_empty_groups(tool: str, overrides: Sequence[str]) -> list[str]:
    """Drop `experiment=null` and `debug=null`: they are the defaults, but Hydra refuses them when typed."""
    if tool not in TRAINING_TOOLS:
        return list(overrides)
    defaults = [entry for entry in read_yaml(CONF / "train.yaml")["defaults"] if isinstance(entry, dict)]
    optional = [key for entry in defaults for key, value in entry.items() if value is None]
    empty = [f"{group}={value}" for group in optional for value in ("", "null")]
    return [override for override in overrides if override not in empty]


def cleared_alternatives(overrides: Sequence[str]) -> list[str]:
    """`trainer.epochs=null` and `trainer.minutes=null` if `trainer.steps=...` is set, and so on."""
    named = {override.partition("=")[0].lstrip("+") for override in overrides}
    empty = []
    for keys in EXCLUSIVE_KEYS:
        if len(named.intersection(keys)) == 1:
            empty += [f"{key}=null" for key in keys if key not in named]
    return empty


def extensions_in_use() -> bool:
    """Whether any extension is in use, without importing it."""
    return bool(os.environ.get(extensions.VARIABLE)) or _any_installed()


@cache
def _any_installed() -> bool:
    return bool(entry_points(group=extensions.ENTRY_POINTS))


def apply_extend(arguments: Sequence[str]) -> list[str]:
    """Register the folders of `extend=<folder>` (or `extend=[a,b]`); returns the other arguments."""
    folders: list[str] = []
    for argument in arguments:
        if argument.startswith("extend=") and argument != "extend=":
            value = argument.partition("=")[2]
            whole = Path(value).is_dir()  # a folder's name can contain commas and brackets
            folders += [value] if whole else [part.strip() for part in value.strip("[]").split(",")]
    if folders:
        extensions.add(folders)
    return [argument for argument in arguments if not argument.startswith("extend=")]


def split_overrides(tool: str, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate overrides of the tool's own options from overrides of the run that it works on."""
    if tool in TRAINING_TOOLS:
        own = [o for o in overrides if re.match(r"(resume|replay)=(?!null$|$)", o)]
        return (own, [o for o in overrides if o not in own]) if own else (list(overrides), [])
    own_keys = [*top_keys(tool), *own_groups(tool)]
    _check_pairs(overrides, "run=<run folder>" if "run" in own_keys else f"{own_keys[0]}=<value>")
    tops = {override: override.partition("=")[0].partition(".")[0].lstrip("+~") for override in overrides}
    own = [override for override in overrides if tops[override] in own_keys]
    return own, [override for override in overrides if override not in own]


def add_task_prefix(tool: str, overrides: Sequence[str], task: str | None = None) -> list[str]:
    """Complete the names of options: `data=masks` -> `data=seg/masks`, the folder of an experiment likewise.

    Args:
        task: the task of the run that the overrides are for; by default, the task that they choose.

    Raises:
        UserError: if the task is unknown, or an option belongs to another task.
    """
    _check_pairs(overrides, "task=seg")
    known = groups(tool)
    swept = "" if task else _swept_tasks(overrides)
    task = task or chosen_task(overrides)
    prefixed = [_add_task_prefix(override, known, task) for override in overrides]
    changed = [o for o in overrides if o not in prefixed and not o.startswith("experiment=")]
    if swept and changed:
        raise UserError(
            f"{changed[0]}: belongs to one task, but {swept} sweeps over several; sweep over one task at a "
            "time"
        )
    return prefixed


def _check_pairs(overrides: Sequence[str], example: str) -> None:
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise UserError(f"{shortened(override)!r}: not an option; write key=value, such as {example}")


def _swept_tasks(overrides: Sequence[str]) -> str:
    """The override that sweeps over several tasks, if there is one."""
    for override in overrides:
        key, _, value = override.partition("=")
        parts = {part.partition("/")[0] for part in value.split(",")}
        if key in ("task", "experiment") and len(parts) > 1:
            return override
    return ""


def chosen_task(overrides: Sequence[str]) -> str:
    """The task that these training overrides choose with task= or with the folder of experiment=."""
    values = {key: value for key, _, value in (o.partition("=") for o in overrides)}
    of_experiment = values.get("experiment", "").partition("/")[0]
    task = values.get("task") or of_experiment
    if {task, of_experiment} <= set(tasks()) and task != of_experiment:
        raise UserError(
            f"experiment={values['experiment']} is for task={of_experiment}; leave out task={task}, or "
            "choose another experiment"
        )
    if "task" in values and "," not in task and task not in tasks():
        listed = ", ".join(tasks())
        raise UserError(f"task={task}: no such task; choose one of {listed}{nearest(task, tasks())}")
    return task if task in tasks() else _default_task()


def _default_task() -> str:
    """`task: seg` of conf/train.yaml."""
    (task,) = (entry["task"] for entry in read_yaml(CONF / "train.yaml")["defaults"] if "task" in entry)
    return str(task)


def _add_task_prefix(override: str, known: dict[str, list[str]], task: str) -> str:
    group, equals, value = override.partition("=")
    if group == "experiment" and value not in ("", "null"):
        full = experiment_options()
        return f"{group}={','.join(full.get(name.strip(), name) for name in value.split(','))}"
    grouped = options_by_task(group, known.get(group, ()))
    if not grouped or not equals or value in ("", "null"):
        return override
    options = {*known[group], *(name for names in grouped.values() for name in names)}
    if group == "data" and value not in options and _is_dataset(value):
        yolo = _is_yaml(value) and task == "det"
        remedy = f"data={'yolo' if yolo else '<format>'} data.root={value}"
        check = "" if yolo else f" (python tools/check.py {value} finds the format)"
        takes = ", ".join(grouped.get(task, ()))
        raise UserError(f"data={value}: not a format of task={task} ({takes}); write {remedy}{check}")
    names = [_option(group, name.strip(), grouped, task, known) for name in value.split(",")]
    return f"{group}={','.join(names)}"


def _is_dataset(value: str) -> bool:
    return _is_yaml(value) or os.path.exists(os.path.expanduser(value))


def _is_yaml(value: str) -> bool:
    return value.endswith((".yaml", ".yml"))


_WITH_OUTLINES = ("cvat", "labelme", "yolo")

_CONVERT = "outlines become masks with python tools/convert.py input=<data.root> out=<new folder> to=masks"


def _option(
    group: str, name: str, grouped: dict[str, list[str]], task: str, known: dict[str, list[str]]
) -> str:
    if "/" in name or name[:1] in "[{$'\"":
        return name
    own = grouped.get(task, [])
    if name in own:
        return f"{task}/{name}"
    takes = f"task={task} takes {', '.join(own)}" if own else f"task={task} has no {group}= options"
    others = [other for other, names in grouped.items() if name in names]
    if others:
        convert = f"; {_CONVERT}" if (task, group) == ("seg", "data") and name in _WITH_OUTLINES else ""
        raise UserError(f"{group}={name} is for task={' and task='.join(others)}; {takes}{convert}")
    hint = of_another_group(group, name, known, task) or nearest(name, own)
    raise UserError(f"{group}={name}: no such option; {takes}{hint}")


def of_another_group(group: str, name: str, known: Mapping[str, Sequence[str]], task: str) -> str:
    """`; did you mean backbone=...?` for `model=mobilenet_v3_small`: another group has this option."""
    for other, options in known.items() if name != "default" else ():
        if other != group and (name in options or f"{task}/{name}" in options):
            full = f"{task}/{name}" if other in _FULL_NAME_GROUPS else name
            return f"; did you mean {other}={full}?"
    return ""


def add_recipe(tool: str, overrides: Sequence[str]) -> list[str]:
    """Add the experiment that a data format recommends (`recipe` in its YAML file), if the choice is open.

    overrides: with the task's prefix. Nothing is added if one of them chooses an experiment (or none, with
    experiment=null), a model, a loss or weights of a whole network other than a run of that experiment.

    Raises:
        UserError: if there is no such experiment for the task, or a sweep has formats with different ones.
    """
    pairs = {key.lstrip("+~"): value for key, _, value in (o.partition("=") for o in overrides)}
    turned_off = ("data.recipe", "experiment")
    typed = {key: value for key, value in pairs.items() if value not in ("", "null") or key in turned_off}
    if tool not in TRAINING_TOOLS or typed.keys() & _CHOOSE_NETWORK or "data" not in typed:
        return list(overrides)
    recipe = typed["data.recipe"].strip("'\"") if "data.recipe" in typed else _recipe_of(typed["data"])
    if recipe in (None, "", "null") or not _is_of_recipe(typed.get("init_from"), str(recipe)):
        return list(overrides)
    known, task = experiment_options(), str(recipe).partition("/")[0]
    if recipe not in known:
        raise UserError(f"data.recipe={recipe}: no such experiment{nearest(str(recipe), list(known))}")
    if typed.get("task", task) != task:
        if "data.recipe" not in typed:
            return list(overrides)  # the data are those of another task
        raise UserError(f"data.recipe={recipe}: is for task={task}; choose another, or data.recipe=null")
    return [*overrides, f"experiment={known[str(recipe)]}"]


_CHOOSE_NETWORK = {"experiment", "model", "loss", "resume", "replay"}


def _recipe_of(data: str) -> str | None:
    """The recipe of a format, or of all formats in a sweep. Raises: UserError if they differ."""
    recipes = {name.strip(): _read_recipe(name.strip()) for name in data.split(",")}
    if len(set(recipes.values())) > 1:
        listed = ", ".join(
            f"{name.rpartition('/')[2]}: {recipe or 'none'}" for name, recipe in recipes.items()
        )
        raise UserError(f"data=: the formats have different recipes ({listed}); set experiment= or model=")
    return next(iter(recipes.values()))


def _read_recipe(data: str) -> str | None:
    for conf in (CONF, *(extensions.conf_folders() if extensions_in_use() else ())):
        file = conf / "data" / f"{data}.yaml"
        if file.is_file():
            content = read_yaml(file)
            included = [entry for entry in content.get("defaults", ()) if str(entry).endswith("@_here_")]
            inherited = [_read_recipe(str(entry)[len("/data/") : -len("@_here_")]) for entry in included]
            return content.get("recipe", next((recipe for recipe in inherited if recipe), None))
    return None


def _is_of_recipe(init_from: str | None, recipe: str) -> bool:
    """Whether `init_from` is not set, or a run of this experiment (or a checkpoint in its folder)."""
    if init_from is None:
        return True
    path = Path(os.path.expanduser(unquote_path(f"init_from={init_from}").partition("=")[2].strip("'\"")))
    for folder in (path, path.parent.parent):
        try:
            text = (folder / "config.yaml").read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        return re.search(rf"^experiment: *{re.escape(recipe)} *$", text, re.MULTILINE) is not None
    return False


def shortened(override: str) -> str:
    """An override, cut off after 200 characters so that a message can quote it."""
    return override if len(override) <= 200 else f"{override[:200]}..."
