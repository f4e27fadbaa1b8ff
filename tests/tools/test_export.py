"""Export with the commands in the docs: the file, its golden examples, and tools that use the file."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from torch import nn

import det
import seg
import seg.decode
from deploy.export import job
from deploy.export.export_run import export_run
from deploy.export.golden import read_golden, subsample
from deploy.export.module import export_module
from deploy.formats import open_session
from deploy.metadata import network_input
from engine.config.compose import compose_config
from engine.config.instantiate import tool_options
from engine.config.overrides import quote_path
from engine.config.training import build_task
from engine.data.class_map import ClassMap
from tests.refusals import refuses
from tests.tools.commands import run
from tools.export import export

SMALL = [
    "data.source.num_train=6", "data.source.num_val=3", "data.source.num_test=2", "data.source.size=[64,96]",
    "data.workers=0", "trainer.batch=2", "trainer.tensorboard=false", "samples=0", "trainer.steps=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, path of the ONNX file) of a run that was exported with the defaults."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("work")
    run("train", *SMALL, "data.crop=[64,96]", "run=seg", cwd=folder)
    text = run("export", "run=seg", cwd=folder)
    assert "agreement: 1.000000" in text
    last = text.strip().splitlines()[-1]
    assert last == "out: seg/export/onnx-fp32/model.onnx"
    return folder, folder / last.removeprefix("out: ")


def test_golden_examples_can_be_reproduced(trained):
    """As in a port, using only the exported file, `preprocess.json` and `golden.npz`."""
    _, path = trained
    text = json.loads((path.parent / "preprocess.json").read_text())
    session = open_session(path)
    golden = read_golden(path.parent)
    assert len(golden) == len(text["golden"]) == 3
    for (image, pixels, outputs), entry in zip(golden, text["golden"], strict=True):
        assert (network_input(image, session.metadata) == pixels).all()  # stored at the network's size
        logits = session(pixels[None])[0]
        np.testing.assert_allclose(subsample(logits, entry["steps"]["logits"]), outputs[0], atol=1e-5)
    assert text["file"] == "model.onnx"
    assert text["input"] == {"name": "images", "shape": [1, 3, 64, 96], "dtype": "uint8"}
    assert text["decoder"] == "decode.py"
    assert (path.parent / "decode.py").read_text() == Path(seg.decode.__file__).read_text()
    assert text["decoding"]["align_corners"] is False
    assert text["preprocessing"]["pixel_range"] is None
    assert text["preprocessing"]["in_graph"] is True
    assert len(text["checkpoint_sha256"]) == 64
    assert text["compared_with_pytorch"]["agreement"] == 1


@pytest.mark.slow
def test_eval_computes_the_same_metrics_with_the_file(trained):
    folder, path = trained
    run("eval", "run=seg", "out=torch", "worst=0", cwd=folder)
    run("eval", "run=seg", f"artifact={path}", "worst=1", cwd=folder)
    plain = json.loads((folder / "torch" / "metrics.json").read_text())
    with_file = json.loads((path.parent / "eval-val" / "metrics.json").read_text())
    assert with_file["miou"] == pytest.approx(plain["miou"], abs=1e-4)
    assert with_file["runtime"].startswith("ONNX Runtime")
    assert with_file["artifact"] == str(path)


@pytest.mark.slow
def test_predict_writes_the_same_masks_with_the_file(trained):
    folder, path = trained
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    (folder / "photos").mkdir()
    cv2.imwrite(str(folder / "photos" / "a.png"), image)
    run("predict", "run=seg", "input=photos", "out=p1", cwd=folder)
    run("predict", "run=seg", "input=photos", "out=p2", f"artifact={path}", cwd=folder)
    masks = [cv2.imread(str(folder / out / "masks" / "a.png"), cv2.IMREAD_UNCHANGED) for out in ("p1", "p2")]
    assert (masks[0] == masks[1]).mean() > 0.999


@pytest.mark.slow
def test_the_files_metric_is_compared_with_a_budget(trained):
    folder, _ = trained
    options = ["format=torch_export", "output=argmax", "full_size=true", "budget.miou=0.1", "out=scored"]
    text = run("export", "run=seg", *options, cwd=folder)
    assert "miou_pytorch" in text
    stored = json.loads((folder / "scored" / "preprocess.json").read_text())
    assert stored["miou_file"] == pytest.approx(stored["miou_pytorch"], abs=0.01)
    assert stored["output"] == "argmax"


@pytest.mark.slow
def test_a_file_that_exceeds_the_budget_is_renamed(trained):
    folder, _ = trained
    options = ["format=torch_export", "budget.agreement=1.5", "out=bad"]
    text = run("export", "run=seg", *options, cwd=folder, status=1)
    assert "budget.agreement=1.5" in text
    assert [file.name for file in (folder / "bad").iterdir()] == ["model.pt2.rejected"]
    run("eval", "run=seg", "artifact=bad/model.pt2", cwd=folder, status=1)


class Shifted(nn.Module):
    """Another network: scores that are a tenth too high, or the label after the right one."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, images):
        outputs = self.module(images)
        return outputs + (0.1 if outputs.is_floating_point() else 1)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param(
            *("logits", r"outputs differ by 0\.1 .* budget is budget\.max_difference=0\.01"),
            marks=pytest.mark.slow,
        ),
        ("argmax", r"0\.000000 of the results agree with PyTorch's; the budget is budget\.agreement=0\.995"),
    ],
)
def test_a_file_of_another_network_is_refused(trained, monkeypatch, output, message):
    """With the default budget, from the tool to the name of the file that is left."""

    def write_another(module, *arguments, **options):
        return export_module(Shifted(module), *arguments, **options)

    monkeypatch.chdir(trained[0])
    monkeypatch.setattr(job, "export_module", write_another)
    command = ["run=seg", "format=torch_export", f"output={output}", f"out=other-{output}"]
    refuses(lambda: export(tool_options(compose_config("export", command))), r"model\.pt2\.rejected", message)
    assert {file.name for file in Path(f"other-{output}").glob("model*")} == {"model.pt2.rejected"}


