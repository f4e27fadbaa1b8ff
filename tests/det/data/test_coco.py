"""COCO's JSON: what is read from it, and one-line errors for wrong files."""

import copy
import json
import os
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from det.data.coco import coco
from det.data.dataset import DetectionSource
from det.data.division import with_val
from det.transforms import EvalTransform
from engine.data.dataset_builder import DatasetBuilder
from engine.data.images import write_png
from engine.errors import UserError
from engine.runtime import Runtime
from tests.det.data.small_splits import write_image
from tests.refusals import check_line, refuses


@pytest.fixture(autouse=True)
def undivided(monkeypatch):
    """Most tests have only train, and look at all of its images; test_division.py divides it."""

    def whole_only(source, splits, *, remedy, whole=False):
        return with_val(source, splits, remedy=remedy, whole=True) if whole else (dict(splits), [])

    monkeypatch.setattr("det.data.coco.with_val", whole_only)


CATEGORIES = [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}, {"id": 90, "name": "bird"}]


def content(images=2, annotations=(), categories=CATEGORIES, start=0):
    return {
        "info": {"description": "test"},
        "images": [
            {"id": 100 - n, "file_name": f"{start + n}.png", "height": 40, "width": 60} for n in range(images)
        ],
        "annotations": list(annotations),
        "categories": copy.deepcopy(list(categories)),
    }


def box(image=100, category=1, bbox=(1, 2, 10, 20), **more):
    return {"id": id(more), "image_id": image, "category_id": category, "bbox": list(bbox), **more}


def write(folder, data, name="train", images=None):
    """The pair of options for a folder of images and a JSON file."""
    image_folder = folder / name
    image_folder.mkdir(parents=True, exist_ok=True)
    for entry in data["images"] if images is None else images:
        seed = zlib.crc32((name + entry["file_name"]).encode())
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        write_png(image_folder / entry["file_name"], pixels)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(data))
    return {"images": str(image_folder), "annotations": str(path)}


def read(folder, *annotations, **options):
    """The training split of these annotations, on two images."""
    data = coco(train=write(folder, content(annotations=annotations)), **options)
    return data, data.splits["train"]


# ---------------------------------------------------------------------- reading


def test_boxes_classes_and_flags_are_read(tmp_path):
    data, train = read(
        tmp_path,
        box(99, 90, (5.5, 6, 10, 20), area=33.5, iscrowd=1),
        box(100, 3, (1, 2, 10, 20), area=150, iscrowd=0, segmentation=[[1, 2, 11, 2, 11, 22]]),
        box(100, 1, (0, 0, 60, 40)),
    )
    assert data.classes.names == ("cat", "dog", "bird")  # by id
    assert data.classes.ids == (1, 3, 90)
    assert train.image_ids.tolist() == [100, 99]
    assert train.objects(0)[0].tolist() == [[1, 2, 11, 22], [0, 0, 60, 40]]
    assert train.objects(0)[1].tolist() == [1, 0]
    assert train.objects(1)[0].tolist() == [[5.5, 6, 15.5, 26]]
    assert train.objects(1)[1].tolist() == [2]
    assert train.crowd.tolist() == train.ignored.tolist() == [False, False, True]
    assert train.areas.tolist() == [150, 2400, 33.5]
    assert train.sizes.tolist() == [[40, 60], [40, 60]]
    assert [os.fsdecode(name) for name in train.names] == ["0", "1"]
    assert "train 2 images 3 boxes; 3 classes" in data.description


@pytest.mark.parametrize("ids", [(0, 1, 2), (1, 2, 3), (7, 300, 20), (2, 0, 1)])
def test_category_ids_can_start_anywhere_and_have_gaps(tmp_path, ids):
    names = ("cat", "dog", "bird")
    categories = [{"id": number, "name": name} for number, name in zip(ids, names, strict=True)]
    annotations = [box(100, number) for number in ids]
    train = write(tmp_path, content(annotations=annotations, categories=categories))
    data = coco(train=train)
    assert [data.classes.names[label] for label in data.splits["train"].labels] == list(names)
    assert data.classes.ids == tuple(sorted(ids))


def test_val_has_the_classes_of_train(tmp_path):
    train = write(tmp_path, content(annotations=[box(100, 3)]))
    val = write(tmp_path, content(annotations=[box(100, 90)], categories=CATEGORIES[2:], start=5), "val")
    data = coco(train=train, val=val)
    assert data.splits["val"].labels.tolist() == [2]
    assert [line for line in data.warnings if "in train" in line] == [
        f"COCO at {tmp_path / 'train'}: 2 classes without a box in train (cat, bird)"
    ]
    other = content(annotations=[box(100, 3)], categories=[{"id": 3, "name": "horse"}], start=5)
    val = write(tmp_path, other, "val")
    refuses(lambda: coco(train=train, val=val), "val.json: category 3 is 'horse' but 'dog' in .*train.json")


