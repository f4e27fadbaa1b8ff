"""CVAT for images 1.1: which box each shape has, subsets and layouts, and errors."""

import numpy as np
import pytest

from det.data.cvat import cvat
from tests.det.data.small_splits import write_image
from tests.refusals import refuses

CAT = '<box label="cat" source="manual" occluded="0" xtl="10" ytl="5" xbr="30" ybr="25" z_order="0"></box>'
IMAGE = "<annotations><image {}>{}</image></annotations>"
LABELS = ("dog", "cat")


def xml(images, labels=LABELS):
    """images: (name, subset, shapes)."""
    listed = "".join(
        f"<label><name>{name}</name><color>#fff</color><type>any</type><attributes><attribute><name>difficult"
        "</name></attribute></attributes></label>"
        for name in labels
    )
    entries = "".join(
        f'<image id="{number}" name="{name}" {f"subset={subset!r}" if subset else ""} width="60" height="40">'
        f"{''.join(shapes)}</image>"
        for number, (name, subset, shapes) in enumerate(images)
    )
    head = f"<version>1.1</version><meta><task><name>t</name><labels>{listed}</labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?><annotations>{head}{entries}</annotations>'


def write(root, images, file="annotations.xml", folder="images", labels=LABELS):
    for name, _, _ in images:
        write_image(root / folder / name, seed=sum(map(ord, f"{folder}{name}{file}")))
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(xml(images, labels))
    return str(root)


def names(count, subset=""):
    return [(f"{number:02d}.png", subset, [CAT]) for number in range(count)]


def one(tmp_path, *shapes, **options):
    """Boxes of an image with these shapes -> (label, ignored), and the data."""
    images = [("a.png", "Train", [*shapes, CAT]), ("b.png", "Validation", [CAT])]
    data = cvat(root=write(tmp_path, images), **options)
    boxes, labels, ignored = data.splits["train"].objects(0)
    found = {}
    for box, label, flag in zip(boxes.tolist(), labels, ignored.tolist(), strict=True):
        found[tuple(np.round(box, 3).tolist())] = (data.classes.names[label], flag)
    return found, data


@pytest.mark.parametrize(
    ("drawn", "box"),
    [
        ('<box label="dog" xtl="2.5" ytl="3" xbr="50" ybr="35"/>', (2.5, 3, 50, 35)),
        ('<polygon label="dog" points="5,30;20.5,4;40,22"/>', (5, 4, 40, 30)),
        ('<ellipse label="dog" cx="30" cy="20" rx="20" ry="5"/>', (10, 15, 50, 25)),
        ('<ellipse label="dog" cx="30" cy="20" rx="15" ry="5" rotation="90"/>', (25, 5, 35, 35)),
        ('<mask label="dog" rle="3, 4" left="8" top="6" width="11" height="24"/>', (8, 6, 19, 30)),
        # 60 x 10 around (35, 35), turned by 90 degrees: 10 wide and 60 high, and clipped to 40 rows
        ('<box label="dog" rotation="90.0" xtl="5" ytl="20" xbr="55" ybr="30"/>', (25, 0, 35, 40)),
    ],
)
def test_the_box_of_a_shape_is_the_one_around_it(tmp_path, drawn, box):
    found, data = one(tmp_path, drawn)
    assert found == {box: ("dog", False), (10, 5, 30, 25): ("cat", False)}
    assert data.classes.names == ("dog", "cat")  # in the order of the file
    rotated = any(
        "1 box rotated: replaced by the upright box around it (a.png)" in line for line in data.warnings
    )
    assert rotated == (drawn.startswith("<box") and "rotation" in drawn)


def test_what_has_no_box_is_counted(tmp_path):
    found, data = one(
        tmp_path,
        '<polyline label="dog" points="1,1;2,2"/>',
        '<points label="dog" points="1,1"/>',
        '<tag label="dog"/>',
        '<skeleton label="man"><points label="knee" points="1,1"/></skeleton>',
        '<cuboid label="dog" xtl1="1" ytl1="1"/>',
        '<box label="cow" xtl="2" ytl="3" xbr="50" ybr="35"/>',
        CAT,
    )
    assert len(found) == 1
    for line in (
        "1 polyline without a box: left out (a.png)",
        "1 point shape without a box: left out (a.png)",
        "1 tag without a box: left out (a.png)",
        "1 skeleton without a box: left out (a.png)",
        "1 cuboid without a box: left out (a.png)",
        "1 annotation of an unknown category: left out (a.png)",
        "1 box of the same class at the same place as another: left out (a.png)",
    ):
        assert any(line in warning for warning in data.warnings), (line, data.warnings)


def test_difficult_objects_are_ignored_and_other_attributes_are_not_read(tmp_path):
    box = '<box label="dog" xtl="{}" ytl="1" xbr="9" ybr="9"><attribute name="{}">{}</attribute></box>'
    found, _ = one(
        tmp_path,
        box.format(1, "difficult", "true"),
        box.format(2, "difficult", "false"),
        box.format(3, "age", "1"),
    )
    assert [found[x, 1, 9, 9][1] for x in (1, 2, 3)] == [True, False, False]


def test_the_subsets_of_a_project_are_the_splits(tmp_path):
    images = [*names(3, "Train"), ("v.png", "Validation", [CAT]), ("t.png", "Test", [])]
    data = cvat(root=write(tmp_path, images))
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 3, "val": 1, "test": 1}
    (tmp_path / "annotations.xml").write_text(xml([*images, ("00.png", "Other", [])]))
    refuses(lambda: cvat(root=str(tmp_path)), r"00\.png: subset 'Other' is not Train, Validation or Test")


