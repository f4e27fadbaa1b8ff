"""The text of `--help`."""

from collections.abc import Sequence

from engine.config.overrides import TRAINING_TOOLS, by_task, groups, own_groups, top_keys

_OF_A_RUN = ("data", "inference")
"""Groups that may be chosen again for an existing run."""


def readable_help(tool: str, help_text: str) -> str:
    """What `--help` prints: the tool's own text, then its groups with their options, and its keys."""
    lines = [help_text.strip(), "", "Groups (group=option):"]
    for group, options in groups(tool).items():
        if tool not in TRAINING_TOOLS and group not in (*_OF_A_RUN, *own_groups(tool)):
            continue
        rows = by_task(group, options) or {"": options}
        for task, names in rows.items():
            label = f"task={task}: " if task else ""
            lines.append(f"  {group if task in ('', next(iter(rows))) else '':<11}{label}" + _wrapped(names))
    lines += ["", f"Keys of {tool} (key=value): {_wrapped(top_keys(tool), width=90)}"]
    lines.append(_KEYS_OF_GROUPS if tool in TRAINING_TOOLS else _KEYS_OF_A_RUN)
    lines.append("extend=<folder> lets configs use your own modules and YAML files in that folder.")
    return "\n".join(lines)


_KEYS_OF_GROUPS = (
    "Keys of groups (group.key=value) and their values: --cfg job. To sweep over values: -m key=a,b,c."
)
_KEYS_OF_A_RUN = "Every key of the run's config.yaml can be overridden too, for example data.split=test."


def _wrapped(options: Sequence[str], width: int = 85) -> str:
    lines, line = [], ""
    for option in options:
        if len(line) + len(option) > width:
            lines.append(line)
            line = ""
        line += option + ", "
    return ("\n" + " " * 13).join([*lines, line.rstrip(", ")])