@pytest.mark.slow
def test_the_range_of_16_bit_images_is_in_the_metadata(trained):
    folder, _ = trained
    options = ["format=torch_export", "data.pixel_range=[0,4095]", "images=1", "out=deep"]
    run("export", "run=seg", *options, cwd=folder)
    assert json.loads((folder / "deep" / "preprocess.json").read_text())["preprocessing"]["pixel_range"] == [
        0,
        4095,
    ]


@pytest.mark.slow
def test_the_tools_accept_a_file_with_detections(tmp_path):
    run("train", "task=det", *SMALL, "data.size=[64,96]", "run=det", cwd=tmp_path)
    options = ["format=torch_export", "output=detections", "dynamic=batch", "budget.map=0.1"]
    text = run("export", "run=det", *options, cwd=tmp_path)
    assert "in batches of 1, 3" in text
    assert "suppression exact for 100.00%" in text
    path = tmp_path / "det" / "export" / "torch_export-fp32" / "model.pt2"
    run("eval", "run=det", "out=torch", "worst=0", cwd=tmp_path)
    run("eval", "run=det", f"artifact={path}", "worst=0", "data.eval_batch=2", cwd=tmp_path)
    plain = json.loads((tmp_path / "torch" / "metrics.json").read_text())
    with_file = json.loads((path.parent / "eval-val" / "metrics.json").read_text())
    assert with_file["map"] == pytest.approx(plain["map"], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["format=onyx"], "format must be one of aot_inductor"),
        (["dynamic=yes"], "dynamic must be one of none"),
        (["batch=0"], "batch must be at least 1, got 0"),
        (["output=boxes"], "output must be logits or argmax"),
        (["steps=3"], "steps: not an option of task=seg"),
        (["input=/nowhere"], "/nowhere"),
        (["precision=int4"], "precision must be one of fp32, fp16, int8"),
        (["budget.map=1", "input=/nowhere"], "budget.map: this task is scored by miou; set budget.miou"),
        (["budget.miou=half", "input=/nowhere"], "budget.miou must be a number, got 'half'"),
        (["budget.agreement=half"], "budget.agreement must be a number, got 'half'"),
        (["+budget.pck=1"], "budget.pck: this task is scored by miou; set budget.miou"),
        (["format=litert", "dynamic=size"], "format=litert: its files have a fixed number and size"),
        (["qat.lr=0"], "qat.lr must be above 0, got 0"),
        (["opset=12"], "opset must be 13 to 23, got 12"),
        (["opset=24"], "opset must be 13 to 23, got 24"),
        (["format=openvino", "opset=17"], "opset is for format=onnx and format=web, not openvino"),
        (["fromat=onnx"], "fromat"),
    ],
)
def test_user_errors_are_reported_in_one_line(trained, monkeypatch, options, expected):
    monkeypatch.chdir(trained[0])
    command = ["run=seg", "out=wrong", *options]
    refuses(lambda: export(tool_options(compose_config("export", command))), expected)


