"""Pascal VOC: where files are searched, what is read from them, and errors."""

import os
import shutil
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from det.data.formats import voc_xml
from det.data.voc import voc
from engine.data.images import write_png
from engine.errors import UserError
from tests.refusals import check_line, refuses

CAT = ("cat", (10, 5, 30, 25))


def xml(*objects, size=(40, 60)):
    """objects: (name, box, more elements)."""
    sides = (
        "<size><width>{1}</width><height>{0}</height><depth>3</depth></size>".format(*size) if size else ""
    )
    text = ""
    for name, box, *more in objects:
        corners = "".join(
            f"<{side}>{value}</{side}>"
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        text += f"<object><name>{name}</name>{''.join(more)}<bndbox>{corners}</bndbox></object>"
    return f"<annotation><folder>x</folder><filename>y.jpg</filename>{sides}{text}</annotation>"


def add(images, xmls, name, text=None):
    """An image and its XML file."""
    pixels = np.random.default_rng(zlib.crc32(f"{images}{name}".encode())).integers(0, 256, (40, 60, 3))
    write_png(images / f"{name}.png", pixels.astype(np.uint8))
    if text is not False:
        xmls.mkdir(parents=True, exist_ok=True)
        (xmls / f"{name}.xml").write_text(text or xml(CAT))


def tree(root, names="abcde", images="JPEGImages", xmls="Annotations", **lists):
    for name in names:
        add(root / images, root / xmls, name)
    for split, listed in lists.items():
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(listed) + "\n")
    return str(root)


def counts(data):
    return {split: [os.fsdecode(name) for name in part.names] for split, part in data.splits.items()}


def one(tmp_path, *objects, size=(40, 60), **options):
    """The data and its training split, of one image with these objects."""
    tree(tmp_path, "ab", train="a", val="b")
    (tmp_path / "Annotations/a.xml").write_text(xml(*objects, size=size))
    data = voc(root=str(tmp_path), **options)
    return data, data.splits["train"]


# ---------------------------------------------------------------------- layouts


def test_the_official_tree(tmp_path):
    data = voc(root=tree(tmp_path, train="ab", val="c", test="de", trainval="abc"))
    assert counts(data) == {"train": ["a", "b"], "val": ["c"], "test": ["d", "e"]}
    assert data.classes.names == ("cat",)
    assert data.description == (
        f"VOC at {tmp_path} (train 2 images 2 boxes, val 1 image 1 box, test 2 images 2 boxes; 1 class)"
    )
    assert data.warnings == ()


def test_lists_can_be_chosen(tmp_path):
    root = tree(tmp_path, trainval=["a", "b.png", "b"], test=["d  1", "e -1"])
    found = counts(voc(root=root))
    assert sorted(found.pop("train") + found.pop("val")) == ["a", "b"]  # without val, it is taken from train
    assert found == {"test": ["d", "e"]}
    data = voc(root=root, splits={"train": "trainval", "val": "test"})
    assert counts(data) == {"train": ["a", "b"], "val": ["d", "e"]}
    (tmp_path / "mine.txt").write_text("c")
    assert counts(voc(root=root, splits={"train": "trainval", "val": "mine.txt"}))["val"] == ["c"]
    refuses(
        lambda: voc(root=root, splits={"train": "trian"}), "trian: no such folder or list; check data.source"
    )


@pytest.mark.parametrize(
    ("images", "xmls"),
    [
        ("images", "annotations"),
        ("imgs", "xml"),
        ("images", "labels"),
        ("IMAGES", "Labels"),
        ("JPEGImages", "JPEGImages"),
        (".", "."),
        (".", "Annotations"),
    ],
)
def test_folders_with_other_usual_names_are_recognized(tmp_path, images, xmls):
    data = voc(root=tree(tmp_path, "abcd", images, xmls, train="abc", val="d"))
    assert counts(data) == {"train": ["a", "b", "c"], "val": ["d"]}


