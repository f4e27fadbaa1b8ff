"""Mutation testing: make one-line mistakes in a module and count those that its tests notice.

Usage: python benchmarks/mutation/score.py [--module seg/losses.py ...] [--sample N --seed S] [--jobs N]

Examples:
  python benchmarks/mutation/score.py                                    all modules of targets.py: hours
  python benchmarks/mutation/score.py --module seg/losses.py             one module, all of its mutants
  python benchmarks/mutation/score.py --sample 60                        60 mutants of each module

Prints a table, and each survivor with its line. A mutant is caught if a test fails or runs out of time. The
tests are the fast ones of `targets.py`; a mutant runs those that execute its line (all of them if it is
executed on import), in a process forked from one that has imported torch. Files are never changed.

Results are kept in --cache, and only what is new is run: mutants once caught stay caught while the module is
unchanged; survivors are tried again when the tests change.
"""

import argparse
import ast
import contextlib
import gc
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.mutation.mutants import Mutant, mutants_of, mutated  # noqa: E402
from benchmarks.mutation.targets import NAME_MAPS, TARGETS  # noqa: E402

LIBRARIES = (
    "torch", "torchvision", "torch._dynamo", "torch.export", "albumentations", "cv2", "scipy.io", "hydra",
    "omegaconf", "matplotlib.pyplot", "pycocotools.cocoeval", "onnx", "onnxruntime", "onnxscript", "openvino",
    "timm", "safetensors.torch", "tensorboard", "pytest", "pytest_timeout",
)  # fmt: skip
"""Imported once, before the processes of the mutants are forked; what is not installed is left out."""
PYTEST = ("-o", "addopts=", "--import-mode=importlib", "-m", "not slow", "-p", "pytest_timeout")
PYTEST += ("-p", "no:cacheprovider", "-p", "no:unraisableexception", "-p", "no:logging")
Outcome = dict[str, Any]


@dataclass
class TestCover:
    """The lines of a module that a test executes, in its call and in the setup of its fixtures."""

    lines: set[int] = field(default_factory=set)
    setup_lines: set[int] = field(default_factory=set)
    seconds: float = 0.0
    passed: bool = False


class CoverPlugin:
    """A pytest plugin that records the `TestCover` of each test for one file."""

    def __init__(self, path: Path) -> None:
        self._path, self.tests, self._current, self._phase = str(path), defaultdict(TestCover), "", "setup"

    def _trace(self, frame: types.FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != self._path:
            return None
        cover = self.tests[self._current]
        (cover.setup_lines if self._phase == "setup" else cover.lines).add(frame.f_lineno)
        return self._trace

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._current, self._phase = nodeid, "setup"
        sys.settrace(self._trace)
        threading.settrace(self._trace)

    def pytest_runtest_call(self) -> None:
        self._phase = "call"

    def pytest_runtest_logreport(self, report: Any) -> None:
        cover = self.tests[report.nodeid]
        cover.seconds += report.duration
        if report.when == "call":
            cover.passed = report.outcome == "passed"

    def found(self) -> dict[str, Any]:
        sys.settrace(None)
        return {
            name: [sorted(test.lines), sorted(test.setup_lines), test.seconds]
            for name, test in self.tests.items()
            if test.passed
        }


class FirstFailure:
    """A pytest plugin that ends the process at the first test that fails, and writes down its name."""

    def __init__(self, result: Path) -> None:
        self._result = result

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self._result.write_text(json.dumps({"status": 1, "found": report.nodeid}), encoding="utf-8")
            os._exit(1)

    def found(self) -> str:
        return ""


class MutantFinder(importlib.abc.MetaPathFinder):
    """Imports the module at `path` from a syntax tree."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self._name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        self._path, self._tree = str(path), tree

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name:
            return None
        finder, tree = self, self._tree

        class Loader(importlib.machinery.SourceFileLoader):
            def get_code(self, fullname: str) -> types.CodeType:
                return compile(tree, finder._path, "exec")

        return importlib.machinery.ModuleSpec(name, Loader(name, self._path), origin=self._path)


def run_tests(tests: list[str], plugin: Any, result: Path, finder: MutantFinder | None = None) -> None:
    """In a forked process: run the tests, write the exit status and what the plugin found; never returns."""
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    status = 1
    try:
        import pytest

        if finder is not None:
            sys.meta_path.insert(0, finder)
        status = int(pytest.main([*PYTEST, "--basetemp", f"{result}.tmp", *tests], plugins=[plugin]))
    finally:
        result.write_text(json.dumps({"status": status, "found": plugin.found()}), encoding="utf-8")
        os._exit(status)


def forked(call: Callable[[Path], None], folder: Path, number: int) -> tuple[int, Path]:
    result = folder / f"{number}.json"
    process = os.fork()
    if process == 0:
        call(result)
    return process, result


def end(process: int) -> None:
    """End what is left of a process's group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)


def cover_of(module: str, folder: Path) -> dict[str, Any]:
    """By test: the lines of the module that it executes, those during setup, and its seconds."""
    plugin = CoverPlugin(ROOT / module)
    process, result = forked(lambda path: run_tests(list(TARGETS[module]), plugin, path), folder, 0)
    os.waitpid(process, 0)
    end(process)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))["found"]
    if not found:
        sys.exit(f"{module}: no test of {', '.join(TARGETS[module])} passes without a mutant")
    return found


