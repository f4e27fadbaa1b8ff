"""Crops, mirrors and mosaics move boxes exactly with their pixels, and accept any boxes."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from det.augment import crop_geometry
from det.transforms import EvalTransform, TrainTransform
from tests.refusals import refuses

RNG = np.random.default_rng(0)
IMAGE = cv2.resize(RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8), (160, 120))
BOXES = np.array([[10, 10, 60, 90], [70, 20, 150.5, 100], [0, 0, 20, 15], [100, 90, 160, 120]], np.float32)
LABELS = np.array([3, 0, 2, 3])

WAYS = {
    "ssd": {"crop": "ssd"},
    "iou": {"crop": "iou"},
    "whole": {"crop": None},
    "zoom out": {"crop": None, "zoom_out": 1.0},
    "zoom out, then crop": {"crop": "ssd", "zoom_out": 1.0},
    "zoom out, then crop by IoU": {"crop": "iou", "zoom_out": 1.0},
    "mosaic": {"mosaic": 1.0},
    "averaged": {"crop": "ssd", "area": True},
}

MIXED = {"mixup": {"mixup": 1.0}, "mosaic and mixup": {"mosaic": 1.0, "mixup": 1.0}}


@pytest.fixture(scope="module")
def build():
    """Transforms by their options, each built once."""
    built = {}

    def make(**options):
        key = repr(options)
        if key not in built:
            built[key] = TrainTransform(**options)
        return built[key]

    return make


def drawn(rng, size, channels=(0, 1, 2)):
    """A black image with one bright box per channel, at whole pixels; the label is the channel."""
    height, width = size
    image, boxes = np.zeros((height, width, 3), np.uint8), []
    for channel in channels:
        (x1, x2), (y1, y2) = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in (width, height))
        image[y1:y2, x1:x2, channel] = 255
        boxes.append([x1, y1, x2, y2])
    return image, np.array(boxes, np.float32).reshape(-1, 4), np.array(channels, np.int64)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_pixels_of_a_box_fill_their_box(build, way, flip):
    """A box ends where its channel has half of its brightness, at any scale."""
    transform = build(size=(96, 128), flip=flip, **WAYS[way])
    rng = np.random.default_rng(1)
    checked = 0
    for seed in range(150):
        if transform.partners(seed):
            samples = [drawn(rng, (150, 200), channels) for channels in ([0], [1], [2], [])]
            image, boxes, labels = transform.combine(samples, seed)
        else:
            image, boxes, labels = transform(*drawn(rng, (150, 200)), seed)
        assert image.shape == (96, 128, 3)
        for box, label in zip(boxes, labels, strict=True):
            rows, columns = np.nonzero(image[..., label] > crop_geometry.GRAY)
            if not len(rows):  # thinner than a pixel
                assert (box[2:] - box[:2]).min() <= 1
                continue
            bright = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(box, bright, atol=1.01)
            checked += 1
    assert checked >= 100


def test_a_mirror_is_exact_and_the_whole_image_keeps_every_box(build):
    transform = build(size=(120, 160), crop=None, flip=1.0)
    image, boxes, labels = transform(IMAGE, BOXES, LABELS, 0)
    np.testing.assert_array_equal(image, IMAGE[:, ::-1])
    x1, y1, x2, y2 = BOXES.T
    np.testing.assert_allclose(boxes, np.stack([160 - x2, y1, 160 - x1, y2], 1), atol=1e-4)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("crop", ["ssd", "iou"])
def test_images_without_objects_are_samples(build, crop):
    transform = build(size=64, crop=crop)
    shapes = set()
    for seed in range(20):
        image, boxes, labels = transform(IMAGE, np.empty((0, 4)), np.empty(0, np.int64), seed)
        shapes.add((image.shape, boxes.shape, labels.shape, boxes.dtype, labels.dtype))
    assert shapes == {((64, 64, 3), (0, 4), (0,), np.dtype(np.float32), np.dtype(np.int64))}


def test_min_visible_drops_slivers(build):
    """A box as wide as the image: a crop shows as much of it as the crop is wide."""
    box = np.array([[0, 50, 160, 70], [70, 50, 90, 70]], np.float32)
    fractions = []
    for seed in range(150):
        _, boxes, labels = build(size=160, min_visible=0.6, flip=0)(IMAGE, box, np.array([0, 1]), seed)
        _, everything, _ = build(size=160, min_visible=0.0, flip=0)(IMAGE, box, np.array([0, 1]), seed)
        assert len(boxes) <= len(everything)
        if set(labels) == {0, 1} and (boxes[1] > 0).all() and (boxes[1] < 160).all():
            (wide, _), (narrow, _) = boxes[:, 2:] - boxes[:, :2]
            fractions.append(wide / narrow / 8)  # the second box is an eighth as wide and fully visible
    assert len(fractions) > 20
    assert min(fractions) > 0.58


def test_mosaics_show_four_images(build):
    transform = build(size=(64, 96), mosaic=1.0, flip=0)
    plain = [np.full((50, 70, 3), value, np.uint8) for value in (10, 60, 110, 200)]
    everywhere = np.array([[0, 0, 70, 50]], np.float32)
    samples = [(image, everywhere, np.array([label])) for label, image in enumerate(plain)]
    centers = set()
    for seed in range(20):
        image, boxes, labels = transform.combine(samples, seed)
        assert sorted(labels) == [0, 1, 2, 3]
        for box, label in zip(boxes, labels, strict=True):
            x1, y1, x2, y2 = box.round().astype(int)
            assert (image[y1:y2, x1:x2] == plain[label][0, 0]).all()
        assert (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).sum() == pytest.approx(64 * 96)
        centers.add(tuple(boxes[labels == 0][0, 2:]))
    assert len(centers) > 15
    with pytest.raises(ValueError, match="4 samples are needed, got 3"):
        transform.combine(samples[:3], 0)


def test_mosaics_are_as_frequent_as_their_probability(build):
    assert 0.25 < np.mean([build(size=64, mosaic=0.3).partners(seed) == 3 for seed in range(1000)]) < 0.35
    assert not any(build(size=64).partners(seed) for seed in range(100))


def test_mixup_averages_two_images_that_are_augmented_independently(build):
    """The left halves are 15 and 55, the right ones 255, so the mean shows which of the two was flipped."""
    transform = build(size=64, crop=None, mixup=1.0)

    def halves(value, label):
        image = np.full((64, 64, 3), 255, np.uint8)
        image[:, :32] = value
        return image, np.array([[0, 0, 32, 64]], np.float32), np.array([label])

    seen = set()
    for seed in range(40):
        assert transform.partners(seed) == 1
        image, boxes, labels = transform.combine([halves(15, 0), halves(55, 1)], seed)
        assert labels.tolist() == [0, 1]
        sides = tuple(boxes[:, 0].tolist())  # 0: as stored, 32: flipped
        left = [15 if sides[0] == 0 else 255, 55 if sides[1] == 0 else 255]
        assert (image[:, :32] == sum(left) // 2).all()
        seen.add(sides)
    assert seen == {(0, 0), (0, 32), (32, 0), (32, 32)}


def test_mosaics_and_mixup_are_drawn_independently(build):
    counts = [build(size=64, mosaic=0.5, mixup=0.4).partners(seed) for seed in range(1000)]
    for partners, probability in ((0, 0.3), (1, 0.2), (3, 0.3), (4, 0.2)):
        assert counts.count(partners) / 1000 == pytest.approx(probability, abs=0.05)


def test_color_changes_pixels_only_and_extra_transforms_move_boxes(build):
    import albumentations

    plain, jittered = (build(size=64, color=color)(IMAGE, BOXES, LABELS, 5) for color in (0.0, 0.5))
    np.testing.assert_array_equal(plain[1], jittered[1])
    assert np.abs(plain[0].astype(int) - jittered[0]).mean() > 3
    upside_down = TrainTransform(size=64, extra=[albumentations.VerticalFlip(p=1)])(IMAGE, BOXES, LABELS, 5)
    np.testing.assert_array_equal(upside_down[0], plain[0][::-1])
    np.testing.assert_allclose(upside_down[1][:, [1, 3]], 64 - plain[1][:, [3, 1]], atol=1e-4)


numbers = st.one_of(st.floats(width=64), st.floats(-50, 250), st.integers(0, 160).map(float))


@settings(max_examples=150, deadline=None)
@given(
    boxes=arrays(np.float64, st.tuples(st.integers(0, 8), st.just(4)), elements=numbers),
    shape=array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=200),
    way=st.sampled_from(sorted(WAYS | MIXED)),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_boxes_give_boxes_inside_the_image(build, boxes, shape, way, seed):
    """NaN, infinite, inverted, empty, outside; images of one pixel: no exception, labels stay aligned."""
    transform = build(size=(64, 96), color=0.2, **(WAYS | MIXED)[way])
    image = np.full((*shape, 3), 50, np.uint8)
    labels = np.arange(len(boxes))
    before = image.copy(), boxes.copy(), labels.copy()

    def run():
        if partners := transform.partners(seed):
            samples = [(image, boxes, labels + 10 * number) for number in range(1 + partners)]
            return transform.combine(samples, seed)
        return transform(image, boxes, labels, seed)

    pixels, moved, kept = run()
    assert (pixels.shape, pixels.dtype) == ((64, 96, 3), np.uint8)
    assert (moved.dtype, kept.dtype, moved.shape) == (np.float32, np.int64, (len(kept), 4))
    assert np.isfinite(moved).all()
    assert (moved >= 0).all()
    assert (moved <= [96, 64, 96, 64]).all()
    assert (moved[:, 2:] > moved[:, :2]).all()
    height, width = shape
    finite = np.isfinite(boxes).all(axis=1)
    real = np.where(finite[:, None], boxes, 0).clip(0, [width, height, width, height])
    real = finite & (real[:, 2:] > real[:, :2]).all(axis=1)
    assert set(kept % 10) <= set(labels[real])
    assert len(kept) == len(set(kept))
    for was, now in zip(before, (image, boxes, labels), strict=True):
        np.testing.assert_array_equal(was, now)
    for first, second in zip((pixels, moved, kept), run(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_labels_keep_their_boxes_when_others_are_dropped(build):
    """Crops show different corners of an image, and the color of a corner tells its label."""
    corners = np.array([[0, 0, 40, 40], [120, 0, 160, 40], [0, 80, 40, 120], [120, 80, 160, 120]], np.float32)
    image = np.zeros((120, 160, 3), np.uint8)
    for value, (x1, y1, x2, y2) in enumerate(corners.astype(int)):
        image[y1:y2, x1:x2] = 60 * (value + 1)
    numbers = set()
    for seed in range(100):
        pixels, boxes, labels = build(size=128)(image, corners, np.array([1000, 1, 70000, -1]), seed)
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            center = pixels[int((y1 + y2) / 2), int((x1 + x2) / 2), 0]
            if (x2 - x1) > 3 and (y2 - y1) > 3:
                assert label == {60: 1000, 120: 1, 180: 70000, 240: -1}[int(center)]
        numbers.add(tuple(sorted(labels)))
    assert len(numbers) > 6
    with pytest.raises(ValueError, match="4 boxes but 3 labels"):
        build(size=128)(image, corners, np.arange(3), 0)


def test_extra_transforms_that_change_the_size_are_refused():
    """Transposed to 96 x 64, a box that ends at x = 90 would be cut at 64."""
    import albumentations

    transform = TrainTransform(size=(64, 96), crop=None, flip=0, extra=[albumentations.Transpose(p=1)])
    refuses(
        lambda: transform(IMAGE, BOXES, LABELS, 0),
        r"augment\.extra: its transforms change images from 64x96 to 96x64 .*use transforms that keep",
    )


def test_an_extra_transform_that_fails_is_one_line():
    import albumentations

    transform = TrainTransform(size=64, extra=[albumentations.MaskDropout(p=1)])  # needs masks
    message = r"augment\.extra: a transform fails \(ValueError: MaskDropout requires"
    refuses(lambda: transform(IMAGE, BOXES, LABELS, 0), message, "correct or remove it")


def test_extra_transforms_that_normalize_are_refused():
    import albumentations

    transform = TrainTransform(size=(64, 96), crop=None, extra=[albumentations.Normalize()])
    refuses(lambda: transform(IMAGE, BOXES, LABELS, 0), r"augment\.extra: .* into float32; leave out")


def test_seeds_give_different_samples(build):
    samples = {build(size=64)(IMAGE, BOXES, LABELS, seed)[0].tobytes() for seed in range(50)}
    assert len(samples) > 40  # some are the whole image, mirrored or not


def test_eval_transform_resizes_without_keeping_the_aspect_ratio():
    transform = EvalTransform(size=(64, 100))
    assert transform.size == (64, 100)
    assert str(transform) == "input 64x100"
    np.testing.assert_array_equal(
        transform(IMAGE), cv2.resize(IMAGE, (100, 64), interpolation=cv2.INTER_LINEAR)
    )
    assert EvalTransform(size=(120, 160))(IMAGE) is IMAGE
    checker = (np.indices((96, 192)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    assert np.ptp(EvalTransform(size=(32, 64), area=True)(checker).astype(int)) <= 29  # averages of 9 pixels
    # Without crop and mirror, training images equal those of evaluation.
    whole = TrainTransform(size=(64, 100), crop=None, flip=0)(IMAGE, BOXES, LABELS, 0)
    np.testing.assert_array_equal(whole[0], transform(IMAGE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be"),
        ({"size": (64,)}, "size must be"),
        ({"size": 64, "crop": "random"}, "crop must be ssd, iou or null"),
        ({"size": 64, "scale": (0.5, 0.1)}, "scale must be"),
        ({"size": 64, "scale": (0.5, 1.5)}, "scale must be"),
        ({"size": 64, "flip": 1.5}, "flip must be a probability"),
        ({"size": 64, "mosaic": -0.5}, "mosaic must be a probability"),
        ({"size": 64, "mixup": 1.5}, "mixup must be a probability"),
        ({"size": 64, "zoom_out": 2}, "zoom_out must be a probability"),
        ({"size": 64, "color": 2}, "color must be a strength in 0..1"),
        ({"size": 64, "min_visible": -1}, "min_visible must be a fraction in 0..1"),
    ],
)
def test_arguments_out_of_range_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        TrainTransform(**options)
