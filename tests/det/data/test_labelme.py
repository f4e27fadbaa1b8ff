"""LabelMe: which box each shape has, what is left out, layouts, and errors."""

import json
import os

import pytest

from det.data.labelme import labelme
from tests.det.data.small_splits import write_image
from tests.refusals import refuses

SHAPE = '{{"shapes": [{{{}}}]}}'
CAT = {"label": "cat", "points": [[10, 5], [30, 25]], "shape_type": "rectangle"}


def add(images, files, name, *shapes, size=(40, 60), **more):
    """An image of 40 x 60 pixels and its JSON file."""
    write_image(images / f"{name}.png", seed=sum(map(ord, f"{images}{name}")))
    files.mkdir(parents=True, exist_ok=True)
    content = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": f"..\\{name}.png"}
    content |= {"imageData": "iVBORw0KGgo=", "imageHeight": size[0], "imageWidth": size[1], **more}
    (files / f"{name}.json").write_text(json.dumps(content))


def tree(root, names="abcdefgh", images="", files=""):
    for name in names:
        add(root / images, root / files, name, CAT)
    return str(root)


def one(tmp_path, *shapes, **options):
    """Boxes, labels and flags of an image with these shapes, and the warnings."""
    add(tmp_path / "train", tmp_path / "train", "a", *shapes, CAT)
    add(tmp_path / "val", tmp_path / "val", "b", CAT)
    data = labelme(root=str(tmp_path), **options)
    boxes, labels, ignored = data.splits["train"].objects(0)
    names = [data.classes.names[label] for label in labels]
    return dict(zip(map(tuple, boxes.tolist()), zip(names, ignored.tolist(), strict=True), strict=True)), data


def shape(label, kind, *points, **more):
    return {"label": label, "points": [list(p) for p in points], "shape_type": kind, **more}


@pytest.mark.parametrize(
    ("drawn", "box"),
    [
        (shape("dog", "rectangle", (50, 35), (2, 3)), (2, 3, 50, 35)),  # drawn from below
        (shape("dog", "polygon", (5, 30), (20.5, 4), (40, 22)), (5, 4, 40, 30)),
        (shape("dog", None, (5, 30), (20, 4), (40, 22)), (5, 4, 40, 30)),  # older files
        (shape("dog", "circle", (30, 20), (33, 24)), (25, 15, 35, 25)),  # radius 5
        (shape("dog", "mask", (8, 6), (19, 30), mask="iVBO"), (8, 6, 19, 30)),
    ],
)
def test_the_box_of_a_shape_is_the_one_around_it(tmp_path, drawn, box):
    found, data = one(tmp_path, drawn)
    assert found[box] == ("dog", False)
    assert len(found) == 2
    assert data.classes.names == ("cat", "dog")


def test_turned_rectangles_groups_points_and_lines_are_counted(tmp_path):
    found, data = one(
        tmp_path,
        shape("dog", "rotation", (20, 10), (30, 20), (20, 30), (10, 20)),
        shape("dog", "polygon", (1, 1), (5, 1), (5, 9), group_id=7),
        shape("dog", "polygon", (40, 3), (44, 8), (41, 12), group_id=7),
        shape("cat", "rectangle", (50, 1), (58, 9), group_id=7),  # another class: another object
        shape("cat", "rectangle", (40, 20), (58, 30), direction=1.57),
        shape("cat", "rectangle", (40, 20), (58, 31), angle=0.0),
        shape("dog", "point", (5, 5)),
        shape("dog", "linestrip", (5, 5), (9, 9)),
        shape("__ignore__", "polygon", (1, 1), (5, 1), (5, 9)),
    )
    assert found == {
        (10, 10, 30, 30): ("dog", False),
        (1, 1, 44, 12): ("dog", False),
        (50, 1, 58, 9): ("cat", False),
        (40, 20, 58, 30): ("cat", False),
        (40, 20, 58, 31): ("cat", False),
        (10, 5, 30, 25): ("cat", False),
    }
    name = f"LabelMe at {tmp_path}: 1 "
    for line in (
        "box rotated: replaced by the upright box around it (a.json)",
        "rectangle of two points with direction: the angle is ignored (a.json)",
        "shape in the same group as another: joined with it (a.json)",
        "shape without an area (point): left out (a.json)",
        "shape without an area (linestrip): left out (a.json)",
        "shape labeled __ignore__: left out (a.json)",
    ):
        assert name + line in data.warnings
    assert not any("angle:" in line for line in data.warnings)


