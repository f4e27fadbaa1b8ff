"""The segmentation task: losses at label resolution, predictions at any size, normalization."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from engine.config.compose import compose_config
from engine.config.instantiate import build as build_config
from engine.data.class_map import ClassMap
from engine.data.images import read_labels, write_png
from engine.errors import UserError
from engine.io.files import pack_paths
from engine.train.distillation import Distillation
from engine.train.distillation.teachers import Teacher
from seg.data.dataset import SegmentationDataset, SegmentationSplit
from seg.losses import CrossEntropy
from seg.report import SegmentationReporter
from seg.task import Inference, Segmentation, small_crop
from seg.transforms import EvalTransform, TrainTransform

CLASSES = ClassMap(names=("dark", "light"), ids=(7, 300), colors=((0, 0, 0), (255, 255, 255)), ignore=(0,))


class Brightness(nn.Module):
    """Scores at half resolution: light where the normalized image is above zero."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(50.0))

    def forward(self, images):
        bright = nn.functional.avg_pool2d(images.mean(1, keepdim=True), 2) * self.scale
        return torch.cat([-bright, bright], dim=1)


def halves(height=8, width=16):
    """An image that is dark on the left and light on the right, and its labels."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = 255
    labels = (image[..., 0] > 0).astype(np.uint8)
    return image, labels


def task(**options):
    return Segmentation(model=Brightness(), classes=CLASSES, align_corners=False, **options)


def batch(image, labels):
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    return {"image": pixels, "label": torch.from_numpy(labels)[None], "index": torch.tensor([0])}


def test_losses_are_computed_at_the_resolution_of_the_labels():
    image, labels = halves()
    losses = task(dice=0.5)(batch(image, labels))
    assert losses.keys() == {"cross_entropy", "dice"}
    assert 0 <= losses["cross_entropy"].item() < 1
    wrong = task()(batch(image, 1 - labels))["cross_entropy"].item()
    assert wrong > 10 * losses["cross_entropy"].item()


def test_the_dice_loss_is_multiplied_by_its_factor():
    image, labels = halves()
    wrong = batch(image, 1 - labels)
    whole, half = (task(dice=factor)(wrong)["dice"].item() for factor in (1.0, 0.5))
    assert whole > 0.5
    assert half == pytest.approx(whole / 2)
    assert "dice" not in task()(batch(image, labels))
    with pytest.raises(ValueError, match="dice must be at least 0"):
        task(dice=-0.5)


class Fixed(nn.Module):
    """The same scores [1, 2, 1, 2] for each image."""

    def __init__(self, light):
        super().__init__()
        self.scores = torch.stack([torch.zeros(len(light)), torch.tensor(light)])[None, :, None]

    def forward(self, images):
        return self.scores.expand(len(images), -1, -1, -1)


@pytest.mark.parametrize(
    ("align_corners", "light"),
    [(True, (0.0, 1.0, 2.0, 3.0)), (False, (0.0, 0.75, 2.25, 3.0))],
    ids=["corners", "centers"],
)
def test_losses_resize_scores_as_align_corners_says(align_corners, light):
    """Scores 0 and 3 for four pixels: evenly spaced between the corners, or with centers at 1/4 and 3/4."""
    segmenter = Segmentation(model=Fixed([0.0, 3.0]), classes=CLASSES, align_corners=align_corners, dice=1.0)
    losses = segmenter(batch(np.zeros((1, 4, 3), np.uint8), np.ones((1, 4), np.uint8)))
    expected = sum(math.log(1 + math.exp(-score)) for score in light) / 4
    assert losses["cross_entropy"].item() == pytest.approx(expected)
    of_light = [1 / (1 + math.exp(-score)) for score in light]
    assert losses["dice"].item() == pytest.approx(1 - 2 * sum(of_light) / (4 + sum(of_light)))


def test_a_teacher_s_scores_are_resized_and_its_ignored_pixels_left_out():
    """Teacher and student differ at the first two of four pixels only, the first of which is ignored."""
    teacher = Fixed([3.0, 0.0])
    labels = np.array([[255, 1, 1, 1]], np.uint8)
    for align_corners, light in ((True, (3.0, 2.0, 1.0, 0.0)), (False, (3.0, 2.25, 0.75, 0.0))):
        segmenter = Segmentation(model=Fixed([0.0, 0.0]), classes=CLASSES, align_corners=align_corners)
        segmenter.distillation = Distillation(teacher=teacher, weight=2.0)
        loss = segmenter(batch(np.zeros((1, 4, 3), np.uint8), labels))["distillation"].item()
        shares = [1 / (1 + math.exp(-score)) for score in light[1:]]
        divergence = sum(p * math.log(2 * p) + (1 - p) * math.log(2 - 2 * p) for p in shares) / 3
        assert loss == pytest.approx(2 * divergence, rel=1e-5)


def test_all_pixels_of_unlabeled_images_count_for_distillation_and_for_nothing_else():
    """The labeled image has one counted pixel of four, where the teacher has no opinion."""
    segmenter = Segmentation(model=Fixed([0.0]), classes=CLASSES, align_corners=False, dice=1.0)
    segmenter.distillation = Distillation(teacher=ByBrightness())
    one = batch(np.zeros((1, 4, 3), np.uint8), np.array([[255, 1, 255, 255]], np.uint8))
    alone = segmenter(one)
    unlabeled = torch.full((1, 3, 1, 4), 255, dtype=torch.uint8)
    both = segmenter({**one, "unlabeled": unlabeled})
    assert both["cross_entropy"] == alone["cross_entropy"]
    assert both["dice"] == alone["dice"]
    divergence = [
        sum(p * math.log(2 * p) for p in (1 / (1 + math.exp(-score)), 1 / (1 + math.exp(score))))
        for score in (0.0, 2.0)
    ]
    assert alone["distillation"].item() == pytest.approx(divergence[0], abs=1e-6)
    assert both["distillation"].item() == pytest.approx(divergence[1] * 4 / 5, rel=1e-5)


class ByBrightness(nn.Module):
    """Scores of black pixels: 0 and 0; of white ones: 0 and 2."""

    def forward(self, pixels):
        bright = 2 * pixels.mean(1, keepdim=True) / 255
        return torch.cat([torch.zeros_like(bright), bright], dim=1)


def test_the_factors_of_the_other_losses():
    """The auxiliary scores get the same cross entropy, once for each classifier."""

    class TwoScores(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.others = Fixed([1.0]), (Fixed([2.0]), Fixed([-3.0]))

        def training_scores(self, images):
            return tuple(model(images) for model in (self.main, *self.others))

    def losses(**factors):
        segmenter = Segmentation(model=TwoScores(), classes=CLASSES, align_corners=False, **factors)
        return segmenter(batch(np.zeros((1, 2, 3), np.uint8), np.ones((1, 2), np.uint8)))

    named = losses(auxiliary=0.4, lovasz=0.25)
    of_truth = [math.log(1 + math.exp(-score)) for score in (1.0, 2.0, -3.0)]
    assert named["cross_entropy"].item() == pytest.approx(of_truth[0])
    assert named["auxiliary"].item() == pytest.approx(0.4 * (of_truth[1] + of_truth[2]))
    # All pixels are of one class with the probability p, so its Lovasz loss is 1 - p.
    assert named["lovasz"].item() == pytest.approx(0.25 * (1 - 1 / (1 + math.exp(-1.0))))
    assert losses(auxiliary=0.0)["auxiliary"].item() == 0


@pytest.mark.parametrize("name", ["dice", "lovasz", "auxiliary"])
def test_factors_of_losses_are_not_negative(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0"):
        task(**{name: -0.1})


def test_the_factor_of_an_auxiliary_loss_needs_an_auxiliary_classifier():
    with pytest.raises(ValueError, match=r"^auxiliary has no effect: .*choose model=multi_scale"):
        task(auxiliary=0.2)


def test_classes_without_weight_are_named_before_training(tmp_path):
    classes = ClassMap(names=("road", "car", "sky"))
    write_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    files = pack_paths([tmp_path / "a.png"])
    split = SegmentationSplit(images=files, names=files)
    dataset = SegmentationDataset(split=split, read_label=None, transform=EvalTransform(), seed=0)

    def notes(weights, **options):
        loss = CrossEntropy(class_weights=weights)
        return Segmentation(model=Brightness(), classes=classes, loss=loss, **options).notes(dataset)

    assert notes([0.5, 1, 1]) == []
    assert notes([0, 1, 1]) == [
        "task.loss.class_weights: road has weight 0 and will never be predicted; to ignore these pixels, "
        "list the class ids under ignore in classes.json"
    ]
    with pytest.raises(UserError, match=r"road, sky have weight 0, so only one class would be learned; at"):
        notes([0, 1, 0])
    for loss in ("dice", "lovasz"):
        (line,) = notes([0, 1, 0], **{loss: 0.5})
        assert line.endswith("road, sky have weight 0: only the Dice and Lovász losses count these pixels")


def test_a_wrong_number_of_class_weights_is_rejected():
    with pytest.raises(ValueError, match=r"one weight per class \(dark, light: 2\), got 3"):
        task(loss=CrossEntropy(class_weights=[1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "input as stored, scales 1, no flip"),
        ({"eval_transform": EvalTransform(size=0.5)}, "input scaled by 0.5, scales 1, no flip"),
        (
            {
                "eval_transform": EvalTransform(size=(64, 96)),
                "inference": Inference(scales=[0.5, 1], flip=True, window=(32, 64)),
            },
            "input 64x96, scales 0.5/1, flip, window 32x64",
        ),
    ],
)
def test_the_protocol_states_how_predictions_were_made(options, expected):
    split = SegmentationSplit(
        images=pack_paths(["a.png"]), names=pack_paths(["a"]), labels=pack_paths(["a.png"])
    )
    dataset = SegmentationDataset(split=split, read_label=None, transform=EvalTransform(), seed=0)
    image, labels = halves()
    evaluator = task(**options).evaluator(dataset)
    evaluator.update(labels[None], batch(image, labels))
    assert evaluator.compute()["protocol"].endswith(f"2 of 2 classes present; {expected}")


def test_weight_counts_the_pixels_that_are_not_ignored():
    image, labels = halves()
    labels[:2] = 255
    assert task().weight(batch(image, labels)).item() == 6 * 16
    weighted = task(loss=CrossEntropy(class_weights=[1.0, 3.0]))
    assert weighted.weight(batch(image, labels)).item() == 6 * 8 * (1 + 3)


@pytest.mark.parametrize("size", [None, 0.5, (32, 64)])
def test_prediction_has_the_size_of_the_image_whatever_the_network_sees(size):
    image, labels = halves()
    predicted = task(eval_transform=EvalTransform(size=size)).eval().predict_image(image)
    assert predicted.dtype == np.uint8
    assert predicted.shape == (8, 16)
    assert (predicted == labels)[:, [0, 1, -2, -1]].all()


@pytest.mark.parametrize(
    ("pixels", "black", "white"), [("inception", -1.0, 1.0), ("imagenet", -2.1179, 2.2489)]
)
def test_normalization(pixels, black, white):
    image = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    red = task(pixels=pixels).normalize(image)[0, 0, 0]
    torch.testing.assert_close(red, torch.tensor([black, white]), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="inception, imagenet"):
        task(pixels="other")


def test_predictions_are_saved_with_the_ids_of_the_data_set(tmp_path):
    reporter, (image, labels) = SegmentationReporter(task()), halves()
    record = reporter.save_prediction(labels, tmp_path, "street")
    stored = read_labels(tmp_path / record["mask"])
    assert set(np.unique(stored)) == {7, 300}
    assert record["classes"] == {"dark": 0.5, "light": 0.5}
    assert reporter.draw(image, labels, legend=False).shape == image.shape
    assert reporter.draw(image, labels).shape[0] > image.shape[0]


def test_a_split_without_masks_cannot_be_evaluated():
    split = SegmentationSplit(images=pack_paths(["test/street.png"]), names=pack_paths(["street"]))
    dataset = SegmentationDataset(split=split, read_label=None, transform=EvalTransform(), seed=0)
    with pytest.raises(UserError, match=r"test/street\.png: this split has no masks to evaluate against"):
        task().evaluator(dataset)


def photos(tmp_path, size, crop, scale=(0.5, 2.0)):
    """A training split of photos of one size (height, width)."""
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        write_png(path, np.zeros(size, np.uint8))
    split = SegmentationSplit(images=pack_paths(paths), names=pack_paths([path.stem for path in paths]))
    transform = TrainTransform(crop=crop, scale=scale)
    return SegmentationDataset(split=split, read_label=None, transform=transform, seed=0)


def test_a_crop_that_covers_little_of_the_images_is_noted(tmp_path):
    """352 x 352 of 3000 x 4000 pixels, at scales around 1, is 1.0%; at scales around 1/4 it is 16.5%."""
    (line,) = small_crop(photos(tmp_path, (3000, 4000), 352))
    assert "a training crop of 352x352 covers 1.0% of an image (3000x4000)" in line
    assert "data.image_scale=0.2, which shrinks" in line
    assert small_crop(photos(tmp_path, (3000, 4000), 352, scale=(0.125, 0.5))) == []
    assert small_crop(photos(tmp_path, (1024, 2048), 769)) == []
    assert small_crop(photos(tmp_path, (360, 480), 352)) == []


def test_image_scale_is_a_factor_on_training_and_prediction_alike():
    """Range [0.5, 2] and the original size, times 1/4: [0.125, 0.5] and a quarter; a size stays a size."""
    image = np.zeros((80, 120, 3), np.uint8)
    for overrides, scale, size in (
        ([], [0.8, 1.4], (80, 120)),
        (["data.image_scale=0.25", "data.scale=[0.5,2]"], [0.125, 0.5], (20, 30)),
        (["data.image_scale=0.5", "data.eval_size=1.5"], [0.4, 0.7], (60, 90)),
        (["data.image_scale=0.5", "data.eval_size=[64,96]"], [0.4, 0.7], (64, 96)),
    ):
        config = compose_config("train", ["task=seg", *overrides])
        assert build_config(config.augment, key="augment").scale == pytest.approx(scale)
        transform = build_config(config.task.eval_transform, key="task.eval_transform")
        assert transform(image, None, 0)[0].shape[:2] == size
    config = compose_config("train", ["task=seg", "data.image_scale=0"])
    with pytest.raises(UserError, match=r"data\.image_scale must be a factor up to 8, got 0"):
        build_config(config.augment, key="augment")


def test_a_smaller_image_scale_shows_more_of_the_image(tmp_path):
    """A 32 x 32 crop of a ramp 0..255 over 256 pixels: at half the size, it spans twice the values."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)
    spans = []
    for factor in (1.0, 0.5):
        transform = TrainTransform(crop=32, scale=(1, 1), image_scale=factor, flip=0)
        pixels = transform(ramp, None, 0)[0]
        spans.append(int(pixels.max()) - int(pixels.min()))
    assert spans[0] == 31
    assert 61 <= spans[1] <= 63


