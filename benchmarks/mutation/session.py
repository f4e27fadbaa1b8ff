"""Runs a module's tests once for each of its mutants, in processes forked from one that has collected them.

A mutant inside a function is patched into the existing functions. A mutant of code that is executed on import
(constants, defaults, decorators, and functions that the test files call on import) needs a process that has
not imported the module yet; it imports the mutated source.
"""

import ast
import builtins
import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.mutation.mutants import Mutant, mutated

Outcome = dict[str, Any]
Cover = dict[str, tuple[list[int], list[int], float]]
"""For each passing test: the statements that the test or the import of the test files executes, those that
the setup of its fixtures executes, and its seconds."""
OPTIONS = ("-o", "addopts=", "--import-mode=importlib", "-m", "not slow and not weekly")
OPTIONS += (
    "-p",
    "pytest_timeout",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:unraisableexception",
    "-p",
    "no:logging",
)
PASSED = (0, 5)
"""Exit statuses of pytest without a failure; any other means that a test file cannot be imported."""


class Recorder:
    """Collects in `lines` the first lines of the statements that functions of one module execute.

    The module is imported with a call before each statement, which is faster than tracing.
    """

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.lines = set[int]()
        builtins.__cover__ = lambda line: self.lines.add(line)  # type: ignore[attr-defined]
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            for node in ast.walk(function):
                for part in ("body", "orelse", "finalbody"):
                    if isinstance(statements := getattr(node, part, None), list):
                        setattr(node, part, [new for old in statements for new in self._recorded(old)])
        sys.meta_path.insert(0, MutantFinder(name, path, ast.fix_missing_locations(tree)))

    def _recorded(self, statement: ast.stmt) -> list[ast.stmt]:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant | ast.Call):
            name = getattr(getattr(statement.value, "func", None), "id", "")
            if isinstance(statement.value, ast.Constant) or name == "__cover__":
                return [statement]
        call = ast.Call(ast.Name("__cover__", ast.Load()), [ast.Constant(statement.lineno)], [])
        return [ast.copy_location(ast.Expr(call), statement), statement]


class CoverPlugin:
    """A pytest plugin that records the `Cover` of one file."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._lines: dict[tuple[str, str], set[int]] = defaultdict(set)
        self._seconds: dict[str, float] = defaultdict(float)
        self._passed: set[str] = set()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._recorder.lines = self._lines[nodeid, "setup"]

    def pytest_runtest_call(self, item: Any) -> None:
        self._recorder.lines = self._lines[item.nodeid, "call"]

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.when == "call" and report.outcome == "passed":
            self._passed.add(report.nodeid)

    def found(self) -> Cover:
        lines = {key: sorted(value) for key, value in self._lines.items()}
        return {
            name: (lines.get((name, "call"), []), lines.get((name, "setup"), []), self._seconds[name])
            for name in sorted(self._passed)
        }


class FirstFailure:
    """A pytest plugin that records the first failing test and ends the process."""

    def __init__(self, result: Path) -> None:
        self._result = result

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            finish(self._result, {"caught": True, "by": report.nodeid})


class ForkingLoop:
    """A pytest plugin that runs the collected tests in forked processes.

    The first run has no mutant and measures coverage, which is written to `folder`/cover.json; then follows
    one run for each mutant that is not executed on import. Outcomes are appended to `folder`/outcomes.jsonl.
    """

    def __init__(
        self, name: str, path: Path, mutants: Sequence[Mutant], *, strings: bool, jobs: int, folder: Path
    ) -> None:
        self._name, self._path, self._mutants, self._strings = name, path, mutants, strings
        self._jobs, self._folder, self._source = jobs, folder, path.read_text(encoding="utf-8")
        self._recorder = Recorder(name, path, ast.parse(self._source))

    def pytest_runtestloop(self, session: Any) -> bool:
        import pytest

        importlib.import_module(self._name)  # it may be imported on first use only
        gc.unfreeze()  # the tests' conftest.py may have hidden the functions that mutants replace
        on_import, self._recorder.lines = self._recorder.lines, set()
        items = {item.nodeid: item for item in session.items}
        cover_file = self._folder / "cover.json"
        wait(fork(lambda: self._write_cover(session.items, cover_file)))
        cover: Cover = json.loads(cover_file.read_text(encoding="utf-8"))
        for name, (lines, setup, seconds) in cover.items():
            cover[name] = (sorted({*lines, *on_import}), setup, seconds)
            items[name].add_marker(pytest.mark.timeout(15 + 10 * seconds))  # for endless loops
        cover_file.write_text(json.dumps(cover), encoding="utf-8")

        def start(mutant: Mutant, result: Path) -> Callable[[], None]:
            names, tree = chosen_tests(mutant, cover), mutated(self._source, mutant, strings=self._strings)
            return lambda: self._run_mutant([items[name] for name in names], tree, result)

        later = [
            m for m in self._mutants if m.on_import or on_import & set(range(m.lines[0], m.lines[1] + 1))
        ]
        now = [mutant for mutant in self._mutants if mutant not in later]
        with (self._folder / "outcomes.jsonl").open("a", encoding="utf-8") as file:
            for mutant, outcome in in_turns(now, start, cover, jobs=self._jobs, folder=self._folder):
                file.write(json.dumps([mutant.node, mutant.variant, outcome]) + "\n")
                file.flush()
        return True

    def _write_cover(self, items: Sequence[Any], file: Path) -> None:
        plugin = CoverPlugin(self._recorder)
        run_items(items, plugin, Path(f"{file}.tmp"))
        finish(file, plugin.found())

    def _run_mutant(self, items: Sequence[Any], tree: ast.Module, result: Path) -> None:
        replace_functions(self._path, tree)
        run_items(items, FirstFailure(result), Path(f"{result}.tmp"))
        finish(result, {"caught": False, "by": ""})


def run_items(items: Sequence[Any], plugin: Any, temporary: Path) -> None:
    config = items[0].config
    config.pluginmanager.register(plugin)
    config._tmp_path_factory._given_basetemp = temporary
    for item, following in zip(items, [*items[1:], None], strict=True):
        config.hook.pytest_runtest_protocol(item=item, nextitem=following)


def replace_functions(path: Path, tree: ast.Module) -> None:
    """Replace the code of an imported module's functions with that of another version."""
    codes: dict[tuple[str, int], types.CodeType] = {}

    def collect(code: types.CodeType) -> None:
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                codes[constant.co_qualname, constant.co_firstlineno] = constant
                collect(constant)

    collect(compile(tree, str(path), "exec"))
    for function in gc.get_objects():
        if isinstance(function, types.FunctionType) and function.__code__.co_filename == str(path):
            code = function.__code__
            function.__code__ = codes.get((code.co_qualname, code.co_firstlineno), code)


