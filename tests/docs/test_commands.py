"""Every command in the README, the docs, --help texts and experiment headers works as it is printed.

A tool's command is composed as the tool would compose it; a benchmark's is parsed by its own parser.
"""

import argparse
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from backbones.mobilenet_v3 import mobilenet_v3_small
from engine.config import network_file
from engine.config.choices.automatic import with_defaults
from engine.config.choices.sweep import split_dimensions
from engine.config.compose import compose_config, to_yaml
from engine.config.instantiate import check_node, tool_options
from engine.config.saved import load_config, without_data
from engine.config.training import automatic_keys, validate
from engine.errors import UserError
from tests.docs.documented import PAGES, ROOT, TOOLS, Command, all_commands, blocks, split_line

TOOL_NAMES = [tool.stem for tool in TOOLS]
TASKS = ("seg", "det", "cls")
# Commands of other programs, which are not ours to check.
OTHERS = (
    "apt",
    "cmake",
    "git",
    "node",
    "npm",
    "build/predict",
    "cd",
    ".",
    "python3",
    "python3.11",
    "pre-commit",
    "uv",
    "hf",
    "mkdir",
    "export",
    ".ci/run",
    ".ci/extras",
    "zensical",
)
EXTENSION = re.compile(r"extend=")


def tool_of(command):
    """(tool, arguments) of a command that starts one of tools/*.py with any launcher; None for others."""
    for at, word in enumerate(command.words):
        if match := re.fullmatch(r"tools/(\w+)\.py", word):
            return match[1], list(command.words[at + 1 :])
    return None


def benchmark_of(command):
    for at, word in enumerate(command.words):
        if match := re.fullmatch(r"benchmarks/([\w/]+)\.py", word):
            return match[1], list(command.words[at + 1 :])
    return None


COMMANDS = all_commands()
OF_TOOLS = [command for command in COMMANDS if tool_of(command)]
OF_BENCHMARKS = [command for command in COMMANDS if benchmark_of(command)]


