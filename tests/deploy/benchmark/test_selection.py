"""Which runtimes are measured."""

import importlib.util

import pytest

from deploy.benchmark import selection
from deploy.benchmark.selection import RUNTIMES, chosen
from tests.refusals import refuses


@pytest.fixture
def installed(monkeypatch):
    """Decide which modules can be found."""
    there = {"onnx", "onnxscript", "onnxruntime"}
    find = lambda name: object() if name in there else None  # noqa: E731
    monkeypatch.setattr(selection.importlib.util, "find_spec", find)
    monkeypatch.setattr(selection.shutil, "which", lambda name: None)


def test_all_are_those_that_are_installed_and_the_others_are_named(installed):
    runtimes, remarks = chosen(["all"], device="cpu")
    assert runtimes == ["eager", "onnx", "torch_export"]
    assert len(remarks) == len(RUNTIMES) - 3
    assert "runtime openvino left out: openvino is not installed" in remarks
    assert "runtime aot_inductor left out: it needs a C++ compiler" in remarks


def test_on_a_gpu_only_torch_is_left(installed):
    assert chosen(["all"], device="cuda:0")[0] == ["eager"]
    refuses(lambda: chosen(["onnx"], device="cuda:0"), "onnx runs on the CPU", "device=cpu")


def test_several_are_measured_in_one_order_with_eager_as_the_first():
    assert chosen(["torch_export", "eager"], device="cpu") == (["eager", "torch_export"], [])


def test_what_is_unknown_or_missing_is_refused():
    refuses(lambda: chosen(["onxx"], device="cpu"), "runtime=onxx", "did you mean 'onnx'")
    refuses(lambda: chosen([], device="cpu"), "runtime is empty")
    if importlib.util.find_spec("litert_torch") is None:
        refuses(lambda: chosen(["litert"], device="cpu"), "litert_torch", "pip install")
