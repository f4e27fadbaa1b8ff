"""Each benchmark, at its smallest setting, prints a table with all its rows, of positive numbers."""

import ctypes
import importlib
import re
import sys

import pytest
import torch
from safetensors.torch import load_file

from backbones.mobilenet_v3 import mobilenet_v3_small
from backbones.network import MobileNet
from benchmarks import files_to_first_loss, same_losses
from benchmarks.accuracy import halved_last_stage
from benchmarks.support import peak
from engine.config.compose import compose_config
from engine.config.instantiate import build
from tests.doctor.check.datasets import masks_data
from tests.tools.commands import run as run_tool


@pytest.fixture
def run(monkeypatch, capsys):
    """run("data_loading", "--rounds 1") -> its Markdown tables, each a dict of rows: name -> cells."""

    def call(script: str, options: str) -> list[dict[str, list[str]]]:
        arguments = options.split()
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        importlib.import_module(f"benchmarks.{script}").main(arguments)
        text = capsys.readouterr().out
        assert f"python benchmarks/{script.replace('.', '/')}.py {options}" in text
        assert re.search(r"\d+ cores, \d+ torch threads", text)
        return tables(text)

    return call


def tables(text: str) -> list[dict[str, list[str]]]:
    """The Markdown tables in a text; rows with the same name get a number."""
    result: list[dict[str, list[str]]] = []
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if re.fullmatch(r"\|(-+:?\|)+", line):
            result.append({})
            for row in lines[at + 1 :]:
                if not row.startswith("|"):
                    break
                name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
                result[-1][name if name not in result[-1] else f"{name} #{len(result[-1])}"] = cells
    return result


def number(cell: str) -> float:
    """The first number in a cell."""
    match = re.match(r"[+-]?[\d.]+", cell)
    assert match is not None, cell
    return float(match[0])


def test_data_loading(run):
    options = "--size 64 128 --crop 48 --workers 1 --samples 4 --rounds 1 --images 4"
    (rows,) = run("data_loading", options)
    assert list(rows) == ["Pillow and torchvision", "ours", "ours, data.cache"]
    for workers, rate, times in rows.values():
        assert workers == "1"
        assert number(rate) > 0
        assert number(times) > 0


def test_miou_evaluation(run):
    # It ends only if its scores are those of cityscapesScripts.
    (rows,) = run("miou_evaluation", "--size 128 256 --images 2 --rounds 1")
    assert [(name.split(" #")[0], cells[0]) for name, cells in rows.items()] == [
        ("cityscapesScripts, files", "no"),
        ("ours, files", "no"),
        ("ours, update", "no"),
        ("cityscapesScripts, files", "yes"),
        ("ours, files", "yes"),
        ("ours, update", "yes"),
    ]
    assert all(number(cells[1]) > 0 for cells in rows.values())


@pytest.mark.weekly
def test_loop_overhead(run):
    (rows,) = run("loop_overhead", "--steps 6 --rounds 1")
    sizes = ["1 x 64x64", "8 x 128x256"]
    names = ["two convolutions, 1 x 16x16", "four convolutions, 8 x 32x32"]
    names += [f"default network, {size}" for size in sizes]
    assert list(rows) == names
    assert all(number(cell) > 0 for cells in rows.values() for cell in cells[:2])
    assert all(cells[3].endswith("%") for cells in rows.values())


@pytest.mark.weekly
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/<pid>/smaps_rollup")
def test_memory_growth(run):
    (rows,) = run("memory.growth", "--entries 500 --workers 2 --images 60 --steps 60")
    assert [name.split(",")[0] for name in rows] == ["loader", "lists of paths", "evaluation", "training"]
    for *thirds, growth in rows.values():
        assert all(number(third) > 0 for third in thirds)
        # Each column is rounded separately.
        assert number(growth) == pytest.approx(number(thirds[2]) - number(thirds[1]), abs=0.11)


