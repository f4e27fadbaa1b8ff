"""Unlabeled images beside the training images, for distillation."""

import pickle
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from engine.data.images import write_png
from engine.data.loader import DataLoaders, SampleKey
from engine.errors import UserError
from engine.train.distillation.unlabeled import WithUnlabeled, with_unlabeled

ALONE = SimpleNamespace(rank=0, world_size=1, gather=lambda value: [value])


class Labeled:
    """Three samples; augmenting an image adds the seed's last bit to it."""

    note = "an attribute"

    def __len__(self):
        return 3

    def __getitem__(self, key):
        return {"index": key.index, "image": torch.zeros(3, 2, 2, dtype=torch.uint8)}

    def augment(self, image, seed):
        return image + np.uint8(seed % 2)


def images(folder, count=5):
    for number in range(count):
        write_png(folder / f"part{number % 2}" / f"{number}.png", np.full((2, 2, 3), 10 * number, np.uint8))


def data(folder, seed=0):
    loaders = DataLoaders(train_set=Labeled(), eval_set=Labeled(), seed=seed)
    return with_unlabeled(loaders, str(folder), ALONE).train_set


def values(dataset, epochs=40):
    keys = [SampleKey(index, epoch) for epoch in range(epochs) for index in range(3)]
    return [int(dataset[key]["unlabeled"][0, 0, 0]) for key in keys]


def test_every_sample_gets_an_image_that_depends_on_seed_epoch_and_index_alone(tmp_path):
    images(tmp_path)
    first = values(data(tmp_path))
    assert first == values(data(tmp_path))
    assert first == values(pickle.loads(pickle.dumps(data(tmp_path))))
    assert first != values(data(tmp_path, seed=1))
    assert {value // 10 for value in first} == {0, 1, 2, 3, 4}
    assert {value % 10 for value in first} == {0, 1}  # augmented


def test_the_rest_is_the_labeled_set(tmp_path):
    images(tmp_path)
    dataset = data(tmp_path)
    assert isinstance(dataset, WithUnlabeled)
    assert (len(dataset), dataset.note) == (3, "an attribute")
    sample = dataset[SampleKey(2, 0)]
    assert sample["index"] == 2
    assert not sample["image"].any()


def test_values_are_read_as_those_of_the_labeled_images(tmp_path):
    """4095 of 12 bits becomes 255 with data.pixel_range=[0,4095], and 16 without."""
    cv2.imwrite(str(tmp_path / "0.png"), np.full((4, 4, 3), 4095, np.uint16))
    loaders = DataLoaders(train_set=Labeled(), eval_set=Labeled(), seed=0)
    source = SimpleNamespace(pixel_range=(0, 4095), upright=True)
    ranged = with_unlabeled(loaders, str(tmp_path), ALONE, source=source).train_set
    assert {value // 16 for value in values(ranged, epochs=1)} <= {15, 0}
    assert 255 in values(ranged, epochs=9)
    assert max(values(with_unlabeled(loaders, str(tmp_path), ALONE).train_set, epochs=9)) <= 17


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"distill.images=.*: no image found"):
        data(tmp_path)
    with pytest.raises(UserError, match=r"distill.images=.*nothing: no such folder"):
        data(tmp_path / "nothing")


def test_files_that_are_not_read_are_counted_and_named(tmp_path, capsys):
    (tmp_path / "part0").mkdir()
    (tmp_path / "part0/phone.heic").touch()
    with pytest.raises(
        UserError, match=r"no image found; .*: 1 file left out: part0/phone\.heic; images must"
    ):
        data(tmp_path)
    images(tmp_path)
    data(tmp_path)
    assert f"{tmp_path}: 1 file left out: part0/phone.heic; images must be " in capsys.readouterr().out


def test_damaged_images_are_named_before_training(tmp_path):
    images(tmp_path)
    for name in ("part0/0.png", "part1/1.png"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:40])
    with pytest.raises(UserError, match=r"distill.images=.*0\.png.*; 2 of 5 files are damaged, including"):
        data(tmp_path)
