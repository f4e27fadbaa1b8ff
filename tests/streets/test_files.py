"""The files of a dataset: readable by the official tools, written once, and completely or not at all."""

import json
import multiprocessing
import re

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from streets import draw_scene, write_streets
from streets.files import writing
from streets.files.cityscapes import image_stem

FEW = {"num_train": 5, "num_val": 3, "num_test": 2, "size": (64, 128), "seed": 7}
SPLITS = {"train": 5, "val": 3, "test": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_streets(tmp_path_factory.mktemp("data") / "streets", **FEW)


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_images_and_ground_truth_are_paired_as_in_cityscapes(root):
    """leftImg8bit/<split>/<city>/<city>_<seq6>_<frame6>_leftImg8bit.png, its ground truth in gtFine."""
    for split, count in SPLITS.items():
        images = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
        assert len(images) == count
        for image in images:
            assert re.fullmatch(rf"{image.parent.name}_\d{{6}}_\d{{6}}_leftImg8bit\.png", image.name)
            truth = (
                root
                / "gtFine"
                / split
                / image.parent.name
                / image.name.replace("_leftImg8bit.png", "_gtFine")
            )
            for kind in ("labelIds.png", "instanceIds.png", "polygons.json"):
                assert truth.with_name(f"{truth.name}_{kind}").is_file()
    cities = [{path.name for path in (root / "gtFine" / split).iterdir()} for split in SPLITS]
    assert not set.intersection(*cities)


def test_the_files_contain_the_drawn_scene(root):
    stem = image_stem("train", 1)
    drawn = draw_scene(7, 1, (64, 128), split="train")
    image = cv2.imread(str(root / f"leftImg8bit/train/{stem}_leftImg8bit.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(image[..., ::-1], drawn.image)
    truth = root / f"gtFine/train/{stem}_gtFine"
    label_ids = cv2.imread(f"{truth}_labelIds.png", cv2.IMREAD_UNCHANGED)
    instance_ids = cv2.imread(f"{truth}_instanceIds.png", cv2.IMREAD_UNCHANGED)
    assert (label_ids.dtype, instance_ids.dtype) == (np.uint8, np.uint16)
    np.testing.assert_array_equal(label_ids, drawn.label_ids)
    np.testing.assert_array_equal(instance_ids, drawn.instance_ids)


def test_the_official_script_reads_the_polygons(root):
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    stem = image_stem("val", 0)
    annotation = Annotation()
    annotation.fromJsonFile(str(root / f"gtFine/val/{stem}_gtFine_polygons.json"))
    assert (annotation.imgHeight, annotation.imgWidth) == (64, 128)
    official = np.asarray(createLabelImage(annotation, "ids"))
    label_ids = cv2.imread(str(root / f"gtFine/val/{stem}_gtFine_labelIds.png"), cv2.IMREAD_UNCHANGED)
    assert (official == label_ids).mean() > 0.99


@pytest.mark.parametrize("split", SPLITS)
def test_pycocotools_loads_the_boxes(root, split):
    coco = COCO(root / "annotations" / f"instances_{split}.json")
    assert len(coco.imgs) == SPLITS[split]
    # Cityscapes' label ids: with gaps, and not starting at 1
    assert sorted(coco.cats) == [19, 20, 24, 25, 26, 27, 28, 31, 32, 33]
    assert coco.loadCats(31)[0]["name"] == "train"
    assert len(coco.anns) > 5 * SPLITS[split]
    for image in coco.imgs.values():
        assert (root / "leftImg8bit" / split / image["file_name"]).is_file()
    for ann in coco.anns.values():
        mask = coco.annToMask(ann)
        rows, columns = np.nonzero(mask)
        x, y, w, h = ann["bbox"]
        assert ann["area"] >= 12
        assert abs(int(mask.sum()) - ann["area"]) <= 0.05 * ann["area"] + 1
        assert (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) == (x, y, w, h)


def test_a_second_call_writes_nothing(root, monkeypatch):
    monkeypatch.setattr(writing, "draw_scene", lambda *args, **kwargs: pytest.fail("drew again"))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert write_streets(root, **FEW) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_worker_processes_write_the_same_bytes(root, tmp_path):
    assert files(write_streets(tmp_path / "again", **FEW, num_workers=2)) == files(root)


@pytest.mark.parametrize("change", [{"seed": 8}, {"size": (64, 96)}, {"num_val": 4}])
def test_other_arguments_for_the_same_folder_are_rejected(root, change):
    before = files(root)
    with pytest.raises(
        ValueError, match=r"contains other scenes .* instead of .* choose another folder, or delete"
    ):
        write_streets(root, **{**FEW, **change})
    assert files(root) == before


def test_a_folder_with_other_files_is_rejected_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("thesis")
    with pytest.raises(ValueError, match=r"it has no streets\.json\); .* set data= to its format"):
        write_streets(tmp_path, **FEW)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / "streets.json").write_text("{")
    with pytest.raises(ValueError, match=r"streets\.json is not JSON"):
        write_streets(tmp_path, **FEW)


def test_a_negative_count_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="num_val must not be negative, got -1"):
        write_streets(tmp_path / "x", num_val=-1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_interrupted_call_leaves_nothing_behind(tmp_path, num_workers):
    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_streets(tmp_path / "streets", **FEW, progress=stop, num_workers=num_workers)
    assert list(tmp_path.iterdir()) == []
    assert (write_streets(tmp_path / "streets", **FEW) / "streets.json").is_file()


def test_progress_counts_up_to_the_total(tmp_path):
    seen = []
    write_streets(
        tmp_path / "s",
        num_train=2,
        num_val=1,
        num_test=0,
        size=(32, 64),
        progress=lambda *step: seen.append(step),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_an_empty_folder_is_filled(tmp_path):
    assert json.loads((write_streets(tmp_path, **FEW) / "streets.json").read_text())["seed"] == 7


def test_a_slower_process_uses_the_folder_of_the_faster_one(tmp_path, monkeypatch):
    """Another process finishes between the check of the folder and the rename."""
    folder, publish = tmp_path / "streets", writing._publish

    def late(draft, root, manifest):
        monkeypatch.setattr(writing, "_publish", publish)
        write_streets(folder, **FEW)
        (folder / "winner").touch()
        publish(draft, root, manifest)

    monkeypatch.setattr(writing, "_publish", late)
    assert write_streets(folder, **FEW) == folder
    assert (folder / "winner").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["streets"]


def test_two_processes_can_write_at_once(root, tmp_path):
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=write_streets, args=(tmp_path / "streets",), kwargs=FEW) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert [process.exitcode for process in both] == [0, 0]
    assert files(tmp_path / "streets") == files(root)
    assert [path.name for path in tmp_path.iterdir()] == ["streets"]