def test_folders_can_be_named(tmp_path):
    root = tree(tmp_path, "abcd", "fotos", "kisten", train="abc", val="d")
    add(tmp_path / "old", tmp_path / "older", "z")  # a second folder of each kind
    refuses(lambda: voc(root=root), "no images in this folder; .*set data.source.images=")
    assert len(voc(root=root, images="fotos", annotations="kisten").splits["train"]) == 3
    refuses(lambda: voc(root=root, images="photos"), "photos: no such folder; check data.source.images")
    refuses(
        lambda: voc(root=root, images="fotos", annotations="boxes"),
        "boxes: no such folder; check data.source.annotations",
    )


@pytest.mark.parametrize(("images", "xmls"), [("fotos", "kisten"), ("images", "kisten"), (".", "kisten")])
def test_the_only_folder_of_a_kind_need_not_be_named(tmp_path, images, xmls):
    data = voc(root=tree(tmp_path, "abcd", images, xmls, train="abc", val="d"))
    assert counts(data) == {"train": ["a", "b", "c"], "val": ["d"]}
    assert len(data.splits["train"].boxes) == 3


@pytest.mark.parametrize(
    ("images", "xmls"),
    [
        ("{}", "{}"),  # Roboflow
        ("{}/images", "{}/annotations"),
        ("{}/JPEGImages", "{}/xml"),
        ("images/{}", "annotations/{}"),
        ("images/{}", "annotations"),
        ("images/{}", "boxes"),
        ("{}", "annotations"),
        ("{}/images", "annotations/{}"),
    ],
)
@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_splits_as_folders(tmp_path, images, xmls, val):
    for split, names in (("train", "abc"), (val, "de"), ("test", "f")):
        for name in names:
            add(tmp_path / images.format(split), tmp_path / xmls.format(split), name)
    data = voc(root=str(tmp_path))
    assert counts(data) == {"train": ["a", "b", "c"], "val": ["d", "e"], "test": ["f"]}
    assert len(data.splits["train"].boxes) == 3


def test_folders_of_splits_in_any_case_below_named_folders(tmp_path):
    for split, names in (("Train", "abc"), ("VALID", "de")):
        for name in names:
            add(tmp_path / "fotos" / split, tmp_path / "kisten" / split, name)
    data = voc(root=str(tmp_path), images="fotos", annotations="kisten")
    assert counts(data) == {"train": ["a", "b", "c"], "val": ["d", "e"]}
    refuses(
        lambda: voc(root=str(tmp_path), images="fotos", annotations="boxes"),
        "boxes: no such folder; check data.source.annotations",
    )


def test_annotations_of_one_split_are_not_taken_for_those_of_another(tmp_path):
    """The images of all splits have the same names, and the test split has no XML files."""
    for split in ("train", "val", "test"):
        for name in "ab":
            add(tmp_path / split, tmp_path / split, name, False if split == "test" else None)
    data = voc(root=str(tmp_path), allow_same_names=True)
    assert not data.splits["test"].has_labels


def test_the_path_of_a_split_must_be_text(tmp_path):
    root = tree(tmp_path, "ab", train="a", val="b")
    for wrong in (None, 5, ""):
        refuses(
            lambda wrong=wrong: voc(root=root, splits={"train": wrong}),
            r"data\.source\.splits\.train: must be",
        )


def test_xml_files_without_an_image_are_counted(tmp_path):
    root = tree(tmp_path, "abc", train="a", val="b")
    os.remove(tmp_path / "JPEGImages/c.png")
    assert f"VOC at {tmp_path}: 1 XML file without an image: left out (c.xml)" in voc(root=root).warnings


def test_without_splits_the_same_fifth_is_always_val(tmp_path):
    names = [f"{n:03d}" for n in range(60)]
    root = tree(tmp_path / "first", names)
    data = voc(root=root)
    before = counts(data)
    assert sorted(before["train"] + before["val"]) == names
    assert 5 <= len(before["val"]) <= 20
    assert f"no splits; {len(before['val'])} of 60 images are used as val" in data.warnings[0]
    after = counts(voc(root=tree(tmp_path / "second", [*names, "new", "newer"])))
    assert set(before["val"]) == set(after["val"]) - {"new", "newer"}  # new images do not move the others
    for few in ("ab", "xy", "abc"):
        few_counts = counts(voc(root=tree(tmp_path / few, few)))
        assert min(map(len, few_counts.values())) >= 1
    refuses(lambda: voc(root=tree(tmp_path / "single", "a")), "only one image; train and val need")


