"""The detection task: losses over micro-batches, boxes in pixels, and errors."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from backbones.mobilenet_v3 import mobilenet_v3_small
from det.anchors.generators import SSDAnchors
from det.boxes import BoxCoder, DistanceCoder
from det.data.dataset import DetectionDataset
from det.losses import FocalLoss, MultiboxLoss
from det.model import Detector
from det.panlite.assignment import TaskAligned
from det.panlite.losses import QualityLoss
from det.postprocess import Postprocess
from det.task import Detection
from det.transforms import EvalTransform
from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.train.distillation import Distillation
from engine.train.distillation.teachers import Teacher
from tests.det.eval.scenes import annotate

CLASSES = ClassMap(names=("cat", "dog"), ids=(17, 3))
ANCHORS = torch.tensor(
    [[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5], [0.0, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]]
)


class FourAnchors(nn.Module):
    """Predicts the same for every image of 64 x 128."""

    def __init__(self, scores):
        super().__init__()
        self.anchors = ANCHORS
        self.scores = nn.Parameter(torch.tensor(scores))

    def forward(self, images):
        count = len(images)
        places = images.shape[-2] * images.shape[-1] // (32 * 64)
        return torch.zeros(count, places, 4), self.scores[None].expand(count, -1, -1)


def task(scores=None, **options):
    scores = [[0.0, -9.0, -9.0]] * 4 if scores is None else scores
    return Detection(
        model=FourAnchors(scores), classes=CLASSES, eval_transform=EvalTransform(size=(64, 128)), **options
    )


def batch(*boxes, size=(64, 128)):
    """Images with boxes of class 0."""
    return {
        "image": torch.zeros(len(boxes), 3, *size, dtype=torch.uint8),
        "boxes": [torch.tensor(rows, dtype=torch.float32).reshape(-1, 4) for rows in boxes],
        "labels": [torch.zeros(len(rows), dtype=torch.int64) for rows in boxes],
    }


LEFT_TOP, RIGHT_TOP = (0, 0, 64, 32), (64, 0, 128, 32)


def test_micro_batches_add_up_to_the_batch():
    images = [[LEFT_TOP], [LEFT_TOP, RIGHT_TOP], [RIGHT_TOP]]
    torch.manual_seed(0)
    detection = task(torch.randn(4, 3).tolist())
    whole = batch(*images)
    assert detection.weight(whole) == 4
    parts = [batch(*images[:1]), batch(*images[1:])]
    weights = [detection.weight(part) for part in parts]
    assert [int(weight) for weight in weights] == [1, 3]
    losses = [detection(part) for part in parts]
    for name, value in detection(whole).items():
        mean = sum(loss[name] * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)
        torch.testing.assert_close(mean, value)


def test_images_without_boxes_have_a_finite_loss_and_weight_1():
    detection, empty = task(), batch([], [])
    losses = detection(empty)
    assert losses["localization"] == 0
    assert 0 < losses["classification"] < float("inf")
    assert detection.weight(empty) == 1


def test_boxes_are_in_pixels_of_the_image():
    """The second anchor, the top right quarter, sees a dog."""
    scores = [[0.0, -9.0, -9.0] for _ in range(4)]
    scores[1][2] = 2.0
    detection = task(scores).eval()
    boxes, scores, labels = detection.predict_image(np.zeros((100, 300, 3), np.uint8))
    best = int(scores.argmax())
    assert boxes[best].tolist() == [150, 0, 300, 50]
    assert scores[best].item() == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-4)
    assert labels[best].item() == 1


def test_the_activation_must_be_that_of_the_loss():
    task(loss=MultiboxLoss(), postprocess=Postprocess(activation="softmax"))
    with pytest.raises(ValueError, match=r"set task\.postprocess.activation=softmax, not sigmoid"):
        task(loss=MultiboxLoss())
    with pytest.raises(ValueError, match=r"set task\.postprocess.activation=sigmoid, not softmax"):
        task(loss=FocalLoss(), postprocess=Postprocess(activation="softmax"))
    with pytest.raises(ValueError, match="draw_threshold is a score"):
        task(draw_threshold=1.5)


def test_images_of_another_size_than_the_anchors_are_rejected():
    with pytest.raises(UserError, match=r"produces images of 64 x 64, .* set only data\.size"):
        task()(batch([LEFT_TOP], size=(64, 64)))


def test_a_single_image_that_leaves_batch_norm_one_value_is_rejected():
    net = mobilenet_v3_small(output_stride=32)
    model = Detector(backbone=net, num_classes=2, input_size=32, anchors=SSDAnchors())
    detection = Detection(model=model, classes=CLASSES, eval_transform=EvalTransform(size=32)).train()
    with pytest.raises(UserError, match=r"increase data\.size or trainer\.batch"):
        detection(batch([(0, 0, 20, 20)], size=(32, 32)))
    losses = detection(batch([(0, 0, 20, 20)], [], size=(32, 32)))
    assert all(loss.isfinite() for loss in losses.values())


def test_the_limits_on_boxes_reach_the_evaluation_and_the_notes():
    labels = np.zeros(150, np.int64)
    split = annotate([np.tile([0, 0, 9, 9], (150, 1)) + np.arange(150)[:, None]], [labels])
    dataset = DetectionDataset(split=split, classes=CLASSES, transform=EvalTransform(size=(64, 128)))
    detection = task()
    assert detection.evaluator(dataset).max_detections == [1, 10, 100]
    assert "task.scored_per_class=150" in detection.notes(dataset)[-1]
    post = Postprocess(max_detections=150, per_class=150)
    detection = task(postprocess=post, scored_per_class=150)
    assert detection.evaluator(dataset).max_detections == [1, 10, 150]
    assert not any("can be predicted" in line for line in detection.notes(dataset))
    with pytest.raises(ValueError, match="scored_per_class must be at least 1, got 0"):
        task(scored_per_class=0)


def test_boxes_are_drawn_from_the_runs_best_score_on_unless_a_threshold_is_set():
    chosen = task()
    assert (chosen.draw_threshold, chosen.threshold_source) == (0.4, "the default")
    for unknown in ({}, {"best_f1_threshold": float("nan")}, {"best_f1_threshold": None}):
        chosen.use_metrics(unknown)
        assert chosen.draw_threshold == 0.4
    chosen.use_metrics({"best_f1_threshold": 0.75, "map": 0.3})
    assert (chosen.draw_threshold, chosen.threshold_source) == (0.75, "the best F1 of the run's evaluation")
    chosen = task(draw_threshold=0.2)
    chosen.use_metrics({"best_f1_threshold": 0.75})
    assert (chosen.draw_threshold, chosen.threshold_source) == (0.2, "task.draw_threshold")


def test_the_network_the_loss_the_matcher_and_the_postprocessing_must_agree():
    plain = Postprocess(background_column=False)
    distances = Postprocess(background_column=False, coder=DistanceCoder())
    with pytest.raises(
        ValueError, match=r"QualityLoss trains have none, those that task\.postprocess reads have a"
    ):
        task(loss=QualityLoss(), matcher=TaskAligned(), postprocess=Postprocess(coder=DistanceCoder()))
    with pytest.raises(
        ValueError, match=r"matcher encodes boxes with DistanceCoder, .* with BoxCoder; set the same"
    ):
        task(loss=QualityLoss(), matcher=TaskAligned(), postprocess=plain)
    task(loss=QualityLoss(), matcher=TaskAligned(), postprocess=distances)
    model = FourAnchors([[0.0, -9.0, -9.0]] * 4)
    model.background_column = True
    with pytest.raises(ValueError, match=r"network's scores have a column.*leave out loss="):
        Detection(
            model=model, classes=CLASSES, eval_transform=EvalTransform(size=64), loss=QualityLoss(),
            matcher=TaskAligned(), postprocess=distances,
        )  # fmt: skip


def taught(teacher, *, weight=1.0):
    student = task([[0.0, 0.0, -9.0]] * 4)
    student.distillation = Distillation(teacher=teacher, weight=weight)
    return student


def test_the_distillation_loss_is_a_mean_over_matched_anchors():
    teacher = FourAnchors([[0.0, 2.0, -9.0]] * 4)
    images = batch([LEFT_TOP], [LEFT_TOP, RIGHT_TOP])  # three matches among eight anchors
    expected = 8 * (sigmoid(2) - 0.5) ** 2 * math.log(2) / 3
    for weight in (1.0, 0.5):
        losses = taught(teacher, weight=weight)(dict(images))
        assert losses["distillation"].item() == pytest.approx(weight * expected, rel=1e-5)
    assert "distillation" not in task()(dict(images))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_teachers_with_other_anchors_are_refused():
    moved = FourAnchors([[0.0, 0.0, 0.0]] * 4)
    moved.anchors = ANCHORS / 2
    fewer = FourAnchors([[0.0, 0.0, 0.0]] * 4)
    fewer.anchors = ANCHORS[:2]
    for teacher, message in [
        (moved, r"its anchors \(4\) differ from this network's \(4\)"),
        (fewer, r"its anchors \(2\) differ from this network's \(4\)"),
        (nn.Linear(1, 1), "must be the folder of a detection run"),
    ]:
        with pytest.raises(UserError, match=message):
            taught(teacher)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": MultiboxLoss(), "postprocess": Postprocess(activation="softmax")},
        {"loss": FocalLoss(background=True)},
        {"postprocess": Postprocess(coder=BoxCoder(scales=(1, 1, 1, 1)))},
    ],
)
def test_a_teacher_whose_outputs_mean_something_else_is_refused(options):
    """Their shapes are the same, so that it would silently teach nonsense."""
    theirs = task(**options)
    with pytest.raises(UserError, match="outputs do not mean the same; train both with the same loss="):
        taught(Teacher(theirs.model, theirs.normalize, theirs))
    same = task()
    taught(Teacher(same.model, same.normalize, same))