def test_classes_can_be_selected(tmp_path):
    data, train = read(tmp_path, box(100, 1), box(100, 3), box(99, 90), classes=["dog", "cat"])
    assert data.classes.ids == (3, 1)
    assert train.labels.tolist() == [1, 0]
    assert any("1 annotation of a class that is not selected: left out (1.png)" in w for w in data.warnings)
    refuses(lambda: read(tmp_path, box(), classes=["dgo"]), "no category 'dgo'; did you mean 'dog'")


def test_if_a_class_is_listed_twice_the_entry_with_boxes_is_used(tmp_path):
    # Roboflow lists the name of the project as a category without boxes
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    data = coco(train=write(tmp_path, content(annotations=[box(), box(99, 2)], categories=categories)))
    assert data.classes.ids == (1, 2)
    annotations = [box(100, 0), box(100, 1)]
    train = write(tmp_path, content(annotations=annotations, categories=categories))
    refuses(lambda: coco(train=train), "train.json: categories: duplicate class name: 'cat'")


def test_wrong_annotations_are_left_out_and_counted(tmp_path):
    twice = box(99, 1, (3, 3, 9, 9)) | {"id": 5}
    data, train = read(
        tmp_path,
        box(),
        box(12345, 1),
        box(99, 4),
        twice,
        twice,
        twice | {"bbox": [4, 4, 9, 9]},  # the same id, but another box
        box(100, 1, (5, 5, 0, 3)),
        box(100, 1, (30, 30, -10, -20)),
    )
    assert train.boxes.tolist() == [[1, 2, 11, 22], [20, 10, 30, 30], [3, 3, 12, 12], [4, 4, 13, 13]]
    lines = [line.partition(": ")[2] for line in data.warnings]
    assert lines[:5] == [
        "1 annotation of an unknown image: left out (train.json)",
        "1 annotation of an unknown category: left out (1.png)",
        "1 box with left and right, or top and bottom, swapped: corrected (0.png)",
        "1 box thinner than 1 pixel: left out (0.png)",
        "1 box of the same class at the same place as another: left out (1.png)",
    ]


def test_a_box_given_twice_counts_once(tmp_path):
    again, other = box(99, 1, (3, 3, 9, 9)) | {"id": 6}, box(99, 3, (3, 3, 9, 9)) | {"id": 7}
    without_id = {key: value for key, value in again.items() if key != "id"}
    data, train = read(tmp_path, box(99, 1, (3, 3, 9, 9)) | {"id": 5}, again, without_id, other)
    assert train.boxes.tolist() == [[3, 3, 12, 12]] * 2
    assert train.labels.tolist() == [0, 1]
    line = "2 boxes of the same class at the same place as another: left out (1.png)"
    assert any(line in warning for warning in data.warnings)


def test_the_box_around_a_rotated_one_is_used(tmp_path):
    # Half sides 15 and 5 about (30, 20). By 90 degrees they change places; by 45 both are (15 + 5) / sqrt(2).
    data, train = read(
        tmp_path,
        box(100, 1, (15, 15, 30, 10), attributes={"occluded": False, "rotation": 90.0}),
        box(100, 3, (15, 15, 30, 10), attributes={"rotation": "315"}),
        box(99, 1, (15, 15, 30, 10), attributes={"rotation": 0.0}),
        box(99, 3, (15, 15, 30, 10), attributes={"rotation": 180}),
        box(99, 90, (15, 15, 30, 10), attributes=["rotation"]),
        box(99, 3, (15, 10, 30, 10), rotation=-90),
    )
    half = 20 / 2**0.5
    expected = [
        [25, 5, 35, 35],
        [30 - half, 20 - half, 30 + half, 20 + half],
        *[[15, 15, 45, 25]] * 3,
        [25, 0, 35, 30],
    ]
    np.testing.assert_allclose(train.boxes, expected, atol=1e-5)
    assert "3 boxes rotated: replaced by the upright box around it (0.png, 1.png)" in data.warnings[0]
    refuses(
        lambda: read(tmp_path, box(rotation="left")),
        r"annotations\[0\]\.rotation: must be a number of degrees",
    )
    refuses(
        lambda: read(tmp_path, box(attributes={"rotation": "left"})),
        r"annotations\[0\]\.attributes\.rotation: must be a number of degrees, got 'left'",
    )


