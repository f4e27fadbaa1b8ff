"""Each benchmark at its smallest setting prints a table with the rows it promises, of positive numbers."""

import importlib
import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(monkeypatch, capsys):
    """run("loader", "--rounds 1") -> its Markdown tables, each a dict from a row's name to its cells."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def call(script: str, options: str) -> list[dict[str, list[str]]]:
        arguments = options.split()
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        importlib.import_module(script).main(arguments)
        text = capsys.readouterr().out
        assert f"python benchmarks/{script}.py {options}" in text
        assert re.search(r"\d+ cores, \d+ torch threads", text)
        return tables(text)

    return call


def tables(text: str) -> list[dict[str, list[str]]]:
    """The Markdown tables of a text; rows of the same name are numbered apart."""
    found: list[dict[str, list[str]]] = []
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if re.fullmatch(r"\|(-+:?\|)+", line):
            found.append({})
            for row in lines[at + 1 :]:
                if not row.startswith("|"):
                    break
                name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
                found[-1][name if name not in found[-1] else f"{name} #{len(found[-1])}"] = cells
    return found


def number(cell: str) -> float:
    """The first number of a cell."""
    found = re.match(r"[+-]?[\d.]+", cell)
    assert found is not None, cell
    return float(found[0])


def test_loader(run):
    (rows,) = run("loader", "--size 64 128 --crop 48 --workers 1 --samples 4 --rounds 1 --pictures 4")
    assert list(rows) == ["Pillow and torchvision", "ours", "ours, data.cache"]
    for workers, rate, times in rows.values():
        assert workers == "1"
        assert number(rate) > 0
        assert number(times) > 0


def test_metric(run):
    # Above all that it ends at all: it compares its scores with those of cityscapesScripts.
    (rows,) = run("metric", "--size 128 256 --images 2 --rounds 1")
    assert [(name.split(" #")[0], cells[0]) for name, cells in rows.items()] == [
        ("cityscapesScripts, files", "no"),
        ("ours, files", "no"),
        ("ours, update", "no"),
        ("cityscapesScripts, files", "yes"),
        ("ours, files", "yes"),
        ("ours, update", "yes"),
    ]
    assert all(number(cells[1]) > 0 for cells in rows.values())


def test_overhead(run):
    (rows,) = run("overhead", "--steps 6 --rounds 1")
    sizes = ["1 x 64x64", "8 x 128x256"]
    names = ["tiny, 1 x 16x16", "toy, 8 x 32x32", *(f"default network, {size}" for size in sizes)]
    assert list(rows) == names
    assert all(number(cell) > 0 for cells in rows.values() for cell in cells[:2])
    assert all(cells[3].endswith(" %") for cells in rows.values())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/<pid>/smaps_rollup")
def test_memory(run):
    (rows,) = run("memory", "--entries 500 --workers 2 --images 60 --steps 60")
    assert [name.split(",")[0] for name in rows] == ["loader", "lists of paths", "evaluation", "training"]
    for *thirds, growth in rows.values():
        assert all(number(third) > 0 for third in thirds)
        # The columns are rounded each for itself.
        assert number(growth) == pytest.approx(number(thirds[2]) - number(thirds[1]), abs=0.11)


@pytest.mark.slow
def test_startup(run):
    times, costs, loaded = run("startup", "--rounds 1 --top 3 --tools train --first-step")
    assert list(times) == ["train --help", "imports of train", "train, to the first step", "import torch"]
    assert all(number(cells[0]) > 0 for cells in times.values())
    assert len(costs) == 3
    assert number(costs["torch"][0]) > 0
    assert "tensorboard" not in loaded["a training"][0].split()


def test_tools_import_what_they_use(monkeypatch):
    """Curves, TensorBoard, augmentation and torchvision are imported where they are used: seconds less."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import startup

    found = startup.loaded("train", "imported", []).split()
    assert "torch" in found
    assert not {"matplotlib", "tensorboard", "albumentations", "torchvision", "scipy"} & set(found)


@pytest.mark.slow
def test_reference_loop(run):
    small = "--size 64 128 --crop 64 --base 65 --batch 2 --workers 1 --steps 2 --rounds 1 --pictures 4"
    speeds, details = run("reference_loop", small)
    sides = [
        "torchvision's way",
        "torchvision's way, our process settings",
        "ours, torchvision's network",
        "ours, paper's LR-ASPP on V3-Large",
        "ours, default (V3-Small, Dice, EMA)",
    ]
    assert list(speeds) == sides
    assert list(details) == sides
    assert all(number(cell) > 0 for cells in speeds.values() for cell in cells)
    for decode, augment, wait, forward, backward, optimizer, other, whole in details.values():
        assert all(float(cell) > 0 for cell in (decode, augment, wait, forward, backward, optimizer, whole))
        parts = [float(cell) for cell in (wait, forward, backward, optimizer, other)]
        assert sum(parts) == pytest.approx(float(whole), rel=0.02, abs=0.5)


def test_the_same_network_on_both_sides(monkeypatch):
    """The row that is to differ in pipeline and loop alone trains torchvision's parameters, one for one."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from reference_loop import SIDES
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    from engine.config.compose import build, compose_config

    config = compose_config("train", SIDES["ours, torchvision's network"])
    ours = build(config.model, key="model", num_classes=19)
    theirs = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=19)
    ours.load_state_dict(ours.adapt(theirs.state_dict()))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert config.trainer.ema is None
    assert config.task.dice == 0.0
