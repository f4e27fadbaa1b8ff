"""Detection with the commands of the README, on small scenes."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine.data.images import write_png
from engine.run import checkpoint
from tests.engine.html.browser import check_report
from tests.tools.commands import run

SMALL = [
    "data.source.num_train=6", "data.source.num_val=3", "data.source.num_test=2", "data.source.size=[64,128]",
    "data.size=[96,192]", "data.workers=0", "trainer.batch=2", "trainer.tensorboard=false", "samples=2",
]  # fmt: skip


MODELS = {"ssdlite": (), "panlite": ("model=panlite", "model.head.width=16", "model.head.bins=8")}
NOTES = {"ssdlite": "anchors at 96x192", "panlite": "cells at 96x192"}


@pytest.fixture(scope="module", params=["ssdlite", pytest.param("panlite", marks=pytest.mark.slow)])
def network(request):
    """Overrides that choose the network of `trained`."""
    return MODELS[request.param]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, network):
    folder = tmp_path_factory.mktemp("work")
    steps = ("trainer.steps=4", "trainer.eval_every=2")
    output = run("train", "task=det", *network, *SMALL, *steps, cwd=folder)
    last = output.strip().splitlines()[-1]
    assert last.startswith("run: runs/det/streets/")
    assert next(note for name, note in NOTES.items() if MODELS[name] == network) in output
    return folder, folder / last.removeprefix("run: ")


def test_the_run_folder_is_complete(trained):
    _, path = trained
    metrics = json.loads((path / "metrics.json").read_text())
    names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "ar_1", "ar_10", "ar_100")
    assert metrics.keys() >= {*names, "ap/car", "num_images", "protocol"}
    assert metrics["num_images"] == 3
    assert len(list((path / "samples").glob("*.png"))) == 2
    classes = json.loads((path / "classes.json").read_text())["classes"]
    assert {"id": 26, "name": "car"}.items() <= next(c for c in classes if c["name"] == "car").items()


def test_eval_reproduces_the_metrics_and_writes_coco_files(trained):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    folder, path = trained
    run("eval", f"run={path}", "checkpoint=last", "out=scores", "worst=1", cwd=folder)
    metrics = json.loads((folder / "scores" / "metrics.json").read_text())
    before = json.loads((path / "metrics.json").read_text())
    assert metrics["map"] == pytest.approx(before["map"], abs=1e-9)
    for name in ("per_class.txt", "precision_recall.png"):
        assert (folder / "scores" / name).stat().st_size > 0
    truth = COCO(str(folder / "scores" / "ground_truth.json"))
    scored = COCOeval(truth, truth.loadRes(str(folder / "scores" / "detections.json")), "bbox")
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    assert scored.stats[0] == pytest.approx(metrics["map"], abs=1e-9)
    assert scored.stats[1] == pytest.approx(metrics["map_50"], abs=1e-9)


@pytest.mark.slow
def test_the_reports_load_in_a_browser(trained, tmp_path):
    folder, path = trained
    run("eval", f"run={path}", "out=seen_in_report", "worst=2", cwd=folder)
    for report in (path / "report.html", folder / "seen_in_report" / "report.html"):
        loaded = check_report(
            report,
            tmp_path,
            sections=("Classes", "Precision and recall", "Curves", "Worst images", "Settings"),
            charts=5,
        )
    assert "Suspicious labels" in loaded.text
    assert json.loads((folder / "seen_in_report" / "suspicious.json").read_text())["split"] == "val"
    assert (folder / "seen_in_report" / "exclude.json").exists()


def test_predict_writes_boxes_in_pixels_of_the_original_image(trained):
    folder, path = trained
    picture = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    (folder / "photos").mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "photos" / "a.png"), picture)
    every = ["task.draw_threshold=0.0", "task.postprocess.score_threshold=0.0"]
    run("predict", f"run={path}", "input=photos", "out=found", *every, cwd=folder)
    (record,) = json.loads((folder / "found" / "summary.json").read_text())["files"]
    assert record["detections"]
    boxes = np.array([found["box_xyxy"] for found in record["detections"]])
    assert boxes.min() >= 0
    assert (boxes.max(0) <= [70, 50, 70, 50]).all()
    assert cv2.imread(str(folder / "found" / "overlays" / "a.png")).shape == (50, 70, 3)


@pytest.mark.slow
def test_predictions_are_labels_for_another_training(trained, network):
    folder, path = trained
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 255, (60, 80, 3), np.uint8)
        write_png(folder / "unlabeled" / f"{number}.png", image)
    every = ["task.postprocess.score_threshold=0.0", "min_score=0.0"]
    saved = ["input=unlabeled", "out=auto", "save_labels=coco", *every]
    lines = run("predict", f"run={path}", *saved, cwd=folder).splitlines()
    assert "labels: 4 images" in lines
    (command,) = [line for line in lines if line.startswith("next: python tools/train.py ")]
    typed = command.split()[3:]
    assert typed == ["task=det", "data=coco", "data.root=auto/labels", f"init_from={path}"]
    small = [argument for argument in SMALL if not argument.startswith("data.source")]
    run("train", *typed, *network, *small, "trainer.steps=1", "run=second", cwd=folder)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(trained, network):
    folder, _ = trained
    options = [
        "task=det",
        *network,
        *SMALL,
        "schedule=constant",
        "trainer.eval_every=4",
        "trainer.save_every=2",
    ]
    run("train", *options, "trainer.steps=2", "run=part", cwd=folder)
    run("train", "resume=part", "trainer.steps=4", cwd=folder)
    run("train", *options, "trainer.steps=4", "run=uninterrupted", cwd=folder)
    parts = [
        checkpoint.read(folder / name / "checkpoints" / "last.safetensors")[0]
        for name in ("part", "uninterrupted")
    ]
    assert parts[0].keys() == parts[1].keys()
    assert all(torch.equal(parts[0][name], parts[1][name]) for name in parts[0])


def voc_tree(folder):
    """Images with boxes of two classes, in folders with other names than in VOC."""
    rng = np.random.default_rng(0)
    (folder / "xml").mkdir(parents=True)
    (folder / "pictures").mkdir()
    for number in range(10):
        picture = np.full((60, 80, 3), 90, np.uint8)
        x, y = rng.integers(0, 40, 2).tolist()
        name = ("car", "dog")[number % 2]
        picture[y : y + 20, x : x + 30] = (0, 0, 255) if name == "car" else (0, 255, 0)
        cv2.imwrite(str(folder / "pictures" / f"{number}.png"), picture)
        box = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + 30}</xmax><ymax>{y + 20}</ymax>"
        (folder / "xml" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.png</filename><size><width>80</width><height>60</height>"
            f"<depth>3</depth></size><object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>"
        )


@pytest.mark.slow
def test_fine_tuning_on_other_classes(trained, network):
    folder, path = trained
    voc_tree(folder / "own")
    output = run(
        "train", "task=det", *network, "data=voc", "data.root=own", "data.source.images=pictures",
        "data.size=[96,192]", "data.workers=0", f"init_from={path}", "trainer.steps=1", "trainer.batch=2",
        "freeze=[backbone.*]", "run=tuned", cwd=folder,
    )  # fmt: skip
    assert "1 of 2 matched by name, the others are new" in output
    assert "parameters are frozen" in output
    old = checkpoint.inference_weights(path / "checkpoints" / "best.safetensors")[0]
    new = checkpoint.read(folder / "tuned" / "checkpoints" / "last.safetensors")[0]
    assert torch.equal(old["backbone.stem.conv.weight"], new["model/backbone.stem.conv.weight"])
    assert torch.equal(old["backbone.stem.bn.running_mean"], new["model/backbone.stem.bn.running_mean"])


@pytest.mark.slow
def test_eval_saves_the_detections_of_each_image(trained):
    folder, path = trained
    run("eval", f"run={path}", "save_predictions=true", "task.draw_threshold=0", "out=saved", cwd=folder)
    every = json.loads((folder / "saved" / "detections.json").read_text())
    images = json.loads((folder / "saved" / "predictions" / "summary.json").read_text())["images"]
    assert len(images) == json.loads((folder / "saved" / "metrics.json").read_text())["num_images"]
    assert sum(len(image["detections"]) for image in images) == len(every)
    output = run("eval", f"run={path}", "out=saved", "suspicious=0", cwd=folder)
    assert (
        "saved: predictions, suspicious.json, exclude.json of an earlier evaluation, not of this one"
        in output
    )


def test_a_split_without_the_classes_of_the_run_is_rejected(trained):
    folder, path = trained
    if not (folder / "own").exists():
        voc_tree(folder / "own")
    message = run(
        "eval", f"run={path}", "data=voc", "data.root=own", "data.size=[96,192]", cwd=folder, status=1
    )
    assert "classes that the run was not trained on (dog)" in message


@pytest.mark.data
@pytest.mark.slow
def test_the_released_weights_reach_the_same_ap_as_in_opencv(tmp_path):
    data = Path(os.environ.get("MOBILENET_DATA", "")).resolve()
    weights = data / "weights" / "ssd_mobilenet_v3_large_coco" / "ssd_mnv3_large_coco_tf_weights.npz"
    if not os.environ.get("MOBILENET_DATA") or not weights.exists():
        pytest.skip("needs ssd_mobilenet_v3_large_coco below MOBILENET_DATA")
    run("prepare", "experiment=det/released", f"init_from={weights}", "run=released", cwd=tmp_path)
    images, truth = data / "coco128/images/val2017", data / "coco128/instances_val2017_128.json"
    source = ["data=coco", f"data.val.images={images}", f"data.val.annotations={truth}", "data.workers=0"]
    run("eval", "run=released", *source, "worst=0", cwd=tmp_path)
    metrics = json.loads((tmp_path / "released" / "eval-val" / "metrics.json").read_text())
    assert metrics["map"] == pytest.approx(0.357, abs=0.003)
    assert metrics["map_50"] == pytest.approx(0.550, abs=0.003)
    assert metrics["map_75"] == pytest.approx(0.361, abs=0.003)
