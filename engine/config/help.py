"""The text of `--help`, and where a key belongs."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from engine.config.overrides import (
    CONF,
    TRAINING_TOOLS,
    groups,
    options_by_task,
    own_groups,
    read_yaml,
    top_keys,
)
from engine.errors import UserError, nearest

_RUN_GROUPS = ("data", "inference")
"""Groups that can be changed for an existing run."""


def readable_help(tool: str, help_text: str) -> str:
    """What `--help` prints: the tool's help text, its groups with their options, and its keys."""
    keys = top_keys(tool)
    needs_config = tool in TRAINING_TOOLS or "run" in keys or bool(own_groups(tool))
    lines = [help_text.strip(), *(["", "Groups (group=option):"] if needs_config else [])]
    for group, options in groups(tool).items() if needs_config else ():
        if tool not in TRAINING_TOOLS and group not in (*_RUN_GROUPS, *own_groups(tool)):
            continue
        rows = options_by_task(group, options) or {"": options}
        for task, names in rows.items():
            label = f"task={task}: " if task else ""
            lines.append(f"  {group if task in ('', next(iter(rows))) else '':<11}{label}" + _wrapped(names))
    lines += ["", f"Keys of {tool} (key=value): {_wrapped(keys, width=90)}"]
    if needs_config:
        lines.append(_GROUP_KEYS_HINT if tool in TRAINING_TOOLS else _RUN_KEYS_HINT)
    lines.append("extend=<folder> makes your own modules and YAML files in that folder available to configs.")
    return "\n".join(lines)


_GROUP_KEYS_HINT = (
    "Keys of groups (group.key=value): list them with --cfg job. To sweep over values: -m key=a,b,c."
)
_RUN_KEYS_HINT = "Any key of the run's config.yaml can be overridden as well, for example data.split=test."


def _wrapped(options: Sequence[str], width: int = 85) -> str:
    lines, line = [], ""
    for option in options:
        if len(line) + len(option) > width:
            lines.append(line)
            line = ""
        line += option + ", "
    return ("\n" + " " * 13).join([*lines, line.rstrip(", ")])


def key_hint(key: str, known: Collection[str], task: str, *, fixed: Collection[str] = ()) -> str:
    """The end of a message about an unknown key: the task or option that has it, or the nearest known key.

    known: the keys that there are. task: the task in use. fixed: groups whose option cannot be chosen.
    """
    group = key.partition(".")[0]
    files = sorted((CONF / group).rglob("*.yaml")) if group in groups() else ()
    owners = [path for path in files if key in _keys_in(path, group)]
    by_task: dict[str, list[str]] = {}
    for path in owners:
        first, *rest = path.relative_to(CONF / group).with_suffix("").parts
        by_task.setdefault(first if rest else "", []).append(path.stem)
    if group == "task":  # its files are in one folder
        by_task = {name: [] for name in by_task.get("", [])}
    options = by_task.get(task, by_task.get("", []))
    if options:
        return f"; it is for {_either(f'{group}={name}' for name in options)}"
    if by_task:
        return f"; it is for {_either(f'task={name}' for name in by_task)}"
    if key == f"{group}.name" and group in groups():
        return _NO_HINT if group in fixed else _name_of_option(group, task)
    hint = nearest_key(key, known)
    return (_in_another_option(key) if hint == _NO_HINT else "") or hint


def _name_of_option(group: str, task: str) -> str:
    """`; write model=<name>, with one of ...` for `model.name`."""
    options = groups()[group]
    if by_task := options_by_task(group, options):
        options = by_task.get(task, [])
    few = 1 < len(options) <= _MOST_LISTED
    return f"; write {group}=<name>, with one of {', '.join(options)}" if few else _NO_HINT


def _in_another_option(key: str) -> str:
    """`; optimizer.momentum is for optimizer=...` for `momentum`: options that are not chosen have it."""
    for group, options in groups().items():
        full = f"{group}.{key}"
        files = [CONF / group / f"{name}.yaml" for name in options if name.partition("/")[0] == name]
        having = [
            f"{group}={path.stem}" for path in files if path.is_file() and full in _keys_in(path, group)
        ]
        if having and len(having) < len(files):
            return f"; {full} is for {_either(iter(having))}"
    return ""


def models_that_use(reference: str, task: str) -> list[str]:
    """The `model=` options of a task whose YAML files contain a reference such as `${data.min_scale}`."""
    files = sorted((CONF / "model" / task).glob("*.yaml"))
    return [f"model={file.stem}" for file in files if reference in file.read_text(encoding="utf-8")]


def _either(options: Iterator[str]) -> str:
    return " or ".join([*options][:4])


def _keys_in(path: Path, group: str) -> set[str]:
    """The dotted keys of an option of a group; `_x.yaml` counts for the options that include it."""
    if path.stem.startswith("_"):
        return set()
    content: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    found = {*_dotted(content, "" if group == "task" else f"{group}.")}
    for entry in content.get("defaults", ()):
        for source, name in entry.items() if isinstance(entry, dict) else [(entry, "")]:
            place, here, _ = str(source).partition("@_here_")
            file = CONF / f"{place.strip('/')}{f'/{name}' if name else ''}.yaml"
            if here and file.exists():
                found |= {*_dotted(yaml.safe_load(file.read_text(encoding="utf-8")) or {}, f"{group}.")}
    return found


