"""Exported detection: fixed steps equal greedy suppression, and files predict like the task."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from backbones.mobilenet_v3 import mobilenet_v3_small
from deploy.artifact import Artifact
from deploy.eager import eager_session
from deploy.export.module import export_module
from deploy.formats import BUILT_IN, find, open_session
from deploy.metadata import describe
from det.anchors.generators import Cells
from det.boxes import DistanceCoder, pairwise_iou
from det.export.network import ExportedDetection
from det.export.suppression import Suppression, batched_iou, unpadded
from det.export.with_file import DetectionWithFile
from det.losses import FocalLoss, MultiboxLoss
from det.model import Detector
from det.panlite.assignment import TaskAligned
from det.panlite.head import PANLite
from det.panlite.losses import QualityLoss
from det.postprocess import Postprocess
from det.task import Detection
from det.transforms import EvalTransform
from engine.data.class_map import ClassMap
from tests.tools.commands import run

CLASSES = ClassMap(names=("dog", "car", "kite"), ids=(18, 3, 90))


def crowd(number, *, places=60, classes=3, count=2):
    """Boxes as fractions of an image around a few centers, so that chains of overlaps are long."""
    rng = torch.Generator().manual_seed(number)
    centers = torch.rand(count, 3, 2, generator=rng)[:, torch.randint(0, 3, (places,), generator=rng)]
    centers = centers + 0.08 * torch.randn(count, places, 2, generator=rng)
    sides = 0.1 + 0.3 * torch.rand(count, places, 2, generator=rng)
    boxes = torch.cat([centers - sides / 2, centers + sides / 2], -1).clamp(0, 1)
    scores = torch.rand(count, places, classes, generator=rng) ** 3
    return boxes, scores


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"iou_threshold": 0.3, "score_threshold": 0.2},
        {"per_class": 3},
        {"per_class": None, "candidates": 7, "iou_threshold": 0.45},
        {"max_detections": 5, "score_threshold": 0.0},
    ],
)
def test_fixed_steps_equal_greedy_suppression(limits):
    postprocess = Postprocess(**limits)
    suppression = Suppression(postprocess=postprocess)
    for number in range(20):
        boxes, scores = crowd(number)
        *padded, exact = suppression(boxes, scores)
        assert exact.all()
        rows = unpadded(*padded, torch.ones(2, 2))
        for row, image_boxes, image_scores in zip(rows, boxes, scores, strict=True):
            expected = postprocess.select(image_boxes, image_scores)
            assert torch.equal(row.labels, expected.labels)
            assert torch.equal(row.scores, expected.scores)
            assert torch.equal(row.boxes, expected.boxes)


def test_exact_is_false_if_steps_or_look_are_too_small():
    """Each box in a row covers the next one, so every box takes one more step to decide."""
    left = torch.arange(12) * 0.02
    boxes = torch.stack([left, torch.zeros(12), left + 0.1, torch.ones(12)], 1)[None]
    scores = torch.linspace(0.9, 0.5, 12)[None, :, None]
    postprocess = Postprocess(iou_threshold=0.6)
    expected = postprocess.select(boxes[0], scores[0])
    assert len(expected.labels) == 6  # every second one
    for steps, exact in ((3, False), (11, False), (13, True)):
        *padded, is_exact = Suppression(postprocess=postprocess, steps=steps)(boxes, scores)
        assert bool(is_exact) is exact
        if exact:
            assert torch.equal(unpadded(*padded, torch.ones(1, 2))[0].scores, expected.scores)
    limited = Postprocess(iou_threshold=0.6, max_detections=5)
    assert not Suppression(postprocess=limited, look=6, steps=13)(boxes, scores)[3]
    assert Suppression(postprocess=limited, look=11, steps=13)(boxes, scores)[3]


def test_missing_detections_are_padded():
    boxes, scores = crowd(0)
    scores[1] = 0
    boxes, scores, labels, exact = Suppression(postprocess=Postprocess(max_detections=50))(boxes, scores)
    assert boxes.shape == (2, 50, 4)
    assert (labels[1] == -1).all()
    assert not boxes[1].any()
    assert not scores[1].any()
    assert exact.all()
    assert len(unpadded(boxes, scores, labels, torch.ones(2, 2))[1].labels) == 0


def test_batched_iou_equals_pairwise_iou():
    boxes, _ = crowd(3)
    boxes[0, 5] = 0  # empty boxes overlap nothing, not even themselves
    for iou, image_boxes in zip(batched_iou(boxes), boxes, strict=True):
        torch.testing.assert_close(iou, pairwise_iou(image_boxes, image_boxes))


class Net(nn.Module):
    """Deltas and scores that depend on the image."""

    def __init__(self, places=80):
        super().__init__()
        torch.manual_seed(0)
        corner = torch.rand(places, 2) * 0.6
        self.register_buffer("anchors", torch.cat([corner, corner + 0.1 + 0.3 * torch.rand(places, 2)], 1))
        self.pool, self.places = nn.AdaptiveAvgPool2d(4), places
        self.boxes, self.scores = nn.Linear(48, places * 4), nn.Linear(48, places * 4)

    def forward(self, images):
        features = self.pool(images).flatten(1) * 3
        return (
            self.boxes(features).unflatten(1, (self.places, 4)),
            self.scores(features).unflatten(1, (self.places, 4)),
        )


def task(activation="sigmoid", **limits):
    return Detection(
        model=Net(),
        classes=CLASSES,
        loss=FocalLoss() if activation == "sigmoid" else MultiboxLoss(),
        eval_transform=EvalTransform(size=(32, 48)),
        postprocess=Postprocess(activation=activation, **limits),
    ).eval()


def anchor_free(**limits):
    """PANLite at a size that its strides do not divide, with confident scores."""
    torch.manual_seed(0)
    model = Detector(
        backbone=mobilenet_v3_small(width_mult=0.35),
        num_classes=3,
        input_size=(40, 56),
        anchors=Cells(),
        head=partial(PANLite, width=8, bins=4, depth=1),
        c3="block",
        c4="block",
        c5="block",
    )
    for predictor in (*model.head.boxes, *model.head.scores):
        torch.nn.init.normal_(predictor.weight, std=0.1)
        torch.nn.init.normal_(predictor.bias)
    # With the statistics of a batch, the outputs depend on the image.
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        model.train()(torch.rand(4, 3, 40, 56) * 2 - 1)
    return Detection(
        model=model,
        classes=CLASSES,
        loss=QualityLoss(),
        matcher=TaskAligned(),
        eval_transform=EvalTransform(size=(40, 56)),
        postprocess=Postprocess(coder=DistanceCoder(), background_column=False, **limits),
    ).eval()


def images_of(count=1, seed=0, size=(32, 48)):
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 3, size[0] // 8, size[1] // 8), np.uint8)
    return coarse.repeat(8, 2).repeat(8, 3)


def exported(module, path, **options):
    kind = next(name for name in BUILT_IN if path.name.endswith(find(name).SUFFIX))
    texts = describe(module, task="det", facts={})
    example = torch.from_numpy(images_of())
    export_module(module, example, path, format=kind, names=module.names, metadata=texts, **options)
    return Artifact(open_session(path), path)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_exported_detections_equal_those_of_the_task(activation):
    plain = task(activation, score_threshold=0.3, iou_threshold=0.4)
    sizes = torch.tensor([[100, 200], [64, 48], [30, 40]])
    images = torch.from_numpy(images_of(3))
    with torch.inference_mode():
        expected = plain.predict({"image": images, "size": sizes})
        *padded, exact = ExportedDetection(task=plain, output="detections")(images)
    assert exact.all()
    assert any(len(part.labels) for part in expected)
    for one, other in zip(unpadded(*padded, sizes), expected, strict=True):
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.scores, other.scores)
        torch.testing.assert_close(one.boxes, other.boxes)


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("m.onnx", "onnx"),
        pytest.param("m.pt2", "torch", marks=pytest.mark.slow),
        pytest.param("m.xml", "openvino", marks=pytest.mark.slow),
    ],
)
def test_files_with_suppression_at_batch_1_and_n(tmp_path, name, library):
    pytest.importorskip(library)
    module = ExportedDetection(task=task(), output="detections")
    session = exported(module, tmp_path / name, dynamic_batch=True).session
    assert session.output_names == ("boxes", "scores", "labels", "exact")
    for count in (1, 3):
        images = images_of(count, seed=count)
        expected, actual = eager_session(module)(images), session(images)
        assert actual[3].all()
        assert (actual[2] == expected[2]).all()
        np.testing.assert_allclose(actual[0], expected[0], atol=1e-4)
        np.testing.assert_allclose(actual[1], expected[1], atol=1e-5)
        assert module.agreement(expected, actual) == 1


@pytest.mark.parametrize("output", ["raw", "detections"])
@pytest.mark.parametrize(
    ("name", "library"),
    [
        pytest.param("m.onnx", "onnx", marks=pytest.mark.slow),
        pytest.param("m.xml", "openvino", marks=pytest.mark.slow),
    ],
)
def test_files_of_an_anchor_free_head_predict_like_the_task(tmp_path, name, library, output):
    pytest.importorskip(library)
    plain, images = anchor_free(), images_of(1, size=(40, 56))
    module = ExportedDetection(task=plain, output=output)
    texts = describe(module, task="det", facts={})
    kind = {"onnx": "onnx", "openvino": "openvino"}[library]
    export_module(
        module, torch.from_numpy(images), tmp_path / name, format=kind, names=module.names, metadata=texts
    )
    artifact = Artifact(open_session(tmp_path / name), tmp_path / name)
    expected, actual = eager_session(module)(images), artifact.session(images)
    assert module.agreement(expected, actual) == 1
    batch = {"image": torch.from_numpy(images), "size": torch.tensor([[100, 200]])}
    with torch.inference_mode():
        (one,), (other,) = (
            plain.predict(batch),
            DetectionWithFile(task=plain, artifact=artifact).predict(batch),
        )
    assert len(one.labels) > 2
    assert torch.equal(one.labels, other.labels)
    torch.testing.assert_close(one.boxes, other.boxes, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("output", ["raw", "detections"])
def test_a_task_predicts_the_same_with_the_file(tmp_path, output):
    plain = task()
    batch = {"image": torch.from_numpy(images_of(3)), "size": torch.tensor([[100, 200], [64, 48], [30, 40]])}
    image = images_of(1, seed=5)[0].transpose(1, 2, 0).repeat(2, 0)
    with torch.inference_mode():
        expected = [*plain.predict(batch), plain.predict_image(image)]
    artifact = exported(
        ExportedDetection(task=plain, output=output), tmp_path / "m.pt2"
    )  # for one image at a time
    with_file = DetectionWithFile(task=plain, artifact=artifact)
    with torch.inference_mode():
        actual = [*with_file.predict(batch), with_file.predict_image(image)]
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.boxes, other.boxes)


@pytest.mark.parametrize("output", ["raw", "detections"])
def test_a_file_is_scored_with_its_own_limits_and_those_of_the_task(output):
    """A file that returns detections was made with limits that no option changes any more."""
    made = task()
    made.postprocess = Postprocess(max_detections=7, per_class=5, score_threshold=0.2, iou_threshold=0.5)
    metadata = describe(ExportedDetection(task=made, output=output), task="det", facts={})
    artifact = Artifact(SimpleNamespace(metadata=metadata, dtype="uint8"), Path("m.onnx"))
    plain = task()
    plain.postprocess = Postprocess(max_detections=300, per_class=None, score_threshold=0.01)
    plain.scored_per_class = 250
    with_file = DetectionWithFile(task=plain, artifact=artifact)
    limits, chosen = with_file.object_limits, with_file.postprocess
    assert limits.scored_per_class == 250
    expected = (7, 5, 0.2, 0.5) if output == "detections" else (300, None, 0.01, 0.6)
    assert (*limits[:2], chosen.score_threshold, chosen.iou_threshold) == expected
    assert chosen.coder is plain.postprocess.coder


def test_agreement_counts_each_detection_once():
    module = ExportedDetection(task=task(), output="detections")
    box = [0.1, 0.1, 0.5, 0.5]

    def outputs(*rows):
        boxes, scores, labels = (np.array([part]) for part in zip(*rows, strict=True))
        return [boxes.astype(np.float32), scores.astype(np.float32), labels]

    ours = outputs((box, 0.9, 0), (box, 0.8, 1))
    assert module.agreement(ours, ours) == 1
    assert module.agreement(ours, outputs((box, 0.9, 0), (box, 0.8, 2))) == 0.5  # another class
    assert module.agreement(ours, outputs((box, 0.9, 0), (box, 0.7, 1))) == 0.5  # another score
    assert module.agreement(ours, outputs((box, 0.9, 0), ([0.1, 0.1, 0.5, 0.4], 0.8, 1))) == 0.5  # IoU 0.75
    twice = outputs((box, 0.9, 0), (box, 0.9, 0))
    assert module.agreement(ours, twice) == 0.5  # one of ours twice
    assert module.agreement(twice, ours) == 0.5  # one of theirs matches only one of ours
    assert module.agreement(ours, outputs((box, 0.9, 0), (box, 0.0, -1))) == 0.5  # one missing
    nothing = outputs((box, 0.0, -1))
    assert module.agreement(nothing, nothing) == 1


def test_agreement_does_not_count_ties_that_did_not_fit():
    """Four places; the best detection is common, and the rest of each output ties with what it left out."""
    module = ExportedDetection(task=task(max_detections=4))
    boxes = [[left / 10, 0, left / 10 + 0.05, 0.5] for left in range(8)]

    def outputs(places, scores):
        chosen = [boxes[place] for place in places]
        return [np.array([part], np.float32) for part in (chosen, scores)] + [np.zeros((1, len(places)), int)]

    ours = outputs([0, 1, 2, 3], [0.9, 0.5, 0.3, 0.3])
    assert module.agreement(ours, outputs([0, 1, 4, 5], [0.9, 0.5, 0.3, 0.3])) == 1
    assert module.agreement(ours, outputs([0, 1, 2, 4], [0.9, 0.5, 0.3, 0.3])) == 1
    assert module.agreement(ours, outputs([0, 6, 2, 4], [0.9, 0.5, 0.3, 0.3])) == 2 / 3  # 0.5 is not a tie
    assert module.agreement(ours, outputs([0, 1, 4, 5], [0.9, 0.5, 0.29, 0.29])) == 2 / 4
    assert module.agreement(ours, outputs([0, 1, 4], [0.9, 0.5, 0.3])) == 2 / 4  # there was room


def test_agreement_does_not_count_ties_that_did_not_fit_into_their_class():
    """Two places per class, which class 0 fills; there is room for more of class 1."""
    plain = task()
    plain.postprocess = Postprocess(max_detections=9, per_class=2)
    module = ExportedDetection(task=plain)

    def outputs(*rows):
        boxes, scores, labels = zip(
            *(((x / 10, 0, x / 10 + 0.05, 0.5), score, label) for x, score, label in rows), strict=True
        )
        return [np.array([boxes], np.float32), np.array([scores], np.float32), np.array([labels])]

    ours = outputs((0, 0.9, 0), (1, 0.8, 1), (2, 0.3, 0))
    assert module.agreement(ours, outputs((0, 0.9, 0), (1, 0.8, 1), (3, 0.3, 0))) == 1
    assert module.agreement(ours, outputs((0, 0.9, 0), (1, 0.8, 1), (3, 0.29, 0))) == 2 / 3  # not a tie
    assert module.agreement(ours, outputs((0, 0.9, 0), (3, 0.8, 1), (2, 0.3, 0))) == 2 / 3  # there was room


def test_agreement_without_a_limit_per_class_still_allows_ties_at_the_total():
    plain = task()
    plain.postprocess = Postprocess(max_detections=2, per_class=None)
    module = ExportedDetection(task=plain)

    def outputs(*left):
        boxes = [[x / 10, 0, x / 10 + 0.05, 0.5] for x in left]
        return [np.array([part], np.float32) for part in (boxes, [0.9, 0.3])] + [np.array([[0, 0]])]

    assert module.agreement(outputs(0, 1), outputs(0, 2)) == 1
    assert module.agreement(outputs(0, 1), outputs(2, 1)) == 0.5  # 0.9 is not a tie


def test_agreement_does_not_count_scores_that_tie_with_the_threshold():
    plain = task()
    plain.postprocess = Postprocess(score_threshold=0.2)
    module = ExportedDetection(task=plain)

    def outputs(*scores):
        boxes = [[left / 10, 0, left / 10 + 0.05, 0.5] for left in range(len(scores))]
        return [np.array([part], np.float32) for part in (boxes, scores)] + [np.zeros((1, len(scores)), int)]

    assert module.agreement(outputs(0.9, 0.20004), outputs(0.9)) == 1
    assert module.agreement(outputs(0.9), outputs(0.9, 0.20004, 0.20001)) == 1
    assert module.agreement(outputs(0.9, 0.2002), outputs(0.9)) == 1 / 2
    assert module.agreement(outputs(0.20004), [part[:, :0] for part in outputs(0.9)]) == 1


def test_agreement_at_the_limits():
    """An IoU of 0.9 and scores that differ by 0.01 are the same detection; a bit less or more is not."""
    module = ExportedDetection(task=task(), output="detections")

    def outputs(bottom, score):
        box = np.array([[[0, 0, 1, bottom]]], np.float32)
        return [box, np.array([[score]], np.float32), np.array([[2]])]

    ours = outputs(1.0, 0.5)
    for bottom, score, same in (
        (0.91, 0.5, 1),
        (0.89, 0.5, 0),
        (1.0, 0.509, 1),
        (1.0, 0.491, 1),
        (1.0, 0.512, 0),
    ):
        assert module.agreement(ours, outputs(bottom, score)) == same
        assert module.agreement(outputs(bottom, score), ours) == same


def test_agreement_is_a_share_of_the_longer_list_over_all_images():
    """3 of 4 and 0 of 1: not the mean of the two shares, and not the better one."""
    module = ExportedDetection(task=task(), output="detections")
    boxes = np.array([[[n / 8, 0, (n + 1) / 8, 1] for n in range(4)]] * 2, np.float32)
    scores = np.full((2, 4), 0.5, np.float32)
    ours = [boxes, scores, np.array([[0, 1, 2, 0], [-1] * 4])]
    theirs = [boxes, scores, np.array([[0, 1, 2, -1], [1, -1, -1, -1]])]
    assert module.agreement(ours, theirs) == pytest.approx(3 / 5)
    assert module.agreement(theirs, ours) == pytest.approx(3 / 5)


def test_agreement_of_raw_outputs_is_that_of_their_detections():
    module = ExportedDetection(task=task(score_threshold=0.3), output="raw")
    with torch.inference_mode():
        ours = [output.numpy() for output in module(torch.from_numpy(images_of(2)))]
    assert module.agreement(ours, ours) == 1
    assert module.agreement(ours, [ours[0], ours[1] - 9]) == 0  # no detection reaches the threshold
    assert 0 < module.agreement(ours, [ours[0], ours[1] + np.float32(0.045)]) < 1
    assert module.agreement(ours, [ours[0] + np.float32(40), ours[1]]) < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "logits"}, "output must be detections or raw"),
        ({"dtype": "float16"}, "dtype must be"),
        ({"look": 0}, "look must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"look": 100, "output": "raw"}, "look is for output=detections; leave it out"),
        ({"steps": 2, "output": "raw"}, "steps is for output=detections; leave it out"),
    ],
)
def test_unknown_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        ExportedDetection(task=task(), **options)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "output"),
    [("onnx", "raw"), pytest.param("openvino", "detections", marks=pytest.mark.weekly)],
)
def test_the_released_detector_keeps_its_precision(tmp_path, data_folder, kind, output):
    """AP .357 and AP50 .550 on the first 128 images of val2017, as OpenCV's run of the original graph."""
    pytest.importorskip(kind)
    weights = data_folder / "weights" / "ssd_mobilenet_v3_large_coco" / "ssd_mnv3_large_coco_tf_weights.npz"
    data = [
        "data=coco", "data.workers=0", f"data.val.images={data_folder}/coco128/images/val2017",
        f"data.val.annotations={data_folder}/coco128/instances_val2017_128.json",
    ]  # fmt: skip
    run("prepare", "experiment=det/released", f"init_from={weights}", "run=released", cwd=tmp_path)
    text = run(
        "export", "run=released", f"format={kind}", f"output={output}", "out=file", *data, cwd=tmp_path
    )
    assert "agreement: 1.0000" in text
    file = tmp_path / "file" / f"model{find(kind).SUFFIX}"
    run("eval", "run=released", f"artifact={file}", "worst=0", *data, cwd=tmp_path)
    metrics = json.loads((tmp_path / "file" / "eval-val" / "metrics.json").read_text())
    assert metrics["map"] == pytest.approx(0.357, abs=0.001)
    assert metrics["map_50"] == pytest.approx(0.550, abs=0.001)
