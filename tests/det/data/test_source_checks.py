"""Checks of a data source: images that splits share, and splits without boxes."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from det.data.cleaning import AnnotationIssues
from det.data.coco import coco
from det.data.cvat import cvat
from det.data.labelme import labelme
from det.data.reader_options import ReaderOptions
from det.data.source_checks import checked_source
from det.data.voc import voc
from det.data.yolo import yolo
from engine.data.images import write_png
from engine.errors import UserError
from tests.det.data.small_splits import CLASSES, make_split
from tests.refusals import refuses


def checked(train, val, issues=None, **options):
    return checked_source(
        name="home",
        classes=CLASSES,
        splits={"train": train, "val": val},
        issues=issues or AnnotationIssues(),
        options=ReaderOptions(**options),
    )


def test_images_in_both_train_and_val_are_rejected(tmp_path):
    train, _ = make_split(tmp_path / "train", [[(1, 1, 9, 9)]])
    val, _ = make_split(tmp_path / "val", [[(1, 1, 9, 9)]], seed=5)
    with pytest.raises(UserError, match=r"'0' is in both train and val.*allow_same_names=true"):
        checked(train, val)
    data = checked(train, val, allow_same_names=True)
    assert data.warnings == (
        "home: 1 class without a box in train (dog)",
        "home: 1 class without a box in val (dog)",
    )
    same, _ = make_split(tmp_path / "same", [[(1, 1, 9, 9)]] * 2)
    with pytest.raises(UserError, match=r"same/0\.png: the same image as .*train/0\.png"):
        checked(train, same, allow_same_names=True)


def test_images_that_train_and_val_share_by_path_lead_to_the_option_that_helps(tmp_path):
    whole, _ = make_split(tmp_path, [[(1, 1, 9, 9)]] * 3)
    train, val = whole.without([2]), whole.without([0])
    with pytest.raises(
        UserError, match=r"1\.png: in two splits \(train and val share 1\).*allow_same_files=true$"
    ):
        checked(train, val)
    assert list(checked(train, val, allow_same_files=True).splits) == ["train", "val"]


def with_test(train, val, test, **options):
    splits = {"train": train, "val": val, "test": test}
    return checked_source(
        name="home",
        classes=CLASSES,
        splits=splits,
        issues=AnnotationIssues(),
        options=ReaderOptions(**options),
    )


def test_every_two_splits_are_compared_under_any_names(tmp_path):
    """Of the images 0, 1, 2 of train, two are x and y of test, and the third is z of val."""
    box = [(1, 1, 9, 9)]
    train, _ = make_split(tmp_path / "train", [box] * 3)
    val, _ = make_split(tmp_path / "val", [box] * 2, seed=5)
    test, _ = make_split(tmp_path / "test", [box] * 3, seed=8)
    with_test(train, val, test, allow_same_names=True)
    for source, copy in (("train/0", "test/0"), ("train/1", "test/2"), ("train/2", "val/1")):
        shutil.copyfile(tmp_path / f"{source}.png", tmp_path / f"{copy}.png")
    with pytest.raises(UserError) as caught:
        with_test(train, val, test, allow_same_names=True)
    assert str(caught.value) == (
        f"{tmp_path}/val/1.png: the same image as {tmp_path}/train/2.png (train and val share 1, train and "
        "test share 2); remove them from one of the splits, or set data.source.allow_same_files=true"
    )
    assert list(with_test(train, val, test, allow_same_files=True).splits) == ["train", "val", "test"]


def test_images_of_a_single_color_may_be_in_several_splits(tmp_path):
    train, _ = make_split(tmp_path / "train", [[(1, 1, 9, 9)]] * 2)
    val, _ = make_split(tmp_path / "val", [[(1, 1, 9, 9)]] * 2, seed=5)
    for path in ("train/1", "val/0"):
        write_png(tmp_path / f"{path}.png", np.zeros((40, 60, 3), np.uint8))
    data = checked(train, val, allow_same_names=True)
    assert data.warnings[0] == "home: 1 of the images of val have a single color and are also in train"


def test_a_split_that_equals_another_is_left_out_unless_it_is_allowed(tmp_path):
    """Several public yaml files name the same folder as val and test."""
    train, _ = make_split(tmp_path / "train", [[(1, 1, 9, 9)]] * 2)
    val, _ = make_split(tmp_path / "val", [[(1, 1, 9, 9)]] * 2, seed=5)
    data = with_test(train, val, val, allow_same_names=True)
    assert list(data.splits) == ["train", "val"]
    assert data.warnings[0] == "home: test: all of its 2 images are also in val; the split is left out"
    assert list(with_test(train, train, val, allow_same_files=True).splits) == ["train", "val", "test"]


def test_a_training_split_without_boxes_is_rejected(tmp_path):
    train, _ = make_split(tmp_path / "train", [[(1, 1, 1, 9)]])
    val, _ = make_split(tmp_path / "val", [[(1, 1, 9, 9)]], seed=5)
    with pytest.raises(UserError, match="home: the training split has no box"):
        checked(train, val)


def test_what_is_known_of_missing_boxes_is_said(tmp_path):
    train, _ = make_split(tmp_path / "train", [[(1, 1, 9, 9)]] * 2, difficult=np.ones(2, bool))
    val, _ = make_split(tmp_path / "val", [[(1, 1, 9, 9)]], seed=5)
    issues = AnnotationIssues()
    issues.add("box", "thinner than 1 pixel: left out", ["a.txt"])
    with pytest.raises(UserError) as caught:
        checked(train, val, issues)
    assert str(caught.value) == (
        "home: the training split has no boxes to train on (2 boxes marked iscrowd or difficult; 1 box "
        "thinner than 1 pixel: left out (a.txt)); correct its annotations"
    )


def test_a_split_of_training_images_is_left_out_and_the_error_names_the_one_to_use(tmp_path):
    train, _ = make_split(tmp_path / "train", [[(1, 1, 9, 9)]] * 3)
    data = checked(train, train.without([1]))
    assert list(data.splits) == ["train"]
    line = "home: val: all of its 2 images are also in train; the split is left out"
    assert data.warnings[0] == line
    with pytest.raises(UserError, match=f"no split 'val' in home .*; {line}; set data.split=train"):
        data.dataset("val", None)
    (tmp_path / "val").symlink_to("train")
    linked = replace(train, images=np.char.replace(train.images, b"/train/", b"/val/"))
    assert checked(train, linked).warnings[0].startswith("home: val: all of its 3 images are also in train")
    (tmp_path / "val").unlink()
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    assert checked(train, linked).warnings[0].startswith("home: val: all of its 3 images are also in train")


def test_labels_of_another_format_lead_to_the_check(tmp_path):
    """A folder as for YOLO, read as the other formats; the name of the folder has to be quoted in a shell."""
    root = tmp_path / "my data"
    (root / "images" / "train").mkdir(parents=True)
    for value in (1, 2):
        write_png(root / "images" / "train" / f"{value}.png", np.full((8, 8, 3), value, np.uint8))
    command = f"for labels of another format: python tools/check.py '{root}'"
    for source in (voc, labelme, coco, cvat, yolo):
        refuses(lambda source=source: source(root=str(root)), command)
