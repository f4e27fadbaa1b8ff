"""Writes docs/reference/command-line.md and configuration-keys.md from conf/ and the tools' --help texts.

    python -m tests.docs.reference_pages

The pages are committed, so that they can be read without building anything; a test keeps them up to date.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.docs.documented import ROOT, TOOLS

CONF = ROOT / "conf"
COMMAND_LINE = ROOT / "docs" / "reference" / "command-line.md"
CONFIGURATION_KEYS = ROOT / "docs" / "reference" / "configuration-keys.md"
NOTE = "<!-- Written by `python -m tests.docs.reference_pages`; do not edit. -->"
ORDER = ("train", "eval", "predict", "export", "benchmark", "search", "prepare", "publish")
TASKS = {"seg": "segmentation", "det": "detection", "cls": "classification"}


COMMAND_LINE_INTRODUCTION = """
Every tool takes `key=value` arguments: `python tools/<tool>.py key=value ...`. `--help` lists a tool's
groups and keys, `--cfg job` prints the composed configuration instead of running, and `-m` runs a sweep
([configuration](../guides/configuration.md)). All tools take `extend=<folder>` for [your own
code](../extend/index.md).

Exit status: 0 on success, 1 after an error, 75 if a signal stopped a training run, which then saved a
checkpoint, 130 after Ctrl-C at any other time.
"""
KEYS_INTRODUCTION = """
The groups of `conf/` with their options and keys. `group=option` chooses a file, and `group.key=value`
sets a key. A key with the default `???` must be set; `${...}` refers to another key.
[Configuration](../guides/configuration.md) explains how they work together. Keys outside of groups belong
to a [tool](command-line.md).
"""


def command_line() -> str:
    tools = sorted(TOOLS, key=lambda tool: ORDER.index(tool.stem))
    return _page("# Command line", COMMAND_LINE_INTRODUCTION, *(_tool(tool) for tool in tools))


def configuration_keys() -> str:
    others = ("experiment", "loader")
    groups = [path for path in sorted(CONF.iterdir()) if path.is_dir() and path.name not in others]
    sections = [_group(group) for group in groups]
    return _page("# Configuration keys", KEYS_INTRODUCTION, *sections, _experiments())


def _page(title: str, introduction: str, *sections: str) -> str:
    return "\n\n".join([title, NOTE, introduction.strip(), *sections]) + "\n"


def _tool(tool: Path) -> str:
    text = ast.get_docstring(ast.parse(tool.read_text(encoding="utf-8"))) or ""
    summary, _, rest = text.partition("\n\nUsage: ")
    usage, _, examples = rest.partition("\n\nExamples:\n")
    path = CONF / f"{tool.stem}.yaml"
    shown = [
        f"## {tool.stem}",
        " ".join(summary.split()),
        f"```text\n{_dedented(usage)}\n```",
        f"```bash\n{_commented(examples)}\n```",
        _table(keys_of(path)),
    ]
    if tool.stem == "train":
        shown.append("Groups and their keys: [configuration keys](configuration-keys.md).")
    return "\n\n".join(part for part in shown if part)


def _dedented(usage: str) -> str:
    return "\n".join(line.strip() for line in usage.splitlines())


def _commented(examples: str) -> str:
    """`command    what it does` -> the description as a comment above the command.

    Options on a line of their own follow the command before them.
    """
    lines: list[str] = []
    command = ""
    for line in examples.splitlines():
        typed, *described = re.split(r"\s{2,}", line.strip(), maxsplit=1)
        if typed.startswith("python "):
            command = typed
        else:
            typed = f"{command} {typed}"
        lines += [f"# {described[0]}" for _ in described]
        lines.append(typed)
    return "\n".join(lines)


def _group(group: Path) -> str:
    parts = [f"## {group.name}"]
    if group.name == "data":
        loader = CONF / "loader" / "default.yaml"
        parts += ["### All data", _comment(loader), _table(keys_of(loader))]
    if group.name == "method":
        parts.append("For `tools/search.py` only.")
    files = sorted(
        group.rglob("*.yaml"), key=lambda path: (path.parent, not path.stem.startswith("_"), path.stem)
    )
    for path in files:
        task = path.parent.name if path.parent != group else ""
        of_task = f" ({TASKS.get(task, task)})" if task else ""
        common = path.stem.startswith("_")
        title = f"All data of {TASKS[task]}" if common else f"`{group.name}={path.stem}`{of_task}"
        parts += [f"### {title}", _comment(path), _table(keys_of(path))]
    return "\n\n".join(part for part in parts if part)


def _experiments() -> str:
    lines = [
        "## experiment",
        "One file per row of a paper table, and some recipes; only what differs from the defaults.",
    ]
    for task, title in TASKS.items():
        names = sorted(path.stem for path in (CONF / "experiment" / task).rglob("*.yaml"))
        lines.append(f"**{title.capitalize()}:** " + ", ".join(f"`{task}/{name}`" for name in names))
    return "\n\n".join(lines)


def _comment(path: Path) -> str:
    """The comment at the top of a YAML file, as a paragraph."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def keys_of(path: Path) -> list[tuple[str, str, str]]:
    """(key, value, comment) of each key that a YAML file sets."""
    rows = []
    parents: list[tuple[int, str]] = []
    for indent, key, value, comment in _lines(path):
        while parents and parents[-1][0] >= indent:
            parents.pop()
        dotted = ".".join([*(name for _, name in parents), key])
        if dotted == "defaults" or dotted.startswith("defaults."):
            parents.append((indent, key))
            continue
        if value or comment:
            rows.append((dotted, value, comment))
        if not value:
            parents.append((indent, key))
    return [row for row in rows if not (path.parent == CONF and row[0].endswith("_target_"))]


def _lines(path: Path) -> Iterator[tuple[int, str, str, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"(\s*)([\w.]+):(?:\s+([^#\s].*?))?\s*(?:#\s*(.*))?$", line):
            yield len(match[1]), match[2], match[3] or "", match[4] or ""


def _table(rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return ""
    lines = ["| key | default | |", "|---|---|---|"]
    for key, value, comment in rows:
        shown = f"`{value}`" if value else ""
        lines.append(f"| `{key}` | {shown} | {_escaped(comment)} |".replace("``", ""))
    return "\n".join(lines)


def _escaped(comment: str) -> str:
    """Text for a table cell, with column marks and `<placeholders>` escaped."""
    return re.sub(r"[^\s,;(]*<[^<>]+>[^\s,;)]*", lambda match: f"`{match[0]}`", comment).replace("|", "\\|")


if __name__ == "__main__":
    COMMAND_LINE.write_text(command_line(), encoding="utf-8")
    CONFIGURATION_KEYS.write_text(configuration_keys(), encoding="utf-8")
