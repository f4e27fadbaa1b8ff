"""Predictions saved as labels (`save_labels=` of tools/predict.py): what training reads from the files."""

import shlex

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cls.data.folders import folders
from cls.report import ClassificationReporter
from det.boxes import Detections
from det.data.coco import coco
from det.data.yolo import yolo
from det.report import DetectionReporter
from engine.config.options import PredictOptions
from engine.config.runs import TrainedRun
from engine.data.class_map import ClassMap
from engine.data.images import read_labels, write_png
from engine.prediction import Labeling
from engine.pseudo_labels.writers import LabeledImages
from seg.data.masks import masks
from seg.report import SegmentationReporter
from tests.refusals import refuses

CLASSES = ClassMap(names=("cat", "dog", "été"), ids=(3, 7, 90))


def images(folder, count=6, size=(40, 60)):
    files = [
        folder / "photos" / ("a" if number % 2 else "b") / f"{number // 2}.png" for number in range(count)
    ]
    for number, file in enumerate(files):
        write_png(file, np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8))
    return files


def labeled(folder, kind, labels, classes=CLASSES):
    """A data set with these labels; names of images are made flat: a/0 and a_0 would be the same file."""
    files = images(folder, len(labels))
    result = LabeledImages(folder / "labels", kind, classes)
    for number, (file, label) in enumerate(zip(files, labels, strict=True)):
        result.add(file, ("a/0", "a_0")[number] if number < 2 else f"{number}", (40, 60), label)
    return result, files


BOXES = [
    (np.array([[1.0, 2, 11, 22], [0, 0, 60, 40]], np.float32), np.array([1, 2])),
    (np.array([[5.5, 6, 15.5, 26]], np.float32), np.array([0])),
    None,
    *[(np.array([[0.0, 0, n, n]], np.float32), np.array([0])) for n in (8, 9, 10)],
]


@pytest.mark.parametrize(("kind", "read"), [("coco", coco), ("yolo", yolo)])
def test_boxes_are_read_as_they_were_predicted(tmp_path, kind, read):
    result, files = labeled(tmp_path, kind, BOXES)
    lines = result.finish(task="det", run="runs/x", min_score=0.5)
    assert lines == [
        "labels: 5 images; 1 image left out, without a prediction of at least 0.5 (min_score=)",
        f"next: python tools/train.py task=det data={kind} data.root={tmp_path / 'labels'} init_from=runs/x",
    ]
    source = read(root=str(tmp_path / "labels"))
    assert source.classes.names == CLASSES.names
    if kind == "coco":
        assert source.classes.ids == CLASSES.ids
    found = {}
    for split in source.splits.values():
        for index, name in enumerate(split.names):
            boxes, labels, _ = split.objects(index)
            found[name.decode().rpartition("/")[2]] = (boxes.tolist(), labels.tolist())
    assert set(found) == {"a_0", "a_0_2", "3", "4", "5"}
    assert np.allclose(found["a_0"][0], BOXES[0][0], atol=1e-4)
    assert found["a_0"][1] == [1, 2]
    assert np.allclose(found["a_0_2"][0], BOXES[1][0], atol=1e-4)
    assert found["a_0_2"][1] == [0]
    copies = sorted((tmp_path / "labels" / "images" / "train").iterdir())
    assert [path.name for path in copies] == ["3.png", "4.png", "5.png", "a_0.png", "a_0_2.png"]
    assert copies[0].samefile(files[3])  # a hard link


def test_masks_are_read_as_they_were_predicted(tmp_path):
    rng = np.random.default_rng(0)
    labels = [rng.choice(np.array([0, 1, 2, 255], np.uint8), (40, 60)) for _ in range(5)]
    result, _ = labeled(tmp_path, "masks", labels)
    result.finish(task="seg", run="runs/x", min_score=0.5)
    mask = read_labels(tmp_path / "labels" / "masks" / "train" / "a_0_2.png")
    assert set(np.unique(mask)) == {3, 7, 90, 255}
    source = masks(root=str(tmp_path / "labels"))
    assert source.classes.names == CLASSES.names
    assert source.classes.ids == CLASSES.ids
    read = {}
    for split in ("train", "val"):
        dataset = source.dataset(split, None)
        for index in range(len(dataset)):
            read[dataset.name(index)] = dataset.read(index)[1]
    assert (read["a_0"] == labels[0]).all()
    assert (read["a_0_2"] == labels[1]).all()
    assert (read["4"] == labels[4]).all()


