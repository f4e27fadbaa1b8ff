"""The project's own description, and the house rules that CONTRIBUTING states."""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("engine", "backbones", "cls", "seg", "det", "deploy", "nas", "doctor", "streets")


def tracked():
    """The files that git tracks, those of a fresh checkout."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def modules():
    return [path for path in tracked() if path.suffix == ".py" and path.parts[0] in (*PACKAGES, "tools")]


def test_the_dev_extra_and_the_dev_group_are_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["optional-dependencies"]["dev"] == project["dependency-groups"]["dev"]


def test_no_folder_is_crowded():
    """At most 12 files lie in a folder, an __init__.py not counted; tools/ and conf/ have one per verb."""
    files = Counter(path.parent.as_posix() for path in tracked() if path.name != "__init__.py")
    crowded = {folder: count for folder, count in files.items() if count > 12}
    assert set(crowded) <= {".", "tools", "conf"}, crowded


def test_tools_are_short():
    lengths = {
        path.name: len((ROOT / path).read_text(encoding="utf-8").splitlines())
        for path in modules()
        if path.parts[0] == "tools"
    }
    assert len(lengths) == 13
    assert max(lengths.values()) < 80, lengths


def test_nothing_imports_the_facade():
    """It is the top layer, above the tools; import-linter cannot check a single module."""
    importing = re.compile(r"^\s*(import|from) mobilenet_dense\b", re.MULTILINE)
    assert [path for path in modules() if importing.search((ROOT / path).read_text(encoding="utf-8"))] == []


def test_no_package_names_a_layer_above_it_in_a_string():
    """The layers hold for dotted names in strings as well: a tool hands objects down instead."""
    above = {
        "engine": "seg|det|cls|deploy|nas|tools",
        "backbones": "seg|det|cls|deploy|nas|tools|engine",
        "streets": "seg|det|cls|deploy|nas|tools|engine",
        **dict.fromkeys(("seg", "det", "cls", "deploy"), "nas|tools"),
        **dict.fromkeys(("nas", "doctor"), "tools"),
    }
    dotted = []
    for path in modules():
        names = above.get(path.parts[0])
        text = (ROOT / path).read_text(encoding="utf-8")
        for match in re.finditer(rf"""["']({names})\.[a-z_]+\.[A-Za-z_.]*\w["']""", text):
            dotted.append((path.as_posix(), match[0]))
    assert dotted == []


@pytest.mark.slow
def test_a_training_runs_at_most_30_files_before_its_first_loss():
    script = ROOT / "benchmarks" / "files_to_first_loss.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=250, check=True)
    count = re.search(r"^(\d+) files$", done.stdout, re.MULTILINE)
    assert count is not None, done.stdout
    assert int(count[1]) <= 30, done.stdout
