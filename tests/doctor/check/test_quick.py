"""The quick part of the check, in every training: rare classes, and shares that differ between splits."""

from engine.config.compose import compose_config
from engine.config.training import build_source
from tests.det.data.test_voc import xml
from tests.doctor.check.datasets import (
    CAT,
    DOG,
    SIZE,
    arguments,
    folders_data,
    halves,
    mask,
    masks_data,
    voc_data,
)


def warnings(task, root):
    return build_source(compose_config("train", arguments(task, root))).warnings


def test_a_rare_class_in_the_masks_that_are_read(tmp_path):
    root = masks_data(tmp_path / "data")
    for number in range(4):
        values = halves(right=0)
        values[:6, :5] = 1  # 30 of 3072 pixels
        mask(root / f"masks/train/train{number}.png", values)
    assert (
        f"{root}: train: in the 4 masks read, b has less than 1% as many pixels as the most frequent class"
        in (warnings("seg", root))
    )


def test_a_rare_class_of_boxes(tmp_path):
    root = voc_data(tmp_path / "data")
    cats = [("cat", (x, y, x + 8, y + 8)) for x in range(0, 50, 5) for y in range(0, 36, 3)]  # 120
    (root / "train/train0.xml").write_text(xml(*cats, DOG, size=SIZE))
    for number in range(1, 4):
        (root / f"train/train{number}.xml").write_text(xml(CAT, size=SIZE))
    line = f"VOC at {root}: train: dog has less than 1% as many boxes as the most frequent class"
    assert line in warnings("det", root)


def test_classes_with_other_shares_in_val(tmp_path):
    root = folders_data(tmp_path / "data", train=40, val=20)  # 80 and 40 images, half of them cats
    for number in range(16):
        (root / f"val/dog/val{number}.jpg").rename(root / f"val/cat/other{number}.jpg")
    line = f"{root}: train and val differ in the shares of images per class: dog 50.0% and 10.0%"
    assert line in warnings("cls", root)


def test_nothing_is_said_about_balanced_data(tmp_path):
    assert warnings("cls", folders_data(tmp_path / "cls")) == ()
    assert warnings("det", voc_data(tmp_path / "det")) == ()
    lines = warnings("seg", masks_data(tmp_path / "seg"))
    assert all(" masks read: a 50.0%, b 50.0%" in line for line in lines)
