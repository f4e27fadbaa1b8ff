"""Checks of a data source: images that splits share, and splits without boxes."""

from dataclasses import replace

import numpy as np
import pytest

from det.data.cleaning import AnnotationIssues
from det.data.source_checks import checked_source
from engine.errors import UserError
from tests.det.data.small_splits import CLASSES, make_split


def checked(train, val, issues=None, **options):
    return checked_source(
        name="home",
        classes=CLASSES,
        splits={"train": train, "val": val},
        issues=issues or AnnotationIssues(),
        **options,
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
    same, _ = make_split(tmp_path / "same", [[(1, 1, 9, 9)]])
    with pytest.raises(UserError, match=r"same/0\.png: the same image as .*train/0\.png"):
        checked(train, same, allow_same_names=True)


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
