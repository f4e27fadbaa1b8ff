"""One interface to every runtime: the same numbers, and one-line errors."""

import builtins
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deploy.eager import eager_session
from deploy.export.module import export_module
from deploy.formats import find, open_session
from deploy.formats.onnx import onnxruntime
from tests.refusals import refuses

FAST = ("onnx", "openvino", "torch_export")
SLOW = ("litert", "executorch", "mnn")


class Toy(nn.Module):
    """Two outputs, one of them integers, from pixels in 0..255."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardswish())
        self.head = nn.Conv2d(8, 4, 1)
        self.body[1].running_mean.uniform_(-1, 1)

    def forward(self, images):
        scores = self.head(self.body(images.float() / 255))
        return scores, scores.argmax(1).to(torch.uint8)


def pixels(count=1, height=12, width=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, height, width), np.uint8)


@pytest.fixture(
    scope="module", params=[*FAST, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)]
)
def session(request, tmp_path_factory):
    """(format, session of Toy) for each runtime that is installed."""
    if reason := find(request.param).missing():
        pytest.skip(reason)
    path = tmp_path_factory.mktemp("toy") / f"toy{find(request.param).SUFFIX}"
    example = torch.from_numpy(pixels())
    export_module(
        Toy(), example, path, format=request.param, names=["scores", "labels"], metadata={"who": "Ä 1"}
    )
    return request.param, open_session(path)


def test_a_runtime_gives_what_pytorch_gives(session):
    expected = eager_session(Toy())(pixels(seed=1))
    outputs = session[1](pixels(seed=1))
    assert [output.shape for output in outputs] == [(1, 4, 12, 20), (1, 12, 20)]
    np.testing.assert_allclose(outputs[0], expected[0], atol=1e-5)
    assert (outputs[1] == expected[1]).all()


def test_a_session_describes_its_network(session):
    _, opened = session
    assert opened.output_names == ("scores", "labels")
    assert (opened.dtype, opened.shape) == ("uint8", (1, 12, 20))
    assert opened.metadata["who"] == "Ä 1"
    assert any(character.isdigit() for character in opened.runtime)


def test_a_later_call_does_not_change_earlier_results(session):
    first = session[1](pixels(seed=1))
    copies = [part.copy() for part in first]
    session[1](pixels(seed=2))
    assert all((now == before).all() for now, before in zip(first, copies, strict=True))


def test_images_of_another_size_or_type_are_rejected(session):
    refuses(lambda: session[1](pixels(height=13)), "1x12x20", "1x13x20", "dynamic=size")
    refuses(lambda: session[1](pixels().astype(np.float32)), "uint8", "float32")


def test_pytorch_itself_is_a_session():
    opened = eager_session(nn.Flatten(), names=["flat"])
    images = np.arange(24, dtype=np.float32).reshape(1, 3, 2, 4)
    assert (opened(images)[0] == np.arange(24)).all()
    assert opened.output_names == ("flat",)
    assert opened.runtime.startswith("PyTorch 2")


def test_pytorch_runs_with_the_given_number_of_threads():
    before = torch.get_num_threads()
    seen = []

    class Count(nn.Module):
        def forward(self, images):
            seen.append(torch.get_num_threads())
            return images

    images = np.zeros((1, 3, 2, 2), np.float32)
    eager_session(Count(), threads=2)(images)
    eager_session(Count(), threads=1)(images)
    torch.set_num_threads(before)
    assert seen == [2, 1]


def test_onnx_runtime_is_loaded_without_telemetry():
    pytest.importorskip("onnxruntime")
    onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.slow
def test_a_cuda_compiler_without_a_gpu_gives_no_warning():
    """8-bit OpenVINO files and AOTInductor load this part of PyTorch, and run on the CPU."""
    program = "import engine.environment, torch._inductor, torch.utils.cpp_extension"
    quiet = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "CUDA_HOME": "/usr/local", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert quiet.stderr == ""


def test_openvino_computes_in_float32_where_its_default_is_bf16(tmp_path):
    """1 + 2^-10 has no bfloat16: there the difference from 1 is lost."""
    pytest.importorskip("openvino")
    layer = nn.Conv2d(3, 1, 1, bias=False)
    nn.init.constant_(layer.weight, 1 + 2**-10)
    path = tmp_path / "m.xml"
    export_module(layer, torch.ones(1, 3, 8, 8), path, format="openvino", names=["y"], metadata={})
    output = open_session(path)(np.ones((1, 3, 8, 8), np.float32))[0]
    assert output.min() == pytest.approx(3 * (1 + 2**-10), abs=1e-6)


def test_files_that_cannot_be_opened(tmp_path):
    refuses(lambda: open_session(tmp_path / "none.onnx"), "none.onnx", "no such file")
    refuses(lambda: open_session(tmp_path), "is a folder; it contains no exported file")
    (tmp_path / "m.txt").write_text("x")
    refuses(lambda: open_session(tmp_path / "m.txt"), "suffix", ".onnx")
    refuses(lambda: open_session(tmp_path / "m.txt", threads=0), "threads")
    (tmp_path / "m.pt2").write_bytes(b"no archive")
    refuses(lambda: open_session(tmp_path), r"is a folder; pass a file in it \(m.pt2\)")
    refuses(lambda: open_session(tmp_path / "m.pt2"), "m.pt2", "cannot be loaded")
    pytest.importorskip("onnxruntime")
    (tmp_path / "m.onnx").write_bytes(b"no network")
    refuses(lambda: open_session(tmp_path / "m.onnx"), "m.onnx", "cannot be loaded")
    refuses(
        lambda: open_session(tmp_path / "m.onnx", precision="bf16"),
        "computes in fp32; export with format=openvino",
    )


@pytest.mark.parametrize(
    ("suffix", "library", "extra"),
    [
        (".onnx", "onnxruntime", "onnx"),
        (".xml", "openvino", "openvino"),
        (".pte", "executorch", "executorch"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, suffix, library, extra):
    plain, import_module = builtins.__import__, importlib.import_module

    def without(name, *arguments, **options):
        if name.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return plain(name, *arguments, **options)

    def without_module(name, package=None):
        return without(name) if name.partition(".")[0] == library else import_module(name, package)

    monkeypatch.setattr("deploy.libraries.importlib.import_module", without_module)
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"x")
    refuses(lambda: open_session(path), library, rf"pip install -e '\.\[{extra}\]'")


def test_litert_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)  # may have been imported
    path = tmp_path / "m.tflite"
    path.write_bytes(b"x")
    refuses(lambda: open_session(path), "ai_edge_litert", r"pip install -e '\.\[litert\]'")


@pytest.mark.parametrize(("suffix", "library"), [(".ncnn.param", "ncnn"), (".mnn", "MNN")])
def test_a_library_that_a_device_program_imports_is_named_with_its_extra(
    tmp_path, monkeypatch, suffix, library
):
    extra = library.lower()
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"deploy.device.runtimes.{extra}", raising=False)
    path = tmp_path / f"m{suffix}"
    for name in (path, tmp_path / "m.ncnn.bin"):
        name.write_bytes(b"x")
    refuses(lambda: open_session(path), library, rf"pip install -e '\.\[{extra}\]'")


SIGNALLED = """
import gc, os, signal, sys
from pathlib import Path
from deploy.formats import open_session