@pytest.mark.parametrize("place", [".", "ImageSets"])
def test_lists_may_lie_elsewhere_and_hold_paths(tmp_path, place):
    root = Path(tree(tmp_path, "abcde"))
    (root / place).mkdir(exist_ok=True)
    (root / place / "train.txt").write_text(
        "JPEGImages/a.png\n/data/voc/JPEGImages/b.jpg Annotations/b.xml\n"
    )
    (root / place / "Val.txt").write_text("VOC\\JPEGImages\\c.jpg\n./d\n")
    assert counts(voc(root=str(root))) == {"train": ["a", "b"], "val": ["c", "d"]}


def test_lists_per_class_are_named_with_the_option_that_uses_them(tmp_path):
    root = Path(tree(tmp_path, "abcdefgh"))
    lists = root / "ImageSets/Main"
    lists.mkdir(parents=True)
    for name, names in (("cat_train", "abc"), ("cat_val", "def"), ("dog_train", "abc")):
        (lists / f"{name}.txt").write_text("".join(f"{each} -1\n" for each in names))
    assert (
        f"{root}: lists that are not used: cat_train, cat_val, dog_train; to use them, set "
        "'data.source.splits={train: cat_train, val: cat_val}'"
    ) in voc(root=str(root)).warnings
    chosen = voc(root=str(root), splits={"train": "cat_train", "val": "cat_val"})
    assert counts(chosen) == {"train": ["a", "b", "c"], "val": ["d", "e", "f"]}
    assert not any("not used" in line for line in chosen.warnings)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train_list.txt", "val_list.txt"),
        ("Main/train.txt", "Main/val.txt"),
        ("lists/Train.txt", "lists/Val.txt"),
        ("ImageSets/Layout/train.txt", "ImageSets/Layout/val.txt"),
        ("my_training.txt", "my_valid.txt"),
    ],
)
def test_lists_in_other_places_are_named_with_the_option_that_uses_them(tmp_path, train, val):
    root = Path(tree(tmp_path, "abcdefgh"))
    (root / "readme.txt").write_text("photos")
    for place, names in ((train, "abc"), (val, "def")):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text("\n".join(names))
    names = f"{train}, {val}" if train < val else f"{val}, {train}"
    assert (
        f"{root}: lists that are not used: {names}; to use them, set "
        f"'data.source.splits={{train: {train}, val: {val}}}'"
    ) in voc(root=str(root)).warnings
    chosen = voc(root=str(root), splits={"train": train, "val": val})
    assert counts(chosen) == {"train": ["a", "b", "c"], "val": ["d", "e", "f"]}
    assert "2 images with an XML file, but in no split: left out (g.png, h.png)" in chosen.warnings[0]


def test_annotated_images_in_no_split_are_named(tmp_path):
    root = Path(tree(tmp_path, "abcd", train="a", val="b"))
    os.remove(root / "Annotations/d.xml")
    assert [line.partition(": ")[2] for line in voc(root=str(root)).warnings] == [
        "1 image with an XML file, but in no split: left out (c.png)"
    ]
    folders = tmp_path / "folders"
    for name in ("train", "val", "more"):
        add(folders / name, folders / name, name)
    assert voc(root=str(folders)).warnings == (
        f"{folders}: folders with images and .xml files, but in no split, left out: more",
    )


def test_lists_name_images_in_folders_by_their_path(tmp_path):
    for name in ("a/1.5", "a/2", "b/1.5"):
        folder, last = os.path.split(name)
        add(tmp_path / "JPEGImages" / folder, tmp_path / "Annotations" / folder, last)
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a/1.5\n/data/voc/JPEGImages/a/2.png\n")
    (lists / "val.txt").write_text("b\\1.5\n")
    assert counts(voc(root=str(tmp_path))) == {"train": ["a/1.5", "a/2"], "val": ["b/1.5"]}


