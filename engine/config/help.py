"""The text of `--help`."""

from collections.abc import Sequence

from engine.config.overrides import TRAINING_TOOLS, groups, options_by_task, own_groups, top_keys

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
