"""The programs of docs/tutorials/use-exported-files.md, as printed there, predict what the tools predict."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.run import checkpoint
from tests.docs.documented import ROOT, blocks
from tests.tools.commands import run

PAGE = ROOT / "docs/tutorials/use-exported-files.md"
SMALL = ["data.workers=0", "trainer.batch=2", "trainer.tensorboard=false", "trainer.device=cpu", "samples=0"]
SCENES = ["data.source.num_train=4", "data.source.num_val=2", "data.source.num_test=1", "trainer.steps=2",
          "data.source.size=[64,128]", "backbone.bn_momentum=1"]  # fmt: skip
CASES = {
    "det": ("det", ["data.size=[64,128]"], []),
    "det_raw": ("det", ["data.size=[64,128]"], ["output=raw", "normalize=false"]),
    "seg": ("seg", ["data.crop=[64,96]"], ["data.eval_size=[64,128]"]),
    "seg_labels": ("seg", ["data.crop=[64,96]"], ["data.eval_size=[64,128]", "output=argmax", "batch=2"]),
    "seg_scaled": ("seg", ["data.crop=[64,96]"], ["data.eval_size=0.5", "dtype=float32", "input=photo.png"]),
    "cls": ("cls", ["data.size=48"], ["normalize=false"]),
    "cls_square": ("cls", ["data.size=48", "data.square=true"], []),
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of each task and a photo of another size than the networks take."""
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("work")
    coarse = np.random.default_rng(0).integers(0, 256, (40, 54, 3), np.uint8)
    cv2.imwrite(str(folder / "photo.png"), cv2.resize(coarse, (151, 113), interpolation=cv2.INTER_CUBIC))
    return folder


def trained(folder, case):
    """The name of a run of the case's task, whose predictions depend strongly on the image."""
    task, options, _ = CASES[case]
    name = f"run_{case.partition('_')[0]}_{len(options)}"
    if not (folder / name).exists():
        run("train", f"task={task}", *options, *SMALL, *SCENES, f"run={name}", cwd=folder)
        for path in (folder / name / "checkpoints").glob("*.safetensors"):
            _amplify(path)
    return name


def _amplify(path):
    """After a few steps all scores are nearly equal: make the last layers' weights larger, without biases."""
    weights, texts = checkpoint.read(path)
    for key, value in weights.items():
        if re.search(r"(scores|classes|low|high|classifier|fc)[\w.]*\.weight$", key) and value.ndim > 1:
            weights[key] = value * (150 if "classifier" in key else 25)
        if re.search(r"(low|high)\.weight$", key):  # no class leads at every place
            weights[key] = (value - value.mean(1, keepdim=True)) * 25
        if re.search(r"(low|high)\.bias$", key):
            weights[key] = value * 0
    checkpoint.write(path, weights, texts)


def exported(folder, case):
    """(folder of the file, the case's prediction of the photo by tools/predict.py)."""
    out, name = folder / f"file_{case}", trained(folder, case)
    task, _, options = CASES[case]
    if not out.exists():
        run(
            "export", f"run={name}", *options, "images=1", f"out={out}", "budget.max_difference=1", cwd=folder
        )
    same_size = [option for option in options if option.startswith("data.")]
    lowest = ["task.draw_threshold=0"] if task == "det" else []
    predict = ["input=photo.png", f"out=predicted_{case}", "device=cpu", f"artifact={out}/model.onnx"]
    if not (folder / f"predicted_{case}").exists():
        run("predict", f"run={name}", *predict, *same_size, *lowest, cwd=folder)
    (summary,) = json.loads((folder / f"predicted_{case}" / "summary.json").read_text())["files"]
    return out, summary


def program(language):
    (text,) = (block.text for block in blocks(PAGE) if block.language == language)
    return text


