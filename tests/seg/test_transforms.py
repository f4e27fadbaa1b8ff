"""Scale, crop, flip: the same as scaling the whole image, seeded per sample, equal in every worker."""

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from engine.config.compose import compose_config
from engine.config.instantiate import build
from engine.data.class_map import ClassMap
from engine.data.images import write_png
from engine.data.loader import SampleKey
from engine.io.files import pack_paths
from seg.augment.scale_crop import resize_label
from seg.data.dataset import LabelReader, SegmentationDataset, SegmentationSplit
from seg.transforms import EvalTransform, TrainTransform
from tests.refusals import refuses

RNG = np.random.default_rng(0)
LABEL = cv2.resize(RNG.integers(0, 5, (12, 24), dtype=np.uint8), (192, 96), interpolation=cv2.INTER_NEAREST)
IMAGE = cv2.resize(RNG.integers(0, 256, (12, 24, 3), dtype=np.uint8), (192, 96))


def scaled_then_cropped(image, label, scale, corner, crop):
    """The protocol step by step, on the whole image; `corner` in pixels of the scaled image."""
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    big = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    marks = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)
    big = np.pad(big, ((0, crop), (0, crop), (0, 0)), constant_values=127)
    marks = np.pad(marks, ((0, crop), (0, crop)), constant_values=255)
    window = np.s_[corner[0] : corner[0] + crop, corner[1] : corner[1] + crop]
    return big[window], marks[window]


# Where the reduced 1 / scale has an even numerator (0.75 -> 4/3), centers fall exactly between two pixels and
# either is nearest, so such scales are left to the alignment test below.
@pytest.mark.parametrize("scale", [0.5, 2 / 3, 1.0, 4 / 3, 2.0, 8 / 3])
def test_crop_first_equals_scale_then_crop(scale):
    """Labels are equal everywhere; pixels too, except at the border, where the crop has no neighbors."""
    from seg.augment.scale_crop import ScaleCrop

    step = ScaleCrop(crop=(72, 72), scale=(scale, scale), scale_step=0, fill=127, area=False)
    noise = RNG.integers(0, 20, LABEL.shape, dtype=np.uint8)
    compared = 0
    for seed in range(150):
        step.set_random_seed(seed)
        window = step.get_params_dependent_on_data({"shape": IMAGE.shape}, {})
        corner = [window[side][0] * scale for side in ("rows", "columns")]
        if any(abs(place - round(place)) > 1e-6 for place in corner):
            continue  # between two pixels of the scaled image, where no crop can begin
        expected_image, expected_label = scaled_then_cropped(
            IMAGE, noise, scale, [round(place) for place in corner], 72
        )
        image = step.apply(IMAGE, **window)
        np.testing.assert_array_equal(step.apply_to_mask(noise, **window), expected_label)
        difference = np.abs(image.astype(int) - expected_image).max(axis=2)
        rows, columns = window["scaled"]
        assert difference[1 : rows - 1, 1 : columns - 1].max() <= 1
        assert (difference[rows:] == 0).all()
        compared += 1
    assert compared >= 5


@pytest.mark.parametrize("scale", [0.5, 0.61, 0.83, 1.0, 1.37, 2.0])
def test_image_and_label_stay_aligned_at_any_scale(scale):
    """Column numbers as image and as label: no shift between them. INTER_NEAREST is 0.5 px off at 0.5."""
    ramp = np.arange(192, dtype=np.uint8)[None].repeat(96, 0)
    transform = TrainTransform(crop=64, scale=(scale, scale), flip=0)
    shifts = []
    for seed in range(20):
        moved, label = transform(np.repeat(ramp[..., None], 3, 2), ramp, seed)
        known = label != 255
        difference = moved[..., 0].astype(int)[known] - label.astype(int)[known]
        assert np.abs(difference).max() <= 1
        shifts.append(difference.mean())
    # At 0.5 every center falls between two pixels and the label takes the upper one. Elsewhere OpenCV's 8-bit
    # bilinear rounds down a little (an eighth of a gray value); labels of INTER_NEAREST would be off by
    # another 0.1 to 0.3.
    assert abs(np.mean(shifts)) <= (0.5 if scale == 0.5 else 0.15)


def test_labels_are_resized_between_pixel_centers():
    """Reducing 0 1 2 3 4 5 by three takes the centers 1 and 4, not the corners 0 and 3."""
    assert resize_label(np.arange(6, dtype=np.uint8)[None], (1, 2)).tolist() == [[1, 4]]


