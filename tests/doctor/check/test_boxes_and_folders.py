"""Faults of detection and classification sets, planted once: each is found, and nothing else is."""

import shutil

import pytest
from PIL import Image

from det.data.cleaning import ROTATED
from tests.det.data.test_voc import xml
from tests.doctor.check.datasets import (
    CAT,
    DOG,
    SIZE,
    checked,
    finding_of,
    folders_data,
    found,
    masks_data,
    photo,
    voc_data,
)


def annotate(*objects, size=SIZE):
    return lambda root: (root / "train/train1.xml").write_text(xml(CAT, DOG, *objects, size=size))


def without_xml(root):
    (root / "train/train1.xml").unlink()


def without_image(root):
    (root / "train/train1.jpg").unlink()


def damaged(root):
    data = (root / "train/train1.jpg").read_bytes()
    (root / "train/train1.jpg").write_bytes(data[: len(data) // 2])


def no_objects(root):
    (root / "train/train1.xml").write_text(xml(size=SIZE))


def other_size(root):
    photo(root / "train/train1.jpg", 99, (96, 128))
    photo(root / "train/train3.jpg", 98, (96, 128))


def not_xml(root):
    for number in (0, 2):
        (root / f"train/train{number}.xml").write_text("<annotation>")


def copy_in_val(root):
    shutil.copy(root / "train/train2.jpg", root / "val/val1.jpg")


PLANTED = {
    "degenerate": (annotate(("cat", (10, 10, 10, 30))), {"box_degenerate": 1}),
    "outside": (annotate(("cat", (70, 10, 90, 30))), {"box_outside": 1}),
    "clipped": (annotate(("cat", (50, 10, 90, 30))), {"box_clipped": 1}),
    "swapped": (annotate(("cat", (30, 30, 10, 10))), {"box_swapped": 1}),
    "duplicate": (annotate(CAT, DOG), {"box_duplicate": 2}),
    "without_xml": (without_xml, {"image_without_labels": 1}),
    "without_image": (without_image, {"labels_without_image": 1}),
    "no_objects": (no_objects, {"image_without_objects": 1}),
    "damaged": (damaged, {"damaged_image": 1}),
    "other_size": (other_size, {"annotated_size": 2}),
    "not_xml": (not_xml, {"refused": 2}),
    "copy_in_val": (copy_in_val, {"same_image_in_splits": 1}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_once_and_nothing_else(tmp_path, name):
    root = voc_data(tmp_path / "data")
    plant, expected = PLANTED[name]
    plant(root)
    assert found(checked("det", root)) == expected


def test_nothing_is_found_in_boxes_without_faults(tmp_path):
    assert found(checked("det", voc_data(tmp_path / "data"))) == {}


def test_rotated_boxes_are_counted(tmp_path):
    root = voc_data(tmp_path / "data")
    turned = (
        "cat",
        (10, 20, 40, 30),
        "<attributes><attribute><name>rotation</name><value>45</value></attribute></attributes>",
    )
    annotate(turned)(root)
    finding = finding_of(checked("det", root), "box_rotated")
    assert (finding.count, finding.title) == (1, f"1 box {ROTATED}")


def test_more_objects_than_can_be_predicted_are_reported_with_the_keys(tmp_path):
    root = voc_data(tmp_path / "data")
    objects = [("cat", (x, y, x + 9, y + 9)) for x in range(0, 50, 4) for y in range(0, 36, 4)]  # 13 * 9
    (root / "train/train1.xml").write_text(xml(*objects, size=SIZE))
    finding = finding_of(checked("det", root), "many_objects")
    assert finding.count == 1
    assert "117 objects" in finding.title
    assert "task.postprocess.max_detections=117" in finding.remedy


def test_tiny_objects_at_the_chosen_size_are_reported(tmp_path):
    root = voc_data(tmp_path / "data")
    for number in range(4):
        (root / f"train/train{number}.xml").write_text(xml(CAT, ("dog", (4, 4, 8, 8)), size=SIZE))
    finding = finding_of(checked("det", root), "tiny_objects")
    assert finding.count == 4  # half of 8 objects: 4 pixels at 64 x 64 are below 8
    assert "50%" in finding.title
    assert "data.size=auto" in finding.remedy
    # SIZE enlarged to an area of 320 x 320: 4 pixels become more than 8.
    assert "tiny_objects" not in found(checked("det", root, "data.size=auto"))


def test_a_class_without_a_box_in_val_is_reported(tmp_path):
    root = voc_data(tmp_path / "data")
    for number in range(3):
        (root / f"val/val{number}.xml").write_text(xml(CAT, size=SIZE))
    assert found(checked("det", root)) == {"class_absent": 1}


def test_nothing_is_found_in_class_folders_without_faults(tmp_path):
    assert found(checked("cls", folders_data(tmp_path / "data"))) == {}


def test_an_image_in_two_classes_is_an_error(tmp_path):
    root = folders_data(tmp_path / "data")
    shutil.copy(root / "train/cat/train0.jpg", root / "train/dog/copy.jpg")
    result = checked("cls", root)
    assert found(result) == {"image_in_two_classes": 1, "copies": 1}
    (example,) = finding_of(result, "image_in_two_classes").examples
    assert "cat/train0.jpg and" in example


def test_a_class_without_an_image_in_val_is_reported(tmp_path):
    root = folders_data(tmp_path / "data")
    shutil.rmtree(root / "val/dog")
    assert found(checked("cls", root)) == {"class_absent": 1}


def test_a_val_that_repeats_train_is_no_val(tmp_path):
    root = folders_data(tmp_path / "data")
    shutil.rmtree(root / "val")
    shutil.copytree(root / "train", root / "val")
    result = checked("cls", root)
    assert set(found(result)) == {"no_split", "reader"}
    assert "val: all of its 6 images are also in train" in finding_of(result, "reader").title
    assert finding_of(result, "no_split").remedy == "data.split=train"


def test_a_val_that_does_not_exist_can_be_taken_from_train(tmp_path):
    root = tmp_path / "data"
    for number in range(3):
        photo(root / f"train/images/{number}.jpg", [number])
        (root / "train/labels").mkdir(exist_ok=True)
        (root / f"train/labels/{number}.txt").write_text("0 .5 .5 .5 .5\n")
    yaml = "train: ../train/images\nval: ../valid/images\nnames: [cat]\n"  # as Roboflow writes without a val
    (root / "data.yaml").write_text(yaml)
    finding = finding_of(checked("det", root, data="yolo"), "no_split")
    assert finding.remedy == "remove the key val to use a fifth of train or data.split=train"
    (root / "data.yaml").write_text(yaml.replace("val: ../valid/images\n", ""))
    assert "no_split" not in found(checked("det", root, data="yolo"))


def test_the_same_images_in_train_and_val_cannot_be_left_out(tmp_path):
    root = folders_data(tmp_path / "data")
    shutil.rmtree(root / "val")
    shutil.copytree(root / "train", root / "val")
    for path in sorted((root / "val").rglob("*.*")):
        path.rename(path.with_stem(f"other_{path.stem}"))
    result = checked("cls", root)
    assert found(result) == {"same_image_in_splits": 6}
    assert result.excluded == {}
    assert finding_of(result, "same_image_in_splits").remedy == "choose other images for val"
    assert not result.can_train


@pytest.mark.parametrize("resaved", [False, True])
@pytest.mark.parametrize(("repeated", "left_out"), [(1, True), (2, False)])
def test_a_remedy_never_names_a_file_that_is_not_written(tmp_path, resaved, repeated, left_out):
    """Of the three images of val, one or two are those of train: more than half is not left out."""
    root = folders_data(tmp_path / "data")
    shutil.rmtree(root / "val")
    for number in range(3):
        photo(root / f"val/{'dog' if number == 2 else 'cat'}/val{number}.jpg", [1, number])
    for number, path in enumerate(sorted((root / "train/cat").iterdir())[:repeated]):
        copy = root / f"val/cat/val{number}.{'png' if resaved else 'jpg'}"
        copy.with_suffix(".jpg").unlink()
        Image.open(path).save(copy) if resaved else shutil.copy(path, copy)
    result = checked("cls", root)
    code = "near_duplicates_in_splits" if resaved else "same_image_in_splits"
    assert found(result) == {code: repeated}
    assert bool(result.excluded) == ("exclude.json" in finding_of(result, code).remedy) == left_out
    assert (finding_of(result, code).remedy == "choose other images for val") != left_out
    assert result.can_train == (left_out or resaved)


@pytest.mark.parametrize(("damaged", "left_out"), [(1, True), (2, False)])
def test_damaged_images_are_most_of_a_split(tmp_path, damaged, left_out):
    root = folders_data(tmp_path / "data")
    shutil.rmtree(root / "val")
    for number in range(3):
        photo(root / f"val/{'dog' if number == 2 else 'cat'}/val{number}.jpg", [1, number])
    for path in sorted((root / "val/cat").iterdir())[:damaged]:
        path.write_bytes(path.read_bytes()[:60])
    result = checked("cls", root)
    finding = finding_of(result, "damaged_image")
    assert bool(result.excluded) == ("exclude.json" in finding.remedy) == result.can_train == left_out
    assert (finding.remedy == "replace them: they are most of val") != left_out


def test_a_png_saved_from_a_jpeg_of_train_is_a_near_duplicate(tmp_path):
    root = folders_data(tmp_path / "data")
    Image.open(root / "train/cat/train1.jpg").save(root / "val/cat/other.png")
    assert found(checked("cls", root)) == {"near_duplicates_in_splits": 1}


def test_a_name_in_two_splits_is_an_error_and_the_command_allows_it(tmp_path):
    root = voc_data(tmp_path / "data")
    for end in ("jpg", "xml"):
        (root / f"train/train1.{end}").rename(root / f"train/val1.{end}")
    result = checked("det", root)
    assert found(result) == {"refused": 1}
    assert result.needed == ["data.source.allow_same_names=true"]
    assert result.can_train


def test_images_that_are_in_no_split_are_counted(tmp_path):
    root = masks_data(tmp_path / "data")
    (root / "train.txt").write_text("train0\ntrain1\n")
    (root / "val.txt").write_text("val0\n")
    for kind, end in (("images", "jpg"), ("masks", "png")):
        for path in sorted((root / kind).rglob(f"*.{end}")):
            path.rename(root / kind / path.name)
        for split in ("train", "val"):
            (root / kind / split).rmdir()
    finding = finding_of(checked("seg", root), "unused_images")
    assert finding.count == 4  # train2, train3, val1 and val2 of seven
    assert finding.examples[0] == str(root / "images/train2.jpg")


def test_boxes_that_fit_their_images_only_in_another_convention_are_an_error(tmp_path):
    root = voc_data(tmp_path / "data")
    for path in root.rglob("*.xml"):  # x, y, width, height
        path.write_text(xml(("cat", (30, 20, 30, 25)), ("dog", (40, 30, 20, 15)), size=SIZE))
    finding = finding_of(checked("det", root), "box_convention")
    assert (finding.severity, finding.count) == ("error", 14)  # two in each of 7 files
    assert "x, y, width, height" in finding.title


def test_boxes_of_stored_images_lead_to_the_option(tmp_path):
    root = voc_data(tmp_path / "data")
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in sorted(root.rglob("*.jpg")):
        Image.open(path).save(path, exif=exif)
    assert checked("det", root).needed == ["data.orientation=stored"]
    assert "annotated_size" not in found(checked("det", root, "data.orientation=stored"))