def check(case, printed, summary, *, probability=0.003):
    """Compare the lines that a program printed with an entry of summary.json."""
    lines = [line.rsplit(" ", {"det": 5}.get(CASES[case][0], 1)) for line in printed.splitlines()]
    if CASES[case][0] == "det":
        expected = summary["detections"]
        assert len(lines) == len(expected) > 3
        assert Counter(line[0] for line in lines) == Counter(entry["class"] for entry in expected)
        for line, entry in zip(lines, expected, strict=True):
            score, *box = map(float, line[1:])
            assert score == pytest.approx(entry["score"], abs=0.004)
            assert any(  # neighbors with nearly the same score may change places
                line[0] == other["class"] and box == pytest.approx(other["box_xyxy"], abs=0.6)
                for other in expected
            )
    elif CASES[case][0] == "seg":
        total = sum(int(count) for _, count in lines)
        assert total == 113 * 151
        assert len(summary["classes"]) > 1
        for name, count in lines:
            assert int(count) / total == pytest.approx(summary["classes"].get(name, 0), abs=0.003)
    else:
        expected = {entry["name"]: entry["probability"] for entry in summary["classes"]}
        assert {name: float(share) for name, share in lines} == pytest.approx(expected, abs=probability)
        assert max(expected.values()) - min(expected.values()) > 0.05


@pytest.mark.parametrize("case", CASES)
def test_the_python_program(folder, case):
    out, summary = exported(folder, case)
    (folder / "use_file.py").write_text(program("python"))
    done = subprocess.run(
        [sys.executable, "use_file.py", out, "photo.png"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    check(case, done.stdout, summary, probability=2e-5)  # with the libraries of the product


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory):
    """A folder with the packages that the JavaScript program imports."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node or npm is not installed")
    folder = tmp_path_factory.mktemp("node")
    # Without its script, which downloads libraries for GPUs.
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "onnxruntime-node", "sharp"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip("npm install takes too long here")
    if done.returncode:
        pytest.skip(f"npm cannot install onnxruntime-node and sharp: {done.stderr.strip()[-200:]}")
    return folder


@pytest.mark.parametrize("case", [case for case in CASES if case != "det_raw"])
def test_the_javascript_program(folder, node_folder, case):
    out, summary = exported(folder, case)
    (node_folder / "use_file.mjs").write_text(program("javascript"))
    command = ["node", "use_file.mjs", out, folder / "photo.png"]
    done = subprocess.run(command, cwd=node_folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check(case, done.stdout, summary)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """The C++ program; ONNXRUNTIME_ROOT is a folder with onnxruntime's include/ and lib/."""
    root = Path(os.environ.get("ONNXRUNTIME_ROOT", "/usr"))
    found = [*root.glob("include/onnxruntime_cxx_api.h"), *root.glob("include/**/onnxruntime_cxx_api.h")]
    needed = ("nlohmann/json.hpp", "opencv4/opencv2/imgcodecs.hpp")
    if shutil.which("g++") is None or not found or not all(Path("/usr/include", h).exists() for h in needed):
        pytest.skip("needs g++, libopencv-dev, nlohmann-json3-dev and ONNXRUNTIME_ROOT")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "use_file.cpp").write_text(program("cpp"))
    command = [
        "g++", "-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror", "use_file.cpp", "-o", "use_file",
        f"-I{found[0].parent}", f"-L{root}/lib", "-lonnxruntime", f"-Wl,-rpath,{root}/lib",
        "-I/usr/include/opencv4", "-lopencv_imgcodecs", "-lopencv_core",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "use_file"


@pytest.mark.parametrize("case", [case for case in CASES if case != "det_raw"])
def test_the_cpp_program(folder, compiled, case):
    out, summary = exported(folder, case)
    done = subprocess.run([compiled, out, folder / "photo.png"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check(case, done.stdout, summary)


def test_another_resizing_gives_another_answer(folder):
    """So the tests above notice a wrong one: label maps change with the nearest pixel instead of two."""
    out, summary = exported(folder, "seg")
    text = program("python")
    wrong = text.replace("cv2.INTER_AREA if area else cv2.INTER_LINEAR", "cv2.INTER_NEAREST")
    assert wrong != text
    (folder / "wrong.py").write_text(wrong)
    command = [sys.executable, "wrong.py", out, "photo.png"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AssertionError):
        check("seg", done.stdout, summary)
