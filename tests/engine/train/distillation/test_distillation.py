"""Distillation against values computed by hand, and which teachers are accepted."""

import copy
import math

import pytest
import torch
from torch import nn
from torchvision import models

from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.train.distillation import Distillation, teachers
from engine.train.distillation.teachers import Teacher, load_teacher

CLASSES = ClassMap(names=("a", "b"))


def distillation(**options):
    return Distillation(teacher=nn.Identity(), **options)


def divergence(teacher, student):
    return sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))


def test_the_loss_by_hand():
    """Teacher (0.8, 0.2), student (0.5, 0.5); at temperature 2 the teacher's become (2, 1) / 3."""
    student, teacher = torch.zeros(1, 2), torch.tensor([[0.8, 0.2]]).log()
    expected = divergence((0.8, 0.2), (0.5, 0.5))
    assert distillation().loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert distillation().loss(teacher, student).item() == pytest.approx(
        divergence((0.5, 0.5), (0.8, 0.2)), rel=1e-5
    )
    softer = 3 * 2**2 * divergence((2 / 3, 1 / 3), (0.5, 0.5))
    assert distillation(weight=3, temperature=2).loss(student, teacher).item() == pytest.approx(
        softer, rel=1e-5
    )


def test_the_mean_is_over_the_counted_pixels():
    student = torch.zeros(1, 2, 1, 3)
    teacher = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.5, 0.5]]).log().T[None, :, None, :]
    first, second = divergence((0.8, 0.2), (0.5, 0.5)), divergence((0.6, 0.4), (0.5, 0.5))
    loss = distillation().loss
    assert loss(student, teacher).item() == pytest.approx((first + second) / 3, rel=1e-5)
    for counted, expected in (
        ([True, False, True], first / 2),
        ([False, True, False], second),
        ([True, True, False], (first + second) / 2),
        ([False, False, False], 0),
    ):
        assert loss(student, teacher, torch.tensor([[counted]])).item() == pytest.approx(expected, rel=1e-5)


def test_channel_wise_distillation_by_hand():
    """Class a: teacher (0.8, 0.2) over the two pixels, student (0.5, 0.5). Class b: equal."""
    teacher = torch.tensor([[[[0.8, 0.2]], [[0.3, 0.7]]]]).log()
    student = torch.tensor([[[[0.5, 0.5]], [[0.3, 0.7]]]]).log() + torch.tensor([5.0, -2.0])[:, None, None]
    loss = distillation(method="channels").loss
    expected = divergence((0.8, 0.2), (0.5, 0.5)) / 2
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    # At temperature 2 the teacher's shares of class a become (2, 1) / 3.
    softer = distillation(method="channels", temperature=2, weight=3).loss(student, teacher).item()
    assert softer == pytest.approx(3 * 2**2 * divergence((2 / 3, 1 / 3), (0.5, 0.5)) / 2, rel=1e-5)


def test_channel_wise_distillation_leaves_out_pixels_that_do_not_count():
    """A third pixel that does not count changes nothing, and neither does an image without counted pixels."""
    two = torch.tensor([[[[0.8, 0.2]], [[0.3, 0.7]]]]).log()
    three = torch.cat([two, torch.full((1, 2, 1, 1), 9.0)], dim=3)
    loss = distillation(method="channels").loss
    expected = loss(torch.zeros_like(two), two).item()
    counted = torch.tensor([[[True, True, False]]])
    assert loss(torch.zeros_like(three), three, counted).item() == pytest.approx(expected, rel=1e-5)
    pair, counted = three.repeat(2, 1, 1, 1), torch.cat([counted, torch.zeros_like(counted)])
    assert loss(torch.zeros_like(pair), pair, counted).item() == pytest.approx(expected, rel=1e-5)
    scores = torch.zeros_like(three).requires_grad_()
    nothing = loss(scores, three, torch.zeros(1, 1, 3, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0
    assert not scores.grad.any()


def test_losses_are_computed_in_float32():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, generator=generator).bfloat16().unbind()
    loss = distillation().loss(student, teacher)
    assert loss.dtype == torch.float32
    assert loss == distillation().loss(student.float(), teacher.float())


def test_the_teacher_is_shared_frozen_and_in_evaluation_mode():
    teacher = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)).train()
    one = Distillation(teacher=teacher)
    pixels = torch.ones(1, 3, 2, 2)
    assert torch.equal(one.scores(pixels), one.scores(pixels))
    assert not one.scores(pixels.requires_grad_()).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.training
    assert copy.deepcopy(one) is one


