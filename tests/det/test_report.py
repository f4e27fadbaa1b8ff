"""The images, entries and files of a detection reporter."""

import json

import numpy as np
import pytest
import torch

from det.boxes import Detections
from det.report import DetectionReporter, save_coco_files
from det.task import Detection
from det.transforms import EvalTransform
from engine.data.images import read_image
from tests.det.data.small_splits import make_dataset, make_split
from tests.det.eval.scenes import CLASSES, annotate, detections, evaluated
from tests.det.test_task import FourAnchors


def reporter(classes=CLASSES, **options):
    """Of a task that predicts class 1 in the top right quarter of any image, with a score of .88."""
    scores = [[0.0, *[-9.0] * len(classes)] for _ in range(4)]
    scores[1][2] = 2.0
    transform = EvalTransform(size=(64, 128))
    task = Detection(model=FourAnchors(scores), classes=classes, eval_transform=transform, **options)
    return DetectionReporter(task)


def test_a_prediction_lists_classes_and_ids_of_the_data_set(tmp_path):
    prediction = detections([[150, 0, 300.004, 50]], [0.88079], [1])
    (record,) = reporter().save_prediction(prediction, tmp_path, "a")["detections"]
    assert record == {"class": "car", "category_id": 3, "score": 0.8808, "box_xyxy": [150, 0, 300, 50]}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.5, 0.95])
def test_boxes_below_the_draw_threshold_are_neither_listed_nor_drawn(tmp_path, threshold):
    prediction = detections([[5, 5, 20, 20], [30, 30, 50, 50]], [0.9, 0.4], [0, 1])
    report = reporter(draw_threshold=threshold)
    listed = report.save_prediction(prediction, tmp_path, "a")["detections"]
    assert [record["score"] for record in listed] == [s for s in (0.9, 0.4) if s >= threshold - 1e-6]
    gray = np.full((60, 60, 3), 128, np.uint8)
    drawn = report.draw(gray, prediction, legend=False)
    corners = [(drawn[5, 12] != 128).any(), (drawn[30, 40] != 128).any()]
    assert corners == [threshold <= 0.9, threshold - 1e-6 <= 0.4]


def test_a_legend_is_names_on_the_boxes():
    gray = np.full((120, 120, 3), 128, np.uint8)
    prediction = detections([[30, 40, 100, 100]], [0.9], [0])
    plain = reporter().draw(gray, prediction, legend=False)
    assert (reporter().draw(gray, prediction) != plain).any()
    np.testing.assert_array_equal(
        reporter().draw(gray, prediction), reporter().draw(gray, prediction, all_classes=True)
    )


def test_a_sample_is_image_prediction_and_ground_truth_without_ignored_objects(tmp_path):
    split, _ = make_split(tmp_path, [[(10, 10, 40, 30), (0, 0, 60, 40)]], difficult=np.array([False, True]))
    dataset = make_dataset(split, EvalTransform(size=(64, 128)))
    image = read_image(dataset.image_path(0))
    sample = reporter(classes=dataset.classes).draw_sample(dataset, 0)
    image = image.repeat(8, 0).repeat(8, 1)  # 40 x 60 is enlarged to 320 x 480
    assert sample.shape == (320 + 22, 3 * 480, 3)  # captions of 15 pixels
    assert (sample[:22] < 100).any()
    sample = sample[22:]
    np.testing.assert_array_equal(sample[:, :480], image)
    prediction, truth = sample[:, 480:960], sample[:, 960:]
    assert (prediction[0, 240:] != image[0, 240:]).any()
    assert (prediction[200:] == image[200:]).all()  # the box ends at row 160, and its name below it
    assert (truth[80, 80:320] != image[80, 80:320]).any()
    assert (truth[319] == image[319]).all()  # the difficult object ends there


