"""Random crops that repeat with their seed; evaluation like torchvision's presets, pixel for pixel."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import CenterCrop, Compose, Resize
from torchvision.transforms.v2.functional import pil_to_tensor

from cls.transforms import EvalTransform, TrainTransform


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("shape", [(256, 340), (341, 256), (200, 500), (97, 64), (256, 256)])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (37, 32)])
def test_evaluation_is_torchvisions_preset(shape, resize, crop):
    image = noise(*shape)
    theirs = Compose([Resize(resize), CenterCrop(crop)])(Image.fromarray(image))
    ours = EvalTransform(crop=crop, resize=resize)(image, 0)
    assert torch.equal(torch.from_numpy(np.ascontiguousarray(ours.transpose(2, 0, 1))), pil_to_tensor(theirs))


def test_without_resize_the_crop_is_inceptions_central_part():
    assert EvalTransform(crop=224).resize == 256
    assert [EvalTransform(crop=side).resize for side in (192, 160, 128, 96)] == [219, 183, 146, 110]
    assert str(EvalTransform(crop=224)) == "shorter side resized to 256, central 224x224"


def test_square_shows_the_whole_image():
    image = np.zeros((50, 100, 3), np.uint8)
    image[:, :50] = 255
    shown = EvalTransform(crop=64, square=True)(image, 0)
    assert shown.shape == (64, 64, 3)
    assert shown[:, :30].min() == 255
    assert shown[:, 34:].max() == 0


@pytest.mark.parametrize("options", [{}, {"color": 0.4}, {"rand_augment": 9}])
def test_a_crop_depends_on_its_seed_alone(options):
    image = noise(120, 160)
    first, second = (TrainTransform(size=64, **options) for _ in range(2))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = first(image, 5)
    assert torch.equal(before, torch.get_rng_state())
    second(image, 6)
    assert np.array_equal(a, second(image, 5))
    assert not np.array_equal(a, first(image, 6))
    assert a.shape == (64, 64, 3)
    assert a.dtype == np.uint8


def test_area_and_aspect_limit_the_crop():
    """The pixels are coordinates, so they tell which part of the image was cropped."""
    height, width = 200, 240
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(width), np.arange(height)[:, None]
    transform = TrainTransform(size=100, area=(0.2, 0.5), aspect=(0.75, 4 / 3), flip=0.0)
    shares, ratios = [], []
    for seed in range(60):
        crop = transform(image, seed).astype(int)
        wide, high = (int(np.ptp(crop[..., channel])) + 1 for channel in (0, 1))
        shares.append(wide * high / (height * width))
        ratios.append(wide / high)
    assert 0.17 < min(shares) < 0.27
    assert 0.43 < max(shares) < 0.54
    assert min(ratios) > 0.7
    assert max(ratios) < 1.4


def test_half_of_the_images_are_mirrored():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 255
    transform = TrainTransform(size=64, area=(1.0, 1.0), aspect=(1.0, 1.0))
    mirrored = [transform(image, seed)[32, 0, 0] > 128 for seed in range(200)]
    assert 70 < sum(mirrored) < 130


def test_rand_augment_changes_images():
    image = noise(64, 64)
    plain = TrainTransform(size=64, area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0)
    strong = TrainTransform(size=64, area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, rand_augment=15)
    assert sum(not np.array_equal(plain(image, seed), strong(image, seed)) for seed in range(20)) > 15


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TrainTransform(size=16), "size must be"),
        (lambda: TrainTransform(size=64, area=(0.5, 0.2)), "area must be"),
        (lambda: TrainTransform(size=64, area=(0.5, 1.2)), "area must be"),
        (lambda: TrainTransform(size=64, aspect=(0, 1)), "aspect must be"),
        (lambda: TrainTransform(size=64, flip=2), "flip must be"),
        (lambda: TrainTransform(size=64, rand_augment=31), "rand_augment is a magnitude"),
        (lambda: EvalTransform(crop=224, resize=200), "resize .200. must be at least"),
    ],
)
def test_a_bad_argument_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
