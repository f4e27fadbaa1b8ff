"""YOLO: data.yaml, where labels are searched, and rows of fractions."""

import os
import zlib

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from det.data.coco import coco
from det.data.formats.yolo_rows import LabelReader, read_rows
from det.data.yolo import yolo
from engine.data.images import write_png
from engine.errors import UserError
from tests.refusals import check_line, refuses


def add(folder, name, rows="0 0.5 0.5 0.5 0.5", height=40, width=60):
    """An image in folder/images and its rows in folder/labels (None: no label file)."""
    pixels = np.random.default_rng(zlib.crc32(f"{folder}{name}".encode())).integers(
        0, 256, (height, width, 3)
    )
    write_png(folder / "images" / f"{name}.png", pixels.astype(np.uint8))
    if rows is not None:
        path = folder / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rows)


def describe(root, text=None, **content):
    content = {"names": ["cat", "dog"], "train": "images/train", "val": "images/val"} | content
    content = {key: value for key, value in content.items() if value is not None}
    (root / "data.yaml").write_text(yaml.safe_dump(content) if text is None else text)
    return str(root)


@pytest.fixture
def own(tmp_path):
    """images/train/{a,b}, images/val/c with labels, and data.yaml."""
    for name in ("train/a", "train/b", "val/c"):
        add(tmp_path, name)
    describe(tmp_path)
    return tmp_path


def names(data):
    return {split: [os.fsdecode(name) for name in part.names] for split, part in data.splits.items()}


# ---------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "images/train/a.jpg\nlabels/train/a.txt\n",
            r"train\.txt: lists label files \(labels/train/a\.txt\)",
        ),
        ("0 0.5 0.5 0.2 1e-05\n", r"train\.txt: a label file, not a list of images; name the folder"),
    ],
)
def test_a_list_of_labels_instead_of_images_is_named(tmp_path, lines, message):
    (tmp_path / "train.txt").write_text(lines)
    (tmp_path / "data.yaml").write_text("train: train.txt\nval: train.txt\nnames: [cat]\n")
    refuses(lambda: yolo(root=str(tmp_path)), message, "for example train: images/train")


def test_the_usual_layout(own):
    data = yolo(root=str(own))
    assert names(data) == {"train": ["a", "b"], "val": ["c"]}
    assert data.classes.names == ("cat", "dog")
    assert data.classes.ids == (0, 1)
    assert data.splits["train"].objects(0)[0].tolist() == [[15, 10, 45, 30]]
    assert data.splits["train"].sizes.tolist() == [[40, 60]] * 2
    assert names(yolo(root=str(own / "data.yaml"))) == names(data)


def test_the_only_yaml_may_have_another_name(own):
    (own / "data.yaml").rename(own / "coco8.yaml")
    assert len(yolo(root=str(own)).splits["train"]) == 2
    (own / "other.yml").write_text("names: [a]")
    refuses(lambda: yolo(root=str(own)), "several .yaml files; set data.root to the file itself")
    refuses(lambda: yolo(root=str(own / "images")), "no .yaml files")
    refuses(lambda: yolo(root=str(own / "no")), r"data\.root=.*no: no such folder")


@pytest.mark.parametrize(
    "content",
    [
        {"names": {0: "cat", 1: "dog"}},
        {"names": {"1": "dog", "0": "cat"}, "nc": 2},
        {"path": "."},
        {"path": "/somewhere/else"},  # from another machine
        {"train": "../images/train", "val": "../images/val"},  # as Roboflow writes
        {"train": ["images/train"]},
        {"val": None, "valid": "images/val"},
        {"download": "https://example.com", "extra": [1, 2]},
    ],
)
def test_equivalent_yaml_files(own, content):
    data = yolo(root=describe(own, **content))
    assert names(data) == {"train": ["a", "b"], "val": ["c"]}
    assert data.classes.names == ("cat", "dog")


@pytest.mark.parametrize("names", ["[no, 010]", "{0: no, 1: 010}", "{00: no, 01: 010}", "\n- 'no'\n- 010"])
def test_names_of_classes_are_read_as_they_are_written(own, names):
    """YAML reads no as False and 010 as 8."""
    text = f"names: {names}\ntrain: images/train\nval: images/val\n"
    assert yolo(root=describe(own, text)).classes.names == ("no", "010")


