"""Faults of a segmentation set, planted once: each is found, with its number, and nothing else is."""

import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.doctor.check.datasets import checked, finding_of, found, halves, mask, masks_data, photo, pixels


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def damaged_image(root):
    cut(root / "images/train/train1.jpg")


def damaged_mask(root):
    data = (root / "masks/train/train1.png").read_bytes()
    (root / "masks/train/train1.png").write_bytes(data[:60])


def missing_mask(root):
    (root / "masks/train/train1.png").unlink()


def unknown_values(root):
    mask(root / "masks/train/train1.png", halves(right=7))


def wrong_size(root):
    mask(root / "masks/train/train1.png", halves(size=(40, 64)))


def turned_image(root):
    path = root / "images/train/train1.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(9, (64, 48))).save(path, exif=exif)  # 48 x 64 when rotated upright


def rotated_mask(root):
    mask(root / "masks/train/train1.png", halves(size=(64, 48)))


def ignored_mask(root):
    mask(root / "masks/train/train1.png", np.full((48, 64), 255))


def single_class(root):
    mask(root / "masks/train/train1.png", halves(right=0))


def copy_in_val(root):
    shutil.copy(root / "images/train/train2.jpg", root / "images/val/val1.jpg")


def saved_again_in_val(root):
    image = Image.open(root / "images/train/train2.jpg")
    image.resize((128, 96)).save(root / "images/val/val1.jpg", quality=60)
    mask(root / "masks/val/val1.png", halves(size=(96, 128)))


def copy_in_train(root):
    shutil.copy(root / "images/train/train2.jpg", root / "images/train/train1.jpg")


def of_one_color(root):
    Image.new("RGB", (64, 48), (90, 90, 90)).save(root / "images/train/train1.jpg")


def in_gray(root):
    Image.open(root / "images/train/train1.jpg").convert("L").save(root / "images/train/train1.jpg")


def twelve_bits(root):
    (root / "images/train/train1.jpg").unlink()
    gray = cv2.cvtColor(pixels(3), cv2.COLOR_RGB2GRAY).astype(np.uint16) * 16
    cv2.imwrite(str(root / "images/train/train1.png"), gray)


def heic(root):
    (root / "images/train/phone.heic").write_bytes(b"x")


ONCE = [
    (damaged_image, {"damaged_image": 1}),
    (damaged_mask, {"damaged_mask": 1}),
    (missing_mask, {"missing_mask": 1}),
    (unknown_values, {"unknown_values": 1}),
    (wrong_size, {"mask_size": 1}),
    (turned_image, {"exif_rotation": 1}),
    (rotated_mask, {"rotated_mask": 1}),
    (ignored_mask, {"ignored_mask": 1}),
    (single_class, {"single_class_mask": 1}),
    (copy_in_val, {"same_image_in_splits": 1}),
    (saved_again_in_val, {"near_duplicates_in_splits": 1}),
    (copy_in_train, {"copies": 1}),
    (of_one_color, {"uniform_image": 1}),
    (in_gray, {"mixed_colors": 1}),
    (twelve_bits, {"mixed_colors": 1, "unused_range": 1}),
    (heic, {"unsupported_format": 1}),
]


@pytest.fixture
def root(tmp_path):
    return masks_data(tmp_path / "data")


def test_nothing_is_found_in_data_without_faults(root):
    before = {path: path.read_bytes() for path in root.rglob("*.*")}
    result = checked("seg", root)
    assert found(result) == {}
    assert result.status(strict=True) == 0
    assert {path: path.read_bytes() for path in root.rglob("*.*")} == before


@pytest.mark.parametrize(("plant", "expected"), ONCE, ids=[plant.__name__ for plant, _ in ONCE])
def test_a_planted_fault_is_found_once_and_nothing_else(root, plant, expected):
    plant(root)
    # what readers say before every training: a file that is left out
    counts = {code: count for code, count in found(checked("seg", root)).items() if code != "reader"}
    assert counts == expected


def test_no_class_is_called_absent_if_no_mask_can_be_read(root):
    for path in root.glob("masks/*/*.png"):
        mask(path, halves(right=7))
    assert found(checked("seg", root)) == {"unknown_values": 7}


def test_a_range_that_is_set_is_not_asked_for(root):
    twelve_bits(root)
    assert "unused_range" not in found(checked("seg", root, "data.pixel_range=[0,4095]"))