def test_angles_under_unknown_keys_are_counted(tmp_path):
    rows = [box(angle=0), box(bbox=(2, 2, 9, 9), angle=1.5), box(category=3, attributes={"theta": 30})]
    source = coco(train=write(tmp_path, content(annotations=rows)))
    line = "train.json: 2 annotations with an angle, which is not read; write it in degrees as `rotation`"
    assert any(line in warning for warning in source.warnings)
    assert len(source.splits["train"].boxes) == 3


def test_a_box_around_a_tilted_outline_is_not_turned_again(tmp_path):
    # A square of side 20 about (30, 20), turned by 45 degrees: its corners are 10 * sqrt(2) from its center.
    reach = 10 * 2**0.5
    tilted = [[30 - reach, 20, 30, 20 - reach, 30 + reach, 20, 30, 20 + reach]]
    around = (30 - reach, 20 - reach, 2 * reach, 2 * reach)
    upright = [[20, 10, 40, 10, 40, 30, 20, 30]]
    data, train = read(
        tmp_path,
        box(100, 1, around, attributes={"rotation": 45}, segmentation=tilted),
        box(100, 3, (), attributes={"rotation": 45}, segmentation=tilted),
        box(99, 1, (20, 10, 20, 20), attributes={"rotation": 45}, segmentation=upright),
        box(99, 3, (20, 10, 20, 20), attributes={"rotation": 45}, segmentation=tilted),
    )
    np.testing.assert_allclose(train.boxes, [[30 - reach, 20 - reach, 30 + reach, 20 + reach]] * 4, atol=1e-4)
    assert "2 boxes rotated: replaced by the upright box around it" in "".join(data.warnings)


def test_corners_instead_of_sides_are_noticed(tmp_path):
    data, _ = read(tmp_path, box(100, 1, (30, 10, 50, 30)), box(99, 1, (20, 20, 45, 39)))
    assert data.warnings[0].startswith(
        f"COCO at {tmp_path / 'train'}: 2 of 2 boxes do not fit their images as x, y, width, height, but all "
        "fit as x1, y1, x2, y2; if"
    )


def test_without_any_usable_box_the_findings_are_in_the_error(tmp_path):
    fractions = [box(100, 1, (0.1, 0.2, 0.3, 0.4)), box(99, 3, (0.5, 0.5, 0.2, 0.2))]
    refuses(
        lambda: read(tmp_path, *fractions),
        r"no boxes to train on \(all boxes \(2\) lie within two pixels of the corner: they may be ",
        r"2 boxes thinner than 1 pixel: left out \(0\.png, 1\.png\)",
    )
    refuses(
        lambda: read(tmp_path, box(iscrowd=1)), r"no boxes to train on \(1 box marked iscrowd or difficult"
    )


def test_ids_may_be_decimals_or_numbers_as_text(tmp_path):
    data = content(annotations=[box(100, 1), box(99, 3)])
    data["images"][0]["id"], data["images"][1]["id"] = 100.0, "99"
    data["categories"][0]["id"] = "3"
    data["annotations"][0].update(image_id="100", category_id=1.0, id="e7b1")
    source = coco(train=write(tmp_path, data))
    assert source.splits["train"].image_ids.tolist() == [100, 99]
    assert source.splits["train"].labels.tolist() == [0, 1]
    assert source.classes.ids == (1, 3, 90)


def test_sizes_areas_and_flags_may_be_text(tmp_path):
    boxes = [box(100, iscrowd="1", area="30"), box(99, iscrowd="0"), box(99, 3, ignore="1")]
    data = content(annotations=boxes)
    for entry in data["images"]:
        entry.update(width="60", height="40")
    train = coco(train=write(tmp_path, data)).splits["train"]
    assert train.sizes.tolist() == [[40, 60]] * 2
    assert train.crowd.tolist() == [True, False, False]
    assert train.ignored.tolist() == [True, False, True]
    assert train.areas.tolist() == [30, 200, 200]
    data["annotations"][0]["iscrowd"] = "2"
    refuses(lambda: coco(train=write(tmp_path, data)), r"annotations\[0\]\.iscrowd: must be 0 or 1, got 2\.0")


def test_ids_that_are_texts_are_numbered(tmp_path):
    image_ids, category_ids = {100: "c0ffee-1", 99: "c0ffee-2"}, {3: "d", 1: "c", 90: "b"}
    data = content(annotations=[box(100, 1), box(99, 3), box(99, 90)])
    for entry in data["images"]:
        entry["id"] = image_ids[entry["id"]]
    for entry in data["categories"]:
        entry["id"] = category_ids[entry["id"]]
    for entry in data["annotations"]:
        entry.update(image_id=image_ids[entry["image_id"]], category_id=category_ids[entry["category_id"]])
    data["annotations"].append({"image_id": "beef", "category_id": "c", "bbox": [1, 1, 9, 9]})
    source = coco(train=write(tmp_path, data))
    train = source.splits["train"]
    assert train.image_ids.tolist() == [1, 2]
    assert source.classes.names == ("bird", "cat", "dog")  # by name
    assert [source.classes.names[label] for label in train.labels] == ["cat", "dog", "bird"]
    lines = [line.partition(": ")[2] for line in source.warnings]
    assert lines[:2] == [
        "train.json: the ids of images are strings: they are numbered 1..2, as in detections.json",
        "train.json: the ids of categories are strings: they are numbered 1..3, as in detections.json",
    ]
    assert "1 annotation of an unknown image: left out (train.json)" in lines