def test_path_is_the_folder_of_the_images(own):
    (own / "deep").mkdir()
    for folder in ("images", "labels"):
        (own / folder).rename(own / "deep" / folder)
    assert len(yolo(root=describe(own, path="deep")).splits["train"]) == 2
    assert len(yolo(root=describe(own, path=str(own / "deep"))).splits["train"]) == 2


def test_roboflow_has_images_and_labels_below_each_split(tmp_path):
    add(tmp_path / "train", "a")
    add(tmp_path / "valid", "b")
    data = yolo(root=describe(tmp_path, train="../train/images", val="../valid/images"))
    assert names(data) == {"train": ["a"], "val": ["b"]}
    assert len(data.splits["train"].boxes) == 1


def test_lists_of_images_and_nested_folders(own):
    add(own, "train/deep/d", "1 0.5 0.5 1 1")
    assert names(yolo(root=str(own)))["train"] == ["a", "b", "deep/d"]
    (own / "train.txt").write_text("./images/train/deep/d.png\nimages/train/a.png\n\n")
    data = yolo(root=describe(own, train="train.txt"))
    assert names(data)["train"] == ["deep/d", "a"]
    assert data.splits["train"].labels.tolist() == [1, 0]
    (own / "train.txt").write_text("images/train/x.png")
    refuses(
        lambda: yolo(root=str(own)),
        r"images/train/x\.png: no such image \(1 of the 1 listed\); correct .*train\.txt .*data\.yaml\)$",
    )


@pytest.mark.parametrize(
    "entry",
    [
        "deep/images/train/a.png",  # relative to the root
        "images/train/a.png",  # relative to `path`
        r"C:\Users\me\set\images\train\a.png",
        "/content/set/deep/images/train/a.png",
        "data/deep/images/train/a.png",
        "../images/train/a.png",
    ],
)
def test_entries_of_lists_are_found_where_the_images_are(tmp_path, entry):
    for name in ("train/a", "val/c"):
        add(tmp_path / "deep", name)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.txt").write_text(f"{entry}\n{entry}\n")
    data = yolo(root=describe(tmp_path, path="deep", train="../lists/train.txt"))
    assert names(data) == {"train": ["a"], "val": ["c"]}
    assert len(data.splits["train"].boxes) == 1
    assert any("1 image listed again: used once (a.png)" in line for line in data.warnings)


def test_a_missing_image_of_a_list_can_be_skipped(own):
    (own / "train.txt").write_text("images/train/a.png\nimages/train/x.png")
    root = describe(own, train="train.txt")
    refuses(lambda: yolo(root=root), r"x\.png: no such image \(1 of the 2 listed\).*data\.on_error=skip")
    data = yolo(root=root, on_error="skip")
    assert names(data)["train"] == ["a", "x"]
    assert data.splits["train"].sizes.tolist() == [[40, 60], [0, 0]]


def test_one_of_several_folders_may_be_missing(own):
    data = yolo(root=describe(own, train=["images/train", "images/more"]))
    assert "train: images/more does not exist; the other folders or lists" in data.warnings[0]


def test_folders_may_begin_with_a_capital(tmp_path):
    add(tmp_path, "train/a")
    add(tmp_path, "val/c")
    for name in ("images", "labels"):
        (tmp_path / name).rename(tmp_path / name.capitalize())
    data = yolo(root=describe(tmp_path, train="Images/train", val="Images/val"))
    assert len(data.splits["train"].boxes) == 1
    (tmp_path / "Labels").rename(tmp_path / "labels")
    assert len(yolo(root=str(tmp_path)).splits["train"].boxes) == 1


def test_an_export_of_cvat(tmp_path):
    for number in range(12):
        add(tmp_path, str(number))
        (tmp_path / "obj_train_data").mkdir(exist_ok=True)
        (tmp_path / f"images/{number}.png").rename(tmp_path / f"obj_train_data/{number}.png")
        (tmp_path / f"labels/{number}.txt").rename(tmp_path / f"obj_train_data/{number}.txt")
    (tmp_path / "images").rmdir()
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    (tmp_path / "train.txt").write_text("\n".join(f"data/obj_train_data/{n}.png" for n in range(12)))
    data = yolo(root=str(tmp_path))
    assert data.classes.names == ("cat", "dog")
    assert sorted(names(data)["train"] + names(data)["val"], key=int) == [str(n) for n in range(12)]
    assert len(data.splits["val"].boxes) == len(data.splits["val"])
    assert f"no val; {len(data.splits['val'])} of 12 images of train are used as val" in data.warnings[0]
    (tmp_path / "val.txt").write_text("data/obj_train_data/11.png")
    (tmp_path / "train.txt").write_text("data/obj_train_data/0.png")
    assert names(yolo(root=str(tmp_path))) == {"train": ["0"], "val": ["11"]}


