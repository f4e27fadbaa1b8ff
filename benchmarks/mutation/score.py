"""Mutation testing: make one-line bugs in a module and count those that its tests catch.

Usage: python benchmarks/mutation/score.py [--module seg/losses.py ...] [--sample N --seed S] [--jobs N]

Examples:
  python benchmarks/mutation/score.py                                    all modules of targets.py: hours
  python benchmarks/mutation/score.py --module seg/losses.py             one module, all of its mutants
  python benchmarks/mutation/score.py --sample 60                        60 mutants of each module

Prints a table, and each survivor with its line. A mutant is caught if a test fails or times out. The tests
are the fast ones listed in `targets.py`; a mutant runs those that execute its line, in a process forked from
one that has imported torch. Files are never changed.

Results are kept in --cache, and only new mutants are run: caught mutants stay caught while the module is
unchanged; survivors are run again when the tests change.
"""

import argparse
import contextlib
import gc
import hashlib
import importlib
import json
import os
import random
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.mutation import session  # noqa: E402
from benchmarks.mutation.mutants import Mutant, mutants_of, mutated  # noqa: E402
from benchmarks.mutation.targets import NAME_MAPS, TARGETS  # noqa: E402

LIBRARIES = (
    "torch", "torchvision", "torch._dynamo", "torch.export", "albumentations", "cv2", "scipy.io", "hydra",
    "omegaconf", "matplotlib.pyplot", "pycocotools.cocoeval", "onnx", "onnxruntime", "onnxscript", "openvino",
    "timm", "safetensors.torch", "tensorboard", "pytest", "pytest_timeout",
)  # fmt: skip
"""Imported once, before forking; libraries that are not installed are skipped."""


def outcomes(module: str, mutants: list[Mutant], jobs: int) -> Iterator[tuple[Mutant, session.Outcome]]:
    """Yield the outcome of each mutant when it ends: whether it was caught, and by which test."""
    path, strings = ROOT / module, module in NAME_MAPS
    source, name = path.read_text(encoding="utf-8"), module.removesuffix(".py").replace("/", ".")
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)

        def collect_and_run() -> None:
            import pytest

            loop = session.ForkingLoop(name, path, mutants, strings=strings, jobs=jobs, folder=folder)
            pytest.main(
                [*session.OPTIONS, "--basetemp", str(folder / "tmp"), *TARGETS[module]], plugins=[loop]
            )

        found: set[tuple[int, int]] = set()
        by_key = {(mutant.node, mutant.variant): mutant for mutant in mutants}
        for node, variant, outcome in _lines_of(session.fork(collect_and_run), folder / "outcomes.jsonl"):
            found.add((node, variant))
            yield by_key[node, variant], outcome
        cover_file = folder / "cover.json"
        cover = json.loads(cover_file.read_text(encoding="utf-8")) if cover_file.exists() else {}
        if not cover:
            sys.exit(f"{module}: no test in {', '.join(TARGETS[module])} passes on the unchanged module")

        def start(mutant: Mutant, result: Path) -> Callable[[], None]:
            tests, tree = session.chosen_tests(mutant, cover), mutated(source, mutant, strings=strings)
            return lambda: session.run_with_source(name, path, tree, tests, result)

        rest = [mutant for key, mutant in by_key.items() if key not in found]
        yield from session.in_turns(rest, start, cover, jobs=jobs, folder=folder)


def _lines_of(process: int, file: Path) -> Iterator[Any]:
    """The JSON lines that a process appends to a file, until it ends."""
    thread = threading.Thread(target=session.wait, args=(process,))
    thread.start()
    position, running = 0, True
    while running:
        thread.join(0.3)
        running = thread.is_alive()
        if file.exists():
            *lines, _ = file.read_bytes()[position:].split(b"\n")
            position += sum(len(line) + 1 for line in lines)
            yield from map(json.loads, lines)


def digest(*paths: Path) -> str:
    """A hash of the content of files, and of the Python files in folders."""
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
    for done, (mutant, outcome) in enumerate(outcomes(module, new, options.jobs) if new else (), start=1):
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
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    hypothesis.settings.register_profile("mutation", database=None)
    hypothesis.settings.load_profile("mutation")
    gc.freeze()  # imported objects are not visited again in each process
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