def test_a_size_of_minus_one_is_unknown(tmp_path):
    data = content(annotations=[box()])
    for entry in data["images"]:
        entry.update(height=-1, width=-1)  # as the VGG Image Annotator writes
    for sizes in ("check", "file"):
        train = coco(train=write(tmp_path, data), sizes=sizes).splits["train"]
        assert train.sizes.tolist() == [[40, 60]] * 2


def test_an_empty_box_is_computed_from_the_polygon(tmp_path):
    _, train = read(tmp_path, box(bbox=(), segmentation=[[5, 6, 25, 6, 25, 36]]))
    assert train.boxes.tolist() == [[5, 6, 25, 36]]
    refuses(
        lambda: read(tmp_path, box(bbox=())), r"annotations\[0\]\.bbox: is missing, and there are no poly"
    )


def test_the_boxes_of_detectron2_are_read_by_their_mode(tmp_path):
    """With `bbox_mode: 0` (BoxMode.XYXY_ABS), bbox holds the corners."""
    corners, sides = box(bbox=(15, 10, 40, 30), bbox_mode=0), box(99, bbox=(15, 10, 25, 20), bbox_mode=1)
    _, train = read(tmp_path, corners, sides)
    assert train.boxes.tolist() == [[15, 10, 40, 30]] * 2
    refuses(
        lambda: read(tmp_path, box(bbox_mode=3)),
        r"annotations\[0\]\.bbox_mode: must be 0 \(corners, in pixels\) or 1 \(x, y, width, height\), got 3",
    )


def test_objects_marked_ignore_are_difficult(tmp_path):
    _, train = read(tmp_path, box(100, 1, ignore=1), box(99, 1, ignore=0))
    assert train.ignored.tolist() == [True, False]
    assert train.crowd.tolist() == [False, False]
    refuses(lambda: read(tmp_path, box(ignore=2)), r"annotations\[0\]\.ignore: must be 0 or 1, got 2")


def test_objects_with_cvat_s_attribute_difficult_or_ignore_are_difficult(tmp_path):
    _, train = read(
        tmp_path,
        box(100, 1, (1, 2, 10, 20), attributes={"occluded": False, "difficult": True}),
        box(100, 1, (2, 2, 10, 20), attributes={"Ignore": "true"}),
        box(100, 1, (3, 2, 10, 20), attributes={"difficult": False, "ignore": "no", "occluded": True}),
    )
    assert train.ignored.tolist() == [True, True, False]
    assert not train.crowd.any()


def test_file_names_may_be_spelled_differently(tmp_path):
    data = content(images=5, annotations=[box()])
    stored = ["a.png", "B.PNG", "c d.png", "e.png", "f.v1.png"]
    listed = ["a", "b.png", "c%20d.png", "sub/E.jpg", "f.v1"]
    for entry, name in zip(data["images"], listed, strict=True):
        entry["file_name"] = name
    source = coco(train=write(tmp_path, data, images=[{"file_name": name} for name in stored]))
    paths = [os.path.basename(os.fsdecode(path)) for path in source.splits["train"].images]
    assert paths == stored
    assert "5 images whose file name is spelled differently: used (a, b.png)" in source.warnings[0]
    write_png(tmp_path / "train/a.v.png", np.zeros((40, 60, 3), np.uint8))
    data["images"][0]["file_name"] = "a.v2.png"
    (tmp_path / "train.json").write_text(json.dumps(data))
    options = {"images": str(tmp_path / "train"), "annotations": str(tmp_path / "train.json")}
    refuses(lambda: coco(train=options), r"a\.v2\.png: no such file \(1 of 5 images .*data\.on_error=skip")


def test_a_missing_image_can_be_skipped(tmp_path):
    options = write(tmp_path, content(images=3, annotations=[box(99), box(100), box(98)]))
    os.remove(tmp_path / "train/1.png")
    refuses(lambda: coco(train=options), r"1\.png: no such file \(1 of 3 images")
    source = coco(train=options, on_error="skip")
    builder = DatasetBuilder(runtime=Runtime(torch.device("cpu")), on_error="skip", error_budget=0.5)
    dataset = builder.dataset(source, "train", EvalTransform(size=32))
    assert [dataset.name(index) for index in range(len(dataset))] == ["0", "2"]
    assert builder.skipped_counts == {"skipped": {"train": 1}}
    for number in (0, 2):
        os.remove(tmp_path / f"train/{number}.png")
    refuses(lambda: coco(train=options, on_error="skip"), r"0\.png: no such file \(3 .*image folder$")