def test_the_splits_of_darknet_s_obj_data(tmp_path):
    for name in "abc":
        add(tmp_path, name)
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/one.txt").write_text("images/a.png\nimages/b.png")
    (tmp_path / "lists/two.txt").write_text("images/c.png")
    (tmp_path / "obj.data").write_text("classes= 2\ntrain  = lists/one.txt\nvalid=lists/two.txt\n")
    assert names(yolo(root=str(tmp_path))) == {"train": ["a", "b"], "val": ["c"]}
    (tmp_path / "obj.data").write_text("train = lists/one.txt\nvalid = lists/none.txt\n")
    (tmp_path / "val.txt").write_text("images/c.png")
    assert names(yolo(root=str(tmp_path))) == {"train": ["a", "b"], "val": ["c"]}


def test_an_export_of_label_studio(tmp_path):
    for number in range(12):
        add(tmp_path, str(number))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "notes.json").write_text("{}")
    data = yolo(root=str(tmp_path))
    assert data.classes.names == ("cat", "dog")
    assert {len(part.boxes) == len(part) for part in data.splits.values()} == {True}
    assert len(data.splits["train"]) + len(data.splits["val"]) == 12


def test_labels_beside_the_images(tmp_path):
    for split, name in (("train", "a"), ("val", "b")):
        add(tmp_path, name)
        (tmp_path / split).mkdir()
        (tmp_path / f"images/{name}.png").rename(tmp_path / split / f"{name}.png")
        (tmp_path / f"labels/{name}.txt").rename(tmp_path / split / f"{name}.txt")
    data = yolo(root=describe(tmp_path, train="train", val="val"))
    assert len(data.splits["train"].boxes) == 1


def test_the_last_folder_called_images_is_replaced(tmp_path):
    home = tmp_path / "images" / "set"
    add(home, "train/a")
    add(home, "val/b")
    assert len(yolo(root=describe(home)).splits["train"].boxes) == 1


def test_a_missing_split_is_left_out_and_reported(own):
    data = yolo(root=describe(own, test="images/test"))
    assert list(data.splits) == ["train", "val"]
    assert data.warnings[0].endswith("data.yaml: test: images/test does not exist; the split is left out")
    refuses(lambda: yolo(root=describe(own, train="x", val="y")), r"data\.yaml: train: x does not exist")
    refuses(lambda: yolo(root=describe(own, train=None, val=None)), r"data\.yaml: names no train, val")


def test_val_may_be_train(own):
    data = yolo(root=describe(own, val="images/train"))
    assert names(data) == {"train": ["a", "b"]}
    refuses(
        lambda: data.dataset("val", None),
        r"no split 'val' .* val: all of its 2 images are also in train; the split is left out; set "
        "data.split=train",
    )


# ---------------------------------------------------------------------- reading


def test_an_image_without_a_label_file_has_no_objects(own):
    os.remove(own / "labels/train/b.txt")
    (own / "labels/train/a.txt").write_text("1 0.5 0.5 0.1 0.1\n\n  0 0.25 0.5 0.5 1  \n")
    data = yolo(root=str(own))
    assert data.splits["train"].offsets.tolist() == [0, 2, 2]
    np.testing.assert_allclose(data.splits["train"].boxes, [[27, 18, 33, 22], [0, 0, 30, 40]], atol=1e-4)
    assert "1 image without a label file: treated as having no objects (b.png)" in data.warnings[0]
    os.remove(own / "labels/val/c.txt")
    assert not yolo(root=str(own)).splits["val"].has_labels
    os.remove(own / "labels/train/a.txt")
    refuses(
        lambda: yolo(root=str(own)), r"a\.png: no label file .*labels/train/a\.txt, and none for the other"
    )