def test_folders_of_splits_come_before_lists_at_the_root(tmp_path):
    for split, names in (("train", "ab"), ("val", "c")):
        tree(tmp_path / split, names, ".", ".")
    (tmp_path / "train.txt").write_text("a")
    assert counts(voc(root=str(tmp_path))) == {"train": ["a", "b"], "val": ["c"]}


def test_a_missing_image_of_a_list_can_be_skipped(tmp_path):
    root = tree(tmp_path, "abc", train="ab", val="c")
    os.remove(tmp_path / "JPEGImages/b.png")
    refuses(lambda: voc(root=root), r"b: no such image \(1 of the 2 names of train .*data\.on_error=skip")
    data = voc(root=root, on_error="skip")
    assert counts(data) == {"train": ["a", "b"], "val": ["c"]}
    refuses(lambda: data.dataset("train", None).read(1), r"JPEGImages/b: cannot be read \(No such file")
    os.remove(tmp_path / "JPEGImages/a.png")
    refuses(lambda: voc(root=root, on_error="skip"), r"a: no such image \(2 of the 2 .*correct the list$")


def test_skip_accepts_a_listed_name_with_neither_image_nor_annotations(tmp_path):
    root = tree(tmp_path, "abc", train=["a", "b", "gone"], val="c")
    data = voc(root=root, on_error="skip")
    assert counts(data)["train"] == ["a", "b", "gone"]  # it is left out when its pixels are read
    assert [line.partition(": ")[2] for line in data.warnings] == ["1 image that cannot be read (gone)"]


def test_trainval_is_train_without_the_images_of_val(tmp_path):
    data = voc(root=tree(tmp_path, trainval="abc", val="c"))
    assert counts(data) == {"train": ["a", "b"], "val": ["c"]}


def test_identical_images_are_on_one_side_of_an_automatic_split(tmp_path):
    root = Path(tree(tmp_path, [f"{n:03d}" for n in range(60)]))
    for number in range(20):  # copies under other names
        shutil.copy(root / f"JPEGImages/{number:03d}.png", root / f"JPEGImages/x{number}.png")
        shutil.copy(root / f"Annotations/{number:03d}.xml", root / f"Annotations/x{number}.xml")
    data = voc(root=str(root))
    side = {name: split for split, listed in counts(data).items() for name in listed}
    assert len(side) == 80
    assert {side[f"x{n}"] == side[f"{n:03d}"] for n in range(20)} == {True}
    assert {side[f"x{n}"] for n in range(20)} == {"train", "val"}
    assert (
        "20 images are copies of another image and on the same side of the split (x0.png" in data.warnings[1]
    )


def test_two_images_are_divided_unless_they_are_the_same(tmp_path):
    root = Path(tree(tmp_path, "ab"))
    assert {split: len(part) for split, part in voc(root=str(root)).splits.items()} == {"train": 1, "val": 1}
    shutil.copy(root / "JPEGImages/a.png", root / "JPEGImages/b.png")
    refuses(lambda: voc(root=str(root)), "the 2 images are copies of one; train and val need")


def test_the_right_root_is_suggested(tmp_path):
    tree(tmp_path / "VOCdevkit/VOC2012", train="ab", val="c")
    message = refuses(lambda: voc(root=str(tmp_path)), "no images in this folder")
    assert message.endswith(f"did you mean data.root={tmp_path / 'VOCdevkit/VOC2012'}?")
    refuses(lambda: voc(root=str(tmp_path / "no")), r"data\.root=.*no: no such folder; check the path")


def test_missing_images_and_xml_files_are_rejected(tmp_path):
    root = tree(tmp_path, "abc", train="abx", val="c")
    refuses(lambda: voc(root=root), r"JPEGImages/x: no such image \(1 of the 3 names of train", "list")
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\n")
    os.remove(tmp_path / "Annotations/b.xml")
    refuses(
        lambda: voc(root=root), r"b\.png: no b\.xml \(1 of 2 images of train have none\).*missing=negative"
    )
    data = voc(root=root, missing="negative")
    assert data.splits["train"].offsets.tolist() == [0, 1, 1]
    assert "1 image without an XML file: treated as having no objects (b.png)" in data.warnings[0]
    os.remove(tmp_path / "Annotations/a.xml")  # now there are none, so their absence means nothing
    message = refuses(lambda: voc(root=root, missing="negative"), "2 of 2 images of train have none")
    assert "missing=negative" not in message  # which would not help
    (tmp_path / "ImageSets/Main/val.txt").write_text("\n")
    refuses(lambda: voc(root=root), r"val\.txt: contains no names")