def _dotted(content: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")


_NO_HINT = "; --help lists the keys"
_MOST_LISTED = 12  # options
_OTHER_PROGRAMS = {
    **dict.fromkeys(("learning_rate", "rate", "lr0"), ("optimizer.lr",)),
    **dict.fromkeys(
        ("imgsz", "img", "image_size", "img_size", "size"), ("data.size", "data.crop", "data.eval_size")
    ),
    **dict.fromkeys(("num_epochs", "max_epochs"), ("trainer.epochs",)),
    **dict.fromkeys(("max_steps", "max_iters", "max_iter", "iterations", "num_steps"), ("trainer.steps",)),
    **dict.fromkeys(("warmup_epochs", "warmup_iters", "warmup"), ("schedule.warmup_steps",)),
    **dict.fromkeys(("cos_lr", "lr_scheduler", "scheduler", "lr_schedule"), ("schedule",)),
    **dict.fromkeys(("out", "output_dir", "save_dir", "log_dir", "project", "name"), ("out", "run")),
    **dict.fromkeys(("amp", "half", "fp16", "int8"), ("precision", "trainer.precision")),
    **dict.fromkeys(("batch_size", "batch"), ("trainer.batch", "data.eval_batch")),
    "pretrained": ("weights",),
    **dict.fromkeys(
        ("conf", "conf_thres", "confidence", "threshold", "score_thr", "shown"), ("task.draw_threshold",)
    ),
    **dict.fromkeys(
        ("iou", "iou_thres", "iou_thr", "nms", "nms_thresh"), ("task.postprocess.iou_threshold",)
    ),
    **dict.fromkeys(("max_det", "detections_per_img", "max_per_img"), ("task.postprocess.max_detections",)),
    **dict.fromkeys(("fliplr", "hflip", "flip_prob"), ("augment.flip",)),
    **dict.fromkeys(("hsv_h", "hsv_s", "hsv_v", "color_jitter"), ("augment.color",)),
    **dict.fromkeys(("aux_loss", "aux", "auxiliary_loss"), ("task.auxiliary",)),
    **dict.fromkeys(("source", "image", "images"), ("input",)),
    **dict.fromkeys(("trials", "n_trials", "num_trials"), ("method.trials", "samples")),
}
"""Names of keys in other programs, and ours."""


def nearest_key(key: str, known: Collection[str]) -> str:
    """`; did you mean '...'?`: keys with the same last part (`optimizer.lr` for `lr`) or with its first word
    (`trainer.batch` for `batch_size`), or the nearest key.

    A key of other tools leads to them. If no key is similar, a pointer to `--help`.
    """
    last = key.rpartition(".")[2]
    if meant := [other for other in _OTHER_PROGRAMS.get(last, ()) if other in known]:
        return f"; did you mean {' or '.join(map(repr, meant))}?"
    group = key.rpartition(".")[0]
    others = [other for other in known if not key.startswith(f"{other}.")]
    others = [other for other in others if other.rpartition(".")[0] != group or _alike(last, other)]
    for name in dict.fromkeys((last, last.partition("_")[0])):
        ends = sorted(other for other in others if "." in other and other.rpartition(".")[2] == name)
        if ends and not (name != last and nearest(key, others, cutoff=0.8)):
            return f"; did you mean {' or '.join(map(repr, ends[:3]))}?"
    if tools := sorted(path.stem for path in CONF.glob("*.yaml") if key in top_keys(path.stem)):
        return f"; it is for {' or '.join(f'tools/{tool}.py' for tool in tools)}"
    return nearest(key, others, cutoff=0.65) or _NO_HINT


def _alike(last: str, other: str) -> bool:
    """Whether the last part of the key `other` is similar to `last`.

    The whole keys of a group always look similar if the name of the group is long.
    """
    return bool(nearest(last, [other.rpartition(".")[2]]))


def check_keys(tool: str, overrides: Sequence[str]) -> None:
    """Raises: UserError if the first part of a key is neither of a tool that works on runs, nor of a run."""
    own_keys, of_run = [*top_keys(tool), *own_groups(tool)], [*top_keys("train"), *groups()]
    for override in overrides:
        typed = override.partition("=")[0]
        key = typed.partition(".")[0].lstrip("+~")
        if key.isidentifier() and key not in (*own_keys, *of_run):
            own = [f"{group}.{name}" for group in own_groups(tool) for name in _keys_of_group(group)]
            known = [*own_keys, *of_run, *keys_of_runs(), *own]
            raise UserError(f"unknown key {typed!r}{nearest_key(key, known)}")


def _keys_of_group(group: str) -> list[str]:
    return sorted({key for path in CONF.glob(f"{group}/*.yaml") for key in read_yaml(path)} - {"_target_"})


def keys_of_runs() -> list[str]:
    """Dotted keys of a run that its tools are often used with, for suggestions."""
    inputs = [*CONF.glob("data/*/_input.yaml"), *CONF.glob("loader/*.yaml")]
    found = {f"data.{key}" for path in inputs for key in read_yaml(path)}
    found |= {f"inference.{key}" for path in CONF.glob("inference/*/*.yaml") for key in read_yaml(path)}
    for path in CONF.glob("task/*.yaml"):
        found |= {*_dotted(read_yaml(path)["task"], "task.")}
    return sorted(key for key in found if not key.endswith((".defaults", "._target_")))