@pytest.mark.parametrize(
    ("images", "file"),
    [
        ("images", "result.json"),  # Label Studio
        ("images/default", "annotations/instances_default.json"),  # CVAT
        ("images", "annotations/instances_default.json"),
        (".", "_annotations.coco.json"),
    ],
)
def test_one_file_for_all_images_is_divided(tmp_path, images, file):
    data = content(images=30, annotations=[box(100 - n) for n in range(30)])
    options = write(tmp_path / "made", data)
    (tmp_path / images).mkdir(parents=True, exist_ok=True)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    for path in (tmp_path / "made/train").iterdir():
        path.rename(tmp_path / images / path.name)
    os.rename(options["annotations"], tmp_path / file)
    source = coco(root=str(tmp_path))
    counts = {split: len(part) for split, part in source.splits.items()}
    assert counts["train"] + counts["val"] == 30
    assert 1 <= counts["val"] <= 15
    assert not set(source.splits["train"].names) & set(source.splits["val"].names)
    assert f"no splits; {counts['val']} of 30 images are used as val" in source.warnings[0]


def test_images_without_objects_are_negatives(tmp_path):
    data, train = read(tmp_path, box(99))
    assert train.offsets.tolist() == [0, 0, 1]
    assert any("1 image without objects: kept as negatives (0.png)" in line for line in data.warnings)


def test_broken_numbers_and_a_byte_order_mark_do_not_hide_the_other_boxes(tmp_path):
    """Other programs write NaN and Infinity for broken boxes, although JSON has no such numbers."""
    text = json.dumps(content(annotations=[box(), box(bbox=(1, 2, 10, 20)), box(99, bbox=(3, 3, 9, 9))]))
    train = write(tmp_path, content(annotations=[box()]))
    for broken_number in ("NaN", "-Infinity", "1e999"):
        changed = text.replace("[1, 2, 10, 20]", f"[{broken_number}, 2, 10, 20]", 1)
        (tmp_path / "train.json").write_text(changed, encoding="utf-8-sig")
        data = coco(train=train)
        assert data.splits["train"].boxes.tolist() == [[1, 2, 11, 22], [3, 3, 12, 12]]
        assert any("1 box with non-finite coordinates: left out (0.png)" in w for w in data.warnings)


def test_a_missing_box_is_computed_from_the_polygons(tmp_path):
    polygons = [[5, 6, 20, 6, 20, 30], [2, 10, 4, 12, 3, 14.5]]
    entry = box(segmentation=polygons)
    del entry["bbox"]
    assert read(tmp_path, entry)[1].boxes.tolist() == [[2, 6, 20, 30]]
    entry["segmentation"] = {"counts": "abc", "size": [40, 60]}
    refuses(lambda: read(tmp_path, entry), r"annotations\[0\]\.bbox: is missing.*run-length.*toBbox")
    for wrong in (None, [], [[1, 2, 3]], [["a", 1]], "x", [[None] * 6]):
        entry["segmentation"] = wrong
        refuses(lambda: read(tmp_path, entry), r"train\.json: annotations\[0\]\.bbox: is missing")


def test_missing_sizes_are_read_from_the_images(tmp_path):
    data = content(annotations=[box()])
    del data["images"][0]["height"]
    data["images"][1].update(height=0, width=None)
    assert coco(train=write(tmp_path, data)).splits["train"].sizes.tolist() == [[40, 60], [40, 60]]
    data["images"][1].update(height=80, width=120)
    train = write(tmp_path, data)
    refuses(lambda: coco(train=train), "1.png: the annotated size is 80 x 120 but .*1.png is 40 x 60")
    assert coco(train=train, sizes="file").splits["train"].sizes.tolist() == [[40, 60], [40, 60]]


# ------------------------------------------------------------------------ files


def test_every_image_needs_its_file(tmp_path):
    data = content(3, [box()])
    train = write(tmp_path, data, images=data["images"][:1])
    refuses(
        lambda: coco(train=train), r"train/1\.png: no such file \(2 of 3 images of .*train\.json", "check"
    )