def test_padding_is_at_the_bottom_and_right_with_fill_and_ignore():
    image, label = TrainTransform(crop=(120, 200), scale=(1, 1), flip=0, fill=9)(IMAGE, LABEL, 0)
    assert image.shape == (120, 200, 3)
    np.testing.assert_array_equal(image[:96, :192], IMAGE)
    np.testing.assert_array_equal(label[:96, :192], LABEL)
    assert (image[96:] == 9).all()
    assert (image[:, 192:] == 9).all()
    assert (label[96:] == 255).all()
    assert (label[:, 192:] == 255).all()


def test_every_source_pixel_can_be_reached_and_scales_cover_the_range():
    rows = np.arange(96, dtype=np.uint8)[:, None].repeat(192, 1)
    columns = np.arange(192, dtype=np.uint8)[None].repeat(96, 0)
    transform = TrainTransform(crop=48, scale=(0.5, 2.0), flip=0)
    lengths, seen_rows, seen_columns = [], set(), set()
    for seed in range(400):
        label = transform(IMAGE, rows, seed)[1]
        lengths.append(int(label.max()) - int(label.min()) + 1)
        seen_rows |= set(np.unique(label).tolist())
        seen_columns |= set(np.unique(transform(IMAGE, columns, seed)[1]).tolist())
    assert min(lengths) <= 26  # scale 2 shows 24 rows, scale 0.5 all 96
    assert max(lengths) >= 90
    assert seen_rows >= set(range(96))
    assert seen_columns >= set(range(2, 190))  # the outermost need the outermost window


def test_flips_have_their_probability_and_scales_their_grid():
    ramp = np.arange(192, dtype=np.uint8)[None].repeat(96, 0)
    flipped = [TrainTransform(crop=40, flip=0.5)(IMAGE, ramp, seed)[1] for seed in range(200)]
    share = np.mean([label[0, 0] > label[0, 39] for label in flipped])
    assert 0.4 < share < 0.6
    lengths = set()
    transform = TrainTransform(crop=32, scale=(0.5, 2.0), scale_step=0.25, flip=0)
    for seed in range(150):
        label = transform(IMAGE, ramp, seed)[1]
        lengths.add(round(32 / (int(label.max()) - int(label.min()) + 1) * 4) / 4)
    assert {0.5, 1.0, 2.0} <= lengths <= {0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0}


def test_color_changes_only_the_image_and_the_mask_is_optional():
    plain = TrainTransform(crop=64, color=0.0)(IMAGE, LABEL, 3)
    jittered = TrainTransform(crop=64, color=0.5)(IMAGE, LABEL, 3)
    np.testing.assert_array_equal(plain[1], jittered[1])
    assert np.abs(plain[0].astype(int) - jittered[0]).mean() > 3
    image, label = TrainTransform(crop=64)(IMAGE, None, 3)
    assert label is None
    np.testing.assert_array_equal(image, plain[0])


def test_extra_transforms_are_set_on_the_command_line():
    extra = "augment.extra=[{_target_: albumentations.InvertImg, p: 1}]"
    plain, inverted = (
        build(compose_config("train", ["task=seg", "augment.color=0", *options]).augment, key="augment")
        for options in ([], [extra])
    )
    image = np.random.default_rng(0).integers(0, 256, (256, 512, 3), dtype=np.uint8)
    np.testing.assert_array_equal(inverted(image, None, 3)[0], 255 - plain(image, None, 3)[0])
    assert compose_config("train", ["task=det", extra]).augment.extra[0].p == 1


def test_extra_albumentations_are_applied():
    import albumentations

    transform = TrainTransform(crop=64, extra=[albumentations.InvertImg(p=1)])
    np.testing.assert_array_equal(
        transform(IMAGE, LABEL, 3)[0], 255 - TrainTransform(crop=64)(IMAGE, LABEL, 3)[0]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 0}, "crop must be"),
        ({"crop": (64,)}, "crop must be"),
        ({"crop": 64, "scale": (2.0, 0.5)}, "scale must be"),
        ({"crop": 64, "scale": (0, 1)}, "scale must be"),
        ({"crop": 64, "flip": 1.5}, "flip must be a probability"),
        ({"crop": 64, "color": -1}, "color must be"),
        ({"crop": 64, "fill": 256}, "fill must be"),
        ({"crop": 64, "scale_step": -0.1}, "scale_step must be"),
    ],
)
def test_a_bad_argument_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        TrainTransform(**options)


