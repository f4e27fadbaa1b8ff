"""The evaluator equals the official Cityscapes script, cases counted by hand, and a split evaluation."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.class_map import ClassMap
from engine.data.images import write_png
from engine.data.loader import SampleKey
from engine.prediction import SavedPredictions
from seg.data.cityscapes import CITYSCAPES_CLASSES
from seg.data.streets import streets
from seg.eval.evaluator import SegmentationEvaluator, confusion_matrix
from seg.report import SegmentationReporter
from seg.task import Segmentation
from seg.transforms import EvalTransform

THREE = ClassMap(names=("a", "b", "c"))
_IDS = np.array(CITYSCAPES_CLASSES.ids, np.uint8)


def batch(label, index=0, **more):
    return {"label": np.asarray(label, np.uint8)[None], "index": np.array([index]), **more}


def street(rng, allowed, size=(48, 96)):
    """Blocks of random label ids, with instance ids for classes that have them (24..33); some are groups."""
    ids = rng.choice(allowed, (size[0] // 8, size[1] // 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    number = rng.integers(0, 4, (size[0] // 8, size[1] // 16)).repeat(8, 0).repeat(16, 1)
    is_thing = (ids >= 24) & (ids <= 33) & (number < 3)  # number 3 stays a group: its id is the label id
    return ids, np.where(is_thing, ids.astype(np.uint16) * 1000 + number, ids).astype(np.uint16)


def corrupted(rng, ids, choices):
    """Contiguous predictions: correct on most scored pixels, else one of `choices`."""
    table = CITYSCAPES_CLASSES.lut()
    prediction = table[ids]
    wrong = (rng.random(ids.shape) < 0.3) | (prediction == 255)
    prediction[wrong] = rng.choice(choices, int(wrong.sum()))
    return prediction


CASES = {
    # name: label ids that occur, contiguous predictions that occur
    "everything": (list(range(34)), list(range(19))),
    "classes absent from labels and predictions": ([0, 3, 7, 8, 11, 24, 26, 29], [0, 1, 2, 11, 13]),
    "classes predicted but absent from the labels": ([4, 7, 8, 21, 26], [0, 1, 8, 13, 14, 18, 10]),
    "predictions outside the classes": (list(range(34)), [*range(19), 255]),
    "no instances": ([0, 7, 8, 11, 21, 22, 23], [0, 1, 2, 8, 9, 10]),
}


@pytest.fixture
def official(monkeypatch):
    """The evaluation script of cityscapesscripts, quiet and with instance scores."""
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script

    # The script still uses np.in1d, which numpy 2.4 removed.
    in1d = lambda values, among, invert=False: np.isin(np.ravel(values), among, invert=invert)  # noqa: E731
    monkeypatch.setattr(np, "in1d", in1d, raising=False)
    for option, value in {"JSONOutput": False, "quiet": True, "evalInstLevelScore": True}.items():
        monkeypatch.setattr(script.args, option, value)
    return script


def assert_equal(ours, expected):
    """Every figure of the official script, to 1e-9, NaN where it has NaN."""
    names, categories = CITYSCAPES_CLASSES.names, CITYSCAPES_CLASSES.category_names
    pairs = [
        (ours["miou"], expected["averageScoreClasses"]),
        (ours["iiou"], expected["averageScoreInstClasses"]),
        (ours["miou_category"], expected["averageScoreCategories"]),
        (ours["iiou_category"], expected["averageScoreInstCategories"]),
        *((ours[f"iou/{name}"], expected["classScores"][name]) for name in names),
        *((ours.get(f"iiou/{name}", math.nan), expected["classInstScores"][name]) for name in names),
        *((ours[f"iou_category/{name}"], expected["categoryScores"][name]) for name in categories),
    ]
    np.testing.assert_allclose(*zip(*pairs, strict=True), rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_official_script(tmp_path, official, case):
    rng = np.random.default_rng(len(case))
    evaluator = SegmentationEvaluator(classes=CITYSCAPES_CLASSES)
    predictions, truths = [], []
    for index in range(4):
        ids, instances = street(rng, *CASES[case][:1])
        prediction = corrupted(rng, ids, CASES[case][1])
        as_ids = np.where(prediction < 19, _IDS[np.minimum(prediction, 18)], 0).astype(np.uint8)
        truths.append(str(tmp_path / f"{index}_gtFine_labelIds.png"))
        predictions.append(str(tmp_path / f"{index}_prediction.png"))
        write_png(truths[-1], ids)
        write_png(truths[-1].replace("labelIds", "instanceIds"), instances)
        write_png(predictions[-1], as_ids)
        label = CITYSCAPES_CLASSES.lut()[ids]
        evaluator.update(prediction[None], batch(label, index, instances=instances.astype(np.int32)[None]))
    expected = official.evaluateImgLists(predictions, truths, official.args)

    ours = evaluator.compute()
    assert_equal(ours, expected)
    assert 0.2 < ours["miou"] < 0.9
    scored = np.array(expected["confMatrix"])[_IDS][:, _IDS]
    np.testing.assert_array_equal(evaluator.confusion[:, :19], scored)


def test_equal_to_the_official_script_on_streets_through_files(tmp_path, official, monkeypatch):
    """Images, labels and predictions go through files: our reader, our label-id writer, their file search."""
    root = tmp_path / "streets"
    data = streets(root=str(root), num_train=1, num_val=4, num_test=0, size=(96, 192), seed=5)
    dataset = data.dataset("val", EvalTransform())
    task = Segmentation(model=torch.nn.Identity(), classes=data.classes)
    saved, evaluator = SavedPredictions(SegmentationReporter(task), tmp_path), task.evaluator(dataset)
    rng = np.random.default_rng(0)
    for index in range(len(dataset)):
        sample = dataset[SampleKey(index, 0)]
        one = {name: sample[name][None] for name in ("label", "instances")} | {"index": torch.tensor([index])}
        wrong = torch.from_numpy(
            (rng.random(sample["label"].shape) < 0.25) | (sample["label"] == 255).numpy()
        )
        noise = torch.from_numpy(rng.integers(0, 19, sample["label"].shape, np.uint8))
        prediction = torch.where(wrong, noise, sample["label"])[None]
        evaluator.update(prediction, one)
        saved.add(dataset, one, prediction)

    truths = sorted(map(str, root.glob("gtFine/val/*/*_labelIds.png")))
    monkeypatch.setattr(official.args, "predictionPath", str(tmp_path / "masks"), raising=False)
    monkeypatch.setattr(official.args, "predictionWalk", None, raising=False)
    predictions = [official.getPrediction(official.args, truth) for truth in truths]
    expected = official.evaluateImgLists(predictions, truths, official.args)
    ours = evaluator.compute()
    assert ours["num_images"] == len(truths) == 4
    assert_equal(ours, expected)
    assert 0.3 < ours["miou"] < 0.9
    assert ours["iiou/person"] > 0
    assert ours["iiou/car"] > 0


def test_instance_areas_are_those_of_the_official_script():
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

    for name, area in zip(CITYSCAPES_CLASSES.names, CITYSCAPES_CLASSES.instance_areas, strict=True):
        assert area == official.args.avgClassSize.get(name, 0.0)


def test_a_case_counted_by_hand():
    """labels a a a b / b 255 255 c, predictions a b a b / b a c a: tp 2 2 0, fp 1 1 0, fn 1 0 1."""
    evaluator = SegmentationEvaluator(classes=THREE)
    evaluator.update(np.array([[[0, 1, 0, 1], [1, 0, 2, 0]]]), batch([[0, 0, 0, 1], [1, 255, 255, 2]]))
    result = evaluator.compute()
    assert result["iou/a"] == 2 / 4
    assert result["iou/b"] == 2 / 3
    assert result["iou/c"] == 0
    assert result["miou"] == pytest.approx((2 / 4 + 2 / 3) / 3)
    assert result["pixel_accuracy"] == 4 / 6
    assert math.isnan(result["miou_category"])
    assert "iiou" not in result
    assert result["num_classes_present"] == 3
    assert "3 of 3 classes present" in result["protocol"]


def test_an_absent_class_is_left_out_and_one_only_predicted_counts_as_zero():
    evaluator = SegmentationEvaluator(classes=THREE)
    evaluator.update(np.zeros((1, 2, 2), np.uint8), batch(np.zeros((2, 2))))
    result = evaluator.compute()
    assert result["miou"] == 1
    assert math.isnan(result["iou/b"])
    assert result["num_classes_present"] == 1
    assert "1 of 3 classes present" in evaluator.table()
    evaluator.update(np.array([[[0, 1]]]), batch([[0, 0]], 1))
    result = evaluator.compute()
    assert result["iou/b"] == 0
    assert result["miou"] == pytest.approx((5 / 6) / 2)
    assert "1 of 3 classes present in the labels, 2 in the mean" in result["protocol"]


def test_without_images_the_scores_are_nan_not_zero():
    result = SegmentationEvaluator(classes=CITYSCAPES_CLASSES).compute()
    assert math.isnan(result["miou"])
    assert math.isnan(result["pixel_accuracy"])
    assert result["num_images"] == 0


def test_prediction_outside_the_classes_is_a_miss_of_the_label_only():
    for outside in (3, 200, 255, -1, 10_000):
        evaluator = SegmentationEvaluator(classes=THREE)
        evaluator.update(np.array([[[0, outside]]], np.int64), batch([[0, 0]]))
        result = evaluator.compute()
        assert result["iou/a"] == 0.5
        assert result["miou"] == 0.5
        assert evaluator.confusion[0].tolist() == [1, 0, 0, 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_confusion_matrix_counts_pairs(num_classes, seed):
    rng = np.random.default_rng(seed)
    label = rng.choice([*range(num_classes), 255], (7, 9)).astype(np.uint8)
    prediction = rng.integers(0, 256, (7, 9)).astype(np.uint8)
    expected = np.zeros((num_classes, num_classes + 1), int)
    for truth, guess in zip(label.ravel(), prediction.ravel(), strict=True):
        if truth != 255:
            expected[truth, min(guess, num_classes)] += 1
    np.testing.assert_array_equal(confusion_matrix(label, prediction, num_classes), expected)


def counted(images, indices):
    evaluator = SegmentationEvaluator(classes=CITYSCAPES_CLASSES)
    for index in indices:
        label, instances, prediction = images[index]
        evaluator.update(
            torch.from_numpy(prediction)[None].long(),
            {
                "label": torch.from_numpy(label)[None],
                "index": torch.tensor([index]),
                "instances": torch.from_numpy(instances.astype(np.int32))[None],
            },
        )
    return evaluator


def test_parts_of_several_processes_add_up_exactly():
    """7 images in 1, 2 or 3 processes, in any order, give the same bits, also for the iIoU (float)."""
    rng = np.random.default_rng(5)
    images = []
    for _ in range(7):
        ids, instances = street(rng, list(range(34)))
        images.append((CITYSCAPES_CLASSES.lut()[ids], instances, corrupted(rng, ids, list(range(19)))))
    whole = counted(images, range(7)).compute()
    for shards in ([[6, 5, 4, 3, 2, 1, 0]], [[0, 2, 4, 6], [5, 3, 1]], [[1, 2], [0, 6, 5, 4, 3], []]):
        states = [counted(images, shard).state() for shard in shards]
        assert all(isinstance(value, np.ndarray) for state in states for value in state.values())
        merged = SegmentationEvaluator(classes=CITYSCAPES_CLASSES)
        merged.merge(states)
        assert merged.compute() == whole
        assert merged.worst(7) == counted(images, range(7)).worst(7)
    with pytest.raises(ValueError, match=r"image 3 .* two processes"):
        merged.merge([counted(images, [3]).state(), counted(images, [2, 3]).state()])


def test_the_state_grows_by_a_few_numbers_per_image():
    evaluator = SegmentationEvaluator(classes=THREE)
    sizes = []
    for index in range(200):
        evaluator.update(np.zeros((1, 64, 64), np.uint8), batch(np.zeros((64, 64)), index))
        sizes.append(sum(value.nbytes for value in evaluator.state().values()))
    assert sizes[-1] - sizes[0] == 199 * 16


def test_the_worst_images_come_first_with_their_names():
    evaluator = SegmentationEvaluator(classes=THREE, name_of=["zero", "one", "two", "three"].__getitem__)
    guesses = {0: [[0, 0, 0, 0]], 1: [[0, 1, 1, 1]], 2: [[0, 0, 0, 1]]}
    for index, guess in guesses.items():
        evaluator.update(np.array([guess]), batch([[0, 0, 0, 0]], index))
    evaluator.update(np.array([[[0]]]), batch([[255]], 3))  # nothing labeled: no score
    assert evaluator.worst(2) == [("one", 1, 0.125), ("two", 2, 0.375)]
    assert [name for name, *_ in evaluator.worst(9)] == ["one", "two", "zero"]
    unnamed = SegmentationEvaluator(classes=THREE)
    unnamed.update(np.array([[[0]]]), batch([[0]], 4))
    assert unnamed.worst(1) == [("4", 4, 1.0)]


def test_instance_ids_of_large_class_ids_count_alike():
    """Class 60000 has instances 60000001 and ...2; the weight of a pixel is 4 / (area of its instance)."""
    for number in (24, 60_000):
        classes = ClassMap(names=("a", "b"), ids=(number, 7), instance_areas=(4.0, 0.0))
        evaluator = SegmentationEvaluator(classes=classes)
        instances = np.array([[[1, 1, 1, 1, 2, 2, -1, -1]]]) + number * 1000
        instances[..., 6:] = 7
        label = [[0, 0, 0, 0, 0, 0, 1, 1]]
        evaluator.update(np.array([[[0, 1, 1, 1, 0, 0, 0, 1]]]), batch(label, instances=instances))
        # hits: 1 x 4/4 + 2 x 4/2, misses: 3 x 4/4, and one pixel of b is a false positive
        assert evaluator.compute()["iiou/a"] == pytest.approx(5 / (5 + 3 + 1))


def test_what_has_no_score_warns_of_nothing():
    evaluator = SegmentationEvaluator(classes=THREE)
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(evaluator.compute()["miou"])
        evaluator.update(np.zeros((1, 2, 2), np.uint8), batch(np.zeros((2, 2))))
        assert evaluator.compute()["miou"] == 1


def test_the_table_without_categories():
    evaluator = SegmentationEvaluator(classes=THREE)
    evaluator.update(np.array([[[0, 0, 1, 0]]]), batch([[0, 0, 0, 0]]))
    lines = evaluator.table().splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["class", "IoU", "%", "pixels", "%"],
        ["a", "75.00", "100.00"],
        ["b", "0.00", "0.00"],
        ["c", "n/a", "0.00"],
    ]
    assert lines[4] == "-" * len(lines[0])
    assert [line.split()[-1] for line in lines[5:7]] == ["37.50", "75.00"]
    assert lines[5].startswith("mean of classes ")
    assert lines[6].startswith("pixel accuracy ")
    assert (
        lines[7]
        == "1 of 3 classes present in the labels, 2 in the mean (predicted but absent: IoU 0), 1 image"
    )
    assert len(lines) == 8


def test_the_numbers_of_the_table_are_below_each_other_for_any_letters():
    """In a terminal, the second name takes 4 columns and the third 4; the title `mean of categories` 18."""
    names = ("road", "\u9053\u8def", "cafe\u0301")
    evaluator = SegmentationEvaluator(classes=ClassMap(names=names))
    evaluator.update(np.array([[[0, 1, 2, 2]]]), batch([[0, 1, 2, 2]]))
    gap = " " * 14
    assert evaluator.table().splitlines()[1:4] == [
        f"road{gap}  100.00     25.00",
        f"\u9053\u8def{gap}  100.00     25.00",
        f"cafe\u0301{gap}  100.00     50.00",
    ]


def test_the_share_of_the_pixels_of_a_single_one():
    evaluator = SegmentationEvaluator(classes=THREE)
    evaluator.update(np.array([[[1]]]), batch([[1]]))
    assert evaluator.table().splitlines()[2].split() == ["b", "100.00", "100.00"]


def test_the_table_with_instances_and_without_categories():
    """a has instances, b has none: 4 / 4 pixels of one, all hit; c is predicted at no pixel."""
    classes = ClassMap(names=("a", "b", "c"), ids=(1, 2, 3), instance_areas=(4.0, 0.0, 4.0))
    evaluator = SegmentationEvaluator(classes=classes)
    label = [[0, 0, 0, 0, 1, 1]]
    evaluator.update(np.array([label]), batch(label))
    assert "iIoU" not in evaluator.table()  # without instance ids
    instances = np.array([[[1000, 1001, 1001, 1001, 2000, 2]]])  # 1000 is a group
    evaluator.update(np.array([[[0, 0, 0, 1, 1, 1]]]), batch(label, 1, instances=instances))
    lines = [line.split() for line in evaluator.table().splitlines()]
    assert lines[0] == ["class", "IoU", "%", "pixels", "%", "iIoU", "%"]
    # a: hits 2 x 4/3, misses 1 x 4/3, no false positives
    assert lines[1] == ["a", "87.50", "66.67", "66.67"]
    assert lines[2] == ["b", "80.00", "33.33"]
    assert lines[3] == ["c", "n/a", "0.00", "n/a"]
    assert lines[5] == ["mean", "of", "classes", "83.75", "66.67"]
    assert lines[6][:2] == ["pixel", "accuracy"]


def test_misuse_is_named():
    evaluator = SegmentationEvaluator(classes=THREE)
    with pytest.raises(ValueError, match="resize the logits"):
        evaluator.update(np.zeros((1, 2, 2), np.uint8), batch(np.zeros((4, 4))))
    with pytest.raises(ValueError, match="argmax"):
        evaluator.update(np.zeros((1, 2, 2), np.float32), batch(np.zeros((2, 2))))
    with pytest.raises(ValueError, match="label 3 is neither"):
        evaluator.update(np.zeros((1, 1, 1), np.uint8), batch([[3]]))
    evaluator.reset()
    evaluator.update(np.zeros((1, 1, 1), np.uint8), batch([[0]]))
    with pytest.raises(ValueError, match="counted already"):
        evaluator.update(np.zeros((1, 1, 1), np.uint8), batch([[0]]))


def test_the_table_lists_every_class_and_the_means():
    rng = np.random.default_rng(1)
    ids, instances = street(rng, list(range(34)))
    label, prediction = CITYSCAPES_CLASSES.lut()[ids], corrupted(rng, ids, list(range(19)))
    evaluator = counted([(label, instances, prediction)], [0])
    table, result = evaluator.table(), evaluator.compute()
    lines = {line[:18].strip(): line[18:].split() for line in table.splitlines()}
    assert float(lines["traffic light"][0]) == pytest.approx(100 * result["iou/traffic light"], abs=0.006)
    assert float(lines["car"][2]) == pytest.approx(100 * result["iiou/car"], abs=0.006)
    assert [float(x) for x in lines["mean of classes"]] == [
        pytest.approx(100 * result[key], abs=0.006) for key in ("miou", "iiou")
    ]
    assert len(lines["sky"]) == 2  # no instances
    assert f"{result['num_classes_present']} of 19 classes present" in table
    assert table.splitlines()[-1].startswith("iIoU: IoU in which every object counts the same")