def test_file_names_with_folders_of_another_machine(tmp_path):
    data = content(annotations=[box()])
    train = write(tmp_path, data)
    data["images"][0]["file_name"] = "images/train/0.png"
    data["images"][1]["file_name"] = "C:\\photos\\1.png"
    (tmp_path / "train.json").write_text(json.dumps(data))
    paths = [os.fsdecode(path) for path in coco(train=train).splits["train"].images]
    assert [os.path.basename(path) for path in paths] == ["0.png", "1.png"]
    data["images"][1]["file_name"] = "0.png"
    (tmp_path / "train.json").write_text(json.dumps(data))
    refuses(lambda: coco(train=train), r"train\.json: images: .*0\.png is listed 2 times; merge")


def test_file_names_may_have_folders(tmp_path):
    data = content(annotations=[box()])
    for entry in data["images"]:
        entry["file_name"] = "ulm/" + entry["file_name"]
    train = coco(train=write(tmp_path, data)).splits["train"]
    assert [os.fsdecode(name) for name in train.names] == ["ulm/0", "ulm/1"]


LAYOUTS = [
    ("train2017", "annotations/instances_train2017.json", "val2017", "annotations/instances_val2017.json"),
    ("images/train2014", "annotations/instances_train2014.json", "val", "annotations/instances_val.json"),
    ("train", "train/_annotations.coco.json", "valid", "valid/_annotations.coco.json"),
    ("images/train", "annotations/instances_train.json", "images/val", "annotations/instances_val.json"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_usual_layouts_are_found_below_root(tmp_path, layout):
    for number, (image_folder, file) in enumerate((layout[:2], layout[2:])):
        data = content(annotations=[box()], start=5 * number)
        write(tmp_path / "made", data, str(number))
        (tmp_path / image_folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / str(number)).rename(tmp_path / image_folder)
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / f"{number}.json").rename(tmp_path / file)
    data = coco(root=str(tmp_path))
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 2, "val": 2}


def test_named_files_take_precedence_over_the_layout(tmp_path):
    train = write(tmp_path, content(annotations=[box()]), "train2017")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017.json").rename(tmp_path / "annotations/instances_train2017.json")
    few = content(1, [box()])
    (tmp_path / "few.json").write_text(json.dumps(few))
    none = {"images": None, "annotations": None}
    data = coco(root=str(tmp_path), train={**none, "annotations": str(tmp_path / "few.json")}, val=none)
    assert len(data.splits["train"]) == 1
    assert len(coco(root=str(tmp_path)).splits["train"]) == 2
    refuses(lambda: coco(train={"images": train["images"]}), "data.train.annotations=<file>")
    refuses(lambda: coco(train={"annotations": "x.json"}), "data.train.images=<folder>")
    refuses(lambda: coco(train={"image": "x"}), "data.train: unknown key 'image'")
    refuses(lambda: coco(train={**train, "images": str(tmp_path / "no")}), "no: no such folder")


def test_a_folder_without_annotations_is_explained(tmp_path):
    refuses(lambda: coco(root=str(tmp_path)), "no COCO annotations; expected train2017/", "data.train.images")
    refuses(coco, "no COCO annotations")
    refuses(lambda: coco(root=str(tmp_path / "no")), r"data\.root=.*no: no such folder; check the path")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2017.json").write_text(json.dumps(content()))
    refuses(lambda: coco(root=str(tmp_path)), "train2017: no such folder")


def test_a_test_split_may_have_no_annotations(tmp_path):
    train = write(tmp_path, content(annotations=[box()]))
    info = content(start=5)
    del info["annotations"]
    test = write(tmp_path, info, "test")
    for given_test in (test, {"images": test["images"]}):
        data = coco(train=train, test=given_test)
        assert not data.splits["test"].has_labels
        assert len(data.splits["test"]) == 2
        assert "test 2 images;" in data.description
        assert not any("negatives (5.png" in line for line in data.warnings)
    refuses(lambda: coco(train=test), r"test\.json: annotations: is missing, but the training split")


# ----------------------------------------------------------------- wrong files


