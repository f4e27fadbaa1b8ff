"""Mutation testing: which mistakes are made, and that a run of the script notices them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.mutation.mutants import mutants_of, mutated
from benchmarks.mutation.targets import NAME_MAPS, TARGETS

ROOT = Path(__file__).resolve().parents[2]

SOURCE = '''
"""Text is left alone: 1 < 2."""
LIMIT = 3

def scale(values: list[int], factor=0.5) -> float:
    """Docstrings too."""
    if not values:
        raise ValueError(f"no values: {1 + 1}")
    total = max(values) * factor
    log("total", 1)
    check(total)
    return clip(total, most=LIMIT).round() if total > 0 and factor else -1
'''


def texts(source, **options):
    return [mutant.text for mutant in mutants_of(source, **options)]


def test_the_mutants_of_a_function():
    choice = "clip(total, most=LIMIT).round() if total > 0 and factor else -1"
    assert sorted(texts(SOURCE)) == sorted(
        [
            "3 -> 4",
            "0.5 -> 1.0",
            "if not values -> if True",
            "if not values -> if False",
            "not values -> values",
            "max(values) * factor -> max(values) / factor",
            "max(values) * factor -> max(values)",
            "max(values) * factor -> factor",
            "max(values) -> min(values)",
            "check(total) -> pass",
            f"{choice} -> clip(total, most=LIMIT).round()",
            f"{choice} -> -1",
            "clip(total, most=LIMIT).round() -> clip(total, most=LIMIT)",
            "clip(total, most=LIMIT) -> clip(total)",
            "total > 0 and factor -> total > 0 or factor",
            "total > 0 and factor -> factor",
            "total > 0 and factor -> total > 0",
            "total > 0 -> total >= 0",
            "total > 0 -> total <= 0",
            "0 -> 1",
            "-1 -> 1",
            "1 -> 2",
        ]
    )


def test_a_mutant_is_where_it_says():
    by_text = {mutant.text: mutant for mutant in mutants_of(SOURCE)}
    assert (by_text["3 -> 4"].line, by_text["3 -> 4"].on_import) == (3, True)
    default = by_text["0.5 -> 1.0"]
    assert (default.line, default.on_import, default.lines) == (5, True, (5, 12))
    product = by_text["max(values) * factor -> max(values) / factor"]
    assert (product.line, product.on_import, product.lines) == (9, False, (9, 9))
    guard = by_text["if not values -> if False"]
    assert guard.lines == (7, 7)  # without its body


def test_every_mutant_differs_from_the_source_and_compiles():
    original = ast.unparse(ast.parse(SOURCE))
    for mutant in mutants_of(SOURCE):
        tree = mutated(SOURCE, mutant)
        compile(tree, "module", "exec")
        assert ast.unparse(tree) != original
        before, after = original.splitlines(), ast.unparse(tree).splitlines()
        assert sum(line not in before for line in after) <= 1, mutant.text


def test_strings_are_mutated_on_request():
    source = 'NAMES = {"stem": "conv_stem", "": 1}\n'
    assert texts(source) == ["1 -> 2"]
    assert texts(source, strings=True) == ["'stem' -> 'stemx'", "'conv_stem' -> 'conv_stemx'", "1 -> 2"]


def test_the_targets_exist():
    for module, tests in TARGETS.items():
        assert (ROOT / module).is_file(), module
        assert all((ROOT / test).exists() for test in tests), module
    assert set(NAME_MAPS) < set(TARGETS)


@pytest.mark.weekly
@pytest.mark.parametrize("module", ["nas/mnas/reward.py", "seg/augment/photometric.py"])
def test_a_run_catches_what_is_tested_and_keeps_its_results(tmp_path, module):
    """The second module is imported by the function that needs it, so no test file has imported it."""
    script, cache = ROOT / "benchmarks" / "mutation" / "score.py", tmp_path / "cache.json"
    command = [sys.executable, script, "--module", module, "--sample", "6", "--cache", cache]
    first = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True)
    rows = [line.split("|")[1:4] for line in first.stdout.splitlines() if line.startswith(f"| {module}")]
    ((_, count, caught),) = rows
    assert int(count) == 6
    assert int(caught) >= 5
    again = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True)
    assert again.stdout == first.stdout
    assert "6 of 6" not in again.stderr
