"""The programs of a kit and in docs/tutorials/use-exported-files.md predict what the tools predict."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deploy.formats import find
from tests.docs.exported_cases import ALIKE, CASES, SIZE, check, exported, javascript, trained, with_range
from tests.tools.commands import run

pytestmark = pytest.mark.slow


def some_weekly(cases):
    """One case of each task for every change, the others once a week."""
    return [
        case if case in ("seg", "det", "cls") else pytest.param(case, marks=pytest.mark.weekly)
        for case in cases
    ]


DEEP = [("deep.png", None), ("range.png", [1000, 5080])]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Runs of each task and a photo, which detectors and segmenters shrink to a half or a quarter.

    Then OpenCV's fixed-point numbers give the exact values, as all programs do: the networks of these runs
    turn a difference of one gray level into another prediction.
    """
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("work")
    coarse = np.random.default_rng(0).integers(0, 256, (45, 183, 3), np.uint8)
    photo = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / "photo.png"), photo)
    # The same colors in 16 bits, for pixel_range=[1000, 5080]: 255 steps of 16, and black below the range.
    deep = 1000 + photo.astype(np.uint16) * 16
    cv2.imwrite(str(folder / "range.png"), np.where(photo == 0, 7, deep).astype(np.uint16))
    cv2.imwrite(str(folder / "deep.png"), photo.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "float.tif"), photo[..., 0].astype(np.float32))
    return folder


def run_python(out, photo, *options):
    """The kit's program, started from another folder, in a Python that cannot import what a device lacks."""
    command = [sys.executable, "-c", ON_A_DEVICE, str(out / "run.py"), str(photo), *options]
    return subprocess.run(command, cwd=out.parent, capture_output=True, text=True)


