"""What the documentation tells people to type: code blocks, examples of --help, headers of experiments."""

import ast
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
TOOLS = sorted(ROOT.glob("tools/*.py"))
BENCHMARKS = sorted(path for path in ROOT.glob("benchmarks/**/*.py") if path.name != "__init__.py")
EXPERIMENTS = sorted(ROOT.glob("conf/experiment/**/*.yaml"))
HEADER_FIELDS = ("Paper", "Command", "Hardware", "Time", "Expected", "Obtained")


@dataclass(frozen=True)
class Block:
    """A fenced code block of a page; `line` is where its content starts."""

    page: Path
    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """One command as it is printed; placeholders such as <run folder> are replaced by made-up names.

    `is_fragment`: it is part of a sentence and leaves out what every command needs, such as `run=`.
    """

    words: tuple[str, ...]
    source: str
    is_fragment: bool = False

    def __str__(self) -> str:
        return f"{self.source}: {shlex.join(self.words)}"


def blocks(page: Path) -> list[Block]:
    """The fenced code blocks of a Markdown page."""
    result: list[Block] = []
    start: int | None = None
    language, lines = "", page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        fence = re.match(r"\s*```(\w*)", line)
        if fence is None:
            continue
        if start is None:
            start, language = number, fence[1]
        else:
            result.append(Block(page, language, "\n".join(lines[start : number - 1]), start + 1))
            start = None
    assert start is None, f"{page}:{start}: the code block is not closed"
    return result


def page_commands(page: Path) -> list[Command]:
    """The commands in a page's bash blocks and inline code; scripts with `#!` or `#SBATCH` are left out."""
    commands: list[Command] = []
    for block in blocks(page):
        if block.language != "bash" or block.text.startswith(("#!", "#SBATCH")):
            continue
        for offset, line in _joined(block.text):
            commands += split_line(line, f"{page.relative_to(ROOT)}:{block.line + offset}")
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        for code in re.findall(r"`(?:python )?((?:tools|benchmarks)/[\w/]+\.py [^`]+)`", line):
            source = f"{page.relative_to(ROOT)}:{number}"
            commands += [replace(part, is_fragment=True) for part in split_line(f"python {code}", source)]
    return commands


def help_commands(tool: Path) -> list[Command]:
    """The examples in the --help text of a script: a command, two or more spaces, and what it does."""
    text = ast.get_docstring(ast.parse(tool.read_text(encoding="utf-8"))) or ""
    commands: list[Command] = []
    typed: list[str] = []
    for line in [*text.partition("Examples:")[2].splitlines(), "end"]:
        example = re.split(r"\s{2,}", line.strip())[0]
        if typed and re.match(r"\s{4,}\S+=", line):
            commands += split_line(f"{typed[-1]} {example}", str(tool.relative_to(ROOT)))
        elif example.startswith("python "):
            typed.append(example)
            commands += split_line(example, str(tool.relative_to(ROOT)))
    return commands


def header(experiment: Path) -> dict[str, str]:
    """The fields in the comment at the top of an experiment file, `Paper` to `Obtained`."""
    fields: dict[str, str] = {}
    last = ""
    for line in experiment.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        named = re.match(r"# (\w+): +(.*)", line)
        if named and named[1] in HEADER_FIELDS:
            last = named[1]
            fields[last] = named[2]
        elif last and line.startswith("#      "):
            fields[last] += f" {line[1:].strip()}"
        else:
            last = ""
    return fields


def all_commands() -> list[Command]:
    """Every command that the project prints for people to type."""
    commands = [command for page in PAGES for command in page_commands(page)]
    commands += [command for script in [*TOOLS, *BENCHMARKS] for command in help_commands(script)]
    for path in EXPERIMENTS:
        commands += split_line(header(path).get("Command", ""), str(path.relative_to(ROOT)))
    return commands


def split_line(line: str, source: str) -> list[Command]:
    """One line of a shell as commands, joined by `&&`, without comments."""
    words = shlex.split(_filled(line), comments=True)
    commands: list[Command] = []
    start = 0
    for end in [*(at for at, word in enumerate(words) if word == "&&"), len(words)]:
        if words[start:end]:
            commands.append(Command(tuple(words[start:end]), source))
        start = end + 1
    return commands


def _joined(text: str) -> list[tuple[int, str]]:
    """(line number, line) with lines that end in a backslash put together."""
    result: list[tuple[int, str]] = []
    start: int | None = None
    for number, line in enumerate(text.splitlines()):
        if start is None:
            start, whole = number, ""
        whole += line.removesuffix("\\")
        if not line.endswith("\\"):
            result.append((start, whole))
            start = None
    return result


def _filled(line: str) -> str:
    """A command with names instead of `<placeholders>`, and without the `...` of an abbreviated command."""
    named = re.sub(r"<(\w+)[^<>]*>", lambda match: f"made_up/{match[1]}", line)
    return re.sub(r"(?<=\s)\.\.\.(?=\s)", "", named)