def test_an_id_of_255_is_not_taken_for_unknown_pixels(tmp_path):
    classes = ClassMap(names=("sky", "road"), ids=(255, 0))
    result, _ = labeled(tmp_path, "masks", [np.array([[0, 1, 255]], np.uint8)], classes)
    result.finish(task="seg", run="x", min_score=0.5)
    written = ClassMap.read(tmp_path / "labels" / "classes.json")
    assert written.ids == (255, 0)
    assert written.ignore == (1,)
    assert read_labels(tmp_path / "labels" / "masks" / "train" / "a_0.png").tolist() == [[255, 0, 1]]


def test_classes_are_folders(tmp_path):
    result, _ = labeled(tmp_path, "folders", [2, 2, None, 0, 0, 2])
    result.finish(task="cls", run="x", min_score=0.5)
    found = sorted(path.relative_to(tmp_path / "labels").as_posix() for path in tmp_path.rglob("train/*/*"))
    assert found == ["train/cat/3.png", "train/cat/4.png"] + [
        f"train/été/{name}.png" for name in ("5", "a_0", "a_0_2")
    ]
    assert folders(root=str(tmp_path / "labels")).classes.names == ("cat", "été")


def test_folders_of_classes_are_visible_and_each_has_its_own(tmp_path):
    classes = ClassMap(names=("a/b", "a_b", ".c", "..", "_c", "d e"))
    result, _ = labeled(tmp_path, "folders", [0, 1, 2, 3, 4, 5, 5], classes)
    result.finish(task="cls", run="x", min_score=0.5)
    root = tmp_path / "labels" / "train"
    found = sorted(path.relative_to(root).as_posix() for path in tmp_path.rglob("labels/**/*.png"))
    assert found[:5] == ["_./3.png", "_c/4.png", "_c_2/2.png", "a_b/a_0_2.png", "a_b_2/a_0.png"]
    assert found[5:] == ["d e/5.png", "d e/6.png"]
    assert len(folders(root=str(tmp_path / "labels")).classes) == 6


