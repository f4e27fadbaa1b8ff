"""Class folders: what is read, and one-line errors."""

import numpy as np
import pytest

from cls.data.folders import folders
from cls.transforms import EvalTransform
from engine.data.images import write_png
from engine.data.loader import SampleKey
from engine.errors import UserError


def write(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8))


@pytest.fixture
def tree(tmp_path):
    for number, name in enumerate(
        ["train/cat/a", "train/cat/more/b", "train/dog/c", "val/dog/d", "val/cat/a"]
    ):
        write(tmp_path / f"{name}.png", number)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".hidden").mkdir()
    return tmp_path


def test_classes_are_the_folders_of_train(tree):
    data = folders(root=str(tree))
    assert data.classes.names == ("cat", "dog")
    train, val = (data.dataset(split, EvalTransform(crop=16)) for split in ("train", "val"))
    assert [train.name(i) for i in range(len(train))] == ["cat/a", "cat/more/b", "dog/c"]
    assert [train.label(i) for i in range(3)] == [0, 0, 1]
    assert [val.name(i) for i in range(2)] == ["cat/a", "dog/d"]
    sample = val[SampleKey(1, 0)]
    assert sample["label"] == 1
    assert sample["image"].shape == (3, 16, 16)
    assert "train 3, val 2" in data.description
    (line,) = data.warnings
    assert "train: 1 file left out: cat/notes.txt; images must be avif" in line


def test_classes_json_sets_the_order(tree):
    (tree / "classes.json").write_text('{"classes": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]}')
    data = folders(root=str(tree))
    assert data.classes.names == ("dog", "cat")
    assert data.dataset("train", EvalTransform(crop=16)).label(0) == 1


def test_a_class_without_images_in_a_split_is_reported(tree):
    (tree / "val" / "dog" / "d.png").unlink()
    assert folders(root=str(tree)).warnings[1:] == ("val has no images of dog",)


def test_without_removes_samples(tree):
    split = folders(root=str(tree)).splits["train"].without([0])
    assert split.files.tolist() == [b"cat/more/b.png", b"dog/c.png"]
    assert split.labels.tolist() == [0, 1]


def test_a_class_that_train_lacks_is_rejected(tree):
    write(tree / "val" / "cow" / "e.png")
    with pytest.raises(UserError, match=r"val/cow: not a class of the training images \(cat, dog\)"):
        folders(root=str(tree))


def test_an_image_of_train_in_val_is_rejected_whatever_its_name(tree):
    (tree / "val" / "dog" / "other.png").write_bytes((tree / "train" / "cat" / "a.png").read_bytes())
    with pytest.raises(UserError, match=r"the same image as .*; remove them.*allow_same_files=true"):
        folders(root=str(tree))
    assert len(folders(root=str(tree), allow_same_files=True).splits["val"]) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no split folders"),
        (lambda root: (root / "train").mkdir(), "train: no class folders"),
        (lambda root: (root / "train" / "cat").mkdir(parents=True), "train: no images"),
    ],
)
def test_empty_trees_are_rejected(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        folders(root=str(tmp_path))


def test_a_missing_folder_and_split_are_named(tree):
    with pytest.raises(UserError, match=r"data\.root=.*nowhere: no such folder"):
        folders(root=str(tree / "nowhere"))
    with pytest.raises(UserError, match="no split 'test'"):
        folders(root=str(tree)).dataset("test", EvalTransform(crop=16))


def test_a_damaged_image_is_named(tree):
    (tree / "val" / "dog" / "d.png").write_bytes(b"\x89PNG nothing")
    dataset = folders(root=str(tree)).dataset("val", EvalTransform(crop=16))
    with pytest.raises(UserError, match=r"val/dog/d\.png"):
        dataset[SampleKey(1, 0)]


def test_files_that_cannot_be_read_equal_no_other_file(tree):
    for split in ("train", "val"):
        (tree / split / "dog" / "gone.png").symlink_to("nowhere.png")
    dataset = folders(root=str(tree)).dataset("val", EvalTransform(crop=16))
    with pytest.raises(UserError, match=r"val/dog/gone\.png: cannot be read"):
        dataset.read(2)


def test_a_folder_whose_name_is_not_utf8_is_rejected(tree):
    (tree / "train" / "caf\udce9").mkdir()
    with pytest.raises(ValueError, match=r"'caf\\udce9' is not valid UTF-8; rename the class, or its folder"):
        folders(root=str(tree))


def test_a_single_class_is_refused(tmp_path):
    """With one class, top-1 is 1 whatever is learned."""
    for split in ("train", "val"):
        write(tmp_path / split / "cat" / "a.png", len(split))
    with pytest.raises(UserError, match=r"'cat' is the only class, .* at least 2 classes"):
        folders(root=str(tmp_path))
    write(tmp_path / "val" / "dog" / "b.png", 7)
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(UserError, match="train: all images are of one class; add images of the others"):
        folders(root=str(tmp_path))


def test_every_two_splits_are_compared_and_images_of_a_single_color_allowed(tree):
    write_png(tree / "train" / "cat" / "black.png", np.zeros((9, 9, 3), np.uint8))
    (tree / "test" / "dog").mkdir(parents=True)
    (tree / "test" / "dog" / "black.png").write_bytes((tree / "train" / "cat" / "black.png").read_bytes())
    line = f"{tree}: 1 of the images of test have a single color and are also in train"
    assert line in folders(root=str(tree)).warnings
    (tree / "test" / "dog" / "x.png").write_bytes((tree / "train" / "dog" / "c.png").read_bytes())
    with pytest.raises(UserError, match=r"x\.png: the same image as .*c\.png \(train and test share 1\)"):
        folders(root=str(tree))
