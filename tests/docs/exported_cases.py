"""Kits of small runs of each task, for the programs in them and in docs/tutorials/use-exported-files.md."""

import json
import re
import shutil
from collections import Counter

import pytest

from engine.run import checkpoint
from tests.docs.documented import ROOT, blocks
from tests.tools.commands import run

PAGE = ROOT / "docs/tutorials/use-exported-files.md"
SMALL = ["data.workers=0", "trainer.batch=2", "trainer.tensorboard=false", "trainer.device=cpu", "samples=0"]
SCENES = ["data.source.num_train=4", "data.source.num_val=2", "data.source.num_test=1", "trainer.steps=2",
          "data.source.size=[64,128]", "backbone.bn_momentum=1", "trainer.ema=null"]  # fmt: skip
CASES = {
    "det": ("det", ["data.size=[64,128]"], []),
    "det_raw": ("det", ["data.size=[64,128]"], ["output=raw", "normalize=false"]),
    "seg": ("seg", ["data.crop=[64,96]"], ["data.eval_size=[64,128]"]),
    "seg_labels": ("seg", ["data.crop=[64,96]"], ["data.eval_size=[64,128]", "output=argmax", "batch=2"]),
    "seg_area": ("seg", ["data.crop=[64,96]", "+task.eval_transform.area=true"], ["data.eval_size=[64,128]"]),
    "seg_scaled": ("seg", ["data.crop=[64,96]"], ["data.eval_size=0.5", "dtype=float32", "input=photo.png"]),
    "cls": ("cls", ["data.size=48", "data.square=false"], ["normalize=false"]),
    "cls_square": ("cls", ["data.size=48"], []),
}  # fmt: skip
ALIKE = [case for case in CASES if case not in ("det_raw", "seg_area")]
"""Cases of JavaScript, which does not decode raw outputs, and rounds averages over areas differently."""

SIZE = (128, 512)
"""Height and width of the photo."""


def with_range(folder, out, values):
    """A copy of an exported folder for images of these values."""
    copy = folder / f"{out.name}_{values}"
    shutil.copytree(out, copy, dirs_exist_ok=True)
    about = json.loads((copy / "preprocess.json").read_text())
    about["preprocessing"]["pixel_range"] = values
    (copy / "preprocess.json").write_text(json.dumps(about))
    return copy


def trained(folder, case):
    """The name of a run of the case's task, whose predictions depend strongly on the image."""
    task, options, _ = CASES[case]
    name = f"run_{case.partition('_')[0]}_{len(options)}"
    if not (folder / name).exists():
        run("train", f"task={task}", *options, *SMALL, *SCENES, f"run={name}", cwd=folder)
        for path in (folder / name / "checkpoints").glob("*.safetensors"):
            _balance(path)
    return name


def _balance(path):
    """Make the scores of the photo differ, but not so much that one class is certain: its details are sharper
    than those of the scenes, so activations are large, and no class of a segmenter leads everywhere."""
    weights, texts = checkpoint.read(path)
    for key, value in weights.items():
        if key.endswith("classifier.weight"):
            weights[key] = value * 0.05
        if re.search(r"(low|high)\.weight$", key):
            weights[key] = value - value.mean(1, keepdim=True)
        if re.search(r"(low|high)\.bias$", key):
            weights[key] = value * 0
    checkpoint.write(path, weights, texts)


def exported(folder, case):
    """(folder of the file, the case's prediction of the photo by tools/predict.py)."""
    out, name = folder / f"file_{case}", trained(folder, case)
    task, _, options = CASES[case]
    if not out.exists():
        run(
            *("export", f"run={name}", "format=kit", *options, "images=1"),
            *(f"out={out}", "budget.max_difference=1"),
            cwd=folder,
        )
    same_size = [option for option in options if option.startswith("data.")]
    lowest = ["task.draw_threshold=0"] if task == "det" else []
    predict = ["input=photo.png", f"out=predicted_{case}", "device=cpu", f"artifact={out}/model.onnx"]
    if not (folder / f"predicted_{case}").exists():
        run("predict", f"run={name}", *predict, *same_size, *lowest, cwd=folder)
    (summary,) = json.loads((folder / f"predicted_{case}" / "summary.json").read_text())["files"]
    return out, summary


def javascript():
    (text,) = (block.text for block in blocks(PAGE) if block.language == "javascript")
    return text


def check(case, printed, summary, *, exact=False):
    """Compare the lines that a program printed with an entry of summary.json.

    exact: the program resizes images to the same values as the product.
    """
    probability = 2e-5 if exact else 0.003
    lines = [line.rsplit(" ", {"det": 5}.get(CASES[case][0], 1)) for line in printed.splitlines()]
    if CASES[case][0] == "det":
        expected = summary["detections"]
        assert len(lines) == len(expected) > 3
        assert Counter(line[0] for line in lines) == Counter(entry["class"] for entry in expected)
        for line, entry in zip(lines, expected, strict=True):
            score, *box = map(float, line[1:])
            assert score == pytest.approx(entry["score"], abs=2e-4 if exact else 0.004)
            assert any(  # neighbors with nearly the same score may change places
                line[0] == other["class"]
                and box == pytest.approx(other["box_xyxy"], abs=0.02 if exact else 0.6)
                for other in expected
            )
    elif CASES[case][0] == "seg":
        total = sum(int(count) for _, count in lines)
        assert total == SIZE[0] * SIZE[1]
        assert len(summary["classes"]) > 1
        for name, count in lines:
            assert int(count) / total == pytest.approx(
                summary["classes"].get(name, 0), abs=1e-5 if exact else 0.003
            )
    else:
        expected = {entry["name"]: entry["probability"] for entry in summary["classes"]}
        assert {name: float(share) for name, share in lines} == pytest.approx(expected, abs=probability)
        assert max(expected.values()) - min(expected.values()) > 0.05