def test_the_suffix_of_label_files_may_be_in_capitals(own):
    """Programs on Windows write .TXT; the images counted as without objects."""
    for path in own.rglob("labels/train/*.txt"):
        path.rename(path.with_suffix(".TXT"))
    (own / "labels/train/lost.TXT").write_text("0 .5 .5 .2 .2")
    (own / "labels/train/#recycle").mkdir()
    (own / "labels/train/#recycle/deleted.txt").write_text("0 .5 .5 .2 .2")
    data = yolo(root=str(own))
    assert data.splits["train"].objects(0)[0].tolist() == [[15, 10, 45, 30]]
    assert len(data.splits["train"].boxes) == 2
    assert any("1 label file without an image: left out (lost.TXT)" in line for line in data.warnings)


def test_a_label_folder_without_permission_is_refused(own, monkeypatch):
    """Its images counted as without objects, or the label files as missing."""
    (own / "labels/val").rename(own / "hidden")  # so it appears inside a folder that may not be entered
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).endswith("labels"))
    refuses(lambda: yolo(root=str(own)), rf"{own}/labels: cannot be read \(Permission denied\)")


def test_labeled_images_that_are_not_read_are_named(own):
    (own / "images/train/b.png").rename(own / "images/train/b.jp2")
    (own / "labels/train/d.txt").write_text("0 .5 .5 .2 .2")
    (own / "labels/train/classes.txt").write_text("cat\ndog")
    data = yolo(root=str(own))
    assert names(data)["train"] == ["a"]
    lines = [line.partition(": ")[2] for line in data.warnings]
    assert any("images/train: 1 file left out: b.jp2; images must be avif bmp" in line for line in lines)
    assert "2 label files without an image: left out (b.txt, d.txt)" in lines


def test_labeled_images_in_no_split_are_named(own):
    add(own, "extra/d")
    (own / "list.txt").write_text("images/train/a.png\n")
    describe(own, train="list.txt")
    lines = [line.partition(": ")[2] for line in yolo(root=str(own)).warnings]
    assert "2 images with a label file, but in no split: left out (d.png, b.png)" in lines


def test_labeled_images_beside_the_folders_of_splits_are_named(tmp_path):
    for name in ("train", "valid", "holdout"):
        add(tmp_path / name, name)
    root = describe(tmp_path, train="../train/images", val="../valid/images")
    lines = [line.partition(": ")[2] for line in yolo(root=root).warnings]
    assert "1 image with a label file, but in no split: left out (holdout.png)" in lines


def test_label_files_beside_images_need_one_too(tmp_path):
    for split, name in (("train", "a"), ("val", "b")):
        add(tmp_path, name)
        (tmp_path / split).mkdir()
        (tmp_path / f"images/{name}.png").rename(tmp_path / split / f"{name}.png")
        (tmp_path / f"labels/{name}.txt").rename(tmp_path / split / f"{name}.txt")
        (tmp_path / split / "classes.txt").write_text("cat")
        (tmp_path / split / f"{name}.json").write_text("{}")
    (tmp_path / "train/z.txt").write_text("0 .5 .5 .2 .2")
    lines = [
        line.partition(": ")[2] for line in yolo(root=describe(tmp_path, train="train", val="val")).warnings
    ]
    assert "1 label file without an image: left out (z.txt)" in lines
    assert not any(line.startswith("1 file") for line in lines)


def test_label_files_with_other_names_than_the_images_are_named(own):
    os.rename(own / "labels/train/a.txt", own / "labels/train/a.png.txt")
    os.remove(own / "labels/train/b.txt")
    refuses(
        lambda: yolo(root=str(own)),
        r"train/a\.png: no label file .*train/a\.txt, and none for the other images of train \(1 label file "
        r"without an image: left out \(a\.png\.txt\)\); add them",
    )


@pytest.mark.parametrize(
    ("train", "rows", "message"),
    [
        ("images/train", "2 .5 .5 .5 .5", r"correct it, or add its name to \S+birds\.yaml$"),
        (
            "images/train",
            "0 .5 .5 .5 .5 .1 .1 .1",
            r"if the others are keypoints, add kpt_shape to \S+birds\.",
        ),
        ("images/train", "0 .5 .5 .5 .5 .9 2.7", r"add kpt_shape to \S+birds\.yaml"),
        ("list.txt", "gone.png", r"\(paths are relative to it or to birds\.yaml\)"),
        ("list.txt", "a.txt", r"the folder with the images in birds\.yaml, for example"),
        ("list.txt", "0 .5 .5 .5 .5", r"the folder with the images in birds\.yaml, for example"),
    ],
)
def test_messages_name_the_yaml_file_of_the_user(own, train, rows, message):
    describe(own, train=train)
    (own / "data.yaml").rename(own / "birds.yaml")
    (own / ("list.txt" if train == "list.txt" else "labels/train/a.txt")).write_text(rows)
    refuses(lambda: yolo(root=str(own)), message)