class MutantFinder(importlib.abc.MetaPathFinder):
    """Imports the module at `path`, called `name`, from a syntax tree."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self._name, self._path, self._tree = name, str(path), tree

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name:
            return None
        file, tree = self._path, self._tree

        class Loader(importlib.machinery.SourceFileLoader):
            def get_code(self, fullname: str) -> types.CodeType:
                return compile(tree, file, "exec")

        spec = importlib.machinery.ModuleSpec(name, Loader(name, file), origin=file)
        spec.has_location = True  # defines __file__
        return spec


def run_with_source(name: str, path: Path, tree: ast.Module, tests: Sequence[str], result: Path) -> None:
    """Run tests in this process, which has not imported the module yet, with its source replaced."""
    import pytest

    sys.meta_path.insert(0, MutantFinder(name, path, tree))
    options = [*OPTIONS, "--basetemp", f"{result}.tmp"]
    status = int(pytest.main([*options, *tests], plugins=[FirstFailure(result)]))
    caught = status not in PASSED
    finish(result, {"caught": caught, "by": "import" if caught else ""})


def chosen_tests(mutant: Mutant, cover: Cover) -> list[str]:
    """The tests that execute the mutant's line, by file, fastest first; all tests if none does.

    A fixture can serve several tests: if its setup executes the line, all tests of the file run.
    """
    span = set(range(mutant.lines[0], mutant.lines[1] + 1))
    names = {name for name, (lines, setup, _) in cover.items() if span & {*lines, *setup}}
    files = {_file(name) for name, (_, setup, _) in cover.items() if span & set(setup)}
    names |= {name for name in cover if _file(name) in files}
    by_file = defaultdict(list)
    for name in names or cover:
        by_file[_file(name)].append((cover[name][2], name))
    ordered = sorted(by_file.values(), key=lambda tests: sum(seconds for seconds, _ in tests))
    return [name for tests in ordered for _, name in sorted(tests)]


def _file(test: str) -> str:
    return test.partition("::")[0]


def in_turns(
    mutants: Sequence[Mutant],
    start: Callable[[Mutant, Path], Callable[[], None]],
    cover: Cover,
    *,
    jobs: int,
    folder: Path,
) -> Iterator[tuple[Mutant, Outcome]]:
    """Run `start(mutant, result)` in a forked process for each mutant, `jobs` at a time, with a limit."""
    waiting, running = list(reversed(mutants)), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            result = folder / f"{mutant.node}.{mutant.variant}.json"
            limit = 30 + 5 * sum(cover[name][2] for name in chosen_tests(mutant, cover))
            running[fork(start(mutant, result))] = (mutant, result, time.monotonic() + limit)
        for process, (mutant, result, deadline) in list(running.items()):
            late = time.monotonic() > deadline
            if not late and not os.waitpid(process, os.WNOHANG)[0]:
                continue
            if late:
                kill_group(process)
                os.waitpid(process, 0)
            kill_group(process)
            del running[process]
            if result.exists() and not late:
                yield mutant, json.loads(result.read_text(encoding="utf-8"))
            else:
                yield mutant, {"caught": True, "by": "time limit" if late else "crash"}
        time.sleep(0.01)


def fork(call: Callable[[], None]) -> int:
    """Call in a forked process with its own process group, without output; returns its id."""
    process = os.fork()
    if process:
        return process
    try:
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        call()
    finally:
        os._exit(1)


def wait(process: int) -> None:
    os.waitpid(process, 0)
    kill_group(process)


def kill_group(process: int) -> None:
    """End the remaining processes of a process's group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)


def finish(file: Path, content: Any) -> None:
    """Write a result and end the process."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(file)
    os._exit(0)