def test_xml_files_with_other_names_than_the_images_are_named(tmp_path):
    root = tree(tmp_path, "abc", train="ab", val="c")
    for name in "ab":
        os.rename(tmp_path / f"Annotations/{name}.xml", tmp_path / f"Annotations/{name}.png.xml")
    refuses(
        lambda: voc(root=root),
        r"a\.png: no a\.xml \(2 of 2 images of train have none; 2 XML files without an image: left out "
        r"\(a\.png\.xml, b\.png\.xml\)\); name the XML files like the images, or set "
        r"data\.source\.annotations=",
    )


def test_a_test_split_may_have_no_annotations(tmp_path):
    root = tree(tmp_path, "abc", train="a", val="b", test="c")
    os.remove(tmp_path / "Annotations/c.xml")
    data = voc(root=root)
    assert not data.splits["test"].has_labels
    assert "test 1 image;" in data.description


def test_two_images_of_one_name_are_rejected(tmp_path):
    root = tree(tmp_path, "ab", train="a", val="b")
    (tmp_path / "JPEGImages/a.jpg").write_bytes((tmp_path / "JPEGImages/a.png").read_bytes())
    refuses(lambda: voc(root=root), r"a\.png: has the same name as .*a\.jpg; rename one")


# ---------------------------------------------------------------------- reading


def test_boxes_are_corners_from_0_unless_one_based(tmp_path):
    objects = ("cat", (1, 1, 60, 40)), ("cat", (10.5, 5, 30, "25,5"))
    assert one(tmp_path, *objects)[1].boxes.tolist() == [[1, 1, 60, 40], [10.5, 5, 30, 25.5]]
    # VOC's own: the first pixel is 1, the last belongs to the box
    assert one(tmp_path, *objects, one_based=True)[1].boxes.tolist() == [[0, 0, 60, 40], [9.5, 4, 30, 25.5]]


def test_an_object_given_twice_counts_once(tmp_path):
    data, train = one(tmp_path, CAT, ("dog", CAT[1]), CAT, CAT)
    assert train.boxes.tolist() == [[10, 5, 30, 25]] * 2
    line = "2 boxes of the same class at the same place as another: left out (a.xml)"
    assert any(line in warning for warning in data.warnings)


def test_the_box_around_a_rotated_one_is_used(tmp_path):
    def turned(degrees):
        attribute = f"<attribute><name>rotation</name><value>{degrees}</value></attribute>"
        return f"<attributes><attribute><name>truncated</name></attribute>{attribute}</attributes>"

    data, train = one(
        tmp_path,
        ("cat", (15, 15, 45, 25), turned("90.0")),
        ("cat", (15, 15, 45, 25), turned("180")),
        ("dog", (15, 15, 45, 25), turned("0")),
    )
    # Half sides 15 and 5 about (30, 20) change places.
    np.testing.assert_allclose(train.boxes, [[25, 5, 35, 35], [15, 15, 45, 25], [15, 15, 45, 25]], atol=1e-5)
    line = "1 box rotated: replaced by the upright box around it (a.xml)"
    assert any(line in warning for warning in data.warnings)


def test_the_rotated_boxes_of_rolabelimg(tmp_path):
    tree(tmp_path, "ab", train="a", val="b")
    box = "<cx>30</cx><cy>20</cy><w>30</w><h>10</h><angle>1.5707963</angle>"  # in radians
    text = f"<annotation><object><name>cat</name><robndbox>{box}</robndbox></object></annotation>"
    (tmp_path / "Annotations/a.xml").write_text(text)
    boxes = voc(root=str(tmp_path)).splits["train"].boxes
    np.testing.assert_allclose(boxes, [[25, 5, 35, 35]], atol=1e-5)
    # 90 radians would be 116.6 degrees: 22.4 x 31.3 pixels instead of 10 x 30.
    (tmp_path / "Annotations/a.xml").write_text(text.replace("1.5707963", "90"))
    refuses(
        lambda: voc(root=str(tmp_path)),
        r"Annotations/a\.xml.*: <angle> must be in radians, between -6\.28 and 6\.28, got 90; "
        r"multiply degrees by 0\.0174533",
    )