def chosen_tests(mutant: Mutant, cover: dict[str, Any]) -> list[str]:
    """The tests that execute the mutant's line, file by file, the fastest first.

    A fixture can serve several tests: if one executes the line while it is set up, all of its file run.
    """
    if mutant.lines is None:
        names = set(cover)
    else:
        span = set(range(mutant.lines[0], mutant.lines[1] + 1))
        names = {name for name, (lines, setup, _) in cover.items() if span & {*lines, *setup}}
        files = {name.partition("::")[0] for name, (_, setup, _) in cover.items() if span & set(setup)}
        names |= {name for name in cover if name.partition("::")[0] in files}
        names = names or set(cover)
    by_file = defaultdict(list)
    for name in names:
        by_file[name.partition("::")[0]].append((cover[name][2], name))
    ordered = sorted(by_file.values(), key=lambda tests: sum(seconds for seconds, _ in tests))
    return [name for tests in ordered for _, name in sorted(tests)]


def outcomes(
    module: str, mutants: list[Mutant], jobs: int, cover: dict[str, Any], folder: Path
) -> Iterator[tuple[Mutant, Outcome]]:
    """The outcome of each mutant, as it comes: whether it was caught, and by which test."""
    path, source = ROOT / module, (ROOT / module).read_text(encoding="utf-8")
    waiting, running = list(reversed(mutants)), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            tests = chosen_tests(mutant, cover)
            tree = mutated(source, mutant, strings=module in NAME_MAPS)
            finder = MutantFinder(path, tree)
            process, result = forked(
                lambda at, tests=tests, finder=finder: run_tests(tests, FirstFailure(at), at, finder),  # type: ignore[misc]
                folder,
                mutant.node * 100 + mutant.variant,
            )
            limit = 20 + 5 * sum(cover[name][2] for name in tests)
            running[process] = (mutant, result, time.monotonic() + limit)
        for process, (mutant, result, deadline) in list(running.items()):
            late = time.monotonic() > deadline
            if late:
                end(process)
            if os.waitpid(process, 0 if late else os.WNOHANG)[0]:
                end(process)
                del running[process]
                by = (
                    "time limit"
                    if late
                    else json.loads(result.read_text())["found"]
                    if result.exists()
                    else "crash"
                )
                status = 0 if late or not result.exists() else json.loads(result.read_text())["status"]
                yield mutant, {"caught": late or not result.exists() or status not in (0, 5), "by": by}
        time.sleep(0.02)


def _outcome(result: Path, late: bool) -> Outcome:
    if late or not result.exists():
        return {"caught": True, "by": "time limit" if late else "crash"}
    written = json.loads(result.read_text(encoding="utf-8"))
    return {"caught": written["status"] not in (0, 5), "by": written["found"]}


def digest(*paths: Path) -> str:
    """Of the content of files, and of the Python files in folders."""
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def score(module: str, options: argparse.Namespace, cache: dict[str, Any]) -> tuple[int, list[Mutant]]:
    """(number of mutants, the survivors) of a module."""
    source = (ROOT / module).read_text(encoding="utf-8")
    mutants = mutants_of(source, strings=module in NAME_MAPS)
    if options.sample and options.sample < len(mutants):
        random.Random(options.seed).shuffle(mutants)
        mutants = sorted(mutants[: options.sample], key=lambda mutant: mutant.line)
    known = cache.setdefault(f"{module} {digest(ROOT / module)}", {})
    tests = digest(*(ROOT / name for name in TARGETS[module]))
    keys = {mutant: f"{mutant.node}.{mutant.variant} {mutant.text}" for mutant in mutants}

    def is_new(mutant: Mutant) -> bool:
        outcome = known.get(keys[mutant])
        return outcome is None or not (outcome["caught"] or outcome["tests"] == tests)

    new = [mutant for mutant in mutants if is_new(mutant)]
    if new:
        with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
            cover = cover_of(module, Path(folder))
            for done, (mutant, outcome) in enumerate(
                outcomes(module, new, options.jobs, cover, Path(folder)), 1
            ):
                known[keys[mutant]] = {**outcome, "tests": tests}
                if not outcome["caught"]:
                    print(f"\r{module}:{mutant.line}: {mutant.text}", file=sys.stderr)
                print(f"\r{module}: {done} of {len(new)}", end="", file=sys.stderr, flush=True)
                if done % 20 == 0 or done == len(new):
                    options.cache.parent.mkdir(parents=True, exist_ok=True)
                    options.cache.write_text(json.dumps(cache), encoding="utf-8")
        print(file=sys.stderr)
    return len(mutants), [mutant for mutant in mutants if not known[keys[mutant]]["caught"]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--module", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="FILE")
    parser.add_argument("--sample", type=int, default=0, help="mutants per module; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "mutation.json")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    hypothesis.settings.register_profile("mutation", database=None)
    hypothesis.settings.load_profile("mutation")
    gc.freeze()  # what is imported is not visited again in each process
    cache = json.loads(options.cache.read_text(encoding="utf-8")) if options.cache.is_file() else {}
    total = caught = 0
    print("| module | mutants | caught | % |\n|---|--:|--:|--:|")
    survivors: dict[str, list[Mutant]] = {}
    for module in options.module:
        count, survivors[module] = score(module, options, cache)
        total, caught = total + count, caught + count - len(survivors[module])
        rest = count - len(survivors[module])
        print(f"| {module} | {count} | {rest} | {100 * rest / count:.1f} |", flush=True)
    print(f"| all | {total} | {caught} | {100 * caught / max(total, 1):.1f} |")
    for module, alive in survivors.items():
        lines = (ROOT / module).read_text(encoding="utf-8").splitlines()
        for mutant in alive:
            print(f"\n{module}:{mutant.line}: {lines[mutant.line - 1].strip()}\n    {mutant.text}")


if __name__ == "__main__":
    main()
