"""Transforms that all tasks share: independent random draws, and results compared with values by hand."""

import albumentations
import numpy as np
import pytest
import torch

import cls.transforms
import det.transforms
import seg.transforms
from engine.data.preprocessing import Normalize, files_of, flip_and_jitter, resize_image, seed_transforms

# Red counts the columns.
RAMP = np.empty((256, 256, 3), np.uint8)
RAMP[..., 0] = np.arange(256)
RAMP[..., 1:] = 128


def seg_sample(seed):
    return seg.transforms.TrainTransform(crop=64, scale=(0.5, 2.0))(RAMP, None, seed)[0]


def det_sample(seed):
    transform = det.transforms.TrainTransform(size=64, crop="iou", scale=(0.1, 1.0))
    return transform(RAMP, np.array([[0, 0, 256, 256]], np.float32), np.array([0]), seed)[0]


def cls_sample(seed):
    return cls.transforms.TrainTransform(size=64)(RAMP, seed)


@pytest.mark.parametrize("sample", [seg_sample, det_sample, cls_sample])
def test_small_windows_are_flipped_as_often_as_large_ones(sample):
    """The same numbers for crop and flip would mirror all small windows, or all large ones."""
    flips, spans = [], []
    for seed in range(300):
        reds = sample(seed)[0, :, 0].astype(int)
        flips.append(reds[0] > reds[-1])
        spans.append(abs(reds[0] - reds[-1]))
    assert np.mean(flips) == pytest.approx(0.5, abs=0.1)
    assert abs(np.corrcoef(flips, spans)[0, 1]) < 0.15  # 0.06 is one standard deviation of independent draws


def test_brightness_does_not_follow_the_scale():
    transform = seg.transforms.TrainTransform(crop=128, scale=(0.5, 1.0), flip=0, color=0.4)
    gray = np.full((128, 128, 3), 100, np.uint8)
    scales, values = [], []
    for seed in range(300):
        image, label = transform(gray, np.zeros((128, 128), np.uint8), seed)
        scales.append((label[:, 0] == 0).sum())  # the rest is padding
        values.append(int(image[0, 0, 0]))
    assert abs(np.corrcoef(scales, values)[0, 1]) < 0.2


def test_transforms_within_a_composition_have_their_own_streams():
    flips = [albumentations.HorizontalFlip(p=0.5) for _ in range(2)]
    nested = albumentations.Sequential([albumentations.VerticalFlip(p=0.5), *flips], p=1)
    pipeline = albumentations.Compose([albumentations.VerticalFlip(p=0.5), nested])
    seed_transforms(pipeline, 7)
    steps = [pipeline.transforms[0], nested, *nested.transforms]
    first = [step.py_random.random() for step in steps]
    assert len(set(first)) == len(steps)
    seed_transforms(pipeline, 7)
    assert [step.py_random.random() for step in steps] == first


@pytest.mark.parametrize(
    ("pixels", "black", "white"),
    [
        ("inception", (-1, -1, -1), (1, 1, 1)),
        ("imagenet", (-2.117904, -2.035714, -1.804444), (2.248908, 2.428571, 2.64)),
        ("unit", (0, 0, 0), (1, 1, 1)),
    ],
)
def test_pixels_are_normalized(pixels, black, white):
    images = torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 1, 2)
    first, second = Normalize(pixels)(images)[0, :, 0].T
    assert (first.tolist(), second.tolist()) == (
        pytest.approx(black, abs=1e-6),
        pytest.approx(white, abs=1e-6),
    )


def test_an_unknown_normalization_is_refused():
    with pytest.raises(ValueError, match="pixels must be one of inception, imagenet, unit, got 'caffe'"):
        Normalize("caffe")


def test_hue_varies_by_a_fifth_of_the_other_colors():
    flip, jitter = flip_and_jitter(0.25, 0.5)
    assert flip.p == 0.25
    assert jitter.brightness == jitter.contrast == jitter.saturation == pytest.approx((0.5, 1.5))
    assert jitter.hue == pytest.approx((-0.1, 0.1))


@pytest.mark.parametrize(("size", "value"), [((1, 1), 30), ((1, 6), 0), ((6, 1), 0)])
def test_area_interpolation_only_if_neither_side_grows(size, value):
    """Of three pixels, area interpolation takes the mean, and bilinear the one in the middle."""
    image = np.zeros((3, 3, 3), np.uint8)
    image[0 if size[0] == 1 else slice(None), 0 if size[1] == 1 and size[0] > 1 else slice(None)] = 90
    assert np.unique(resize_image(image, size, area=True)) == [value]
    assert np.unique(resize_image(image, size)) == [0]


class Resumed:
    gaps = frozenset({0, 2})

    def image_path(self, index):
        return f"{index}.png"

    def __len__(self):
        return 4


def test_empty_positions_of_a_resumed_run_have_no_files():
    assert files_of(Resumed()) == [(), ("1.png",), (), ("3.png",)]
