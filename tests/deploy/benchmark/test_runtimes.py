"""The runtimes that are measured, and the files that they run."""

import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

from deploy import formats, libraries
from deploy.benchmark.runtimes import RUNTIMES, ExportCache, choose_runtimes, files_by_name, num_outputs
from deploy.formats import aot_inductor, open_session
from engine.config import extensions
from tests.deploy.rows import row
from tests.refusals import refuses


@pytest.fixture
def only_onnx_installed(monkeypatch):
    """Python finds only the libraries of ONNX, and no compiler."""
    there = {"onnx", "onnxscript", "onnxruntime"}
    find = lambda name: object() if name in there else None  # noqa: E731
    monkeypatch.setattr(libraries.importlib.util, "find_spec", find)
    monkeypatch.setattr(aot_inductor.shutil, "which", lambda name: None)


@pytest.mark.usefixtures("only_onnx_installed")
def test_all_are_those_that_are_installed_with_a_remark_for_each_other_one():
    runtimes, remarks = choose_runtimes(["all"], device="cpu")
    assert runtimes == ["eager", "onnx", "torch_export"]
    assert len(remarks) == len(RUNTIMES) - 3
    assert "runtime openvino left out: openvino is not installed" in remarks
    assert "runtime aot_inductor left out: it needs a C++ compiler" in remarks


@pytest.mark.usefixtures("only_onnx_installed")
def test_only_pytorch_runs_on_a_gpu():
    assert choose_runtimes(["all"], device="cuda:0")[0] == ["eager"]
    refuses(lambda: choose_runtimes(["onnx"], device="cuda:0"), "onnx runs on the CPU", "device=cpu")


@pytest.mark.usefixtures("only_onnx_installed")
def test_a_runtime_that_is_not_installed_is_rejected_with_the_command():
    refuses(lambda: choose_runtimes(["openvino"], device="cpu"), "openvino is not installed", "pip install")
    refuses(lambda: choose_runtimes(["litert"], device="cpu"), "litert-torch is not installed", "pip install")
    refuses(lambda: choose_runtimes(["aot_inductor"], device="cpu"), "it needs a C\\+\\+ compiler")


def test_eager_is_measured_first():
    assert choose_runtimes(["torch_export", "eager"], device="cpu") == (["eager", "torch_export"], [])


def test_unknown_runtimes_are_rejected():
    refuses(lambda: choose_runtimes(["onxx"], device="cpu"), "got 'onxx'", "did you mean 'onnx'")
    refuses(lambda: choose_runtimes(["my.format"], device="cpu"), "runtime must be one of", "extend=")
    unlike = "got 'tensorrt'; TensorRT is not measured$"  # not: did you mean 'litert'?
    refuses(lambda: choose_runtimes(["tensorrt"], device="cpu"), unlike)
    refuses(lambda: choose_runtimes([], device="cpu"), "runtime is empty")


def test_a_format_of_your_own_is_a_runtime(monkeypatch, tmp_path):
    monkeypatch.setenv(extensions.VARIABLE, "")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = inspect.getsource(formats.find("torch_export"))
    (tmp_path / "format_for_benchmark.py").write_text(source.replace('".pt2"', '".own"'))
    extensions.add([str(tmp_path)])
    runtimes, _ = choose_runtimes(["format_for_benchmark", "eager"], device="cpu")
    assert runtimes == ["eager", "format_for_benchmark"]
    task = nn.Module()
    task.model = TwoOutputs()
    path = ExportCache(tmp_path).file(row("a", size=(8, 8), predictor=task), runtimes[1], threads=1)
    assert path == tmp_path / "a.own"


class TwoOutputs(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)), images.amax((2, 3))


def test_outputs_are_counted_without_running_the_network():
    assert num_outputs(nn.Conv2d(3, 2, 3), (8, 8)) == 1
    assert num_outputs(TwoOutputs(), (8, 8)) == 2


def test_a_row_is_exported_once(tmp_path):
    task = nn.Module()
    task.model = TwoOutputs()
    cache, one = ExportCache(tmp_path), row("a/b", size=(8, 8), predictor=task)
    path = cache.file(one, "torch_export", threads=1)
    written = path.stat().st_mtime_ns
    assert cache.file(one, "torch_export", threads=1) == path
    assert path.stat().st_mtime_ns == written
    images = torch.rand(1, 3, 8, 8)
    mean, largest = open_session(path)(images.numpy())
    assert torch.allclose(torch.from_numpy(mean), images.mean((2, 3)))
    assert torch.allclose(torch.from_numpy(largest), images.amax((2, 3)))


def test_files_are_named_by_what_tells_them_apart():
    files = files_by_name("[r/int8/model.xml,r/fp32/model.xml]")
    assert list(files) == ["int8/model.xml", "fp32/model.xml"]
    assert files["int8/model.xml"] == Path("r/int8/model.xml").absolute()
    assert files_by_name("") == {}