ON_A_DEVICE = """
import runpy, sys
for name in ("torch", "torchvision", "hydra", "omegaconf", "engine", "deploy", "cv2", "scipy", "onnx"):
    sys.modules[name] = None  # importing it fails
del sys.argv[0]
sys.argv, script = sys.argv, sys.argv[0]
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize("case", some_weekly(CASES))
def test_the_python_program(folder, case):
    out, summary = exported(folder, case)
    threshold = ["--threshold", "0"] if CASES[case][0] == "det" else []
    done = run_python(out, folder / "photo.png", *threshold)
    assert done.returncode == 0, done.stderr
    check(case, done.stdout, summary, exact=True)
    text = run_python(out, folder / "photo.png", *threshold, "--json").stdout
    (entry,) = json.loads(text)["files"]
    if CASES[case][0] == "seg":
        assert entry["classes"] == pytest.approx(summary["classes"], abs=1e-5)
    else:
        kind = "detections" if CASES[case][0] == "det" else "classes"
        assert [each.keys() for each in entry[kind]] == [each.keys() for each in summary[kind]]


def test_the_python_program_writes_the_masks_of_predict(folder):
    out, _ = exported(folder, "seg")
    done = run_python(out, folder / "photo.png", "--out", folder / "masks")
    assert done.returncode == 0, done.stderr
    ours, theirs = (Image.open(folder / place / "photo.png") for place in ("masks", "predicted_seg/masks"))
    assert (np.asarray(ours) == np.asarray(theirs)).all()
    assert ours.getpalette()[:60] == theirs.getpalette()[:60]


def test_the_python_program_checks_the_golden_images(folder):
    out, _ = exported(folder, "det")
    done = run_python(out, "--check")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 of 1 golden images agree"), done.stderr
    expected = json.loads((out / "golden" / "expected.json").read_text())
    assert expected["files"][0]["detections"]
    other = folder / "other_answers"
    shutil.copytree(out, other)
    for entry in expected["files"][0]["detections"]:
        entry["box_xyxy"][0] += 5
    (other / "golden" / "expected.json").write_text(json.dumps(expected))
    done = run_python(other, "--check")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "0 of 1 golden images agree"), done.stderr


def test_the_python_program_names_an_image_that_it_cannot_read(folder):
    out, _ = exported(folder, "cls")
    done = run_python(out, "nothing.jpg")
    assert done.returncode == 1
    assert "nothing.jpg" in done.stderr
    assert "Traceback" not in done.stderr
    done = run_python(out, folder / "deep.png")  # without OpenCV
    assert (done.returncode, done.stdout) == (1, "")
    assert "16 bits per channel; pip install opencv" in done.stderr


@pytest.mark.weekly
@pytest.mark.parametrize(("format", "options"), [("ncnn", ["output=raw"]), ("mnn", []), ("openvino", [])])
def test_a_kit_of_another_runtime_predicts_the_same(folder, format, options):
    if reason := find(format).missing():
        pytest.skip(reason)
    _, summary = exported(folder, "det")
    words = [f"run={trained(folder, 'det')}", "format=kit", f"kit.format={format}", "images=1", *options]
    run("export", *words, f"out=kit_{format}", "budget.max_difference=1", cwd=folder)
    done = run_python(folder / f"kit_{format}", folder / "photo.png", "--threshold", "0")
    assert done.returncode == 0, done.stderr
    check("det", done.stdout, summary)
    assert run_python(folder / f"kit_{format}", "--check").returncode == 0
    assert not (folder / f"kit_{format}" / "cpp").exists()


@pytest.mark.parametrize(("photo", "values"), DEEP)
def test_the_python_program_reads_16_bit_colors(folder, photo, values):
    out, summary = exported(folder, "cls")
    command = [sys.executable, with_range(folder, out, values) / "run.py", folder / photo]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check("cls", done.stdout, summary, exact=True)


def test_the_python_program_refuses_other_depths(folder):
    done = run_python(exported(folder, "cls")[0], folder / "float.tif")
    message = f"{folder}/float.tif: not an image of 8 or 16 bits per channel\n"
    assert (done.returncode, done.stderr) == (1, message)


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


def run_javascript(node_folder, out, photo):
    (node_folder / "use_file.mjs").write_text(javascript())
    command = ["node", "use_file.mjs", out, photo]
    return subprocess.run(command, cwd=node_folder, capture_output=True, text=True)


@pytest.mark.parametrize("case", some_weekly(ALIKE))
def test_the_javascript_program(folder, node_folder, case):
    out, summary = exported(folder, case)
    done = run_javascript(node_folder, out, folder / "photo.png")
    assert done.returncode == 0, done.stderr
    check(case, done.stdout, summary)


@pytest.mark.parametrize(("photo", "values"), DEEP)
def test_the_javascript_program_reads_16_bit_colors(folder, node_folder, photo, values):
    out, summary = exported(folder, "cls")
    done = run_javascript(node_folder, with_range(folder, out, values), folder / photo)
    assert done.returncode == 0, done.stderr
    check("cls", done.stdout, summary)


def test_the_javascript_program_refuses_other_depths(folder, node_folder):
    done = run_javascript(node_folder, exported(folder, "cls")[0], folder / "float.tif")
    assert done.returncode == 1
    assert f"{folder}/float.tif: not an image of 8 or 16 bits per channel" in done.stderr


def onnxruntime_root(folder):
    """CMake's ONNXRUNTIME_ROOT, empty if the system has it; None if its C++ headers are missing.

    The variable of this name is a folder with onnxruntime's include/ and, unless the Python package's library
    serves, lib/. `folder` gets links to both.
    """
    if "ONNXRUNTIME_ROOT" not in os.environ:
        return "" if Path("/usr/include/onnxruntime/onnxruntime_cxx_api.h").exists() else None
    root = Path(os.environ["ONNXRUNTIME_ROOT"])
    headers = sorted(root.glob("**/onnxruntime_cxx_api.h"))
    package = Path(importlib.util.find_spec("onnxruntime").origin).parent / "capi"
    libraries = [*root.glob("lib/libonnxruntime.so*"), *package.glob("libonnxruntime.so*")]
    if not headers or not libraries:
        return None
    (folder / "lib").mkdir()
    (folder / "include").symlink_to(headers[0].parent)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(libraries[0])
    return str(folder)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory, folder):
    """The C++ program, built from a kit as the page says."""
    place = tmp_path_factory.mktemp("cpp")
    root = onnxruntime_root(place)
    needed = ("nlohmann/json.hpp", "opencv4/opencv2/imgcodecs.hpp")
    if (
        shutil.which("cmake") is None
        or root is None
        or not all(Path("/usr/include", h).exists() for h in needed)
    ):
        pytest.skip("needs cmake, libopencv-dev, nlohmann-json3-dev, libonnxruntime-dev or ONNXRUNTIME_ROOT")
    source, build = exported(folder, "cls")[0] / "cpp", place / "build"
    flags = "-Wall -Wextra -Werror"
    for command in (
        ["cmake", "-S", source, "-B", build, f"-DONNXRUNTIME_ROOT={root}", f"-DCMAKE_CXX_FLAGS={flags}"],
        ["cmake", "--build", build],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "predict"


@pytest.mark.parametrize("case", CASES)
def test_the_cpp_program(folder, compiled, case):
    out, summary = exported(folder, case)
    threshold = ["0"] if CASES[case][0] == "det" else []
    done = subprocess.run([compiled, out, folder / "photo.png", *threshold], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check(case, done.stdout, summary, exact=True)


def test_the_cpp_program_writes_the_mask_of_predict(folder, compiled):
    out, _ = exported(folder, "seg")
    done = subprocess.run([compiled, out, folder / "photo.png", folder / "mask.png"], capture_output=True)
    assert done.returncode == 0, done.stderr
    ours, theirs = (Image.open(folder / place) for place in ("mask.png", "predicted_seg/masks/photo.png"))
    assert (np.asarray(ours) == np.asarray(theirs)).all()


@pytest.mark.parametrize(("photo", "values"), DEEP)
def test_the_cpp_program_reads_16_bit_colors(folder, compiled, photo, values):
    out, summary = exported(folder, "cls")
    command = [compiled, with_range(folder, out, values), folder / photo]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check("cls", done.stdout, summary, exact=True)


def test_the_cpp_program_refuses_other_depths(folder, compiled):
    command = [compiled, exported(folder, "cls")[0], folder / "float.tif"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1  # OpenCV 4 adds lines of its own
    assert f"{folder}/float.tif: not an image of 8 or 16 bits per channel\n" in done.stderr


WRONG = {
    "pixel before": ("    before = np.floor(exact)", "    before = np.floor(exact - 1)"),
    "antialiasing": ('if how.get("antialias")', 'if not how.get("antialias")'),
    "BGR": (".transpose(2, 0, 1)", "[..., ::-1].transpose(2, 0, 1)"),
    "crop": ("round((image.shape[1] - columns) / 2)", "round((image.shape[1] - columns) / 2) + 1"),
}
"""What each mistake replaces in the kit's image.py."""


@pytest.mark.weekly
@pytest.mark.parametrize(
    ("mistake", "case"),
    [
        (m, case)
        for m in WRONG
        for case in CASES
        if (m != "crop" or case == "cls")
        and (m != "pixel before" or case not in ("cls", "cls_square", "seg_area"))
    ],
)
def test_a_wrong_preparation_gives_another_answer(folder, mistake, case):
    """So the tests above notice it, with the tolerance of JavaScript."""
    out, summary = exported(folder, case)
    text, (right, wrong) = (out / "image.py").read_text(), WRONG[mistake]
    assert right in text
    kit = folder / f"wrong_{mistake.replace(' ', '_')}_{case}"
    shutil.copytree(out, kit)
    (kit / "image.py").write_text(text.replace(right, wrong))
    done = run_python(kit, folder / "photo.png", *(["--threshold", "0"] if CASES[case][0] == "det" else []))
    assert done.returncode == 0, done.stderr
    with pytest.raises(AssertionError):
        check(case, done.stdout, summary)