def test_without_a_yaml_file_the_file_with_the_names_is_named(own):
    (own / "data.yaml").unlink()
    (own / "classes.txt").write_text("cat\ndog\n")
    (own / "labels/train/a.txt").write_text("2 .5 .5 .5 .5")
    refuses(lambda: yolo(root=str(own)), r"correct it, or add its name to \S+classes\.txt$")
    (own / "labels/train/a.txt").write_text("0 .5 .5 .5 .5 .1 .1 .1")
    refuses(lambda: yolo(root=str(own)), r"if the others are keypoints, add kpt_shape to a data\.yaml;")


def test_polygons_become_the_boxes_around_them(tmp_path):
    (tmp_path / "a.txt").write_text("1 0.2 0.5 0.6 0.1 0.4 0.9\n0 .1 .2 .3 .2 .3 .4 .1 .5")
    labels, boxes, *_ = read_rows(tmp_path / "a.txt", LabelReader(num_classes=2))
    assert labels.tolist() == [1, 0]
    np.testing.assert_allclose(boxes, [[0.2, 0.1, 0.6, 0.9], [0.1, 0.2, 0.3, 0.5]])


def boxes_of(own, rows, name="train/a", **content):
    """The boxes of the first training image, of 80 x 100 pixels, with these rows; and the warnings."""
    add(own, name, rows, height=80, width=100)
    data = yolo(root=describe(own, **content))
    return data.splits["train"].objects(0)[0].round(3).tolist(), [w.partition(": ")[2] for w in data.warnings]


def test_of_rows_with_keypoints_only_the_box_is_used(own):
    row = "0 .5 .5 .2 .2 .45 .45 .55 .55"  # box: 50 +- 10 and 40 +- 8 pixels
    boxes, lines = boxes_of(own, row, kpt_shape=[2, 2])
    assert boxes == [[40, 32, 60, 48]]
    assert "1 row with keypoints: only the box is used (a.txt)" in lines
    boxes, _ = boxes_of(own, "0 .5 .5 .2 .2 .45 .45 2 0 0 0\n0 .5 .5 .4 .4", kpt_shape=[2, 3])
    assert boxes == [[40, 32, 60, 48], [30, 24, 70, 56]]
    refuses(
        lambda: boxes_of(own, row, kpt_shape=[3, 2]),
        r"a\.txt: line 1: must be class cx cy w h and 3 keypoints of 2 numbers \(kpt_shape\), got 9 values",
    )
    for shape in (5, [2], [2, 4], ["a", 2], [0, 2]):
        refuses(lambda shape=shape: boxes_of(own, row, kpt_shape=shape), r"data\.yaml: kpt_shape: must be \[")


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ("0 .5 .5 .2 .2 .45 .45 .55 .55", [2, 2]),
        ("0 .5 .5 .2 .2 .45 .45 2 .55 .55 1", [2, 3]),
        ("0 .5 .5 .2 .2 .45 .45 .98 .55 .55 .87", [2, 3]),  # predicted, with probabilities
        ("0 .3 .4 .1 .1 .28 .38 .3 .4 .33 .43 0 0", [4, 2]),
        ("0 .3 .4 .1 .1 -1 -1 .3 .4 .33 .43", [3, 2]),
    ],
)
def test_rows_that_may_be_polygons_or_keypoints_are_not_guessed(own, row, shape):
    message = r"a\.txt: line 1: may be a polygon, or .*add kpt_shape: \[\d, 2\] .* or kpt_shape: \[\] if"
    refuses(lambda: boxes_of(own, row), message)
    x, y, width, height = map(float, row.split()[1:5])
    boxes, _ = boxes_of(own, row, kpt_shape=shape)
    expected = [100 * (x - width / 2), 80 * (y - height / 2), 100 * (x + width / 2), 80 * (y + height / 2)]
    assert boxes == [pytest.approx(expected, abs=1e-3)]