def test_samples_and_evaluations_are_files(tmp_path):
    split, _ = make_split(
        tmp_path / "data", [[(30, 0, 60, 20)], [(0, 0, 10, 10)], []], labels=np.array([1, 1])
    )
    dataset = make_dataset(split, EvalTransform(size=(64, 128)))
    report = reporter(classes=dataset.classes)
    report.save_samples(dataset, tmp_path / "samples", count=2)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["0.png", "2.png"]
    report.save_samples(dataset, tmp_path / "none", count=0)
    assert not (tmp_path / "none").exists()
    evaluator = report.task.evaluator(dataset)
    for index in range(3):
        prediction = report.task.predict_image(read_image(dataset.image_path(index)))
        evaluator.update([prediction], {"index": torch.tensor([index])})
    report.save_evaluation(evaluator, dataset, tmp_path / "evaluation", worst=1)
    written = {
        str(path.relative_to(tmp_path / "evaluation")) for path in (tmp_path / "evaluation").rglob("*.*")
    }
    (worst,) = (name for name in written if name.startswith("worst"))
    assert written - {worst} == {
        "per_class.txt", "precision_recall.png", "detections.json", "ground_truth.json"
    }  # fmt: skip
    assert worst in ("worst/01_0.000_1.png", "worst/01_0.000_2.png")
    assert "dog" in (tmp_path / "evaluation/per_class.txt").read_text()


def test_coco_files_have_the_data_sets_own_ids(tmp_path):
    annotations = annotate([[[10, 10, 50, 40]]], [[3]], image_ids=np.array([42]))
    prediction = Detections(torch.tensor([[1.0, 2, 11, 22]]), torch.tensor([0.5]), torch.tensor([1]))
    save_coco_files(evaluated(annotations, [prediction]), tmp_path)
    assert json.loads((tmp_path / "detections.json").read_text()) == [
        {"image_id": 42, "category_id": 3, "bbox": [1, 2, 10, 20], "score": 0.5}
    ]
    truth = json.loads((tmp_path / "ground_truth.json").read_text())
    assert truth["annotations"][0]["category_id"] == 90
    assert truth["annotations"][0]["bbox"] == [10, 10, 40, 30]
    assert truth["images"] == [{"id": 42, "file_name": "image_0.jpg", "height": 480, "width": 640}]
    assert truth["categories"][0] == {"id": 18, "name": "dog"}


def test_a_line_says_that_no_more_boxes_can_be_predicted(tmp_path):
    report = reporter(draw_threshold=0.6)
    report.task.postprocess.max_detections, report.task.postprocess.per_class = 3, 2
    box = [0, 0, 9, 9]
    report.save_prediction(detections([box] * 3, [0.9, 0.8, 0.5], [0, 1, 1]), tmp_path, "a")
    assert len(report.prediction_notes()) == 1
    report.save_prediction(detections([box] * 3, [0.9, 0.8, 0.7], [0, 1, 1]), tmp_path, "b")
    report.save_prediction(detections([box] * 2, [0.9, 0.8], [1, 1]), tmp_path, "c")
    _, line = report.prediction_notes()
    assert line.startswith("2 of 3 images show 3 boxes or 2 of a class, the most that can be predicted: set")


def test_a_hint_says_from_which_score_boxes_are_shown(tmp_path):
    report = reporter(draw_threshold=0.6)
    report.save_prediction(detections([[0, 0, 9, 9]], [0.9], [0]), tmp_path, "a")
    (line,) = report.prediction_notes()
    assert (
        line == "boxes with a score of at least 0.6 are shown (task.draw_threshold); "
        "task.draw_threshold= changes it"
    )
    report.save_prediction(detections([[0, 0, 9, 9]], [0.35], [0]), tmp_path, "b")
    report.save_prediction(detections([], [], []), tmp_path, "c")
    (line,) = report.prediction_notes()
    assert line.endswith("2 of 3 images have none (highest score 0.35): task.draw_threshold=0.34 shows more")


def test_no_threshold_is_suggested_that_shows_no_box_either(tmp_path):
    report = reporter(draw_threshold=0.4)
    report.save_prediction(detections([[0, 0, 9, 9]], [0.004], [0]), tmp_path, "a")
    (line,) = report.prediction_notes()
    assert line.endswith("1 of 1 images have none, and no box has a score of 0.01: train longer")
