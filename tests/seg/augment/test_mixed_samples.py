"""Mosaic and copy-paste: labels stay with their pixels, and partners depend only on the sample."""

from itertools import combinations, islice
from random import Random

import numpy as np
import pytest
import torch

from engine.data.class_map import ClassMap
from engine.data.images import write_png
from engine.data.loader import DataLoaders, SampleKey
from engine.io.files import pack_paths
from seg.augment.copy_paste import paste_classes
from seg.data.dataset import LabelReader, SegmentationSource, SegmentationSplit
from seg.transforms import TrainTransform
from tests.refusals import refuses

CLASSES = ClassMap(names=("sky", "road", "pole", "car"))


def places(number, size=(200, 240)):
    """An image whose pixels are (row, column, number), and a label of this number throughout."""
    rows, columns = np.indices(size, dtype=np.uint8)
    return np.stack([rows, columns, np.full(size, number, np.uint8)], axis=2), np.full(size, number, np.uint8)


def sample_of(label):
    """A label [H, W], and an image that is ten times as bright."""
    label = np.array(label, np.uint8)
    return np.repeat(10 * (label % 20)[..., None], 3, axis=2), label


# ------------------------------------------------------------------ mosaic


def centers(image):
    """(row, column) where the four images of a mosaic meet."""
    return int((image[:, 0, 2] == image[0, 0, 2]).sum()), int((image[0, :, 2] == image[0, 0, 2]).sum())


def test_a_mosaic_shows_an_unscaled_window_of_each_image_with_its_own_label():
    transform = TrainTransform(crop=(60, 100), scale=(1, 1), flip=0, mosaic=1)
    samples = [places(number) for number in (1, 2, 3, 4)]
    met = []
    for seed in range(100):
        image, label = transform.combine(samples, seed)
        y, x = centers(image)
        met.append((y, x))
        expected = np.empty((60, 100), int)
        expected[:y, :x], expected[:y, x:], expected[y:, :x], expected[y:, x:] = 1, 2, 3, 4
        np.testing.assert_array_equal(label, expected)
        np.testing.assert_array_equal(image[..., 2], expected)
        for rows in (slice(0, y), slice(y, 60)):
            for columns in (slice(0, x), slice(x, 100)):
                part = image[rows, columns].astype(int)
                assert (np.diff(part[..., 0], axis=0) == 1).all()
                assert (np.diff(part[..., 1], axis=1) == 1).all()
    heights, widths = zip(*met, strict=True)
    assert 18 <= min(heights) < 22 < 38 < max(heights) <= 42  # 0.3 and 0.7 of 60
    assert 30 <= min(widths) < 35 < 65 < max(widths) <= 70


def test_the_images_of_a_mosaic_are_scaled_and_flipped_one_by_one():
    transform = TrainTransform(crop=64, scale=(0.5, 2), mosaic=1)
    samples = [places(number) for number in (1, 2, 3, 4)]
    flips, steps = [], []
    for seed in range(100):
        image = transform.combine(samples, seed)[0].astype(int)
        y, x = centers(image)
        rows = [image[0, :x, 1], image[0, x:, 1], image[y, :x, 1], image[y, x:, 1]]
        lengths = [(row[-1] - row[0]) / (len(row) - 1) for row in rows]
        flips.append([length < 0 for length in lengths])
        steps.append([abs(length) for length in lengths])
    assert np.mean(flips, axis=0) == pytest.approx([0.5] * 4, abs=0.15)
    assert len({tuple(row) for row in flips}) == 16
    assert np.min(steps) < 0.6  # scale 2: half a pixel of the image per pixel
    assert np.max(steps) > 1.8
    assert abs(np.corrcoef(np.array(steps).T)[0, 1]) < 0.3


def test_what_an_image_of_a_mosaic_does_not_fill_is_gray_and_ignored():
    transform = TrainTransform(crop=100, scale=(1, 1), flip=0, mosaic=1, fill=99)
    image, label = transform.combine([places(number, (20, 25)) for number in (1, 2, 3, 4)], 0)
    assert np.bincount(label.ravel())[1:5].tolist() == [500] * 4  # each image is there as a whole, once
    assert (label == 255).sum() == 100 * 100 - 4 * 500
    assert (image[label == 255] == 99).all()
    assert (image[..., 2][label != 255] == label[label != 255]).all()


def test_crops_around_classes_apply_to_every_image_of_a_mosaic():
    image, label = places(0)
    label[150, 200] = 3

    def shares(**options):
        transform = TrainTransform(crop=64, scale=(1, 1), mosaic=1, **options)
        return np.mean([(transform.combine([(image, label)] * 4, seed)[1] == 3).sum() for seed in range(100)])

    # The image has classes 0 and 3: half of the four crops lie around the pixel.
    assert shares(class_crops=1.0) == pytest.approx(2, abs=0.4)
    assert shares() < 0.4


# ------------------------------------------------------------------ copy-paste