def test_what_should_be_left_out_is_named_by_split(root):
    damaged_image(root)
    copy_in_val(root)
    wrong_size(root)  # of the damaged image: it is left out once
    result = checked("seg", root)
    assert result.excluded == {
        "train": {"train1": "damaged image"},
        "val": {"val1": "same image in splits"},
    }
    assert result.needed == ["data.on_error=skip", "data.source.allow_same_files=true"]


def test_a_class_that_never_occurs_in_a_split_is_reported_for_it(root):
    for number in range(3):
        mask(root / f"masks/val/val{number}.png", halves(right=255))
    finding = finding_of(checked("seg", root), "class_absent")
    assert (finding.severity, finding.examples) == ("warning", ("b",))
    assert "val" in finding.title


def test_classes_json_is_not_written(root):
    (root / "classes.json").unlink()
    result = checked("seg", root)
    assert not (root / "classes.json").exists()
    assert found(result) == {"reader": 1}


def test_a_fault_of_most_of_a_split_is_not_remedied_by_leaving_it_out(root):
    for number in range(3):
        mask(root / f"masks/val/val{number}.png", halves(size=(40, 64)))
    result = checked("seg", root)
    assert found(result) == {"mask_size": 3}
    assert result.excluded == {}


def test_splits_without_masks_are_errors_and_their_images_are_checked(root):
    damaged_image(root)
    shutil.rmtree(root / "masks")
    result = checked("seg", root)
    assert [(each.code, each.count) for each in result.findings] == [
        ("refused", 4), ("refused", 3), ("damaged_image", 1),
    ]  # fmt: skip
    assert result.findings[1].examples == tuple(str(root / f"images/val/val{n}.jpg") for n in range(3))
    assert result.status(strict=False) == 1
    assert not result.can_train


def test_data_that_cannot_be_built_is_an_error_with_the_readers_remedy(root):
    (root / "classes.json").write_text("{}")
    result = checked("seg", root)
    assert found(result) == {"refused": 1}
    assert result.scan is None
    assert result.status(strict=False) == 1
    assert not result.can_train


def test_shares_that_differ_between_train_and_val_are_reported_if_there_are_enough_images(tmp_path):
    root = masks_data(tmp_path / "data", train=30, val=30)
    for number in range(30):
        values = halves()
        values[:, 8:32] = 1  # a has 8 of 64 columns in val, 32 in train
        mask(root / f"masks/val/val{number}.png", values)
        photo(root / f"images/val/val{number}.jpg", [7, number])
    finding = finding_of(checked("seg", root), "class_drift")
    assert finding.examples == ("a: train 50.00%, val 12.50%",)


def test_brighter_val_images_are_reported(tmp_path):
    root = masks_data(tmp_path / "data", train=30, val=30)
    for number in range(30):
        bright = pixels([9, number]) // 2 + 120
        Image.fromarray(bright).save(root / f"images/val/val{number}.jpg", quality=95)
    assert found(checked("seg", root)) == {"brightness_drift": 1}


def test_a_class_with_less_than_a_hundredth_of_the_most_frequent_one_is_rare(root):
    for number in range(4):
        values = halves(right=0)
        values[:6, :5] = 1  # 30 of 3072 pixels; 1 / 101.4 of the others
        mask(root / f"masks/train/train{number}.png", values)
    finding = finding_of(checked("seg", root), "imbalance")
    assert (finding.count, finding.severity) == (1, "note")
    assert "1/101" in finding.why


def as_fractions(root):
    for path in sorted(root.glob("images/*/*.jpg")):
        gray = np.asarray(Image.open(path).convert("L"), np.float32) / 255
        cv2.imwrite(str(path.with_suffix(".tif")), gray)
        path.unlink()


def test_images_of_a_kind_that_needs_a_key_are_not_to_be_left_out(root):
    """All images of floating point numbers: without them, nothing would be left."""
    as_fractions(root)
    finding = finding_of(checked("seg", root), "unreadable_image")
    assert finding.remedy.startswith("set data.pixel_range=[<value of black>,<value of white>]")
    assert "exclude" not in finding.remedy
    assert "unreadable_image" not in found(checked("seg", root, "data.pixel_range=[0,1]"))


def test_masks_of_a_kind_that_is_not_read_are_to_be_saved_otherwise(root):
    cv2.imwrite(str(root / "masks/train/train1.tif"), halves().astype(np.float32))
    (root / "masks/train/train1.png").unlink()
    finding = finding_of(checked("seg", root), "unreadable_mask")
    assert finding.remedy == "save integer ids as an 8- or 16-bit PNG"