def broken(change):
    data = content(annotations=[box(area=3, iscrowd=0), box(99, 3)])
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("images"), r"images: must be a list, got nothing"),
        (lambda d: d.update(images={}), r"images: must be a list, got \{\}"),
        (lambda d: d.update(images=[]), r"images: is empty"),
        (lambda d: d.update(images=[1]), r"images\[0\]: must be an object with keys, got 1"),
        (lambda d: d.pop("categories"), r"categories: must be a list"),
        (lambda d: d.update(categories=[]), r"categories: a class map needs 1"),
        (
            lambda d: d.update(categories=[{"id": 9, "name": "x"}]),
            r"no category_id matches an id in categories",
        ),
        (lambda d: d.update(annotations=5), r"annotations: must be a list, got 5"),
        (
            lambda d: d["annotations"].append(None),
            r"annotations\[2\]: must be an object with keys, got None",
        ),
        (lambda d: d["images"][1].pop("id"), r"images\[1\]\.id: must be a whole number, got nothing"),
        (lambda d: d["images"][1].update(id=7.5), r"images\[1\]\.id: must be a whole number, got 7.5"),
        (lambda d: d["images"][1].update(id=True), r"images\[1\]\.id: must be a whole number, got True"),
        (lambda d: d["images"][1].update(id=10**30), r"images\[1\]\.id: must be a whole number"),
        (lambda d: d["images"][1].update(id=100), r"images\[1\]\.id: 100 is also the id of '0\.png'"),
        (
            lambda d: d["images"][0].pop("file_name"),
            r"images\[0\]\.file_name: must be text",
        ),
        (
            lambda d: d["images"][0].update(file_name=["a"]),
            r"images\[0\]\.file_name: must be text",
        ),
        (
            lambda d: d["images"][0].update(file_name="a\0b"),
            r"images\[0\]\.file_name: must be text",
        ),
        (
            lambda d: d["images"][0].update(file_name="\ud800"),
            r"images\[0\]\.file_name: must be text",
        ),
        (
            lambda d: d["images"][0].update(width="60 px"),
            r"images\[0\]\.width: must be a number of pixels, got '60 px",
        ),
        (lambda d: d["images"][0].update(width=-60), r"images\[0\]\.width: must be a number of pixels"),
        (lambda d: d["images"][0].update(width=60.5), r"images\[0\]\.width: must be a number of pixels"),
        (
            lambda d: d["images"][0].update(width=float("nan")),
            r"images\[0\]\.width: must be a number of pixels",
        ),
        (
            lambda d: d["categories"][0].update(id=None),
            r"categories\[0\]\.id: must be a whole number, got None",
        ),
        (lambda d: d["categories"][0].update(id=1), r"categories\[1\]\.id: 1 is also 'dog'"),
        (lambda d: d["categories"][0].update(id=-3), r"class and ignore ids must be"),
        (lambda d: d["categories"][0].update(name=5), r"categories\[0\]\.name: must be text"),
        (lambda d: d["categories"][0].update(name="cat"), r"duplicate class name: 'cat'"),
        (
            lambda d: d["annotations"][1].pop("image_id"),
            r"annotations\[1\]\.image_id: must be a whole number",
        ),
        (lambda d: d["annotations"][1].update(image_id="x"), r"annotations\[1\]\.image_id: must be a whole"),
        (lambda d: d["annotations"][1].update(image_id=1.5), r"annotations\[1\]\.image_id: must be a whole"),
        (lambda d: d["annotations"][1].update(category_id=None), r"annotations\[1\]\.category_id: must be"),
        (lambda d: d["annotations"][1].update(category_id=2**63), r"annotations\[1\]\.category_id: must be"),
        (lambda d: d["images"][0].update(id=2**53 + 1), r"images\[0\]\.id: must be at most 2\^53, got 9007"),
        (
            lambda d: d["annotations"][1].update(bbox=[1, 2, 3]),
            r"annotations\[1\]\.bbox: must be four numbers",
        ),
        (
            lambda d: d["annotations"][1].update(bbox="1 2 3 4"),
            r"annotations\[1\]\.bbox: must be four numbers",
        ),
        (lambda d: d["annotations"][1].update(bbox=[1, 2, None, 4]), r"annotations\[1\]\.bbox: must be four"),
        (lambda d: d["annotations"][1].update(bbox=[1, 2, True, 4]), r"annotations\[1\]\.bbox: must be four"),
        (
            lambda d: d["annotations"][1].update(bbox=[1, 2, 10**400, 4]),
            r"annotations\[1\]\.bbox: must be four numbers",
        ),
        (
            lambda d: d["annotations"][0].update(area="3 m"),
            r"annotations\[0\]\.area: must be a number, got '3 m'",
        ),
        (
            lambda d: d["annotations"][0].update(iscrowd=2),
            r"annotations\[0\]\.iscrowd: must be 0 or 1, got 2",
        ),
        (lambda d: d["annotations"][0].update(iscrowd=[1]), r"annotations\[0\]\.iscrowd: must be 0 or 1"),
        (lambda d: [a.update(image_id=1) for a in d["annotations"]], r"no image_id matches an id in images"),
    ],
)
def test_a_wrong_value_is_named_by_file_and_key(tmp_path, change, message):
    train = write(tmp_path, content(annotations=[box()]))
    (tmp_path / "train.json").write_text(json.dumps(broken(change)))
    refuses(lambda: coco(train=train), r"train\.json: ", message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"images": [', "not valid JSON"),
        (b"[1, 2]", r"contains \[1, 2\], not COCO's lists"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"images": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"null", "contains None, not COCO's lists"),
    ],
)
def test_other_files_are_rejected(tmp_path, text, message):
    train = write(tmp_path, content(annotations=[box()]))
    (tmp_path / "train.json").write_bytes(text)
    refuses(lambda: coco(train=train), r"train\.json: ", message)
    os.remove(tmp_path / "train.json")
    refuses(lambda: coco(train=train), r"train\.json: cannot be read \(No such file")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_ends_in_a_valid_result_or_one_line(tmp_path, data):
    train = write(tmp_path, content(annotations=[box()])) if not (tmp_path / "train").exists() else None
    train = train or {"images": str(tmp_path / "train"), "annotations": str(tmp_path / "train.json")}
    changed = content(annotations=[box(area=3, iscrowd=0, segmentation=[[1, 2, 3, 4, 5, 6]]), box(99, 3)])
    for _ in range(data.draw(st.integers(1, 3))):
        where = changed
        for _ in range(data.draw(st.integers(0, 3))):
            keys = list(where) if isinstance(where, dict) else list(range(len(where)))
            inner = [key for key in keys if isinstance(where[key], dict | list) and where[key]]
            if not inner:
                break
            where = where[data.draw(st.sampled_from(inner))]
        keys = list(where) if isinstance(where, dict) else list(range(len(where)))
        if keys:
            where[data.draw(st.sampled_from(keys))] = data.draw(ANYTHING)
    (tmp_path / "train.json").write_text(json.dumps(changed))
    try:
        result = coco(train=train)
    except UserError as error:
        check_line(error, tmp_path)
    else:
        assert isinstance(result, DetectionSource)
        part = result.splits["train"]
        assert np.isfinite(part.boxes).all()
        assert (part.boxes[:, 2:] > part.boxes[:, :2]).all()
        assert part.boxes.min() >= 0
        assert (part.labels < len(result.classes)).all()