def test_pasted_classes_take_all_of_their_pixels_along():
    target = sample_of([[0, 0, 0, 0], [1, 1, 1, 255]])
    source = sample_of([[2, 3, 3, 255], [255, 3, 2, 2]])
    image, label = paste_classes(target, source, Random(0), classes=[3])
    assert label.tolist() == [[0, 3, 3, 0], [1, 3, 1, 255]]
    assert image[..., 0].tolist() == [[0, 30, 30, 0], [10, 30, 10, 150]]  # 10 * (255 % 20) = 150
    assert target[1].tolist() == [[0, 0, 0, 0], [1, 1, 1, 255]]
    assert source[1].tolist() == [[2, 3, 3, 255], [255, 3, 2, 2]]


def test_ignored_pixels_are_not_pasted():
    target = sample_of([[1, 1, 1]])
    assert paste_classes(target, sample_of([[255, 255, 255]]), Random(0))[1].tolist() == [[1, 1, 1]]
    assert paste_classes(target, sample_of([[255, 2, 255]]), Random(0))[1].tolist() == [[1, 2, 1]]


@pytest.mark.parametrize(("present", "pasted"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_half_of_the_classes_are_pasted_and_each_choice_is_equally_likely(present, pasted):
    source = sample_of([[*range(present), 255]])
    chosen = []
    for seed in range(600):
        labels = paste_classes(sample_of([[9] * (present + 1)]), source, Random(seed))[1][0]
        chosen.append(tuple(label for label in labels.tolist() if label != 9))
    choices = list(combinations(range(present), pasted))
    assert set(chosen) == set(choices)
    counts = [chosen.count(choice) / 600 for choice in choices]
    assert counts == pytest.approx([1 / len(choices)] * len(choices), abs=0.06)


def test_only_listed_classes_are_pasted():
    source = sample_of([[0, 1, 2, 3, 5]])
    target, listed = sample_of([[9] * 5]), [2, 3, 7]
    labels = [paste_classes(target, source, Random(seed), classes=listed)[1][0] for seed in range(50)]
    seen = {tuple(label.tolist()) for label in labels}
    assert seen == {(9, 9, 2, 9, 9), (9, 9, 9, 3, 9)}  # half of the two that the image has


def test_a_pasted_image_is_cropped_and_flipped_on_its_own():
    transform = TrainTransform(crop=64, scale=(1, 1), copy_paste=1)
    sample, (other, label) = places(1), places(0)
    label[:, ::2] = 2
    differences = []
    for seed in range(60):
        image, mixed = transform.combine([sample, (other, label)], seed)
        assert set(np.unique(mixed).tolist()) in ({0, 1}, {1, 2})
        own, pasted = mixed == 1, mixed != 1
        assert (image[..., 2] == own).all()  # the images are numbered 1 and 0
        assert own.sum() == pasted.sum() == 64 * 32
        row = image[0, :, 1].astype(int)
        differences.append((row[own[0]][0] > row[own[0]][1], row[pasted[0]][0] > row[pasted[0]][1]))
        assert (np.diff(image[..., 0].astype(int)[:, own[0]], axis=0) == 1).all()
    assert len(set(differences)) == 4


def test_copy_paste_also_pastes_on_mosaics():
    transform = TrainTransform(crop=64, scale=(1, 1), mosaic=1, copy_paste=1)
    image, label = places(7)
    label[:, ::2] = 255
    mixed = transform.combine([*(places(number) for number in (1, 2, 3, 4)), (image, label)], 0)[1]
    assert set(np.unique(mixed).tolist()) == {1, 2, 3, 4, 7}
    assert (mixed == 7).sum() == 64 * 32


def test_a_user_learns_the_names_of_the_classes(source):
    transform = TrainTransform(crop=32, copy_paste=1, copy_paste_classes=["pole", "cars"])
    refuses(
        lambda: source.dataset("train", transform),
        r"augment\.copy_paste_classes: unknown class 'cars'; did you mean 'car'\?; "
        r"the classes are sky, road, pole, car",
    )


@pytest.mark.parametrize("names", ["car", [], 3])
def test_names_of_classes_are_a_list(names):
    with pytest.raises(ValueError, match="copy_paste_classes must be null or a list of class names"):
        TrainTransform(crop=32, copy_paste=1, copy_paste_classes=names)


def test_names_need_a_dataset_and_samples_must_be_complete():
    named = TrainTransform(crop=32, copy_paste=1, copy_paste_classes=["car"])
    with pytest.raises(ValueError, match="call for_classes"):
        named.combine([places(1), places(2)], 0)
    with pytest.raises(ValueError, match="5 samples are needed, got 4"):
        TrainTransform(crop=32, mosaic=1, copy_paste=1).combine([places(1)] * 4, 0)


# ------------------------------------------------------------------ partners


def test_mosaic_and_copy_paste_have_their_probabilities_and_are_independent():
    transform = TrainTransform(crop=32, mosaic=0.3, copy_paste=0.5)
    counts = np.bincount([transform.partners(seed) for seed in range(2000)], minlength=5) / 2000
    assert counts == pytest.approx([0.35, 0.35, 0, 0.15, 0.15], abs=0.03)
    assert not any(TrainTransform(crop=32).partners(seed) for seed in range(100))


@pytest.fixture
def source(tmp_path):
    """Six images: image i is (row, column, i); labels 0 and 3 by columns, i % 3 on top."""
    names = [f"image{number}" for number in range(6)]
    for number, name in enumerate(names):
        image, label = places(number, (80, 100))
        label[40:, ::2], label[40:, 1::2], label[:40] = 0, 3, number % 3
        write_png(tmp_path / f"{name}.png", image)
        write_png(tmp_path / f"{name}_mask.png", label)
    split = SegmentationSplit(
        images=pack_paths([tmp_path / f"{name}.png" for name in names]),
        names=pack_paths(names),
        labels=pack_paths([tmp_path / f"{name}_mask.png" for name in names]),
    )
    reader = LabelReader(classes=CLASSES, remedy="fix it")
    return SegmentationSource(classes=CLASSES, splits={"train": split}, read_label=reader, description="six")


def test_partners_come_from_all_images_and_the_first_is_the_sample_itself(source):
    dataset = source.dataset("train", TrainTransform(crop=64, mosaic=1), seed=1)
    seen = []
    for epoch in range(60):
        image = dataset[SampleKey(2, epoch)]["image"][2]
        seen.append([int(image[row, column]) for row in (0, -1) for column in (0, -1)])
    first, *others = zip(*seen, strict=True)
    assert set(first) == {2}
    assert all(set(column) == set(range(6)) for column in others)


def test_named_classes_are_those_of_the_dataset(source):
    transform = TrainTransform(crop=32, scale=(1, 1), copy_paste=1, copy_paste_classes=["car"])
    dataset = source.dataset("train", transform)
    plain = source.dataset("train", TrainTransform(crop=32, scale=(1, 1), copy_paste=1))
    pasted = []
    for epoch in range(40):
        sample = dataset[SampleKey(0, epoch)]
        foreign = sample["image"][2] != 0
        assert set(sample["label"][foreign].tolist()) <= {3}
        pasted.append(bool(foreign.any()))
    assert any(pasted)
    labels = [plain[SampleKey(0, epoch)] for epoch in range(40)]
    assert set(torch.cat([one["label"][one["image"][2] != 0] for one in labels]).tolist()) == {0, 1, 2, 3}


def test_the_sample_itself_replaces_one_that_a_resumed_run_has_lost(source):
    source.gaps = {"train": {1, 3, 4, 5}}
    dataset = source.dataset("train", TrainTransform(crop=64, mosaic=1))
    images = torch.stack([dataset[SampleKey(2, epoch)]["image"][2] for epoch in range(30)])
    assert set(images.unique().tolist()) == {0, 2}


def test_an_image_without_a_label_is_not_combined(source):
    """Unlabeled images for distillation."""
    image = places(1)[0]
    dataset = source.dataset("train", TrainTransform(crop=64, mosaic=1, copy_paste=1))
    plain = source.dataset("train", TrainTransform(crop=64))
    np.testing.assert_array_equal(dataset.augment(image, 5), plain.augment(image, 5))


ALL = {"mosaic": 0.6, "copy_paste": 0.6, "color": 0.3, "gray": 0.3, "blur": 0.3, "noise": 0.3}


def batches(dataset, *, first_step, workers, number):
    loaders = DataLoaders(train_set=dataset, eval_set=dataset, seed=3, workers=workers)
    stream = loaders.train_batches(first_step, batch=4, micro_batches=1, rank=0, world_size=1, pin=False)
    return [(batch["image"], batch["label"]) for batch in islice(stream, number)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_sees_the_same_samples_whatever_the_number_of_workers(source, workers):
    dataset = source.dataset("train", TrainTransform(crop=48, **ALL), seed=3)
    whole = batches(dataset, first_step=0, workers=0, number=6)
    again = source.dataset("train", TrainTransform(crop=48, **ALL), seed=3)
    resumed = batches(again, first_step=2, workers=workers, number=4)
    for (image, label), (other_image, other_label) in zip(whole[2:], resumed, strict=True):
        assert torch.equal(image, other_image)
        assert torch.equal(label, other_label)
    images = torch.cat([image for image, _ in whole])
    assert len({image.numpy().tobytes() for image in images}) == len(images) == 24


@pytest.mark.parametrize("name", ["mosaic", "copy_paste", "gray", "blur", "noise"])
def test_every_option_changes_samples_and_is_off_by_default(source, name):
    def samples(**options):
        dataset = source.dataset("train", TrainTransform(crop=48, **options))
        return [dataset[SampleKey(index, 0)]["image"] for index in range(6)]

    def equal(one, other):
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    assert equal(samples(), samples(**{name: 0.0}))
    assert not equal(samples(), samples(**{name: 1.0}))
    assert equal(samples(**{name: 0.5}), samples(**{name: 0.5}))
    with pytest.raises(ValueError, match=rf"^{name} is a probability and must be in 0\.\.1, got 1\.5"):
        TrainTransform(crop=32, **{name: 1.5})


def test_classes_to_paste_without_pasting_are_refused():
    with pytest.raises(ValueError, match=r"copy_paste_classes needs copy_paste above 0"):
        TrainTransform(crop=64, copy_paste_classes=["car"])
