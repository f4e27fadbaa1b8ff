"""Segmentation with the commands of the README, on small scenes."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from engine.data.images import read_labels, read_palette
from tests.engine.html.browser import check_report
from tests.tools.commands import run

SMALL = [
    "data.source.num_train=6", "data.source.num_val=3", "data.source.num_test=2", "data.source.size=[64,128]",
    "data.crop=[64,96]", "data.workers=0", "trainer.batch=2", "trainer.tensorboard=false", "samples=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    output = run("train", *SMALL, "trainer.steps=4", "trainer.eval_every=2", "trainer.ema=0.9", cwd=folder)
    last = output.strip().splitlines()[-1]
    assert last.startswith("run: runs/seg/streets/")
    return folder, folder / last.removeprefix("run: ")


def test_the_run_folder_is_complete(trained):
    _, path = trained
    for name in (
        "config.yaml",
        "environment.json",
        "classes.json",
        "log.jsonl",
        "metrics.json",
        "curves.png",
        "report.html",
    ):
        assert (path / name).stat().st_size > 0, name
    assert len(list((path / "samples").glob("*.png"))) == 2
    assert {"last.safetensors", "best.safetensors"} <= {
        file.name for file in (path / "checkpoints").iterdir()
    }
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics.keys() >= {"miou", "miou_category", "pixel_accuracy", "iou/road", "num_images", "protocol"}
    assert metrics["num_images"] == 3
    rows = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [2, 4]


def test_eval_reproduces_the_metrics_and_saves_label_ids(trained):
    folder, path = trained
    run(
        "eval", f"run={path}", "checkpoint=last", "out=scores", "save_predictions=true", "worst=1", cwd=folder
    )
    metrics = json.loads((folder / "scores" / "metrics.json").read_text())
    before = json.loads((path / "metrics.json").read_text())
    assert metrics["miou"] == pytest.approx(before["miou"], abs=1e-9)
    masks = sorted((folder / "scores" / "predictions" / "masks").glob("*.png"))
    assert len(masks) == 3
    assert set(np.unique(np.asarray(Image.open(masks[0])))) <= set(range(7, 34))
    summary = json.loads((folder / "scores" / "predictions" / "summary.json").read_text())
    assert [entry["mask"] for entry in summary["images"]] == [f"masks/{mask.name}" for mask in masks]
    assert (folder / "scores" / "confusion.png").stat().st_size > 0
    assert len(list((folder / "scores" / "worst").glob("*.png"))) == 1


@pytest.mark.slow
def test_the_reports_load_in_a_browser(trained, tmp_path):
    folder, path = trained
    run("eval", f"run={path}", "out=seen_in_report", "worst=2", cwd=folder)
    for report in (path / "report.html", folder / "seen_in_report" / "report.html"):
        loaded = check_report(
            report,
            tmp_path,
            sections=("Classes", "Curves", "Worst images", "Random images", "Speed", "Settings", "Next"),
            charts=6,
        )
    assert "Suspicious labels" in loaded.text
    assert json.loads((folder / "seen_in_report" / "suspicious.json").read_text())["split"] == "val"
    assert (folder / "seen_in_report" / "exclude.json").exists()


@pytest.mark.slow
def test_eval_with_another_split_and_inference_mode(trained):
    folder, path = trained
    options = ["data.split=test", "inference=multi_scale", "inference.scales=[1.0,0.5]"]
    run("eval", f"run={path}", *options, "out=test", cwd=folder)
    assert json.loads((folder / "test" / "metrics.json").read_text())["num_images"] == 2


def test_predict_on_folders_and_videos_reports_damaged_files(trained):
    folder, path = trained
    photos = folder / "photos"
    photos.mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    cv2.imwrite(str(photos / "good.jpg"), picture)
    (photos / "broken.png").write_bytes(b"no picture")
    video = cv2.VideoWriter(str(photos / "drive.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (70, 50))
    for _ in range(3):
        video.write(picture)
    video.release()
    output = run("predict", f"run={path}", "input=photos", "out=seen", cwd=folder, status=1)
    assert "broken.png" in output
    assert "2 of 3 files predicted" in output
    summary = json.loads((folder / "seen" / "summary.json").read_text())
    assert [Path(item["file"]).name for item in summary["failed"]] == ["broken.png"]
    mask = folder / "seen" / "masks" / "good.png"
    assert set(np.unique(read_labels(mask))) <= set(range(7, 34))  # label ids
    assert (read_palette(mask)[7] == (128, 64, 128)).all()  # road
    assert read_labels(mask).shape == (50, 70)
    frames = next(item for item in summary["files"] if item["file"].endswith(".avi"))
    assert frames["frames"] == len(frames["predictions"]) == 3
    assert (folder / "seen" / frames["predictions"][2]["mask"]).stat().st_size > 0
    assert (folder / "seen" / "overlays" / "drive.mp4").stat().st_size > 0


@pytest.mark.slow
def test_compare_reads_the_runs_and_refuses_another_task(trained):
    folder, path = trained
    other = folder / "other_seed"
    shutil.copytree(path, other)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("\nseed: 0\n", "\nseed: 1\n"))
    output = run("compare", f"run=[{path},other_seed]", "out=side_by_side", cwd=folder)
    assert f"{path.name} and 1 more seed" in output
    assert "± 0.00%" in output
    assert (folder / "side_by_side" / "report.html").stat().st_size > 0
    output = run("compare", f"run={path}", cwd=folder, status=1)
    assert "run must be a list" in output
    (other / "config.yaml").write_text(config.replace("split: val", "split: test"))
    output = run("compare", f"run=[{path},other_seed]", cwd=folder, status=1)
    assert "has split val, other_seed has split test" in output


def test_the_same_seed_gives_bit_identical_results(trained):
    folder, path = trained
    options = ("trainer.steps=4", "trainer.eval_every=2", "trainer.ema=0.9", "run=again")
    run("train", *SMALL, *options, cwd=folder)
    first, again = ((r / "checkpoints" / "last.safetensors").read_bytes() for r in (path, folder / "again"))
    assert first == again


@pytest.mark.slow
def test_a_finished_run_can_be_extended(trained):
    folder, _ = trained
    run("train", *SMALL, "trainer.steps=2", "run=extended", cwd=folder)
    assert "finished" in run("train", "resume=extended", cwd=folder)
    output = run("train", "resume=extended", "trainer.steps=3", cwd=folder)
    assert "step 2 of 3" in output
    assert json.loads((folder / "extended" / "metrics.json").read_text())["step"] == 3


@pytest.mark.slow
def test_an_unreadable_file_in_a_worker_ends_the_run(trained, tmp_path):
    """The damage is in the pixel data, so it is only detected when a worker decodes the file."""
    for split, count in (("train", 4), ("val", 1)):
        for number in range(count):
            for folder, shape in (("images", (40, 48, 3)), ("masks", (40, 48))):
                path = tmp_path / folder / split / f"{split}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), np.random.default_rng([number, count]).integers(0, 2, shape, np.uint8))
    (tmp_path / "classes.json").write_text('{"classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]}')
    damaged = tmp_path / "images" / "train" / "train2.png"
    damaged.write_bytes(damaged.read_bytes()[:-30])
    options = ["data=masks", f"data.root={tmp_path}", "data.crop=32", "data.workers=2", "trainer.batch=2"]
    output = run("train", *options, "trainer.steps=9", cwd=tmp_path, status=1)
    last = output.strip().splitlines()[-1]
    assert last.startswith(f"error: {damaged}: truncated")


@pytest.mark.weekly
def test_a_sweep_trains_one_run_after_another(trained):
    folder, _ = trained
    here = set(folder.iterdir())
    output = run("train", "-m", *SMALL, "trainer.steps=1", "seed=1,2", cwd=folder)
    paths = [line.removeprefix("run: ") for line in output.splitlines() if line.startswith("run: ")]
    assert len(set(paths)) == 2
    assert {json.loads((folder / path / "metrics.json").read_text())["step"] for path in paths} == {1}
    assert set(folder.iterdir()) == here  # all that Hydra writes of its own is in runs/


@pytest.mark.slow
def test_the_error_for_weights_of_another_network_names_the_file(trained):
    folder, path = trained
    for key, source in (("init_from", path), ("weights", path / "checkpoints" / "best.safetensors")):
        options = [*SMALL, "backbone=mobilenet_v2", "trainer.steps=1", f"{key}={source}"]
        output = run("train", *options, cwd=folder, status=1)
        assert f"error: {source}: weights do not fit the model" in output


def test_fine_tuning_starts_from_a_run(trained):
    folder, path = trained
    output = run("train", *SMALL, "trainer.steps=1", f"init_from={path}", "run=tuned", cwd=folder)
    assert "0 skipped, 0 new" in output


@pytest.mark.slow
def test_class_layers_are_matched_by_class_name(trained):
    folder, path = trained
    renamed = folder / "renamed"
    shutil.copytree(path, renamed)
    text = (renamed / "classes.json").read_text().replace('"road"', '"street"')
    (renamed / "classes.json").write_text(text)
    output = run("train", *SMALL, "trainer.steps=1", f"init_from={renamed}", "run=retuned", cwd=folder)
    assert "18 of 19 matched by name" in output


def test_help_of_eval_lists_only_its_own_options(tmp_path):
    text = run("eval", "--help", cwd=tmp_path)
    assert "multi_scale" in text
    assert "optimizer" not in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trainer.stesp=3"], "did you mean 'trainer.steps'"),
        (["data=maks"], "did you mean 'masks'"),
        (["data=masks"], "data.root is not set"),
        (["data=masks", "data.root=/nowhere"], "/nowhere"),
        (["trainer.steps=-1"], "steps must be positive"),
        (["data.crop=16"], "at least 32"),
        (["weights=/nowhere.pth", *SMALL], "/nowhere.pth"),
        (["task._target_=os.system"], "can only build"),
        (["resume=/nowhere"], "not a run folder"),
        (["data=masks", "data.root=/now,here"], "/now,here"),
    ],
)
def test_user_errors_are_reported_in_one_line(tmp_path, arguments, expected):
    output = run("train", *arguments, cwd=tmp_path, status=1)
    assert expected in output.strip().splitlines()[-1]
