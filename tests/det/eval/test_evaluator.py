"""COCO's numbers: equal with either backend, to plain pycocotools on files, and by hand."""

import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from det.boxes import Detections
from det.eval import average_precision
from det.eval.evaluator import DetectionEvaluator
from det.report import save_coco_files
from engine.data.class_map import ClassMap
from engine.errors import UserError
from tests.det.eval.scenes import CLASSES, annotate, detections, evaluated, scene

TWELVE = (
    "map", "map_50", "map_75", "map_small", "map_medium", "map_large",
    "ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip
BACKENDS = ["pycocotools", pytest.param("hotcoco", marks=pytest.mark.skipif(
    average_precision.choose_backend("auto") != "hotcoco", reason="hotcoco is not installed"))]  # fmt: skip


def plain_pycocotools(truth_file, detections_file, image_ids=None):
    truth = COCO(str(truth_file))
    evaluation = COCOeval(truth, truth.loadRes(str(detections_file)), "bbox")
    if image_ids is not None:
        evaluation.params.imgIds = image_ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return np.where(evaluation.stats < 0, np.nan, evaluation.stats), evaluation


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_plain_pycocotools_on_the_files_it_saves(tmp_path, backend, seed):
    evaluator = evaluated(*scene(seed), backend=backend)
    ours = evaluator.compute()
    save_coco_files(evaluator, tmp_path)
    expected, evaluation = plain_pycocotools(tmp_path / "ground_truth.json", tmp_path / "detections.json")
    np.testing.assert_allclose([ours[name] for name in TWELVE], expected, rtol=0, atol=1e-9)
    assert 0.02 < ours["map"] < 0.9
    assert ours["num_images"] == 30
    for category, values in zip(
        evaluation.params.catIds, np.moveaxis(evaluation.eval["precision"], 2, 0), strict=True
    ):
        name = CLASSES.names[CLASSES.ids.index(category)]
        if name == "kite":
            assert math.isnan(ours["ap/kite"])
        else:
            assert ours[f"ap/{name}"] == pytest.approx(values[:, :, 0, 2].mean(), abs=1e-9)


@pytest.mark.skipif(average_precision.choose_backend("auto") != "hotcoco", reason="hotcoco is not installed")
@pytest.mark.parametrize("limits", [(1, 10, 100), (5,), (1, 300)])
def test_backends_agree_in_every_number(limits):
    first, second = (
        evaluated(*scene(3), backend=backend, max_detections=limits) for backend in ("hotcoco", "pycocotools")
    )
    for ours, reference in zip(first.curves, second.curves, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-9)
    assert first.compute()[f"ar_{limits[-1]}"] > 0  # no -1 if the limit is not 100
    assert first.compute()["map"] > 0


def coco_files(folder, truth_file, detections_file):
    """Annotations, outputs and classes of COCO's files, read in the simplest way."""
    truth, results = (json.loads((folder / name).read_text()) for name in (truth_file, detections_file))
    ids = [image["id"] for image in truth["images"]]
    categories = [category["id"] for category in truth["categories"]]
    classes = ClassMap(
        names=tuple(category["name"] for category in truth["categories"]), ids=tuple(categories)
    )
    by_image = {number: [a for a in truth["annotations"] if a["image_id"] == number] for number in ids}
    boxes = [[[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in by_image[n])] for n in ids]
    rows = [a for number in ids for a in by_image[number]]
    annotations = annotate(
        boxes, [[categories.index(a["category_id"]) for a in by_image[number]] for number in ids],
        crowd=np.array([bool(a["iscrowd"]) for a in rows]), image_ids=np.array(ids),
    )  # fmt: skip
    annotations.areas[:] = [a["area"] for a in rows]
    outputs = []
    for number in ids:
        mine = [one for one in results if one["image_id"] == number]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in mine)]
        labels = [categories.index(one["category_id"]) for one in mine]
        outputs.append(detections(corners, [one["score"] for one in mine], labels))
    return annotations, outputs, classes