@pytest.mark.parametrize(
    ("keypoints", "after", "shape"),
    [
        (".45 .45 .9 .55 .55 .8 .5 .42 .7", ".91", [3, 3]),  # 14 numbers after the class, like 7 points
        (".45 .45 .9 .55 .55 .8 .5 .42 .7", "7", [3, 3]),
        (".45 .45 .9 .55 .55 .8 .5 .42 .7 .5 .5 .6", ".91 1", [4, 3]),
        (".45 .45 .55 .55 .5 .42", ".91 1", [3, 2]),
        (".45 .45 .55 .55 .5 .42", ".91", [3, 2]),  # 11 numbers
    ],
)
def test_of_keypoints_with_a_score_or_a_track_id_only_the_box_is_used(own, keypoints, after, shape):
    row = f"0 .5 .5 .2 .2 {keypoints} {after}"
    refuses(lambda: boxes_of(own, row), r"a\.txt: line 1: .*kpt_shape")
    boxes, lines = boxes_of(own, row, kpt_shape=shape)
    assert boxes == [[40, 32, 60, 48]]
    assert "1 row with keypoints: only the box is used (a.txt)" in lines
    refuses(lambda: boxes_of(own, f"{row} .5 .5", kpt_shape=shape), "correct kpt_shape or the row")


@pytest.mark.parametrize(
    "rows",
    [
        "0 -1 .5 .5 .2 .2",  # an unknown identity, as in sets for tracking
        "0 0 .5 .5 .2 .2\n0 1 .3 .3 .2 .2\n1 2 .7 .5 .2 .2",
        "0 .91 .5 .5 .2 .2\n1 .83 .3 .3 .2 .2\n0 .47 .6 .4 .3 .2",  # scores
    ],
)
def test_a_score_or_an_id_before_the_box_is_refused(own, rows):
    message = r"a\.txt: line 1: the first four numbers after the class are a box in \d of \d rows, the last"
    refuses(lambda: boxes_of(own, rows), message, "if the first is a score or an id, delete it")
    refuses(lambda: boxes_of(own, "0 17 .5 .5 .2 .2"), "; if the first is an id, delete it")
    # Boxes near the right edge, with a score: as many fit with their first four numbers.
    assert len(boxes_of(own, "0 .8 .5 .4 .2 .9\n0 .8 .3 .4 .2 .8\n1 .7 .3 .2 .2 .9")[0]) == 3


def test_polygons_without_keypoints_may_look_like_them(own):
    boxes, _ = boxes_of(own, "0 .5 .5 .2 .2 .45 .45 .55 .55", kpt_shape=[])
    assert boxes == [[20, 16, 55, 44]]


def test_small_polygons_near_the_center_are_not_taken_for_keypoints(own):
    # All points lie in the box that the first four numbers would be, near its center.
    boxes, lines = boxes_of(own, "0 .45 .45 .5 .45 .5 .5 .45 .5\n1 .4 .4 .5 .4 .45 .5")
    assert boxes == [[45, 36, 50, 40], [40, 32, 50, 40]]
    assert not [line for line in lines if "row" in line]


def test_the_rows_of_a_tracker_are_boxes(own):
    # Two objects, with a score and a track id, then with one of them.
    boxes, lines = boxes_of(own, "0 .5 .5 .2 .2 .9 1\n0 .2 .5 .2 .2 .8 2")
    assert boxes == [[40, 32, 60, 48], [10, 32, 30, 48]]
    expected = (
        "2 rows with a score or a track id after the box: only the box is used (angles are not read) (a.txt)"
    )
    assert expected in lines
    assert boxes_of(own, "0 .5 .5 .2 .2 .93")[0] == [[40, 32, 60, 48]]
    assert boxes_of(own, "0 .5 .5 .2 .2 17")[0] == [[40, 32, 60, 48]]
    for angle in ("1.57", "-0.3"):
        refuses(lambda angle=angle: boxes_of(own, f"0 .5 .5 .2 .2 .3\n0 .5 .5 .2 .2 {angle}"), "four corners")
    # A triangle at the lower edge, among others.
    assert boxes_of(own, "0 .5 .5 .2 .2 .9 1\n0 .2 .5 .2 .2 .8 .4")[0] == [[20, 16, 90, 80], [20, 16, 80, 40]]