# -------------------------------------------------------------------- real data


@pytest.mark.data
def test_coco128_as_pycocotools_reads_it(data_folder):
    from pycocotools.coco import COCO

    folder = data_folder / "coco128"
    path = str(folder / "instances_val2017_128.json")
    data = coco(val={"images": str(folder / "images/val2017"), "annotations": path})
    reference, val = COCO(path), data.splits["val"]
    assert data.classes.ids == tuple(reference.getCatIds())
    assert len(val) == len(reference.getImgIds()) == 128
    assert len(val.boxes) == 898
    for index, image_id in enumerate(val.image_ids.tolist()):
        expected = reference.loadAnns(reference.getAnnIds(image_id))
        boxes, labels, _ = val.objects(index)
        assert [data.classes.ids[label] for label in labels] == [entry["category_id"] for entry in expected]
        corners = np.array([entry["bbox"] for entry in expected]).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        np.testing.assert_allclose(boxes, corners, atol=1e-3)
        assert os.fsdecode(val.names[index]) == f"{image_id:012d}"


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("annotations/{}.json", "{}"),
        ("annotations/{}.json", "images"),  # one folder for both
        ("annotations/instances_{}.json", "images"),
        ("annotations/{}_annotations.json", "images/{}"),
        ("{}.json", "images"),
        ("custom_{}.json", "{}"),
        ("{}/annotations.json", "{}/images"),
        ("{}/labels.json", "{}/data"),  # FiftyOne
    ],
)
def test_files_named_after_their_split_are_found(tmp_path, file, images):
    for place, split in enumerate(("train", "val")):
        path = tmp_path / file.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        names = [f"{split}{number}.png" for number in range(2)]
        for number, name in enumerate(names):
            write_image(tmp_path / images.format(split) / name, seed=10 * place + number)
        content = {
            "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 2, 20, 30]}],
        }
        path.write_text(json.dumps(content))
    data = coco(root=str(tmp_path))
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 2, "val": 2}
    assert not any("lists" in line for line in data.warnings)  # no image is left out


def test_a_file_named_after_its_split_without_images_is_explained(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train.json").write_text(json.dumps(content()))
    refuses(
        lambda: coco(root=str(tmp_path)),
        r"train/0\.png: no such file, nor in images/, but .*train\.json needs",
    )


def test_boxes_written_as_text_and_images_that_are_not_listed(tmp_path):
    for number in range(6):
        write_image(tmp_path / f"images/{number}.png", seed=number)
    content = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(4)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"image_id": number, "category_id": 1, "bbox": ["1", "2.5", "20", "30"]} for number in range(4)
        ],
    }
    (tmp_path / "result.json").write_text(json.dumps(content))
    data = coco(root=str(tmp_path))
    assert data.splits["train"].boxes[0].tolist() == [1, 2.5, 21, 32.5]
    assert any("2 images that no annotation file lists: left out (4.png, 5.png)" in w for w in data.warnings)
