"""Python code, and keys named in sentences, in the README and the docs."""

import ast
import importlib
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from engine.config.compose import compose_config
from engine.config.overrides import groups, options_by_task, top_keys
from engine.data.images import read_labels, write_png
from engine.errors import UserError
from seg.data.masks import masks as masks_source
from tests.docs import reference_pages
from tests.docs.documented import PAGES, ROOT, TOOLS, blocks
from tests.tools.commands import run

PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]
OURS = ("mobilenet_dense", "engine", "backbones", "seg", "det", "cls", "deploy", "nas", "doctor", "streets")


def name_of(value):
    page = getattr(value, "page", value)
    return f"{page.relative_to(ROOT)}:{value.line}" if hasattr(value, "line") else str(page.relative_to(ROOT))


@pytest.mark.parametrize("block", PYTHON, ids=name_of)
def test_python_blocks_import_what_exists(block):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OURS:
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "mobilenet_dense":
            assert hasattr(importlib.import_module("mobilenet_dense"), node.attr)


def test_the_network_of_the_guide(capsys):
    """It prints the counts of Table 7, row 8: 1.51M parameters."""
    (block,) = (block for block in PYTHON if block.page.name == "networks.md")
    exec(block.text, {})
    assert re.search(r"^total +1,507,198 ", capsys.readouterr().out, re.MULTILINE)


def test_the_script_for_a_folder_per_image(tmp_path, monkeypatch):
    """The mask is 1 where one of the masks is, and the result can be read."""
    (block,) = (block for block in PYTHON if "stage1_train" in block.text)
    for number in range(4):
        masks = np.zeros((2, 4, 6), np.uint8)
        masks[0, :2, :2], masks[1, 3, number] = 255, 255
        write_png(
            tmp_path / f"stage1_train/{number}/images/{number}.png", np.full((4, 6, 3), number, np.uint8)
        )
        for index, mask in enumerate(masks):
            write_png(tmp_path / f"stage1_train/{number}/masks/{index}.png", mask)
    monkeypatch.chdir(tmp_path)
    for root in (tmp_path, tmp_path / "stage1_train"):
        with pytest.raises(
            UserError, match=r"stage1_train: a folder for each image \(0/images, 0/masks\) is not"
        ):
            masks_source(root=str(root))
    exec(block.text, {})
    merged = read_labels("my_data/masks/2.png")
    assert merged.tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0] * 6, [0, 0, 1, 0, 0, 0]]
    source = masks_source(root="my_data")
    assert source.classes.names == ("class_0", "class_1")
    assert sum(len(split) for split in source.splits.values()) == 4


SMALL = ["data.source.num_train=4", "data.source.num_val=2", "data.source.num_test=1", "trainer.steps=2",
         "data.source.size=[64,128]", "trainer.batch=2", "trainer.device=cpu", "data.workers=0", "samples=0",
         "trainer.tensorboard=false"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "options", "output"),
    [
        ("seg", ["data.crop=[64,96]"], ["output=argmax", "full_size=true", "data.eval_size=[64,128]"]),
        (
            "det",
            ["data.size=[64,128]", "task.postprocess.score_threshold=0.001", "task.draw_threshold=0.002"],
            ["output=detections", "budget.agreement=0"],
        ),
    ],
)
def test_the_script_for_the_raspberry_pi(task, options, output, tmp_path):
    """It prints the same predictions as the run itself for the same image."""
    (script,) = (block.text for block in PYTHON if block.text.startswith("# pi.py"))
    (tmp_path / "pi.py").write_text(script)
    image = np.random.default_rng(0).integers(0, 255, (96, 160, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    run("train", f"task={task}", *options, *SMALL, "run=trained", cwd=tmp_path)
    run("export", "run=trained", "images=1", *output, cwd=tmp_path)
    model = "trained/export/onnx-fp32/model.onnx"
    same_size = [option for option in output if option.startswith("data.")]
    run(
        "predict",
        "run=trained",
        "input=photo.png",
        f"artifact={model}",
        "device=cpu",
        *same_size,
        cwd=tmp_path,
    )
    (summary,) = json.loads((tmp_path / "trained" / "predict" / "summary.json").read_text())["files"]
    done = subprocess.run(
        [sys.executable, "pi.py", model, "photo.png"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+\.\d ms$", done.stdout, re.MULTILINE)
    printed = dict(re.findall(r"^(.+?):? (\S+)%$", done.stdout, re.MULTILINE))
    if task == "seg":  # the file's label map is resized to the image by the tool only
        for name, share in summary["classes"].items():
            assert float(printed.get(name, 0)) == pytest.approx(100 * share, abs=3)
    else:  # the same threshold: once, the script printed boxes from 0.4 on, whatever the run's threshold
        boxes = re.findall(r"^(.+) (\d\.\d\d): (-?\d+) (-?\d+) (-?\d+) (-?\d+)$", done.stdout, re.MULTILINE)
        assert boxes
        for (name, score, *sides), expected in zip(boxes, summary["detections"], strict=True):
            assert (name, float(score)) == (expected["class"], pytest.approx(expected["score"], abs=0.006))
            assert list(map(int, sides)) == pytest.approx(expected["box_xyxy"], abs=1)


def test_the_error_messages_of_the_guide():
    (block,) = (
        block for block in blocks(ROOT / "docs/guides/configuration.md") if block.text.startswith("error: ")
    )
    for line, override in zip(block.text.splitlines(), ("trainer.epoch=3", "data=voc"), strict=True):
        with pytest.raises(UserError) as caught:
            compose_config("train", [override])
        assert line == f"error: {caught.value}"


def known_keys():
    """Every key that some tool or some option of a group sets."""
    keys = {key for tool in TOOLS for key in top_keys(tool.stem)}
    for path in reference_pages.CONF.rglob("*.yaml"):
        group = path.relative_to(reference_pages.CONF).parts[0]
        in_root = path.parent == reference_pages.CONF or "@package _global_" in path.read_text(
            encoding="utf-8"
        )
        for key, _, _ in reference_pages.keys_of(path):
            keys.add(key if in_root else f"{group}.{key}")
            keys.add(f"data.{key}" if group == "loader" else key)
    prefixes = {key.rpartition(".")[0] for key in keys}
    return keys | prefixes


NOT_KEYS = ("extend", "key", "group", "group.key")
OF_PAGES = ("tiny", "fcn", "two_maps", "resnet18", "labelme", "brightness")
"""Options that a page of docs/extend adds."""


def option_exists(group, option):
    for tool in TOOLS:
        known = groups(tool.stem)
        names = known.get(group, [])
        short = [name for listed in options_by_task(group, names).values() for name in listed]
        if option in (*names, *short):
            return True
    return False


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_keys_in_sentences_exist(page):
    """`trainer.epochs=60` in a sentence or a table names an existing key, and an existing option."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    known, wrong = known_keys(), []
    all_groups = {group for tool in TOOLS for group in groups(tool.stem)}
    for code in re.findall(r"`'?([a-z_]+(?:\.\w+)*=[^`]*)`", text):
        for key, value in re.findall(r"(?:^| )'?\+?([a-z_][\w.]*)=(\S*)", code):
            if key in all_groups:
                is_name = re.fullmatch(r"\w[\w/]*", value)
                if is_name and value not in ("null", *OF_PAGES) and not option_exists(key, value):
                    wrong.append(f"{key}={value}")
            elif key not in known and key not in NOT_KEYS:
                wrong.append(key)
    assert not wrong