@pytest.mark.parametrize("kind", ["coco", "yolo", "masks"])
def test_an_image_whose_label_was_not_written_is_taken_back(tmp_path, monkeypatch, kind):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    result, _ = labeled(tmp_path, kind, [])
    (file,) = images(tmp_path, 1)
    label = np.zeros((40, 60), np.uint8) if kind == "masks" else BOXES[0]
    monkeypatch.setattr(type(result.writer), "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        result.add(file, "x", (40, 60), label)
    assert not list((tmp_path / "labels" / "images" / "train").iterdir())
    assert file.exists()
    assert result.finish(task="det", run="x", min_score=0.5) == ["labels: none"]


def test_names_that_json_cannot_hold_are_changed(tmp_path):
    result, files = labeled(tmp_path, "coco", BOXES)
    for number, name in enumerate(("bad\udcff", "tab\there", "sub dir/é")):
        result.add(files[number], name, (40, 60), BOXES[0])
    result.finish(task="det", run="x", min_score=0.5)
    names = [str(name, "utf-8") for split in coco(root=str(tmp_path / "labels"), allow_same_files=True)
             .splits.values() for name in split.names]  # fmt: skip
    assert {"bad_", "tab_here", "sub dir_é"} <= {name.rpartition("/")[2] for name in names}


def test_the_command_can_be_pasted_and_reads_the_images_as_they_were_predicted(tmp_path):
    result, _ = labeled(tmp_path / "my photos", "coco", BOXES)
    settings = ["data.pixel_range=[0,4095]", "data.orientation=stored"]
    line = result.finish(task="det", run="runs/a b", min_score=0.5, settings=settings)[-1]
    assert shlex.split(line)[1:] == [
        "python", "tools/train.py", "task=det", "data=coco",
        f"data.root={tmp_path / 'my photos' / 'labels'}", *settings, "init_from=runs/a b",
    ]  # fmt: skip


def test_the_keys_that_decide_how_images_are_read_are_those_that_differ():
    def settings(**data):
        run = TrainedRun.__new__(TrainedRun)
        run.config = OmegaConf.create({"data": data})
        return run.image_settings

    plain = {"pixel_range": None, "orientation": "upright", "max_megapixels": 89.0}
    assert settings(**plain) == []
    assert settings(size=[64, 64]) == []
    changed = {"pixel_range": [0, 4095], "orientation": "stored", "max_megapixels": 200}
    assert settings(**changed) == [
        "data.pixel_range=[0,4095]", "data.orientation=stored", "data.max_megapixels=200",
    ]  # fmt: skip


def test_without_a_certain_prediction_there_is_no_data_set(tmp_path):
    result, _ = labeled(tmp_path, "coco", [None, None])
    assert result.finish(task="det", run="x", min_score=0.9) == [
        "labels: none; 2 images left out, without a prediction of at least 0.9 (min_score=)"
    ]
    assert not (tmp_path / "labels").exists()


class Task:
    """What the reporters need of a task."""

    classes = CLASSES
    model = None


def test_boxes_below_the_score_are_left_out():
    boxes = torch.tensor([[0.0, 0, 5, 5], [1, 1, 6, 6], [2, 2, 7, 7]])
    prediction = Detections(boxes, torch.tensor([0.9, 0.7, 0.69]), torch.tensor([2, 0, 1]))
    reporter = DetectionReporter(Task())
    found, labels = reporter.confident(None, prediction, 0.7)
    assert found.tolist() == boxes[:2].tolist()
    assert labels.tolist() == [2, 0]
    assert reporter.confident(None, prediction, 0.95) is None


def test_an_uncertain_class_is_left_out():
    reporter = ClassificationReporter(Task())
    assert reporter.confident(None, np.array([0.2, 0.7, 0.1], np.float32), 0.7) == 1
    assert reporter.confident(None, np.array([0.2, 0.69, 0.11], np.float32), 0.7) is None


class Scores(torch.nn.Module):
    """Class 1 with the probability 0.9 in the left half of an image and 0.6 in the right one."""

    def forward(self, image):
        second = torch.full((1, 1, *image.shape[-2:]), 0.9)
        second[..., image.shape[-1] // 2 :] = 0.6
        return torch.cat([1 - second, second], dim=1).log()


def test_uncertain_pixels_are_unknown(tmp_path):
    from seg.task import Segmentation
    from seg.transforms import EvalTransform

    task = Segmentation(
        model=Scores(), classes=ClassMap(names=("a", "b")), eval_transform=EvalTransform(), loss=None
    )
    image = np.zeros((4, 8, 3), np.uint8)
    prediction = task.predict_image(image)
    assert (prediction == 1).all()
    reporter = SegmentationReporter(task)
    certain = reporter.confident(image, prediction, 0.8)
    assert (certain[:, :4] == 1).all()
    assert (certain[:, 4:] == 255).all()
    assert reporter.confident(image, prediction, 0.95) is None
    assert reporter.confident(image, prediction, 0) is prediction
    task.model.output = "argmax"
    photo = tmp_path / "a.png"
    refuses(  # once, before any image is predicted
        lambda: Labeling(reporter, tmp_path, "masks", [photo], min_score=0.8),
        "without probabilities", "min_score=0",
    )  # fmt: skip
    Labeling(reporter, tmp_path, "masks", [photo], min_score=0)


def test_what_cannot_be_labeled_is_refused(tmp_path):
    def start(kind, files):
        return Labeling(DetectionReporter(Task()), tmp_path, kind, files, min_score=0.5)

    photo, video = tmp_path / "a.png", tmp_path / "b.mp4"
    refuses(
        lambda: start("masks", [photo]), "save_labels=masks is not for this task", "save_labels=coco or yolo"
    )
    refuses(lambda: start("coco", [photo, video]), "b.mp4", "save frames first")
    refuses(lambda: start("coco", []), "not a stream")
    refuses(lambda: start("coco", [photo, tmp_path / "c.gif"]), "c.gif", "png", "convert")
    with pytest.raises(ValueError, match="min_score needs save_labels="):
        PredictOptions(run="x", input="y", min_score=0.5)
    assert PredictOptions(run="x", input="y", save_labels="coco").least_score == 0.5


def test_the_reporters_offer_formats_that_exist():
    from engine.pseudo_labels.writers import WRITERS

    offered = [*DetectionReporter.label_kinds, *SegmentationReporter.label_kinds]
    assert sorted([*offered, *ClassificationReporter.label_kinds]) == sorted(WRITERS)