def test_eval_transform_resizes_the_image_and_never_the_label():
    for size, expected in [(None, (96, 192)), (0.5, (48, 96)), ((64, 100), (64, 100)), (2, (192, 384))]:
        image, label = EvalTransform(size=size)(IMAGE, LABEL, 0)
        assert image.shape == (*expected, 3)
        assert label is LABEL
    assert EvalTransform()(IMAGE, LABEL, 0)[0] is IMAGE
    checker = (np.indices((96, 192)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    assert np.ptp(EvalTransform(size=(32, 64), area=True)(checker, None, 0)[0].astype(int)) <= 29  # averages
    with pytest.raises(ValueError, match="size must be"):
        EvalTransform(size=-1)
    with pytest.raises(ValueError, match="size must be"):
        EvalTransform(size=(3,))


@pytest.fixture(scope="module")
def twelve_equal_samples(tmp_path_factory):
    """Twelve samples of the same image, which differ only in their randomness."""
    folder = tmp_path_factory.mktemp("equal")
    write_png(folder / "image.png", IMAGE)
    write_png(folder / "mask.png", LABEL)
    split = SegmentationSplit(
        images=pack_paths([folder / "image.png"] * 12),
        names=pack_paths([f"n{i}" for i in range(12)]),
        labels=pack_paths([folder / "mask.png"] * 12),
    )
    classes = ClassMap(names=tuple("abcde"))
    return SegmentationDataset(
        split=split,
        read_label=LabelReader(classes=classes, remedy="fix it"),
        transform=TrainTransform(crop=32, color=0.3),
        seed=7,
    )


def epoch_of(dataset, epoch, workers, **options):
    draws = [SampleKey(index, epoch) for index in range(len(dataset))]
    loader = DataLoader(dataset, batch_size=2, sampler=draws, num_workers=workers, **options)
    batches = list(loader)
    return [image.numpy().tobytes() for batch in batches for image in batch["image"]]


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_draw_different_samples_reproducibly_and_as_the_main_process_does(
    twelve_equal_samples, context
):
    """albumentations copies one random state to all workers, so workers and epochs would repeat."""
    alone = [epoch_of(twelve_equal_samples, epoch, 0) for epoch in (0, 1)]
    assert len({*alone[0], *alone[1]}) == 24  # no sample of two epochs repeats another
    epochs = (0, 1) if context == "fork" else (1,)  # spawning imports everything again
    for epoch in epochs:
        assert epoch_of(twelve_equal_samples, epoch, 2, multiprocessing_context=context) == alone[epoch]


GEOMETRIC = [
    ("Rotate", {"limit": (45, 45)}),
    ("SafeRotate", {"limit": (45, 45)}),
    ("Affine", {"translate_px": {"x": (20, 20), "y": (20, 20)}}),
    ("ShiftScaleRotate", {"shift_limit": (0.3, 0.3)}),
    ("Perspective", {"scale": (0.2, 0.2), "fit_output": True}),
    ("ElasticTransform", {"alpha": 400, "sigma": 4}),
    ("GridDistortion", {"distort_limit": (0.9, 0.9)}),
    ("OpticalDistortion", {"distort_limit": (0.9, 0.9)}),
    ("PadIfNeeded", {"min_height": 80, "min_width": 80}),
    ("CropAndPad", {"px": 10, "keep_size": False}),
    ("MaskDropout", {"max_objects": (1, 1)}),
    ("CoarseDropout", {"fill_mask": 0}),
]


@pytest.mark.parametrize("combined", [False, True])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("name", "options"), GEOMETRIC)
def test_label_pixels_that_an_extra_transform_adds_are_ignored(name, options, nested, combined):
    """A label of class 7 throughout can only give 7 and 255; class 0 would be trained on black corners."""
    import albumentations

    step = getattr(albumentations, name)(**options, p=1)
    extra = [albumentations.OneOf([albumentations.Compose([step])], p=1)] if nested else [step]
    sample = IMAGE, np.full(IMAGE.shape[:2], 7, np.uint8)
    if combined:
        image, label = TrainTransform(crop=64, mosaic=1, copy_paste=1, extra=extra).combine([sample] * 5, 3)
    else:
        image, label = TrainTransform(crop=64, extra=extra)(*sample, 3)
    assert set(np.unique(label).tolist()) == ({255} if name == "MaskDropout" else {7, 255})
    assert label.shape == image.shape[:2]


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("Crop", {"x_max": 200, "y_max": 200}, "ValueError: Values for crop"),
        ("CoarseDropout3D", {}, "KeyError: 'volume'"),
    ],
)
def test_an_extra_transform_that_fails_is_one_line(name, options, reason):
    import albumentations

    extra = [albumentations.OneOf([getattr(albumentations, name)(**options, p=1)], p=1)]
    transform = TrainTransform(crop=64, extra=extra)
    refuses(lambda: transform(IMAGE, LABEL, 0), f"augment.extra: a transform fails \\({reason}", "remove it")