def test_the_rotated_boxes_of_dior_are_four_corners(tmp_path):
    tree(tmp_path, "ab", train="a", val="b")
    corners = {"left_top": (35, 5), "right_top": (35, 35), "right_bottom": (25, 35), "left_bottom": (25, 5)}
    box = "".join(f"<x_{name}>{x}</x_{name}><y_{name}>{y}</y_{name}>" for name, (x, y) in corners.items())
    text = f"<annotation><object><name>cat</name><robndbox>{box}</robndbox></object></annotation>"
    (tmp_path / "Annotations/a.xml").write_text(text)
    data = voc(root=str(tmp_path))
    assert data.splits["train"].boxes.tolist() == [[25, 5, 35, 35]]
    assert any("1 box rotated: replaced by the upright box around it (a.xml)" in w for w in data.warnings)
    (tmp_path / "Annotations/a.xml").write_text(text.replace(">35<", ">nan<", 1))
    refuses(lambda: voc(root=str(tmp_path)), "1 box with non-finite coordinates: left out")


def test_an_angle_in_an_upright_box_is_counted(tmp_path):
    tree(tmp_path, "ab", train="a", val="b")
    box = "<xmin>5</xmin><ymin>5</ymin><xmax>30</xmax><ymax>20</ymax>"
    objects = "".join(
        f"<object><name>cat</name><bndbox>{box.replace('5', str(side), 1)}<angle>{angle}</angle></bndbox>"
        "</object>"
        for side, angle in ((5, "0"), (6, "0.5"), (7, ""))
    )
    for side, tag, angle in ((8, "angle", 90), (9, "rotation", 90), (10, "rotation", "0.00")):
        inner = box.replace("5", str(side), 1)
        objects += f"<object><name>cat</name><{tag}>{angle}</{tag}><bndbox>{inner}</bndbox></object>"
    (tmp_path / "Annotations/a.xml").write_text(f"<annotation>{objects}</annotation>")
    data = voc(root=str(tmp_path))
    assert len(data.splits["train"].boxes) == 6
    for what in ("<angle> in <bndbox>", "<angle>", "<rotation>"):
        line = f"1 box with {what}: the angle is ignored (a.xml)"
        assert any(line in warning for warning in data.warnings)


def test_sides_instead_of_corners_are_noticed(tmp_path):
    data, _ = one(tmp_path, ("cat", (30, 20, 10, 15)), ("cat", (40, 20, 15, 15)))
    assert "2 of 2 boxes do not fit their images as xmin, ymin, xmax, ymax, but" in data.warnings[0]


def test_difficult_objects_are_ignored(tmp_path):
    other = ("cat", (10, 5, 31, 25), "<difficult>0</difficult>")
    _, train = one(tmp_path, CAT, (*CAT, "<difficult>1</difficult>"), other)
    assert train.ignored.tolist() == [False, True, False]
    assert not train.crowd.any()


def test_objects_with_an_element_ignore_are_difficult(tmp_path):
    """As in the VOC files that mmdetection's converters write."""
    other = ("cat", (10, 5, 31, 25), "<ignore>0</ignore>")
    assert one(tmp_path, (*CAT, "<ignore>1</ignore>"), other)[1].ignored.tolist() == [True, False]


def test_objects_inside_an_element_objects_are_read(tmp_path):
    text = xml(CAT).replace("<object>", "<objects><object>").replace("</object>", "</object></objects>")
    (tmp_path / "a.xml").write_text(text)
    assert [item.box for item in voc_xml.read(tmp_path / "a.xml").objects] == [CAT[1]]
    other = ("dog", (10, 5, 31, 25))
    outside = xml(other).partition("<object>")[2].partition("</object>")[0]
    (tmp_path / "a.xml").write_text(text.replace("<objects>", f"<object>{outside}</object><objects>"))
    assert [item.box for item in voc_xml.read(tmp_path / "a.xml").objects] == [other[1], CAT[1]]