@pytest.mark.parametrize("name", ["weight", "temperature"])
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, True, "1", None])
def test_factors_must_be_positive_numbers(name, value):
    with pytest.raises(UserError, match=f"distill.{name} must be a positive number"):
        distillation(**{name: value})


def test_small_and_whole_factors_are_accepted():
    assert distillation(weight=0.25, temperature=0.5).temperature == 0.5
    assert distillation(weight=2, temperature=1).weight == 2
    assert (distillation().weight, distillation().temperature) == (1, 1)


def test_a_teacher_normalizes_and_returns_scores():
    class Doubling(nn.Module):
        def forward(self, images):
            return {"out": 2 * images, "aux": images}

    half = nn.Module()
    half.forward = lambda pixels: pixels / 4
    assert Teacher(Doubling(), half)(torch.tensor([8.0])).item() == 4
    assert Teacher(nn.Identity(), half)(torch.tensor([8.0])).item() == 2


def test_the_teacher_of_a_run_must_have_the_same_classes(tmp_path):
    task = nn.Module()
    task.model, task.normalize, task.classes = nn.Identity(), nn.Identity(), CLASSES
    opened = []

    def load_run(path):
        opened.append(path)
        return task

    teacher = load_teacher(str(tmp_path), CLASSES, load_run)
    assert (teacher.model, teacher.normalize) == (task.model, task.normalize)
    assert opened == [tmp_path]
    with pytest.raises(UserError, match=r"trained on other classes \(a, b\)"):
        load_teacher(str(tmp_path), ClassMap(names=("b", "a")), load_run)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs/none", "runs/none: no such run folder"),
        ("resnet51", "neither a run folder nor a torchvision model such as resnet50"),
        ("resnet18", r"its 1000 classes \(tench, .* are not those of the data \(a, b\)"),
        ("deeplabv3_resnet50", r"its 21 classes \(__background__, .* are not those of the data"),
    ],
)
def test_a_teacher_that_does_not_fit_is_named(name, message):
    with pytest.raises(UserError, match=message):
        load_teacher(name, CLASSES, lambda path: nn.Identity())


@pytest.mark.parametrize("name", ["squeezenet1_1", "lraspp_mobilenet_v3_large"])
def test_a_published_teacher_gets_its_weights(tmp_path, monkeypatch, name):
    """Without a download: of a state dict with an auxiliary classifier, that is left out."""
    published = models.get_model_weights(name)["DEFAULT"]
    options = {"weights_backbone": None} if "lraspp" in name else {}
    torch.manual_seed(5)
    state = models.get_model(name, weights=None, **options).state_dict()
    fetched = []

    def fetch(url, *, folder):
        fetched.append((url, folder))
        return tmp_path / "file"

    monkeypatch.setattr(teachers, "fetch", fetch)
    extra = {"aux_classifier.0.weight": torch.zeros(1)}
    monkeypatch.setattr(teachers.checkpoint, "read_weights", lambda path: state | extra)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    teacher = load_teacher(name, ClassMap(names=tuple(published.meta["categories"])), lambda path: None)
    assert fetched == [(published.url, tmp_path / "checkpoints")]
    assert teacher.model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in teacher.model.state_dict().items())
    white = teacher.normalize(torch.full((1, 3, 1, 1), 255.0)).flatten()
    assert white.tolist() == pytest.approx([2.2489, 2.4286, 2.64], abs=1e-3)  # ImageNet's statistics
