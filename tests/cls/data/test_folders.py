"""Class folders: what is read, and one-line errors."""

import shutil

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
    write(tmp_path / "train/@eaDir/cat/a.jpg.png", 9)
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
        (lambda root: None, "no class folders; put the images in train/<class>"),
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


def test_class_folders_without_splits_are_divided(tmp_path):
    """A fifth of 20 images by the hash of their names; "train" is a class of vehicles here."""
    for number in range(20):
        write(tmp_path / ("bus" if number % 2 else "train") / f"{number}.png", number)
    data = folders(root=str(tmp_path))
    assert data.classes.names == ("bus", "train")
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sum(sizes.values()) == 20
    assert 1 <= sizes["val"] <= 8
    assert [split.files.tolist() for split in folders(root=str(tmp_path)).splits.values()] == [
        split.files.tolist() for split in data.splits.values()
    ]
    assert f"{tmp_path}: each folder is a class, including train" in data.warnings[0]
    assert f"{tmp_path}: no splits; {sizes['val']} of 20 images are used as val" in data.warnings[1]


def test_one_image_per_class_leaves_none_for_val(tmp_path):
    for number, name in enumerate(("cat", "dog", "cow")):
        write(tmp_path / name / "only.png", number)
    with pytest.raises(UserError, match="too few images for a val split; add images, or sort the images"):
        folders(root=str(tmp_path))


@pytest.mark.parametrize("only", [f"{letter}.png" for letter in "abcdefghij"])  # one has the lowest hash
def test_val_has_an_image_if_a_class_can_spare_one(tmp_path, only):
    write(tmp_path / "cat" / only, 0)
    for number in range(2):
        write(tmp_path / "dog" / f"{number}.png", 1 + number)
    data = folders(root=str(tmp_path))
    assert {split: data.splits[split].labels.tolist() for split in ("train", "val")} == {
        "train": [0, 1],
        "val": [1],
    }
    assert any("1 of 3 images are used as val" in line for line in data.warnings)


def test_a_fifth_of_train_becomes_val_and_no_class_leaves_train(tmp_path):
    for number in range(20):
        write(tmp_path / "train" / ("cat" if number else "dog") / f"{number}.png", number)
        write(tmp_path / "train" / f"rare{number}" / "only.png", 100 + number)
    data = folders(root=str(tmp_path))
    assert list(data.splits) == ["train", "val"]
    assert set(data.splits["train"].labels.tolist()) == set(range(len(data.classes)))
    assert any(
        "no val;" in line and "of 40 images of train are used as val" in line for line in data.warnings
    )


def test_identical_images_stay_on_one_side_of_the_division(tmp_path):
    for number in range(10):
        for copy in range(3):
            write(tmp_path / "ab"[number % 2] / f"{number}_{copy}.png", number)
    splits = folders(root=str(tmp_path)).splits
    sides = [{file.decode()[2] for file in split.files.tolist()} for split in splits.values()]
    assert sides[0].isdisjoint(sides[1])


@pytest.mark.parametrize("name", ["valid", "Validation", "VAL"])
def test_other_names_of_val_are_known(tree, name):
    (tree / "val").rename(tree / name)
    data = folders(root=str(tree))
    assert {split: len(files) for split, files in data.splits.items()} == {"train": 3, "val": 2}
    write(tree / "val" / "cat" / "z.png", 9) if name != "VAL" else write(tree / "valid/cat/z.png", 9)
    with pytest.raises(UserError, match=r".*/ and .*/ are both the split val; merge them"):
        folders(root=str(tree))


def test_a_split_that_has_its_classes_beside_other_folders_is_a_split(tree):
    write(tree / "night" / "cat" / "n.png", 50)
    assert list(folders(root=str(tree)).splits) == ["train", "val", "night"]


def test_an_image_in_the_folders_of_two_classes_is_named(tree):
    """Twice, under other names, in train; the copy within a class is no contradiction."""
    shutil.copy(tree / "train/cat/a.png", tree / "train/dog/x.png")
    shutil.copy(tree / "train/cat/a.png", tree / "train/cat/again.png")
    shutil.copy(tree / "val/dog/d.png", tree / "val/cat/y.png")
    shutil.copy(tree / "train/dog/c.png", tree / "train/cat/more/z.png")
    data = folders(root=str(tree))
    assert [line for line in data.warnings if "several classes" in line] == [
        f"{tree / 'train'}: 2 images are in the folders of several classes (cat/a.png and cat/again.png and "
        "dog/x.png, cat/more/z.png and dog/c.png); keep one of each",
        f"{tree / 'val'}: 1 image is in the folders of several classes (cat/y.png and dog/d.png); "
        "keep one of each",
    ]


def test_it_is_named_too_if_val_is_taken_from_train(tmp_path):
    for number in range(12):
        write(tmp_path / f"{'cat' if number % 2 else 'dog'}/{number}.png", number)
    shutil.copy(tmp_path / "cat/1.png", tmp_path / "dog/1.png")
    lines = [line for line in folders(root=str(tmp_path)).warnings if "several classes" in line]
    named = "1 image is in the folders of several classes (cat/1.png and dog/1.png); keep one of each"
    assert lines == [f"{tmp_path}: {named}"]


def test_a_val_that_is_a_link_to_train_is_left_out(tree):
    shutil.rmtree(tree / "val")
    (tree / "val").symlink_to("train")
    data = folders(root=str(tree))
    assert list(data.splits) == ["train"]
    assert f"{tree}: val: all of its 3 images are also in train; the split is left out" in data.warnings
    assert list(folders(root=str(tree), allow_same_files=True).splits) == ["train", "val"]
