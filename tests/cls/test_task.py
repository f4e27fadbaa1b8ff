"""The classification task: losses, mixing, distillation, drawings."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from cls.augment.mix import Mix
from cls.data.dataset import ClassificationDataset, ClassificationSplit
from cls.report import ClassificationReporter
from cls.task import Classification
from cls.transforms import EvalTransform
from engine.data.class_map import ClassMap
from engine.data.images import read_image, write_png
from engine.io.files import pack_paths
from engine.train.distillation import Distillation

CLASSES = ClassMap(names=("dark", "gray", "light"), ids=(5, 9, 1))


class Brightness(nn.Module):
    """Scores by the distance of the mean pixel from -1, 0, 1 (normalized)."""

    def __init__(self, sharpness=10.0):
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(sharpness))

    def forward(self, images):
        mean = images.mean((1, 2, 3))[:, None]
        return -self.sharpness * (mean - torch.tensor([-1.0, 0.0, 1.0])) ** 2


def task(**options):
    options = {"eval_transform": EvalTransform(crop=16)} | options
    return Classification(model=Brightness(), classes=CLASSES, **options)


def batch(values=(0, 128, 255), labels=(0, 1, 2)):
    pixels = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 16, 16)
    return {"image": pixels, "label": torch.tensor(labels), "index": torch.arange(len(values))}


def test_loss_is_the_mean_cross_entropy():
    losses = task()(batch((0, 128, 255), (0, 1, 1)))
    assert losses.keys() == {"cross_entropy"}
    # The third: scores 0 for "light", -10 for "gray"; exp(-40) is nothing.
    third = np.log(1 + np.exp(10))
    others = np.log(1 + np.exp(-10)) + np.log(1 + 2 * np.exp(-10))
    assert losses["cross_entropy"].item() == pytest.approx((others + third) / 3, rel=1e-2)
    assert task().weight(batch()).item() == 3


def test_label_smoothing_spreads_a_share():
    plain, smooth = task(), task(label_smoothing=0.3)
    scores = plain.predict(batch())
    expected = -(torch.log_softmax(scores, 1) * (0.7 * torch.eye(3) + 0.1)).sum(1).mean()
    assert smooth(batch())["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_gives_both_labels_a_share(kind):
    torch.manual_seed(0)
    one = batch((0, 255), (0, 2))
    pixels, shares = Mix(**{kind: 1.0})(one["image"].float(), one["label"], 3)
    assert shares.shape == (2, 3)
    torch.testing.assert_close(shares.sum(1), torch.ones(2))
    # An image's mean is its share of white, in mixup and in CutMix.
    torch.testing.assert_close(pixels.mean((1, 2, 3)) / 255, shares[:, 2], atol=1e-5, rtol=0)
    assert 0 < shares[0, 2] < 1


def test_mixing_happens_only_in_training_and_with_its_probability():
    mixed = task(mix=Mix(mixup=1.0))
    plain = task()(batch())["cross_entropy"]
    assert mixed.eval()(batch())["cross_entropy"] == plain
    torch.manual_seed(0)
    assert mixed.train()(batch())["cross_entropy"] > plain
    half = Mix(mixup=1.0, probability=0.5)
    mixed_batches = [half(batch()["image"].float(), batch()["label"], 3)[1].dim() == 2 for _ in range(100)]
    assert 25 < sum(mixed_batches) < 75
    assert Mix()(batch()["image"].float(), batch()["label"], 3)[1].dim() == 1


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_alpha_decides_how_even_the_shares_are(kind):
    """With Beta(1000, 1000) the shares are even, but for CutMix's rectangles that the border cuts off."""
    torch.manual_seed(0)
    one = batch((0, 255), (0, 2))

    def shares(alpha):
        mix = Mix(**{kind: alpha})
        return torch.stack([mix(one["image"].float(), one["label"], 3)[1][0, 2] for _ in range(40)])

    least = 0.4 if kind == "mixup" else 0.1
    assert least < shares(1000).min() < shares(1000).max() < 0.6
    assert shares(1).min() < 0.05


def test_with_both_kinds_each_batch_gets_one_of_them():
    torch.manual_seed(0)
    one = batch((0, 255), (0, 2))
    mix = Mix(mixup=1000, cutmix=1000)
    blended = [
        ((pixels > 1) & (pixels < 254)).all().item()
        for pixels in (mix(one["image"].float(), one["label"], 3)[0] for _ in range(30))
    ]
    assert 5 < sum(blended) < 25
    never = Mix(mixup=1.0, probability=0)
    assert all(never(one["image"].float(), one["label"], 3)[1].dim() == 1 for _ in range(20))