def test_images_in_folders_of_their_subset(tmp_path):
    for split in ("Train", "Validation"):
        write(tmp_path, [(f"{split}.png", split, [CAT])], folder=f"images/{split}")
    (tmp_path / "annotations.xml").write_text(
        xml([("Train.png", "Train", [CAT]), ("Validation.png", "Validation", [CAT])])
    )
    assert len(cvat(root=str(tmp_path)).splits["val"]) == 1


def test_a_file_without_subsets_is_divided(tmp_path):
    data = cvat(root=write(tmp_path, names(10)))
    assert sum(map(len, data.splits.values())) == 10
    assert len(data.splits["val"]) >= 1
    assert data.warnings[0].startswith(f"CVAT at {tmp_path}: no splits; ")
    assert "assign subsets in CVAT, or write train.xml and val.xml" in data.warnings[0]
    same = tmp_path / "images/00.png"
    (tmp_path / "images/01.png").write_bytes(same.read_bytes())
    again = cvat(root=str(tmp_path / "annotations.xml"))
    sides = [split for split, part in again.splits.items() for name in part.names if name in (b"00", b"01")]
    assert len(set(sides)) == 1


@pytest.mark.parametrize("file", ["{}.xml", "{}/annotations.xml", "annotations/{}.xml"])
def test_a_file_per_split(tmp_path, file):
    for split in ("train", "val"):
        folder = f"{split}/images" if file.startswith("{}/") else f"images/{split}"
        # the same labels in another order
        labels = LABELS if split == "train" else LABELS[::-1]
        write(tmp_path, [(f"{split}.png", "", [CAT])], file.format(split), folder, labels)
    data = cvat(root=str(tmp_path))
    assert data.classes.names == ("dog", "cat")
    assert [data.splits[split].labels.tolist() for split in ("train", "val")] == [[1], [1]]


def test_images_that_are_missing_or_not_listed(tmp_path):
    root = write(tmp_path, names(6))
    write_image(tmp_path / "images/extra.png", seed=99)
    assert any(
        "1 image that no annotation file lists: left out (extra.png)" in w for w in cvat(root=root).warnings
    )
    (tmp_path / "images/03.png").unlink()
    refuses(lambda: cvat(root=root), r"03\.png: no such file \(1 of 6 images", "data.on_error=skip")
    assert sum(map(len, cvat(root=root, on_error="skip").splits.values())) == 6
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    refuses(lambda: cvat(root=root), r"00\.png: no such file, nor in images/", "data.source.images")


def test_labels_of_tags_and_parts_of_skeletons_are_no_classes(tmp_path):
    write(tmp_path, names(6))
    text = (tmp_path / "annotations.xml").read_text()
    more = (
        "<label><name>knee</name><type>points</type><parent>man</parent></label>"
        "<label><name>man</name><type>skeleton</type></label><label><name>sunny</name><type>tag</type></label>"
    )
    (tmp_path / "annotations.xml").write_text(text.replace("<labels>", f"<labels>{more}"))
    assert cvat(root=str(tmp_path)).classes.names == LABELS
    assert cvat(root=str(tmp_path), classes=["cat"]).classes.names == ("cat",)
    refuses(
        lambda: cvat(root=str(tmp_path), classes=["cats"]),
        "data.source.classes: .*no category 'cats'; did you",
    )


def test_without_its_head_the_labels_are_those_of_the_shapes(tmp_path):
    write(tmp_path, names(6))
    text = (tmp_path / "annotations.xml").read_text()
    (tmp_path / "annotations.xml").write_text("<annotations>" + text[text.index("<image") :])
    assert cvat(root=str(tmp_path)).classes.names == ("cat",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotations>", r"annotations\.xml: not valid XML"),
        ("<annotation></annotation>", r"contains <annotation>, not CVAT's <annotations>"),
        ("<annotations></annotations>", "contains no images"),
        (
            '<annotations><track id="0"/></annotations>',
            "tracks of a video; export the task as CVAT",
        ),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares a document type or entities"),
        ("<annotations>" + "<a>" * 60, "nested more than 50 levels"),
        (IMAGE.format('id="0"', ""), "line 1: an image without a name"),
        (IMAGE.format('name="a" width="x" height="3"', ""), "width of an image must be a number, got x"),
        (IMAGE.format('name="00.png"', '<box xtl="1"/>'), "line 1: a box without a label"),
        (
            IMAGE.format('name="00.png"', '<box label="a" xtl="1"/>'),
            "ytl of a box must be a number",
        ),
        (IMAGE.format('name="00.png"', '<polygon label="a" points="1,2;3"/>'), "at least three x,y"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    root = write(tmp_path, names(6))
    (tmp_path / "annotations.xml").write_text(content)
    refuses(lambda: cvat(root=root), message)


def test_no_file_or_several(tmp_path):
    refuses(lambda: cvat(root=str(tmp_path)), "no XML files; data=cvat needs annotations.xml", "use data=voc")
    for name in "ab":
        (tmp_path / f"{name}.xml").write_text("<annotation/>")
    refuses(lambda: cvat(root=str(tmp_path)), "2 XML files")
    refuses(lambda: cvat(root=str(tmp_path / "none")), r"data\.root=.*none: no such folder; check the path")
