"""What can be configured, read off the folder `conf`: tools, groups, options; and the text of `--help`."""

from pathlib import Path

import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"


MAKE_RUNS = ("train", "prepare")
"""Tools that compose a whole configuration; the others take that of a run."""


_OF_A_RUN = ("data", "inference")  # groups that may be chosen anew for a run that is there


_KEYS_OF_GROUPS = (
    "Keys of groups (group.key=value) and their values: --cfg job. A sweep over values: -m key=a,b,c."
)


_KEYS_OF_A_RUN = "Every key of the run's config.yaml may be overridden too, for instance data.split=test."


def top_keys(tool: str) -> list[str]:
    """The keys that `conf/<tool>.yaml` sets beside its groups."""
    content = yaml.safe_load((CONF / f"{tool}.yaml").read_text(encoding="utf-8"))
    inherited = [root for root in content["defaults"] if root in MAKE_RUNS]
    own = [key for key in content if key not in ("defaults", "hydra")]
    return [key for root in inherited for key in top_keys(root)] + own


def readable_help(tool: str, help_text: str) -> str:
    """What `--help` prints: the tool's own text, then its groups with their options and its keys."""
    lines = [help_text.strip(), "", "Groups (group=option):"]
    for group, options in groups(tool).items():
        if tool not in MAKE_RUNS and group not in (*_OF_A_RUN, *own_groups(tool)):
            continue
        names = ", ".join(options)
        lines.append(f"  {group:<11}{names}" if len(names) < 90 else f"  {group:<11}" + _wrapped(options))
    lines += ["", f"Keys of {tool} (key=value): {_wrapped(top_keys(tool), width=90)}"]
    lines.append(_KEYS_OF_GROUPS if tool in MAKE_RUNS else _KEYS_OF_A_RUN)
    return "\n".join(lines)


def own_groups(tool: str) -> list[str]:
    """The groups that belong to a tool which works on runs, and to no training."""
    if tool in MAKE_RUNS:
        return []
    content = yaml.safe_load((CONF / f"{tool}.yaml").read_text(encoding="utf-8"))
    keys = [key for entry in content["defaults"] if isinstance(entry, dict) for key in entry]
    return [key for key in keys if not key.startswith("override ")]


def groups(tool: str = "train") -> dict[str, list[str]]:
    """All config groups and their options, as the folder `conf` has them, but for other tools' own."""
    others = {group for root in CONF.glob("*.yaml") if root.stem != tool for group in own_groups(root.stem)}
    found: dict[str, list[str]] = {}
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name not in others):
        files = sorted(folder.rglob("*.yaml"))
        found[folder.name] = [str(file.relative_to(folder).with_suffix("")) for file in files]
    return found


def _wrapped(options: list[str], width: int = 95) -> str:
    lines, line = [], ""
    for option in options:
        if len(line) + len(option) > width:
            lines.append(line)
            line = ""
        line += option + ", "
    return ("\n" + " " * 13).join([*lines, line.rstrip(", ")])