@pytest.mark.parametrize("teacher_of", ["segmenter", "torchvision"])
def test_features_are_learned_from_a_teacher_with_other_channels(teacher_of):
    """The head gets no gradient, the backbone does; from a copy of itself, there is nothing to learn."""
    torch.manual_seed(0)
    config = compose_config("train", ["task=seg", "backbone.width_mult=0.35"])
    student = build_config(config.model, key="model", num_classes=2)
    if teacher_of == "segmenter":
        teacher = build_config(
            compose_config("train", ["task=seg", "backbone=mobilenet_v2", "backbone.width_mult=0.35"]).model,
            key="model",
            num_classes=2,
        )
    else:
        teacher = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
    segmenter = Segmentation(model=student, classes=CLASSES, align_corners=False).train()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    labels = torch.randint(0, 2, (2, 64, 96), dtype=torch.uint8)
    sample = {"image": images, "label": labels, "unlabeled": images.flip(3)}
    segmenter.distillation = Distillation(teacher=Teacher(teacher, segmenter.normalize), method="features")
    loss = segmenter(sample)["distillation"]
    loss.backward()
    assert loss.item() > 0.01
    assert all(p.grad is None or not p.grad.any() for p in student.head.parameters())
    assert any(p.grad is not None and p.grad.any() for p in student.backbone.parameters())
    assert not any(module._forward_hooks for module in segmenter.modules())

    segmenter.eval()
    segmenter.distillation = Distillation(
        teacher=Teacher(copy.deepcopy(student), segmenter.normalize), method="features"
    )
    assert segmenter(sample)["distillation"].item() == pytest.approx(0, abs=1e-5)


def test_a_network_without_a_backbone_cannot_learn_features():
    segmenter = task()
    segmenter.distillation = Distillation(teacher=Brightness(), method="features")
    with pytest.raises(UserError, match=r"^distill\.method=features: the network has no backbone"):
        segmenter(batch(np.zeros((1, 4, 3), np.uint8), np.ones((1, 4), np.uint8)))