@pytest.mark.data
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_example_of_cocoapi(data_folder, backend):
    """100 images of val2014 with cocoapi's fake results, and the numbers its demo prints (box AP)."""
    files = ("instances_val2014_100.json", "instances_val2014_fakebbox100_results.json")
    annotations, outputs, classes = coco_files(data_folder / "coco_eval", *files)
    result = evaluated(annotations, outputs, backend=backend, classes=classes).compute()
    expected = (0.5046, 0.697, 0.573, 0.5856, 0.5194, 0.5014, 0.3868, 0.5937, 0.5954, 0.6398, 0.5664, 0.5643)
    np.testing.assert_allclose([result[name] for name in TWELVE], expected, rtol=0, atol=6e-5)
    plain, _ = plain_pycocotools(*(data_folder / "coco_eval" / name for name in files))
    np.testing.assert_allclose([result[name] for name in TWELVE], plain, rtol=0, atol=1e-6)


def test_by_hand():
    """Two objects of one class; the detections by score are right, wrong, right.

    So precision is 1 up to recall 1/2, then 2/3: at 101 recalls, 51 times 1 (0 to .50) and 50 times 2/3. Both
    right ones fit exactly, so this holds at every IoU.
    """
    annotations = annotate([[[10, 10, 50, 50], [100, 100, 160, 160]], []], [[0, 0], []])
    outputs = [
        detections(
            [[10, 10, 50, 50], [300, 300, 340, 340], [100, 100, 160, 160]], [0.9, 0.8, 0.7], [0, 0, 0]
        ),
        detections([], [], []),
    ]
    evaluator = evaluated(annotations, outputs)
    result = evaluator.compute()
    assert result["map"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert result["map_50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert result["ap/dog"] == result["map"]
    assert math.isnan(result["ap/car"])
    assert math.isnan(result["map_large"])  # areas are 1280 and 2880: both medium
    assert result["ar_1"] == pytest.approx(0.5)
    assert result["ar_10"] == 1
    assert (result["num_objects"], result["num_detections"], result["num_classes_present"]) == (2, 3, 1)
    point = evaluator.operating_point  # F1: 2/3 at .9, 1/2 at .8, 4/5 at .7
    assert point.threshold == pytest.approx(0.7)
    assert (point.f1, point.precision, point.recall) == pytest.approx((4 / 5, 2 / 3, 1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["crowd", "difficult"])
def test_ignored_objects_are_neither_hits_nor_misses(backend, kind):
    boxes = [[[10, 10, 50, 50], [100, 100, 300, 300]]]
    annotations = annotate(boxes, [[0, 0]], **{kind: np.array([False, True])})
    hit, on_ignored = [10, 10, 50, 50], [102, 100, 300, 300]
    inside = [120, 120, 160, 160]  # inside of the ignored object, with a small IoU: ignored only for a crowd
    right = [detections([on_ignored, hit], [0.9, 0.8], [0, 0])]
    assert evaluated(annotations, right, backend=backend).compute()["map"] == pytest.approx(1)
    assert evaluated(annotations, right, backend=backend).compute()["num_objects"] == 1
    wrong = [detections([inside, hit], [0.9, 0.8], [0, 0])]
    expected = 1 if kind == "crowd" else 0.5
    assert evaluated(annotations, wrong, backend=backend).compute()["map"] == pytest.approx(expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_detected_is_zero(backend):
    annotations, outputs = scene()
    result = evaluated(annotations, [detections([], [], [])] * len(outputs), backend=backend).compute()
    assert result["map"] == result["map_50"] == result["ar_100"] == 0
    assert result["num_detections"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [0, 5])
def test_without_objects_there_is_no_ap(tmp_path, backend, count):
    annotations = annotate([[], []], [[], []])
    outputs = [detections([[1, 1, 9, 9]] * count, [0.5] * count, [0] * count), detections([], [], [])]
    evaluator = evaluated(annotations, outputs, backend=backend)
    result = evaluator.compute()
    assert all(math.isnan(result[name]) for name in TWELVE)
    assert "AP is n/a: these images have no objects" in evaluator.table()
    assert evaluator.worst(3) == ([("0", 0, 0.0)] if count else [])
    save_coco_files(evaluator, tmp_path)
    assert len(json.loads((tmp_path / "detections.json").read_text())) == count


def test_nothing_counted_yet():
    evaluator = DetectionEvaluator(classes=CLASSES, split=scene()[0])
    assert math.isnan(evaluator.compute()["map"])
    assert evaluator.worst(3) == []


def test_only_seen_images_count(tmp_path):
    annotations, outputs = scene(4)
    part = evaluated(annotations, outputs[:7], batch=3)
    result = part.compute()
    save_coco_files(part, tmp_path / "part")
    save_coco_files(evaluated(annotations, outputs), tmp_path / "all")
    ids = annotations.image_ids[:7].tolist()
    expected, _ = plain_pycocotools(
        tmp_path / "all" / "ground_truth.json", tmp_path / "all" / "detections.json", ids
    )
    np.testing.assert_allclose([result[name] for name in TWELVE], expected, rtol=0, atol=1e-9)
    saved = json.loads((tmp_path / "part" / "ground_truth.json").read_text())
    assert [image["id"] for image in saved["images"]] == ids
    assert saved["images"][0]["file_name"] == "image_0.jpg"
    assert result["num_images"] == 7
    assert "over 7 of 30 images" in result["protocol"]


def test_split_over_processes_is_the_same():
    annotations, outputs = scene(5)
    whole = evaluated(annotations, outputs)
    shares = []
    for rank in range(3):
        evaluator = DetectionEvaluator(classes=CLASSES, split=annotations)
        for index in range(rank, len(outputs), 3):
            evaluator.update([outputs[index]], {"index": torch.tensor([index])})
        shares.append(evaluator.state())
        assert all(isinstance(value, np.ndarray) for value in shares[-1].values())
    merged = DetectionEvaluator(classes=CLASSES, split=annotations)
    merged.compute()  # cached results are dropped
    merged.merge([*shares, DetectionEvaluator(classes=CLASSES, split=annotations).state()])
    for name, value in whole.compute().items():
        np.testing.assert_equal(merged.compute()[name], value, err_msg=name)
    np.testing.assert_array_equal(merged.detections, whole.detections)
    with pytest.raises(ValueError, match="counted by two processes"):
        merged.merge([shares[0], shares[0]])
    merged.reset()
    assert merged.compute()["num_images"] == 0


def test_classes_of_the_model_are_translated_by_name():
    """The model has more classes, in another order; those that the dataset lacks are not counted."""
    model = ClassMap(names=("cat", "person", "dog", "car", "kite"))
    annotations = annotate([[[10, 10, 50, 50], [60, 60, 90, 90]]], [[2, 0]])  # person, dog
    outputs = [detections([[10, 10, 50, 50], [60, 60, 90, 90], [0, 0, 9, 9]], [0.9, 0.8, 1.0], [1, 2, 0])]
    result = evaluated(annotations, outputs, predicted_classes=model).compute()
    assert result["map"] == pytest.approx(1)
    assert result["num_detections"] == 2


def test_detections_that_are_not_finite_are_left_out_and_reported():
    annotations = annotate([[[10, 10, 50, 50]]], [[0]])
    boxes = [[10, 10, 50, 50], [np.nan, 0, 9, 9], [0, 0, 9, 9]]
    result = evaluated(annotations, [detections(boxes, [0.5, 0.9, np.nan], [0, 0, 0])]).compute()
    assert result["map"] == pytest.approx(1)
    assert "; 2 detections that were not finite" in result["protocol"]
    several = evaluated(annotations, [detections(boxes, [0.5, 0.9, np.nan], [0, 0, 0])])
    merged = DetectionEvaluator(classes=CLASSES, split=annotations)
    merged.merge([several.state()])
    assert merged.compute()["protocol"] == result["protocol"]
    finite = evaluated(annotations, [detections(boxes[:1], [0.5], [0])]).compute()
    assert "finite" not in finite["protocol"]


def test_half_precision_is_accepted():
    annotations = annotate([[[10, 10, 50, 50]]], [[0]])
    single = detections([[10, 10, 50, 50]], [0.5], [0])
    half = Detections(single.boxes.bfloat16(), single.scores.bfloat16(), single.labels)
    assert evaluated(annotations, [half]).compute()["map"] == pytest.approx(1)


def test_coco_s_lists_by_hand():
    """Plain numbers, which JSON can hold; a difficult object gets an area outside of all ranges."""
    boxes = [[[10, 20, 50, 80]], [[0, 0, 4, 5], [1, 1, 3, 3]]]
    crowd, difficult = np.array([False, False, True]), np.array([False, True, False])
    annotations = annotate(boxes, [[0], [2, 1]], crowd=crowd, difficult=difficult)
    outputs = [detections([[1, 2, 4, 6]], [0.5], [1]), detections([], [], [])]
    found, truth = evaluated(annotations, outputs).to_coco()
    assert found == [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore")
    rows = [
        (1, 1, 18, [10, 20, 40, 60], pytest.approx(1920), 0, 0),
        (2, 2, 1, [0, 0, 4, 5], 1e12, 0, 1),
        (3, 2, 3, [1, 1, 2, 2], pytest.approx(3.2), 1, 1),
    ]
    assert truth["annotations"] == [dict(zip(keys, row, strict=True)) for row in rows]
    numbers = [found[0]["image_id"], found[0]["category_id"]]
    numbers += [truth["annotations"][1][key] for key in ("id", "image_id", "iscrowd", "ignore")]
    assert {type(number) for number in numbers} == {int}
    assert truth["categories"] == [
        {"id": number, "name": name} for number, name in zip(CLASSES.ids, CLASSES.names, strict=True)
    ]
    assert [(image["height"], image["width"]) for image in truth["images"]] == [(480, 640)] * 2


def test_the_backend_that_was_asked_for_is_used(monkeypatch):
    class Used(Exception):
        pass

    def used(*_):
        raise Used

    for backend in ("pycocotools", "hotcoco"):
        with monkeypatch.context() as patch:
            patch.setattr(average_precision, f"_{backend}", used)
            patch.setattr(average_precision, "choose_backend", lambda name: name)
            evaluator = evaluated(*scene(), backend=backend)
            with pytest.raises(Used):
                evaluator.compute()


def test_what_has_no_score_warns_of_nothing():
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(average_precision.mean(np.full(3, np.nan)))
    assert average_precision.mean(np.array([np.nan, 1, 2])) == 1.5


def test_results_do_not_outlive_what_they_were_computed_from():
    annotations, outputs = scene()
    evaluator = evaluated(annotations, outputs, predicted="image by image")
    assert evaluator.compute()["map"] > 0
    assert evaluator.compute()["protocol"].endswith("; image by image")
    evaluator.reset()
    assert math.isnan(evaluator.compute()["map"])
    evaluator.update([outputs[3]], {"index": torch.tensor([3])})
    with pytest.raises(ValueError, match=r"image 3 .* counted already"):
        evaluator.update([outputs[4], outputs[3]], {"index": torch.tensor([4, 3])})
    assert evaluator.compute()["num_images"] == 1  # of a batch that is refused nothing is counted
    before = evaluator.compute()["num_detections"]
    evaluator.update([outputs[5]], {"index": torch.tensor([5])})
    assert evaluator.compute()["num_detections"] == before + len(outputs[5].scores) > before


def test_of_images_with_the_same_f1_those_with_more_mistakes_are_worse():
    box, other = [10, 10, 50, 50], [100, 100, 160, 160]
    annotations = annotate([[box], [box], [box]], [[0], [0], [0]])
    missed = [detections([other] * count, [0.9] * count, [0] * count) for count in (1, 3)]
    evaluator = evaluated(annotations, [*missed, detections([box], [0.9], [0])])
    assert evaluator.worst(3) == [("1", 1, 0.0), ("0", 0, 0.0), ("2", 2, 1.0)]


def test_detections_that_require_gradients_are_accepted():
    annotations = annotate([[[10, 10, 50, 50]]], [[0]])
    boxes, scores, labels = detections([[10, 10, 50, 50]], [0.5], [0])
    one = Detections(boxes.requires_grad_(), scores.requires_grad_(), labels)
    assert evaluated(annotations, [one]).compute()["map"] == pytest.approx(1)


def test_wrong_arguments_are_rejected():
    annotations, outputs = scene()
    evaluator = evaluated(annotations, outputs[:2])
    with pytest.raises(ValueError, match=r"image 1 .* counted already"):
        evaluator.update([outputs[1]], {"index": torch.tensor([1])})
    with pytest.raises(ValueError, match=r"index must be in 0\.\.29, got 30"):
        evaluator.update([outputs[0]], {"index": torch.tensor([30])})
    with pytest.raises(ValueError, match="for 1 images, but 2 indices"):
        evaluator.update([outputs[0]], {"index": torch.tensor([3, 4])})
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.3, got 4\.\.4"):
        evaluator.update([detections([[0, 0, 1, 1]], [1], [4])], {"index": torch.tensor([3])})
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.3, got 0\.\.4"):
        evaluator.update([detections([[0, 0, 1, 1]] * 2, [1, 1], [0, 4])], {"index": torch.tensor([3])})
    for limits in ((), (0, 10), (10, 1), (1, 1)):
        with pytest.raises(ValueError, match="increasing and positive"):
            DetectionEvaluator(classes=CLASSES, split=annotations, max_detections=limits)
    with pytest.raises(ValueError, match="backend must be one of"):
        average_precision.choose_backend("fast")


def test_without_hotcoco(monkeypatch):
    monkeypatch.setattr(
        average_precision, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: None))
    )
    assert average_precision.choose_backend("auto") == "pycocotools"
    with pytest.raises(UserError, match="pip install hotcoco"):
        average_precision.choose_backend("hotcoco")


def test_pycocotools_prints_nothing(capsys):
    evaluated(*scene(), backend="pycocotools").compute()
    assert capsys.readouterr().out == ""


def test_worst_images_by_f1():
    """At scores >= .9 (F1 4/5 over all): image 0 is perfect, 1 has one of two objects, 2 and 3 have none."""
    box, other, third = [10, 10, 50, 50], [100, 100, 160, 160], [200, 200, 260, 260]
    annotations = annotate([[box], [box, other], [], []], [[0], [1, 1], [], []])
    outputs = [
        detections([box, third], [0.9, 0.1], [0, 0]),
        detections([box, third], [0.9, 0.2], [1, 1]),
        detections([box], [0.8], [0]),
        detections([box], [0.3], [0]),
    ]
    evaluator = evaluated(annotations, outputs, name_of="abcd".__getitem__)
    assert evaluator.operating_point.threshold == pytest.approx(0.9)
    assert evaluator.worst(9) == [("b", 1, pytest.approx(2 / 3)), ("a", 0, 1.0)]
    assert evaluator.worst(1) == [("b", 1, pytest.approx(2 / 3))]


def test_the_table_has_all_numbers_and_says_what_is_missing():
    evaluator = evaluated(*scene(6))
    result = evaluator.compute()
    table = evaluator.table()
    lines = {line.split("  ")[0]: line for line in table.splitlines()}
    assert lines["dog"].split()[1] == f"{100 * result['ap/dog']:.2f}"
    assert lines["kite"].split()[1:4] == ["n/a", "n/a", "0"]
    assert lines["AP"].split()[1] == f"{100 * result['map']:.2f}"
    assert lines["AR small"].split()[2] == f"{100 * result['ar_small']:.2f}"
    assert "3 of 4 classes present, 30 images" in table
    assert "best F1" in table
    assert "-1" not in table
    only_small = annotate([[[10, 10, 20, 20]]], [[0]])
    table = evaluated(only_small, [detections([[10, 10, 20, 20]], [1], [0])]).table()
    assert "n/a  > 96 x 96  (no such objects)" in table


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("backend", BACKENDS)
def test_detections_of_the_released_network(data_folder, backend):
    """OpenCV's run of the released SSDLite on 128 images of val2017: .357, .550 and .361 by pycocotools."""
    results = "weights/ssd_mobilenet_v3_large_coco/detections_coco128_val2017.json"
    files = ("coco128/instances_val2017_128.json", results)
    annotations, outputs, classes = coco_files(data_folder, *files)
    result = evaluated(annotations, outputs, backend=backend, classes=classes).compute()
    expected = (0.357, 0.550, 0.361)
    np.testing.assert_allclose([result[name] for name in TWELVE[:3]], expected, rtol=0, atol=6e-4)
    plain, _ = plain_pycocotools(*(data_folder / name for name in files))
    np.testing.assert_allclose([result[name] for name in TWELVE], plain, rtol=0, atol=1e-6)