@pytest.mark.parametrize(
    ("rows", "line", "why"),
    [
        # Degrees: two boxes of an image may have the same, unlike track ids.
        ("0 .5 .5 .2 .1 45\n0 .2 .5 .2 .1 90\n1 .3 .3 .2 .1 45", "3: .* 45,", "another row of the file has"),
        ("0 .5 .5 .2 .1 .3\n0 .2 .5 .2 .1 2", "2: .* 2,", "other rows have fractions there"),
    ],
)
def test_a_number_after_the_box_that_is_no_score_and_no_track_id_is_refused(own, rows, line, why):
    message = rf"a\.txt: line {line} is neither a score \(0\.\.1\) nor a track id \({why}.*four corners"
    refuses(lambda: boxes_of(own, rows), message)


def test_scores_and_track_ids_may_repeat_in_other_files_and_scores_in_one(own):
    add(own, "train/b", "1 .2 .2 .2 .2 17")
    assert boxes_of(own, "0 .5 .5 .2 .2 17\n0 .2 .5 .2 .2 0")[0] == [[40, 32, 60, 48], [10, 32, 30, 48]]
    add(own, "train/b", "1 .2 .2 .2 .2 .9")
    assert len(boxes_of(own, "0 .5 .5 .2 .2 1\n0 .2 .5 .2 .2 1\n0 .3 .5 .2 .2 .9")[0]) == 3


def test_a_row_given_twice_counts_once(own):
    polygon = "0 .4 .4 .6 .4 .6 .6 .4 .6"
    boxes, lines = boxes_of(own, f"0 .5 .5 .2 .2\n0 0.50 0.5 0.20001 0.2\n{polygon}\n1 .5 .5 .2 .2")
    assert boxes == [[40, 32, 60, 48]] * 2  # of either class
    assert "2 boxes of the same class at the same place as another: left out (a.txt)" in lines


def test_corners_instead_of_centers_are_noticed(own):
    add(own, "train/b", "1 .1 .1 .9 .9")
    _, lines = boxes_of(own, "0 0 0 .9 .9\n0 .1 .2 .8 .7\n0 .2 .1 .9 .9")
    assert lines[0].startswith(
        "4 of 4 boxes do not fit their images as center x, center y, width, height, but"
    )


def test_boxes_over_the_edge_are_clipped(own):
    (own / "labels/train/a.txt").write_text("0 0 0.5 0.5 0.5\n0 0.5 0.5 0 0.5")
    data = yolo(root=str(own))
    assert data.splits["train"].objects(0)[0].tolist() == [[0, 10, 15, 30]]
    assert [line.partition(": ")[2] for line in data.warnings[:2]] == [
        "1 box thinner than 1 pixel: left out (a.txt)",
        "1 box partly outside the image: clipped (a.txt)",
    ]


def test_an_unreadable_image_is_reported(own):
    (own / "images/train/b.png").write_bytes(b"not an image")
    data = yolo(root=str(own))
    assert "1 image that cannot be read (b.png)" in data.warnings[0]
    assert data.splits["train"].offsets.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0 0.5 0.5 0.5 0.5\n2 0.5 0.5 0.5 0.5", r"line 2: class 2 is not one of 0\.\.1; .*data\.yaml"),
        ("-1 0.5 0.5 0.5 0.5", "line 1: class -1 is not one of"),
        ("0.5 0.5 0.5 0.5 0.5", "line 1: class 0.5 is not one of"),
        ("nan 0.5 0.5 0.5 0.5", "line 1: class nan is not one of"),
        ("inf 0.5 0.5 0.5 0.5", "line 1: class inf is not one of"),
        ("cat 0.5 0.5 0.5 0.5", "line 1: must be numbers separated by spaces, got 'cat 0.5"),
        ("0,0.5,0.5,0.5,0.5", "line 1: must be numbers"),
        ("0 0.5 0.5 0.5", "line 1: must be class cx cy w h.*got 4 values"),
        ("0 0.5 0.5 0.5 0.5 0.4 0.3 0.9", "line 1: must be class cx cy w h.*got 8 values; .*add kpt_shape"),
        ("0", "line 1: must be class cx cy w h.*got 1 values"),
        ("0 30 20 10 10", r"line 1: must be fractions of the image in 0\.\.1, got '30 20 10 10'; divide"),
        (
            "0 .5 .5 .2 .2 7 .9",
            r"line 1: must be fractions .* but 7 is after '\.5 \.5 \.2 \.2'; if the others",
        ),
        ("\xff\xfe\x00", "not a text file"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(own, rows, message):
    (own / "labels/train/a.txt").write_bytes(rows.encode("latin-1"))
    refuses(lambda: yolo(root=str(own)), r"labels/train/a\.txt: ", message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names: is missing"),
        ("- a\n- b", "names: is missing"),
        ("names: 5", "names: must be a list"),
        ("names: []", "names: a class map needs 1"),
        ("names: [a, a]", "names: duplicate class name: 'a'"),
        ("names: {0: a, 2: b}", r"names: must be numbered 0\.\.1 without gaps"),
        ("names: [a, b]\nnc: 3", "nc: is 3 but there are 2 names"),
        ("names: [a]\ntrain: 5", "train: must be a folder"),
        ("names: [a]\ntrain: images/train\npath: 5", "path: must be a folder, got 5"),
        ("names: [a", "not valid YAML"),
        ("names: !!python/object:os.system [x]", "not valid YAML"),
        ("names: !!int x", "not valid YAML"),
        ("a: !!timestamp x", "not valid YAML"),
        ("\tnames: [a]", "not valid YAML"),
        ("names: {0: cat, 0: dog, 1: bird}", r"not valid YAML \(0 occurs twice"),
        ("names: [cat, dog]\nnames: [dog, cat]", r"not valid YAML \(names occurs twice"),
        ("names: " + "[" * 5000, "not valid YAML|nested too deeply"),
        ("x: " + "y" * 1_000_001, "over 1 MB, too large"),
    ],
)
def test_a_wrong_yaml_is_named_with_its_key(own, text, message):
    refuses(lambda: yolo(root=describe(own, text)), r"data\.yaml: ", message)