first, second = (open_session(Path(sys.argv[1]), threads=1) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.weekly
def test_a_signal_after_openvino_sessions_are_gone_is_handled(tmp_path):
    """Two cores of OpenVINO, destroyed in the order of creation, leave a dangling stack for signals."""
    pytest.importorskip("openvino")
    path = tmp_path / "toy.xml"
    export_module(
        nn.Conv2d(3, 2, 1).eval(), torch.ones(1, 3, 8, 8), path, format="openvino", names=["y"], metadata={}
    )
    command = [sys.executable, "-c", SIGNALLED, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize(
    "load",
    [
        "from deploy.formats.openvino import load_library; load_library().Core()",
        "import deploy.device.runtimes.openvino",
        "from deploy.device import models; models.version('openvino')",
    ],
)
@pytest.mark.parametrize("home", [True, False])
def test_openvino_is_loaded_without_telemetry(tmp_path, load, home):
    """It reports each conversion, and cannot be imported without a home folder."""
    pytest.importorskip("openvino")
    no_home = "import pathlib; pathlib.Path.home = classmethod(lambda cls: 1 / 0)"
    lines = ["import sys", *([] if home else [no_home]), load]
    lines += ["print([name for name in sys.modules if name.startswith('openvino_telemetry.')])"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    code = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
    assert list(tmp_path.iterdir()) == []
