"""The programs of docs/tutorials/use-exported-files.md, as printed there, predict what the tools predict."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.docs.exported_cases import ALIKE, CASES, SIZE, check, exported, program, with_range

pytestmark = pytest.mark.slow


def some_weekly(cases):
    """One case of each task for every change, the others once a week."""
    return [
        case if case in ("seg", "det", "cls") else pytest.param(case, marks=pytest.mark.weekly)
        for case in cases
    ]


DEEP = [("deep.png", None), ("range.png", [1000, 5080])]


@pytest.fixture(scope="module")
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


def run_python(folder, text, out, photo="photo.png"):
    (folder / "use_file.py").write_text(text)
    command = [sys.executable, "use_file.py", out, photo]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("case", some_weekly(CASES))
def test_the_python_program(folder, case):
    out, summary = exported(folder, case)
    done = run_python(folder, program("python"), out)
    assert done.returncode == 0, done.stderr
    check(case, done.stdout, summary, probability=2e-5)  # with the libraries of the product


@pytest.mark.parametrize(("photo", "values"), DEEP)
def test_the_python_program_reads_16_bit_colors(folder, photo, values):
    out, summary = exported(folder, "cls")
    done = run_python(folder, program("python"), with_range(folder, out, values), photo)
    assert done.returncode == 0, done.stderr
    check("cls", done.stdout, summary, probability=2e-5)


def test_the_python_program_refuses_other_depths(folder):
    done = run_python(folder, program("python"), exported(folder, "cls")[0], "float.tif")
    assert (done.returncode, done.stderr) == (1, "float.tif: not an image of 8 or 16 bits per channel\n")


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
    (node_folder / "use_file.mjs").write_text(program("javascript"))
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


def onnxruntime_flags(folder):
    """g++'s arguments for ONNX Runtime, as the page gives them; None if its C++ headers are missing.

    ONNXRUNTIME_ROOT is a folder with onnxruntime's include/ and, unless the Python package's library serves,
    lib/. `folder` gets links to the library.
    """
    if "ONNXRUNTIME_ROOT" not in os.environ:
        if shutil.which("pkg-config") is None:
            return None
        command = ["pkg-config", "--cflags", "--libs", "libonnxruntime"]
        found = subprocess.run(command, capture_output=True, text=True)
        return found.stdout.split() if found.returncode == 0 else None
    root = Path(os.environ["ONNXRUNTIME_ROOT"])
    headers = sorted(root.glob("**/onnxruntime_cxx_api.h"))
    package = Path(importlib.util.find_spec("onnxruntime").origin).parent / "capi"
    libraries = [*root.glob("lib/libonnxruntime.so*"), *package.glob("libonnxruntime.so*")]
    if not headers or not libraries:
        return None
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(libraries[0])
    return [f"-I{headers[0].parent}", f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}"]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """The C++ program."""
    folder = tmp_path_factory.mktemp("cpp")
    found = onnxruntime_flags(folder)
    needed = ("nlohmann/json.hpp", "opencv4/opencv2/imgcodecs.hpp")
    if shutil.which("g++") is None or not found or not all(Path("/usr/include", h).exists() for h in needed):
        pytest.skip("needs g++, libopencv-dev, nlohmann-json3-dev, libonnxruntime-dev or ONNXRUNTIME_ROOT")
    (folder / "use_file.cpp").write_text(program("cpp"))
    command = [
        "g++", "-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror", "use_file.cpp", "-o", "use_file", *found,
        "-I/usr/include/opencv4", "-lopencv_imgcodecs", "-lopencv_core",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "use_file"


@pytest.mark.parametrize("case", ALIKE)
def test_the_cpp_program(folder, compiled, case):
    out, summary = exported(folder, case)
    done = subprocess.run([compiled, out, folder / "photo.png"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check(case, done.stdout, summary)


@pytest.mark.parametrize(("photo", "values"), DEEP)
def test_the_cpp_program_reads_16_bit_colors(folder, compiled, photo, values):
    out, summary = exported(folder, "cls")
    command = [compiled, with_range(folder, out, values), folder / photo]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check("cls", done.stdout, summary)


def test_the_cpp_program_refuses_other_depths(folder, compiled):
    command = [compiled, exported(folder, "cls")[0], folder / "float.tif"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1  # OpenCV 4 adds lines of its own
    assert f"{folder}/float.tif: not an image of 8 or 16 bits per channel\n" in done.stderr


WRONG = {
    "nearest pixel": {
        "cv2.INTER_AREA if area else cv2.INTER_LINEAR": "cv2.INTER_NEAREST",
        "Image.Resampling.BILINEAR": "Image.Resampling.NEAREST",
    },
    "antialiasing": {'how.get("antialias")': 'not how.get("antialias")'},
    "BGR": {".transpose(2, 0, 1)": "[..., ::-1].transpose(2, 0, 1)"},
    "crop": {"round((image.shape[1] - columns) / 2)": "round((image.shape[1] - columns) / 2) + 1"},
}


@pytest.mark.weekly
@pytest.mark.parametrize(
    ("mistake", "case"), [(m, case) for m in WRONG for case in CASES if m != "crop" or case == "cls"]
)
def test_a_wrong_preparation_gives_another_answer(folder, mistake, case):
    """So the tests above notice it, with the tolerance of the other languages."""
    out, summary = exported(folder, case)
    text = program("python")
    for right, wrong in WRONG[mistake].items():
        assert right in text
        text = text.replace(right, wrong)
    done = run_python(folder, text, out)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AssertionError):
        check(case, done.stdout, summary)