GOOD = b"names: {0: cat, 1: dog}\ntrain: images/train\nval: [images/val]\npath: .\nnc: 2\n"
ROWS = b"0 0.5 0.5 0.5 0.5\n1 0.1 0.2 0.3 0.2 0.3 0.4\n"
BITS = [b"&a", b"*a", b"!!int", b": ", b"- ", b"[", b"{", b"nan", b"1e999", b"-", b"\xff\xfe", b"null", b"\0"]


def changes(good):
    return st.tuples(
        st.integers(0, len(good)), st.integers(0, 12), st.binary(max_size=8) | st.sampled_from(BITS)
    ).map(lambda c: good[: c[0]] + c[2] + good[c[0] + c[1] :])


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(described=changes(GOOD) | st.just(GOOD), rows=changes(ROWS))
def test_any_change_ends_in_a_valid_result_or_one_line(own, described, rows):
    (own / "data.yaml").write_bytes(described)
    (own / "labels/train/a.txt").write_bytes(rows)
    try:
        data = yolo(root=str(own))
    except UserError as error:
        check_line(error, own)
    else:
        for part in data.splits.values():
            assert np.isfinite(part.boxes).all()
            assert (part.boxes[:, 2:] > part.boxes[:, :2]).all()
            assert (part.labels < len(data.classes)).all()


# -------------------------------------------------------------------- real data


@pytest.mark.data
def test_coco128_is_the_same_as_yolo_and_as_coco(data_folder):
    folder = data_folder / "coco128"
    data = yolo(root=str(folder))
    reference = coco(
        val={
            "images": str(folder / "images/val2017"),
            "annotations": str(folder / "instances_val2017_128.json"),
        }
    )
    assert data.classes.names == reference.classes.names
    first, second = data.splits["val"], reference.splits["val"]
    assert first.names.tolist() == second.names.tolist()
    assert first.offsets.tolist() == second.offsets.tolist()
    assert first.labels.tolist() == second.labels.tolist()
    assert first.sizes.tolist() == second.sizes.tolist()
    np.testing.assert_allclose(first.boxes, second.boxes, atol=1e-3)
    assert "train: images/train2017 does not exist" in data.warnings[0]


@pytest.mark.parametrize(
    "folder",
    [
        "/content/sets/own/images/{}",  # Colab
        "C:\\data\\own\\images\\{}",
        "images\\{}",
        "own/images/{}",  # the folder of the dataset again
        "../datasets/own/images/{}",
    ],
)
def test_folders_of_another_machine(own, folder):
    describe(own, train=folder.format("train"), val=folder.format("val"))
    assert names(yolo(root=str(own))) == {"train": ["a", "b"], "val": ["c"]}


def test_a_missing_folder_is_not_taken_for_that_of_all_images(own):
    describe(own, val="../valid/images")
    data = yolo(root=str(own))
    assert list(data.splits) == ["train"]
    assert any("val: ../valid/images does not exist; the split is left out" in line for line in data.warnings)