@pytest.mark.weekly
def test_tool_startup(run):
    times, costs, loaded = run("tool_startup", "--rounds 1 --top 3 --tools train --first-step")
    assert list(times) == ["train --help", "imports of train", "train, to the first step", "import torch"]
    assert all(number(cells[0]) > 0 for cells in times.values())
    assert len(costs) == 3
    assert number(costs["torch"][0]) > 0
    assert "tensorboard" not in loaded["a training"][0].split()


@pytest.mark.slow
def test_tools_import_heavy_packages_only_when_they_use_them():
    """Curves, TensorBoard, augmentation and torchvision take seconds to import."""
    from benchmarks import tool_startup

    loaded = tool_startup.loaded("train", "imported", []).split()
    assert "torch" in loaded
    assert not {"matplotlib", "tensorboard", "albumentations", "torchvision", "scipy"} & set(loaded)


@pytest.mark.weekly
def test_training_speed(run):
    small = "--size 64 128 --crop 64 --base 65 --batch 2 --workers 1 --steps 2 --rounds 1 --images 4"
    speeds, details = run("training_speed", small)
    sides = [
        "torchvision",
        "torchvision, our process settings",
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


def test_both_sides_of_training_speed_train_the_same_network():
    """The row that differs only in data pipeline and loop has torchvision's parameters, one for one."""
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    from benchmarks.training_speed import SIDES

    config = compose_config("train", SIDES["ours, torchvision's network"])
    ours = build(config.model, key="model", num_classes=19)
    theirs = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=19)
    ours.load_state_dict(ours.adapt(theirs.state_dict()))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert config.trainer.ema is None
    assert config.task.dice == 0.0


@pytest.mark.slow
def test_the_files_to_the_first_loss_are_those_that_run():
    backward = torch.Tensor.backward
    files = files_to_first_loss.files_to_first_loss([])
    assert {"tools/train.py", "seg/losses.py", "backbones/network.py"} <= set(files)
    assert not {file for file in files if file.startswith(("det/", "cls/", "streets/", "nas/"))}
    assert torch.Tensor.backward is backward


def test_logs_differ_from_the_first_row_with_another_value():
    log = [{"step": 1, "kind": "train", "loss": 2.0}, {"step": 2, "kind": "train", "loss": 1.0}]
    assert same_losses.first_difference(log, [dict(row) for row in log]) is None
    other = [log[0], {**log[1], "loss": 1.5}]
    assert same_losses.first_difference(log, other) == "step 2 (train): loss is 1.0 in {0}, 1.5 in {1}"
    assert same_losses.first_difference(log, log[:1]) == "2 rows in {0}, 1 in {1}"


def test_same_losses_trains_a_small_task_by_default():
    assert same_losses.with_defaults([])[0] == "task=seg"
    det = same_losses.with_defaults(["task=det", "trainer.steps=40"])
    assert det[0] == "task=det"
    assert "data.size=[64,128]" in det
    assert det.index("trainer.steps=10") < det.index("trainer.steps=40")
    assert not [o for o in same_losses.with_defaults(["data=masks"]) if o.startswith("data.source")]


@pytest.mark.weekly
def test_memory_of_a_large_image(run):
    """At 4000 x 4000, the scores of 19 classes take 1216 MB: whole images need them, windows do not."""
    (rows,) = run("memory.large_image", "--side 4000 --window 512 --whole")
    beyond = {name: number(cells[2]) for name, cells in rows.items()}
    assert beyond["windows of 512"] < 200
    assert beyond["windows of 512"] < beyond["whole"]