@pytest.mark.parametrize("nested", [False, True])
def test_extra_transforms_do_not_interpolate_labels(nested):
    """Classes 1 and 5 side by side, rotated: linear interpolation would add 2, 3, 4 and 6 to 254."""
    import albumentations

    rotate = albumentations.Rotate(limit=(30, 30), mask_interpolation=cv2.INTER_LINEAR, p=1)
    extra = [albumentations.OneOf([rotate], p=1)] if nested else [rotate]
    image, label = np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 1, np.uint8)
    label[:, 32:] = 5
    _, found = TrainTransform(crop=64, scale=(1, 1), flip=0, extra=extra)(image, label, 0)
    assert np.unique(found).tolist() == [1, 5, 255]


@pytest.mark.parametrize(
    ("name", "kind"), [("Normalize", "float32"), ("ToFloat", "float32"), ("ToTensorV2", "Tensor")]
)
def test_extra_transforms_that_normalize_or_convert_are_refused(name, kind):
    """The task normalizes images; it would take normalized ones for black."""
    import albumentations

    transform = TrainTransform(crop=64, extra=[getattr(albumentations, name)(p=1)])
    for label in (LABEL, None):
        refuses(lambda label=label: transform(IMAGE, label, 0), rf"augment\.extra: .* into {kind}; leave out")


def rare_pixels():
    """A mask with one pixel of class 3 and 12 ignored ones; the rest is class 0."""
    label = np.zeros((96, 192), np.uint8)
    label[70, 150] = 3
    label[:3, :4] = 255
    return label


def shares_with_class_3(**options):
    transform = TrainTransform(crop=32, scale=(1, 1), flip=0, **options)
    label = rare_pixels()
    return np.mean([(transform(IMAGE, label, seed)[1] == 3).any() for seed in range(200)])


def test_crops_around_random_classes_contain_rare_ones():
    # Anywhere: a window of 32 x 32 holds the pixel at 32 of 65 heights and 32 of 161 widths: 9.8%.
    assert shares_with_class_3() == pytest.approx(0.098, abs=0.06)
    # Around a pixel of class 0 or 3, each equally likely: half of the crops, and 9.8% of the others.
    assert shares_with_class_3(class_crops=1.0) == pytest.approx(0.55, abs=0.1)
    assert shares_with_class_3(class_crops=0.5) == pytest.approx((0.098 + 0.55) / 2, abs=0.1)


def test_the_drawn_pixel_can_lie_anywhere_in_the_crop():
    transform = TrainTransform(crop=32, scale=(1, 1), flip=0, class_crops=1.0)
    label = np.full((96, 192), 255, np.uint8)
    label[70, 150] = 3
    places = np.array([np.argwhere(transform(IMAGE, label, seed)[1] == 3)[0] for seed in range(300)])
    # The window starts at row 39..64 and column 119..150, so the pixel is at row 6..31 and column 0..31.
    assert places.min(axis=0).tolist() == [6, 0]
    assert places.max(axis=0).tolist() == [31, 31]


def test_crops_around_classes_depend_only_on_the_seed_and_are_off_by_default():
    label = rare_pixels()

    def crops(**options):
        transform = TrainTransform(crop=32, scale=(0.5, 2), **options)
        return [transform(IMAGE, label, seed) for seed in range(10)]

    def same(one, other):
        return all(
            np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
        )

    plain = crops()
    assert same(plain, crops(class_crops=0.0))
    assert same(crops(class_crops=0.7), crops(class_crops=0.7))
    assert not same(plain, crops(class_crops=0.7))
    # Without a mask, or with all of it ignored, a crop lies anywhere.
    ignored = TrainTransform(crop=32, class_crops=1.0)
    assert ignored(IMAGE, None, 0)[0].shape == (32, 32, 3)
    assert (ignored(IMAGE, np.full((96, 192), 255, np.uint8), 0)[1] == 255).all()
    with pytest.raises(ValueError, match=r"class_crops is a probability"):
        TrainTransform(crop=32, class_crops=1.5)