def test_difficult_objects_are_ignored(tmp_path):
    found, _ = one(
        tmp_path,
        shape("dog", "rectangle", (1, 1), (9, 9), difficult=True),
        shape("dog", "rectangle", (2, 1), (9, 9), flags={"difficult": True}),
        shape("dog", "rectangle", (3, 1), (9, 9), flags={"difficult": False}),
        shape("dog", "rectangle", (4, 1), (9, 9), flags={"ignore": True}),
        shape("dog", "rectangle", (5, 1), (9, 9), difficult=1),
    )
    assert [found[x, 1, 9, 9][1] for x in (1, 2, 3, 4, 5)] == [True, True, False, True, True]


def test_the_common_rules_apply(tmp_path):
    """Twice the same box, one outside, one that is not a number."""
    found, data = one(
        tmp_path,
        CAT,
        shape("cat", "rectangle", (70, 1), (90, 9)),
        shape("cat", "polygon", *[(float("nan"), 1)] * 3),
    )
    assert len(found) == 1
    text = "\n".join(data.warnings)
    assert "1 box of the same class at the same place as another: left out (a.json)" in text
    assert "1 box outside the image: left out (a.json)" in text
    assert "1 box with non-finite coordinates: left out (a.json)" in text


@pytest.mark.parametrize(
    ("images", "files"), [("", ""), ("images", "json"), ("images", "annotations"), ("pic", "x")]
)
def test_a_dataset_without_splits_is_divided(tmp_path, images, files):
    data = labelme(root=tree(tmp_path, images=images, files=files))
    assert {split: len(part) for split, part in data.splits.items()} in (
        {"train": 7, "val": 1},
        {"train": 6, "val": 2},
    )
    assert data.warnings[0].startswith(f"{tmp_path}: no splits; ")
    assert "LabelMe at" in data.description


def test_equal_images_stay_on_one_side(tmp_path):
    root = tree(tmp_path)
    data = labelme(root=root)
    val = os.fsdecode(data.splits["val"].names[0])
    for other in "abcdefgh":
        if other != val:
            (tmp_path / f"{other}.png").write_bytes((tmp_path / f"{val}.png").read_bytes())
            break
    pair = (val.encode(), other.encode())
    parts = labelme(root=root).splits.items()
    sides = [split for split, part in parts for name in part.names if name in pair]
    assert len(sides) == 2
    assert len(set(sides)) == 1


def test_images_and_files_without_each_other(tmp_path):
    root = tree(tmp_path)
    write_image(tmp_path / "z.png")
    (tmp_path / "classes.json").write_text("[]")
    refuses(
        lambda: labelme(root=root), r"z\.png: no z\.json \(1 of \d images of ", "data.source.missing=negative"
    )
    data = labelme(root=root, missing="negative")
    text = "\n".join(data.warnings)
    assert "1 image without a JSON file: treated as having no objects (z.png)" in text
    assert "1 JSON file without an image: left out (classes.json)" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"a\.json: not valid JSON"),
        ("[" * 100_000, r"a\.json: not valid JSON \(nested too deeply"),
        ("[]", r"a\.json: has no list of shapes, so it is not a LabelMe file"),
        ('{"shapes": 3}', "has no list of shapes"),
        (SHAPE.format('"points": [[1, 1], [2, 2]], "shape_type": "rectangle"'), "shape 1: has no label"),
        (
            SHAPE.format('"label": "a", "points": [[1, 1]], "shape_type": "rectangle"'),
            "needs 2 points",
        ),
        (SHAPE.format('"label": "a", "points": [[1, "x"]]'), r"shape 1: points must be a list of \[x, y\]"),
        ('{"shapes": [], "imageHeight": -1, "imageWidth": 2}', "whole numbers of pixels, got -1"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    root = tree(tmp_path)
    (tmp_path / "a.json").write_text(content)
    refuses(lambda: labelme(root=root), message)


def test_a_wrong_size_and_a_byte_order_mark(tmp_path):
    root = tree(tmp_path)
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(text, encoding="utf-8-sig")
    labelme(root=root)
    (tmp_path / "a.json").write_text(text.replace('"imageHeight": 40', '"imageHeight": 80'))
    refuses(lambda: labelme(root=root), r"a\.json: the annotated size is 80 x 60", "data.source.sizes=file")
    assert labelme(root=root, sizes="file").classes.names == ("cat",)


def test_without_any_box_what_was_left_out_is_said(tmp_path):
    for name in "ab":
        add(tmp_path, tmp_path, name, shape("dog", "point", (5, 5)), shape("dog", "line", (5, 5), (9, 9)))
    refuses(
        lambda: labelme(root=str(tmp_path)),
        r"no objects in any JSON file \(2 shapes without an area \(point\): left out \([ab].json, ",
        r"; 2 shapes without an area \(line\): left out \([ab].json, [ab].json\)\); annotate some",
    )