def test_distillation_draws_scores_towards_the_teachers():
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    student = task()
    student.distillation = Distillation(teacher=teacher, weight=0.5, temperature=2.0)
    losses = student(batch())
    ours = torch.softmax(student.predict(batch()) / 2, 1)
    theirs = torch.softmax(teacher(batch()["image"].float()) / 2, 1)
    expected = 0.5 * 4 * (theirs * (theirs.log() - ours.log())).sum(1).mean()
    assert losses["distillation"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert list(student.state_dict()) == ["model.sharpness"]  # the teacher is in no checkpoint
    assert copy.deepcopy(student).distillation is student.distillation
    losses["distillation"].backward()
    assert student.model.sharpness.grad is not None


def test_unlabeled_images_count_for_distillation_only():
    student = task()
    student.distillation = Distillation(teacher=nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)))
    one = batch()
    other = {**one, "image": 255 - one["image"]}
    alone, of_other = student(one), student(other)
    both = student({**one, "unlabeled": other["image"]})
    assert both["cross_entropy"] == alone["cross_entropy"]
    mean = (alone["distillation"] + of_other["distillation"]) / 2
    assert both["distillation"].item() == pytest.approx(mean.item(), rel=1e-5)


def test_scores_equal_to_the_teachers_have_no_distillation_loss():
    scores = torch.randn(4, 3, 5, 5)
    loss = Distillation(teacher=nn.Identity(), temperature=3.0).loss
    assert loss(scores, scores.clone()).item() == pytest.approx(0, abs=1e-6)
    counted = torch.zeros(4, 5, 5, dtype=torch.bool)
    assert loss(scores, torch.randn(4, 3, 5, 5), counted).item() == 0
    counted[0, 0, 0] = True
    other = scores.clone()
    other[0, :, 1:] += torch.randn(3, 4, 5)
    assert loss(scores, other, counted).item() == pytest.approx(0, abs=1e-6)


def test_predictions_drawings_and_evaluations_are_saved(tmp_path):
    for value, name in ((0, "a"), (120, "b"), (255, "c")):
        write_png(tmp_path / f"{name}.png", np.full((20, 30, 3), value, np.uint8))
    split = ClassificationSplit(
        root=str(tmp_path),
        files=pack_paths(["a.png", "b.png", "c.png"]),
        labels=np.array([0, 2, 2], np.int32),
    )
    dataset = ClassificationDataset(split=split, transform=EvalTransform(crop=16), seed=0)
    one = task()
    probabilities = one.predict_image(read_image(tmp_path / "c.png"))
    assert probabilities.argmax() == 2
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    reporter = ClassificationReporter(one)
    record = reporter.save_prediction(probabilities, tmp_path, "c")
    assert [row["name"] for row in record["classes"]] == ["light", "gray", "dark"]
    assert record["classes"][0]["id"] == 1
    evaluator = one.evaluator(dataset)
    images = torch.stack([torch.full((3, 16, 16), value, dtype=torch.uint8) for value in (0, 120, 255)])
    rows = {"image": images, "label": torch.tensor([0, 2, 2]), "index": torch.arange(3)}
    evaluator.update(one.predict(rows), rows)
    reporter.save_evaluation(evaluator, dataset, tmp_path, worst=2)
    text = (tmp_path / "per_class.txt").read_text()
    assert "light  predicted as  gray" in text
    assert (tmp_path / "confusion.png").exists()
    assert [path.name[:3] for path in (tmp_path / "worst").iterdir()] == ["01_"]
    reporter.save_samples(dataset, tmp_path / "samples", count=2)
    assert len(list((tmp_path / "samples").iterdir())) == 2
    assert read_image(tmp_path / "samples" / "a.png").shape[1] >= 240


def test_a_split_without_labels_or_with_other_classes_cannot_be_evaluated():
    split = ClassificationSplit(root="/x", files=pack_paths(["a.png"]))
    dataset = ClassificationDataset(split=split, transform=EvalTransform(crop=16), seed=0)
    with pytest.raises(ValueError, match=r"/x/a\.png: this split has no labels"):
        task().evaluator(dataset)
    with pytest.raises(ValueError, match="differ in name or order"):
        task().check_classes(ClassMap(names=("x",)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: task(label_smoothing=1.0), "label_smoothing must be"),
        (lambda: task(pixels="caffe"), "pixels must be"),
        (lambda: Mix(mixup=-1), "mixup is the alpha"),
        (lambda: Mix(probability=2), "probability must be"),
        (lambda: Mix(probability=0.5), "probability has no effect without mixup or cutmix; set one of them"),
        (lambda: Distillation(teacher=nn.Identity(), temperature=0), "distill.temperature must be a"),
        (lambda: Distillation(teacher=nn.Identity(), weight="abc"), "distill.weight must be .* got 'abc'"),
    ],
)
def test_a_bad_argument_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