def test_objects_with_cvat_s_attribute_difficult_or_ignore_are_difficult(tmp_path):
    def marked(name, value):
        attribute = f"<attribute><name>{name}</name><value>{value}</value></attribute>"
        return f"<attributes>{attribute}</attributes><difficult>0</difficult>"

    objects = [
        ("cat", (10, 5, 30, 25), marked("ignore", "True")),
        ("cat", (11, 5, 30, 25), marked("Difficult", "1")),
        ("cat", (12, 5, 30, 25), marked("difficult", "False")),
        ("cat", (13, 5, 30, 25), marked("occluded", "True")),
    ]
    assert one(tmp_path, *objects)[1].ignored.tolist() == [True, True, False, False]


def test_a_second_box_of_an_object_is_counted(tmp_path):
    first = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    data, train = one(tmp_path, (*CAT, first))
    assert train.boxes.tolist() == [[1, 1, 9, 9]]
    line = "1 box after the first of its <object>: left out (a.xml)"
    assert any(line in warning for warning in data.warnings)


def test_parts_of_objects_are_not_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    data, train = one(tmp_path, (*CAT, part))
    assert len(train.boxes) == 1
    assert data.classes.names == ("cat",)


def test_classes_are_those_of_the_files_or_selected(tmp_path):
    objects = [(name, (10, y, 30, 25)) for y, name in enumerate(("dog", "cat", " dog ", "ant"))]
    data, train = one(tmp_path, *objects)
    assert data.classes.names == ("ant", "cat", "dog")
    assert train.labels.tolist() == [2, 1, 2, 0]
    data, train = one(tmp_path, *objects, classes=["dog", "cat", "cow"], others="ignore")
    assert data.classes.names == ("dog", "cat", "cow")
    assert train.labels.tolist() == [0, 1, 0]
    assert "1 object of other classes: left out (a.xml)" in data.warnings[0]
    assert "1 class without a box in train (cow)" in data.warnings[1]
    refuses(
        lambda: one(tmp_path, *objects, classes=["dog", "cat"]), r"a\.xml: class 'ant' is not one of dog, cat"
    )
    refuses(lambda: one(tmp_path, *objects, classes=["dog", "dog"]), "classes: duplicate class name")
    with pytest.raises(ValueError, match="others must be refuse or ignore"):
        one(tmp_path, CAT, others="keep")
    with pytest.raises(ValueError, match="missing must be refuse or negative"):
        one(tmp_path, CAT, missing="keep")


def test_classes_of_almost_the_same_name_are_named(tmp_path):
    box = (10, 5, 30, 25)
    data, _ = one(tmp_path, ("red cell", box), ("Red_Cell", box), ("redcells", box))
    assert data.classes.names == ("Red_Cell", "cat", "red cell", "redcells")
    lines = [line.partition(": ")[2] for line in data.warnings]
    assert [line for line in lines if line.startswith("classes")] == [
        "classes of almost the same name: 'Red_Cell' and 'red cell'; if they are one class, correct the "
        "labels"
    ]