@pytest.mark.weekly
@pytest.mark.data
def test_preparations_of_the_released_detector(run, data_folder, tmp_path):
    """docs/reference/exported-files.md has these numbers; the first is also OpenCV's run of the graph."""
    weights = data_folder / "weights/ssd_mobilenet_v3_large_coco/ssd_mnv3_large_coco_tf_weights.npz"
    run_tool("prepare", "experiment=det/released", f"init_from={weights}", "run=released", cwd=tmp_path)
    folder = data_folder / "coco128"
    options = f"{tmp_path}/released {folder}/images/val2017 {folder}/instances_val2017_128.json"
    (rows,) = run("accuracy.detector_preparation", options)
    found = {name: number(cells[0]) for name, cells in rows.items()}
    expected = {"as in training": 35.7, "antialiased": 34.7, "letterboxed": 31.2, "BGR": 26.9}
    assert found == pytest.approx(expected, abs=0.15)


@pytest.mark.weekly
@pytest.mark.data
def test_tiles_find_the_objects_of_large_images(run, data_folder, tmp_path):
    """docs/guides/training.md has these numbers."""
    weights = data_folder / "weights/ssd_mobilenet_v3_large_coco/ssd_mnv3_large_coco_tf_weights.npz"
    run_tool("prepare", "experiment=det/released", f"init_from={weights}", "run=released", cwd=tmp_path)
    folder = data_folder / "coco128"
    options = f"{tmp_path}/released {folder}/images/val2017 {folder}/instances_val2017_128.json"
    (rows,) = run("accuracy.detection_tiles", options)
    found = {name: number(cells[0]) for name, cells in rows.items()}
    expected = {"whole image": 1.9, "tiles of 640 and the whole image": 18.6, "tiles of 640": 19.2}
    assert found == pytest.approx(expected, abs=0.15)


def test_dataset_check(run, tmp_path):
    root = masks_data(tmp_path / "data")
    (rows,) = run("dataset_check", f"task=seg data=masks data.root={root} data.crop=32 data.workers=0")
    assert list(rows) == ["check", "check again", "one pass of the loader"]
    assert all(number(cell) >= 0 for cells in rows.values() for cell in cells)


@pytest.mark.slow
def test_inference_speed(run):
    (rows,) = run("inference_speed", "--size 64 128 --rounds 2")
    assert list(rows) == ["torchvision, eager", "ours, eager", "ours, onnx", "ours, openvino"]
    for median, _, lowest, ratio, rate, *shares in rows.values():
        assert number(median) >= number(lowest) > 0
        assert number(ratio) > 0
        assert number(rate) > 0
        assert len(shares) == 2
    assert number(rows["torchvision, eager"][3]) == 1


def test_peak_counts_the_multiply_adds_it_makes():
    library = peak.compiled()
    if library is None:
        pytest.skip("no C compiler")
    result = ctypes.c_float(0.0)
    done = library.run(3, ctypes.byref(result))
    # A sum s becomes s / 2 + 1: 0, 1, 1.5, 1.75; there are twelve.
    assert result.value == 12 * 1.75
    assert done in {3 * 12 * lanes for lanes in (4, 8, 16)}


def test_peak_without_a_compiler_is_unknown(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert peak.fma_gmadds() is None


def test_halved_last_stage(tmp_path):
    spec = mobilenet_v3_small()
    full, half = (MobileNet(s, taps=(s.last_feature,)) for s in (spec, mobilenet_v3_small(tail="rf2")))
    source, out = tmp_path / "full.pth", tmp_path / "halved.safetensors"
    torch.save(full.state_dict(), source)
    halved_last_stage.main([str(source), str(out), "--backbone", "mobilenet_v3_small"])
    half.load_state_dict(load_file(out))
    # The ninth block is the first to be halved: from 288 to 144 channels, all of them from the full network.
    theirs, ours = (network.blocks[8].expand.conv.weight for network in (full, half))
    assert (len(theirs), len(ours)) == (288, 144)
    assert all((theirs == filters).flatten(1).all(dim=1).sum() == 1 for filters in ours)
    # Earlier blocks stay as they are.
    assert torch.equal(full.blocks[7].project.conv.weight, half.blocks[7].project.conv.weight)