@pytest.mark.slow
def test_a_file_of_another_task_is_rejected(trained):
    folder, path = trained
    message = run("eval", "run=seg", "artifact=none.onnx", cwd=folder, status=1)
    assert "none.onnx: no such file" in message
    message = run("eval", "run=seg", f"artifact={path}", "data.eval_size=[32,48]", cwd=folder, status=1)
    assert "1x64x96" in message
    assert "dynamic=size" in message


@pytest.mark.parametrize("options", [["dynamic=size"], ["dynamic=both", "output=raw"], ["dynamic=both"]])
def test_a_detector_with_a_dynamic_size_is_refused_before_anything_is_loaded(options):
    run_without_files = SimpleNamespace(info=det.TASK)
    chosen = tool_options(compose_config("export", ["run=det", *options]))
    expected = f"{options[0]}: a detector's anchors fit one input size; .* data.size=\\[h,w\\]"
    refuses(lambda: export_run(run_without_files, chosen), expected)


@pytest.mark.parametrize("options", [["dynamic=size"], ["dynamic=both", "output=argmax"]])
def test_a_segmenter_whose_window_follows_the_size_is_refused_before_it_is_traced(options):
    config = compose_config("train", ["task=seg", "data.crop=[64,96]"])
    classes = ClassMap(names=("sky", "road"))
    run_without_files = SimpleNamespace(info=seg.TASK, task=lambda: build_task(config, classes))
    chosen = tool_options(compose_config("export", ["run=seg", *options]))
    expected = f"{options[0]}: .*large_kernel.* set data.eval_size=\\[h,w\\] .*model.head.pool=global"
    refuses(lambda: export_run(run_without_files, chosen), expected)


def test_the_next_command_keeps_the_overrides(monkeypatch, capsys):
    """Without data.eval_size, eval would refuse the file, whose input has this size."""
    place = SimpleNamespace(folder=SimpleNamespace(path="runs/a b"))
    monkeypatch.setattr("tools.export.TrainedRun", SimpleNamespace(open=lambda *_, **__: place))
    monkeypatch.setattr("tools.export.export_run", lambda *_, **__: "m.onnx")
    overrides = ["data.eval_size=[64,96]", quote_path("data.root=/x y")]
    options = SimpleNamespace(run="runs/a b", overrides=overrides, checkpoint="best")
    export(options)
    assert capsys.readouterr().out.splitlines() == [
        "next: python tools/eval.py 'run=runs/a b' artifact=m.onnx 'data.eval_size=[64,96]' 'data.root=/x y'",
        "out: m.onnx",
    ]