def test_a_missing_or_zero_size_is_read_from_the_image(tmp_path):
    for size in (None, (0, 0)):
        assert one(tmp_path, CAT, size=size)[1].sizes.tolist() == [[40, 60]]
    refuses(
        lambda: one(tmp_path, CAT, size=(60, 40)),
        r"a\.xml: the annotated size is 60 x 40 but .*a\.png is 40 x 60",
    )
    assert one(tmp_path, CAT, size=(60, 40), sizes="file")[1].sizes.tolist() == [[40, 60]]
    refuses(lambda: one(tmp_path, CAT, size=(40.5, 60)), r"a\.xml: <size> must be whole numbers")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid XML"),
        ("<annotation>", "not valid XML"),
        ("<html></html>", r"contains <html>, not Pascal VOC's <annotation>"),
        ("<annotation><object/></annotation>", r"object 1: has no <name>"),
        (
            "<annotation><object><name>cat</name></object></annotation>",
            r"object 1 \('cat'\): has no <bndbox>",
        ),
        (xml(("cat", (1, 2, "x", 4))), r"object 1: <xmax> must be a number, got 'x'"),
        (xml(("cat", (1, 2, "", 4))), r"object 1: <xmax> must be a number, got ''"),
        (
            xml(CAT, (*CAT, "<difficult>maybe</difficult>")),
            r"object 2: <difficult> must be 0 or 1, got 'maybe'",
        ),
        ("<annotation>" * 60 + "</annotation>" * 60, "nested more than 50 levels deep"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "not valid XML"),
        ("<!DOCTYPE annotation><annotation/>", "declares a document type or entities"),
        (
            '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;">]><annotation>&y;</annotation>',
            "declares a document type or entities",
        ),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;</name></object>'
            "</annotation>",
            "declares a document type or entities",
        ),
    ],
)
def test_a_wrong_file_is_named_with_its_element(tmp_path, text, message):
    root = tree(tmp_path, "ab", train="a", val="b")
    (tmp_path / "Annotations/a.xml").write_text(text)
    refuses(lambda: voc(root=root), r"Annotations/a\.xml: ", message)


def test_a_huge_file_is_not_parsed(tmp_path):
    (tmp_path / "a.xml").write_bytes(b"<annotation>" + b" " * 9_000_000 + b"</annotation>")
    refuses(lambda: voc_xml.read(tmp_path / "a.xml"), "over 8 MB, too large")
    refuses(lambda: voc_xml.read(tmp_path / "b.xml"), r"b\.xml: cannot be read \(No such file")


GOOD = xml((*CAT, "<difficult>1</difficult>"), ("dog", (1, 2, 3.5, 4))).encode()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.tuples(st.integers(0, len(GOOD)), st.integers(0, 30)),
    put=st.binary(max_size=12)
    | st.sampled_from(
        [b"<!ENTITY x 'y'>", b"&amp;", b"&x;", b"<object>", b"nan", b"1e999", b"-9", b"\xff\xfe"]
    ),
)
def test_any_change_ends_in_objects_or_one_line(tmp_path, cut, put):
    start, length = cut
    path = tmp_path / "a.xml"
    path.write_bytes(GOOD[:start] + put + GOOD[start + length :])
    try:
        file = voc_xml.read(path)
    except UserError as error:
        check_line(error, path)
    else:
        assert file.size is None or min(file.size) > 0
        assert all(item.name and len(item.box) == 4 for item in file.objects)


# -------------------------------------------------------------------- real data


@pytest.mark.data
def test_bccd(data_folder):
    root = data_folder / "bccd"
    data = voc(root=str(root))
    assert data.classes.names == ("Platelets", "RBC", "WBC")
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 205, "val": 87, "test": 72}
    assert sum(len(part.boxes) for part in data.splits.values()) == 4888 - 2
    assert [line.partition(": ")[2] for line in data.warnings] == [
        "2 boxes thinner than 1 pixel: left out (BloodImage_00343.xml, BloodImage_00338.xml)"
    ]
    for part in data.splits.values():
        for index in range(len(part)):
            parsed = ElementTree.parse(root / f"Annotations/{os.fsdecode(part.names[index])}.xml")
            expected = [
                [float(node.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
                for node in parsed.iter("object")
            ]
            expected = [box for box in expected if box[0] < box[2] and box[1] < box[3]]
            assert part.objects(index)[0].tolist() == expected


def test_folders_that_are_not_used_are_named(tmp_path):
    tree(tmp_path, names="abc")
    tree(tmp_path, names="de", images="photos", xmls="xml")
    lines = voc(root=str(tmp_path)).warnings
    assert f"{tmp_path}: JPEGImages is used, not photos; to choose, set data.source.images=" in lines
    assert f"{tmp_path}: Annotations is used, not xml; to choose, set data.source.annotations=" in lines
    chosen = voc(root=str(tmp_path), images="photos", annotations="xml").warnings
    assert not [line for line in chosen if "to choose, set" in line]