def unique(commands):
    """Each command once, named after its words in the test's id."""
    first = {command.words: command for command in reversed(commands)}
    return [pytest.param(command, id=shlex.join(words)[:150]) for words, command in first.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The configurations of a run per task, and a network file."""
    path = tmp_path_factory.mktemp("documented")
    for task in TASKS:
        (path / f"{task}.yaml").write_text(
            to_yaml(compose_config("train", [f"task={task}"])), encoding="utf-8"
        )
    network_file.write(path / "network.yaml", mobilenet_v3_small().to_dict(), header="a network")
    return path


def typed(tool, arguments, folder):
    """The arguments as the tool composes them, with an existing file instead of a made-up network file."""
    words = [re.sub(r"^backbone=.*\.ya?ml$", f"backbone={folder}/network.yaml", word) for word in arguments]
    if tool == "check" and words and "=" not in words[0]:  # a folder, whose layout is recognized
        chosen = next((word for word in words if word.startswith("task=")), "task=det")
        data = {"task=seg": "masks", "task=det": "voc", "task=cls": "folders"}[chosen]
        words = [chosen, f"data={data}", f"data.root={words[0]}", *words[1:]]
        words = ["strict=true" if word == "--strict" else word for word in words]
    if tool == "benchmark":  # the tool itself takes `threads=1,2` for a list
        words = [re.sub(r"^(threads|runtime)=([^\[].*,.*)$", r"\1=[\2]", word) for word in words]
    return words


@pytest.mark.slow
@pytest.mark.parametrize("command", unique([c for c in OF_TOOLS if not EXTENSION.search(str(c))]))
def test_every_command_of_a_tool_composes(command, folder):
    tool, arguments = tool_of(command)
    assert tool in TOOL_NAMES, f"{command}: no such tool"
    arguments = [word for word in arguments if word not in ("--help", "-h")]
    if "--cfg" in arguments:
        del arguments[arguments.index("--cfg") : arguments.index("--cfg") + 2]
    for words in swept(arguments):
        try:
            compose(tool, typed(tool, words, folder), folder, str(command))
        except UserError as error:
            if not (command.is_fragment and re.search("is not set|needs ", str(error))):
                pytest.fail(f"{command}\n{error}")


def swept(arguments):
    """The arguments; for a sweep (`-m`) those of its first and of its last job."""
    if "-m" not in arguments:
        return [arguments]
    words = [word for word in arguments if word != "-m"]
    parts = [(key, value.split(",")) for key, _, value in (word.partition("=") for word in words)]
    return [[f"{key}={values[end]}" for key, values in parts] for end in (0, -1)]


def compose(tool, arguments, folder, message):
    config = compose_config(tool, arguments)
    if tool == "train" and config.resume is None and config.replay is None:
        config = with_defaults(config, automatic_keys(config))
    if tool in ("train", "prepare", "check"):
        for key, node in config.items():
            check_options(key, node, message)
        if tool == "prepare":
            validate(without_data(config))
        elif config.resume is None and config.replay is None:
            validate(config)
        return
    if "_target_" in config:
        tool_options(config)
    overrides = list(config.overrides)
    if tool == "search" and config.run is None:
        fixed, dimensions = split_dimensions(overrides)
        assert bool(dimensions) == ("method=sweep" in arguments), message
        compose_config("train", [*fixed, *(f"{item.key}={item.first}" for item in dimensions)])
    elif overrides:
        assert_some_run_accepts(overrides, folder, message)


def check_options(key, node, message):
    """Fails for unknown options and targets and for wrong types; `model` may lack what the data bring."""
    if not hasattr(node, "items"):
        return
    try:
        check_node(node, key)
    except UserError as error:
        if "is not set" not in str(error):
            pytest.fail(f"{message}\n{error}")


def assert_some_run_accepts(overrides, folder, message):
    """A command on `<run folder>` is right if a run of seg, det or cls has its keys."""
    refusals = []
    for task in TASKS:
        try:
            load_config(folder / f"{task}.yaml", overrides)
        except UserError as error:
            refusals.append(f"task={task}: {error}")
        else:
            return
    pytest.fail("\n".join([message, *refusals]))


@cache
def parser_of(benchmark):
    """The argument parser of a benchmark, caught when the script builds it; the script does not run."""
    parsers = []

    class Caught(Exception):
        pass

    def catch(self, *_, **__):
        parsers.append(self)
        raise Caught

    patch = pytest.MonkeyPatch()
    for method in ("parse_args", "parse_known_args"):
        patch.setattr(argparse.ArgumentParser, method, catch)
    patch.setattr(sys, "argv", [benchmark])
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    try:
        runpy.run_path(str(ROOT / "benchmarks" / f"{benchmark}.py"), run_name="__main__")
    except Caught:
        pass
    finally:
        patch.undo()
    return parsers[0] if parsers else None


@pytest.mark.parametrize("command", unique(OF_BENCHMARKS))
def test_every_command_of_a_benchmark_parses(command, folder):
    name, arguments = benchmark_of(command)
    assert (ROOT / "benchmarks" / f"{name}.py").is_file(), f"{command}: no such script"
    parser = parser_of(name)
    assert parser is not None or not arguments, f"{command}: the script takes no arguments"
    if parser is None:
        return
    overrides = [word for word in arguments if re.match(r"[a-z_.]+=", word)]
    try:
        parser.parse_known_args([word for word in arguments if word not in overrides])
    except SystemExit:
        pytest.fail(f"{command}: the script's parser rejects it")
    if overrides:
        compose("train", overrides, folder, str(command))


@pytest.mark.parametrize(
    "command", unique([c for c in COMMANDS if "pip" in c.words[0] or "pip" in c.words[:2]])
)
def test_every_extra_that_is_installed_exists(command):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for extras in re.findall(r"\.\[([\w,]+)\]", shlex.join(command.words)):
        assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"]), str(command)


@pytest.mark.parametrize("command", unique([c for c in COMMANDS if c.words[0] == "pytest"]))
def test_every_tests_path_exists(command):
    paths = [word for word in command.words[1:] if word.startswith("tests/")]
    assert all((ROOT / path.partition("::")[0]).exists() for path in paths), str(command)


def test_every_command_is_known_to_these_tests():
    """A new kind of command in a page needs a check here."""
    pages = {str(page.relative_to(ROOT)) for page in PAGES}

    def known(command):
        words = [word for word in command.words if not re.match(r"[A-Z_]+=", word)]
        if not words or tool_of(command) or benchmark_of(command):
            return True
        script = words[0] in ("python", "python3") and words[1:2] in (["pi.py"], ["kit/run.py"])
        return script or words[0] in (*OTHERS, "pytest") or Path(words[0]).name == "pip"

    unknown = [str(c) for c in COMMANDS if c.source.partition(":")[0] in pages and not known(c)]
    assert not unknown, "\n".join(unknown)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_shell_scripts_parse(page):
    for block in blocks(page):
        if block.language == "bash" and block.text.startswith(("#!", "#SBATCH")):
            done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
            assert done.returncode == 0, f"{page}:{block.line}: {done.stderr}"


def test_commands_are_read_as_a_shell_reads_them():
    (command,) = split_line("python tools/predict.py run=<run folder> 'input=\"a b\"'  # a comment", "here")
    assert command == Command(("python", "tools/predict.py", "run=made_up/run", 'input="a b"'), "here")
    first, second = split_line("python3.11 -m venv .venv && . .venv/bin/activate", "here")
    assert (first.words[0], second.words[0]) == ("python3.11", ".")


def test_there_are_commands_of_every_tool():
    assert {tool_of(command)[0] for command in OF_TOOLS} == set(TOOL_NAMES)
    assert len(OF_TOOLS) > 200
