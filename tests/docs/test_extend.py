"""The pages of docs/extend are run as they are printed: their code in a folder outside of the project, their
commands through the tools, on tiny data. So nothing of the project has to be edited to add any of these."""

import json
import re
import sys

import cv2
import numpy as np
import pytest

from engine.config import extensions
from engine.config.compose import compose_config
from tests.docs.documented import PAGES as ALL_PAGES
from tests.docs.documented import ROOT, blocks, page_commands
from tests.tools.commands import run

PAGES = ("data-format", "segmentation-head", "detection-head", "backbone-from-table",
         "backbone-from-elsewhere", "export-format", "task", "device")  # fmt: skip
TRAINED_ALWAYS = ("segmentation-head", "task")  # the others once a week
TRAINED = [
    pytest.param(name, marks=pytest.mark.slow if name in TRAINED_ALWAYS else pytest.mark.weekly)
    for name in PAGES
    if name != "device"
]
STREETS = ["data.source.num_train=4", "data.source.num_val=2", "data.source.num_test=1"]
SEG = [*STREETS, "data.source.size=[64,128]", "data.crop=[64,96]"]
DET = [*STREETS, "data.source.size=[64,128]", "data.size=[96,192]"]
TRAIN = ["trainer.steps=2", "trainer.batch=2", "trainer.device=cpu", "trainer.tensorboard=false",
         "data.workers=0", "samples=1"]  # fmt: skip
SMALL = {
    "data-format": ["data.crop=64"],
    "segmentation-head": SEG,
    "detection-head": DET,
    "backbone-from-table": SEG,
    "backbone-from-elsewhere": SEG,
    "export-format": SEG,
    "task": ["data.size=64"],
}
REST = {"train": TRAIN, "eval": ["device=cpu", "worst=1"], "predict": ["device=cpu"], "export": ["images=2"]}
"""Appended to each command of a page: few steps, few images, the CPU."""
NEEDS_MORE = ("weights=", "backbone=timm", "backbone.name=")
"""Commands that need a download or another library are only composed."""


def page(name):
    return ROOT / "docs" / "extend" / f"{name}.md"


def write_tree(name, folder):
    """The code blocks of a page that begin with a comment `# my_ext/...` (after Hydra's own), as files."""
    files = []
    for block in blocks(page(name)):
        if match := re.match(r"(?:# @package _global_\n)?# (my_ext/\S+)\n", block.text):
            file = folder / match[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text + "\n", encoding="utf-8")
            files.append(match[1])
    return files


def write_data(name, folder):
    """The data that a page's commands name."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        base = folder / {"data-format": "my_data", "task": "my_images"}[name] / split
        base.mkdir(parents=True)
        for number in range(count):
            image = random.integers(0, 60 * (number + 1), (72, 80, 3), np.uint8)
            cv2.imwrite(str(base / f"{split}{number}.jpg"), image)
            if name == "data-format":
                square = {"label": "car", "points": [[8, 8], [40.5, 8], [40, 40], [8, 40]]}
                content = {"imageHeight": 72, "imageWidth": 80, "shapes": [square]}
                (base / f"{split}{number}.json").write_text(json.dumps(content))


def commands_of(name):
    """(tool, arguments) of the commands in a page's bash blocks that are run here."""
    result = []
    for command in page_commands(page(name)):
        if command.words[:1] != ("python",) or any(part in str(command) for part in NEEDS_MORE):
            continue
        tool = command.words[1].removeprefix("tools/").removesuffix(".py")
        result.append((tool, list(command.words[2:])))
    return result


@pytest.mark.parametrize("name", TRAINED)
def test_the_page_works_as_it_is_printed(name, tmp_path):
    files = write_tree(name, tmp_path)
    assert files, "the page has no file"
    if name in ("data-format", "task"):
        write_data(name, tmp_path)
    commands = commands_of(name)
    assert commands[0][0] == "train"
    assert {"train", "eval", "export"} <= {tool for tool, _ in commands}
    for tool, arguments in commands:
        small = SMALL[name] if tool == "train" else []
        output = run(tool, *arguments, *small, *REST[tool], cwd=tmp_path)
        assert "Traceback" not in output
    (trained,) = (tmp_path / "runs").iterdir()
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["num_images"] == 2
    assert any(trained.glob("export/*/preprocess.json"))
    if name == "segmentation-head":  # a run does not import code because its config asks for it
        output = run("eval", "run=runs/fcn", cwd=tmp_path, status=1)
        assert "needs code from fcn_head" in output
        assert "pass extend=" in output


@pytest.mark.slow
def test_a_device_is_reached_as_it_is_printed(tmp_path, monkeypatch):
    """With a program that plays docker: the container is this machine."""
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    assert write_tree("device", tmp_path) == ["my_ext/container.py"]
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\n[ "$1 $2 $3" = "exec -i board" ] || exit 1\nshift 3\nexec "$@"\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(docker.parent), prepend=":")
    (train, train_arguments), (benchmark, arguments) = commands_of("device")
    assert (train, benchmark) == ("train", "benchmark")
    run("train", *train_arguments, *SEG, *TRAIN, cwd=tmp_path)
    short = [
        "size=[64,128]",
        "measure.least=2",
        "measure.most=2",
        "out=report",
        f"remote.python={sys.executable}",
    ]
    run("benchmark", *arguments, *short, cwd=tmp_path)
    (result,) = json.loads((tmp_path / "report" / "results.json").read_text())
    assert (result["machine"]["device"], result["agreement"]) == ("container://board", 1.0)


@pytest.mark.slow
def test_every_printed_command_composes(tmp_path, monkeypatch):
    """Also those that need a download, and those of the overview and of other pages."""
    for name in PAGES:
        write_tree(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(extensions.VARIABLE, "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    commands = [command for path in ALL_PAGES for command in page_commands(path)]
    extended = [command for command in commands if any(word.startswith("extend=") for word in command.words)]
    assert len(extended) > 20
    for command in extended:
        tool = command.words[1].removeprefix("tools/").removesuffix(".py")
        config = compose_config(tool, list(command.words[2:]))
        if tool == "train":
            assert set(config.extensions) <= {file.stem for file in (tmp_path / "my_ext").iterdir()}


@pytest.mark.parametrize("name", PAGES)
def test_the_overview_counts_the_files_of_the_page(name, tmp_path):
    """The table in docs/extend/index.md: `1 module, 1 YAML file`, nothing to edit."""
    files = write_tree(name, tmp_path)
    (row,) = (
        line for line in page("index").read_text(encoding="utf-8").splitlines() if f"({name}.md)" in line
    )
    written = {suffix: sum(file.endswith(suffix) for file in files) for suffix in (".py", ".yaml")}
    if name == "task":
        assert len({file.split("/")[1] for file in files if file.endswith(".py")}) == 1
        assert "1 package" in row
    else:
        assert (written[".py"] == 1) == ("1 module" in row or "1 class" in row)
        assert (written[".yaml"] == 1) == ("1 YAML file" in row)
    assert row.rstrip(" |").endswith("nothing")
