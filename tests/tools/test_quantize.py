"""precision=int8 with the commands in the docs."""

import importlib.util
import json

import pytest

from engine.config.compose import compose_config
from engine.config.instantiate import tool_options
from tests.refusals import refuses
from tests.tools.commands import run
from tests.tools.test_export import SMALL
from tools.export import export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("work")
    run("train", *SMALL, "data.crop=[64,96]", "backbone=mnasnet_small", "run=seg", cwd=folder)
    return folder


@pytest.mark.weekly
def test_a_run_can_be_exported_with_int8(folder):
    options = ["precision=int8", "calibration.images=6", "calibration.probes=1", "calibration.timing_s=0"]
    text = run("export", "run=seg", *options, "budget.miou=3", cwd=folder)
    out = folder / "seg" / "export" / "onnx-int8"
    assert text.strip().endswith("out: seg/export/onnx-int8/model.onnx")
    assert "layers in 8 bits" in text
    card = json.loads((out / "report_card.json").read_text())
    assert card["metric"] == "miou"
    assert card["calibration"] == {
        "split": "train",
        "per_channel": True,
        "reduce_range": False,
        "images": 6,
        "probes": 1,
    }
    assert card["lost"] <= 3
    assert (out / "report_card.md").is_file()
    stored = json.loads((out / "preprocess.json").read_text())
    assert (stored["precision"], stored["miou_file"]) == ("int8", card["after"])
    assert (out / "model.onnx").stat().st_size < 0.6 * (out / "float32" / "model.onnx").stat().st_size
    run("eval", "run=seg", f"artifact={out / 'model.onnx'}", "worst=0", cwd=folder)
    scored = json.loads((out / "eval-val" / "metrics.json").read_text())
    assert 100 * scored["miou"] == pytest.approx(card["after"], abs=1e-3)  # the same file scores the same


@pytest.mark.parametrize(
    ("library", "options", "expected"),
    [
        (
            "nncf",
            ["precision=int8", "format=openvino"],
            r"precision=int8 format=openvino: nncf is not installed; pip install -e '\.\[openvino\]'",
        ),
        (
            "onnxruntime",
            ["format=kit"],
            r"format=onnx: onnxruntime is not installed; pip install -e '\.\[onnx\]'",
        ),
        ("ncnn", ["format=ncnn"], r"format=ncnn: (pnnx|ncnn) is not installed; pip install -e '\.\[ncnn\]'"),
    ],
)
def test_a_missing_library_is_reported_before_the_float_export(
    folder, monkeypatch, library, options, expected
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == library else find(name, *rest)
    )
    monkeypatch.chdir(folder)
    command = ["run=seg", "out=early", "images=1", *options]
    refuses(lambda: export(tool_options(compose_config("export", command))), expected)
    assert not (folder / "early").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["format=torch_export"], "format=onnx, web, openvino, executorch or litert"),
        (
            ["format=openvino", "calibration.reduce_range=true"],
            "reduce_range=true is only for format=onnx and web; leave it out for format=openvino",
        ),
        (["calibration.images=0"], "calibration.images must be at least 1, got 0"),
        (["calibration.split=nowhere"], "nowhere"),
        (["calibration.per_channel=3"], "calibration.per_channel must be true or false, got 3"),
        (["qat.steps=3"], "format=openvino dynamic=none batch=1"),
        (
            ["qat.steps=3", "format=openvino", "output=argmax"],
            r"qat.steps: output=argmax has post-processing.* output=logits \(segmentation\)",
        ),
        (["budget.map=1"], "budget.map: this task is scored by miou"),
    ],
)
def test_user_errors_are_reported_in_one_line(folder, monkeypatch, options, expected):
    if "format=openvino" in options:
        pytest.importorskip("nncf")
    monkeypatch.chdir(folder)
    command = ["run=seg", "out=wrong", "precision=int8", "images=1", *options]
    refuses(lambda: export(tool_options(compose_config("export", command))), expected)
