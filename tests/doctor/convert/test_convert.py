"""Conversions give the pixels and boxes that were drawn, keep the images, and say what is left out."""

import base64
import json
import math
import os
import shutil
from functools import partial

import cv2
import numpy as np
import pytest
from PIL import Image

from doctor.convert.readers.label_studio_brush import decode_brush
from doctor.convert.run import convert
from engine.data.images import read_labels, reading, write_png
from engine.errors import UserError
from tests.doctor.layouts import examples
from tests.refusals import refuses
from tests.tools.commands import run

OUTLINES = {
    examples.labelme: "labelme",
    examples.cvat: "cvat",
    examples.coco_official: "coco",
    examples.yolo_outlines: "yolo",
    examples.label_studio: "label_studio",
    examples.label_studio_min: "label_studio",
    examples.supervisely: "supervisely",
}
BOXES = {
    examples.labelme_boxes: "labelme",
    examples.cvat_boxes: "cvat",
    examples.yolo_ultralytics: "yolo",
    examples.label_studio_boxes: "label_studio",
    examples.supervisely_boxes: "supervisely",
}
NOT_COCO = [builder for builder in (*OUTLINES, *BOXES) if builder is not examples.coco_official]
WITH_SPLITS = (
    examples.coco_official,
    examples.yolo_outlines,
    examples.yolo_ultralytics,
    examples.supervisely,
    examples.supervisely_boxes,
)


def names(builder):
    splits = {"train": examples.TRAIN, "val": examples.VAL}
    return splits if builder in WITH_SPLITS else {"": examples.FLAT}


def to_masks(root, out, **options):
    return convert(root, out, to="masks", **options)


def one_labelme(root, *shapes, name="0.png"):
    examples.images(root, [name])
    content = examples.labelme_json(name)
    content["shapes"] = [{"group_id": None, "flags": {}, **shape} for shape in shapes]
    examples.write(root / name.replace(".png", ".json"), content)


def mask_of(out, name="0.png", split=""):
    return read_labels(out / "masks" / split / name)


@pytest.mark.parametrize("builder", OUTLINES, ids=lambda builder: builder.__name__)
def test_outlines_become_the_pixels_inside_them(builder, tmp_path):
    builder(tmp_path / "in")
    result = to_masks(tmp_path / "in", tmp_path / "out")
    assert result.unreadable == []
    for split, listed in names(builder).items():
        assert sorted(os.listdir(tmp_path / "out/masks" / split)) == sorted(listed)
        for name in listed:
            np.testing.assert_array_equal(mask_of(tmp_path / "out", name, split), examples.expected_mask())
    classes = json.loads((tmp_path / "out/classes.json").read_text())
    assert [(entry["id"], entry["name"]) for entry in classes["classes"]] == [
        (0, "background"),
        (1, "cat"),
        (2, "dog"),
    ]
    assert classes["ignore"] == [255]


@pytest.mark.parametrize("builder", NOT_COCO, ids=lambda builder: builder.__name__)
def test_objects_become_coco(builder, tmp_path):
    builder(tmp_path / "in")
    assert convert(tmp_path / "in", tmp_path / "out", to="coco").unreadable == []
    for split, listed in names(builder).items():
        content = json.loads((tmp_path / f"out/{split or 'annotations'}.json").read_text())
        assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        assert [entry["file_name"] for entry in content["images"]] == listed
        assert {(entry["height"], entry["width"]) for entry in content["images"]} == {examples.SIZE}
        assert len(content["annotations"]) == 2 * len(listed)
        cat, dog = content["annotations"][:2]
        assert (cat["bbox"], cat["area"], cat["category_id"]) == (
            pytest.approx([10, 8, 20, 16], abs=0.01),
            320,
            1,
        )
        assert (dog["bbox"], dog["area"], dog["category_id"]) == (
            pytest.approx([36, 12, 16, 20], abs=0.01),
            320,
            2,
        )
        assert bool(cat["segmentation"]) == (builder in OUTLINES)


def test_boxes_are_not_outlines_unless_asked_for(tmp_path):
    examples.labelme(tmp_path / "in", kinds=("polygon", "rectangle"))
    result = to_masks(tmp_path / "in", tmp_path / "out")
    assert any("6 boxes left out; set boxes=fill" in line for line in result.lines)
    assert set(np.unique(mask_of(tmp_path / "out"))) == {0, 1}
    assert '"dog"' not in (tmp_path / "out/classes.json").read_text()
    to_masks(tmp_path / "in", tmp_path / "filled", fill_boxes=True)
    np.testing.assert_array_equal(mask_of(tmp_path / "filled"), examples.expected_mask())
    examples.labelme_boxes(tmp_path / "boxes")
    refuses(
        partial(to_masks, tmp_path / "boxes", tmp_path / "none"), "no outlines, only 12 boxes", "set to=coco"
    )
    assert not (tmp_path / "none").exists()


def test_the_smaller_object_is_on_top_and_ignored_ones_are_below(tmp_path):
    """An area of 40 x 30 pixels, in it one of 10 x 10, drawn first; and an ignored one around both."""
    inner, outer, around = (20, 10, 30, 20), (10, 5, 50, 35), (0, 0, 60, 38)
    one_labelme(
        tmp_path / "in",
        {"label": "cat", "points": examples.outline(inner), "shape_type": "polygon"},
        {"label": "dog", "points": examples.outline(outer), "shape_type": "polygon"},
        {"label": "__ignore__", "points": examples.outline(around), "shape_type": "polygon"},
    )
    to_masks(tmp_path / "in", tmp_path / "out")
    expected = np.zeros(examples.SIZE, np.uint8)
    expected[0:38, 0:60], expected[5:35, 10:50], expected[10:20, 20:30] = 255, 2, 1
    np.testing.assert_array_equal(mask_of(tmp_path / "out"), expected)


def test_a_label_called_background_is_the_background(tmp_path):
    one_labelme(
        tmp_path / "in",
        {"label": "dog", "points": examples.outline((0, 0, 20, 20)), "shape_type": "polygon"},
        {"label": "_background_", "points": examples.outline((5, 5, 10, 10)), "shape_type": "polygon"},
    )
    to_masks(tmp_path / "in", tmp_path / "out")
    assert mask_of(tmp_path / "out")[7, 7] == 0
    assert mask_of(tmp_path / "out")[2, 2] == 1


# ---- kinds of shapes


def test_labelme_masks_circles_and_groups(tmp_path):
    pixels = np.zeros((4, 5), np.uint8)
    pixels[1:3, 1:4] = 255
    png = base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()
    part = [{"label": "dog", "group_id": 7, "shape_type": "polygon"} for _ in range(2)]
    one_labelme(
        tmp_path / "in",
        {"label": "cat", "points": [[50, 30], [54, 33]], "shape_type": "mask", "mask": png},
        {"label": "ball", "points": [[20, 20], [20, 30]], "shape_type": "circle"},
        {**part[0], "points": examples.outline((0, 0, 4, 4))},
        {**part[1], "points": examples.outline((8, 0, 12, 4))},
        {"label": "way", "points": [[0, 0], [9, 9]], "shape_type": "line"},
    )
    result = convert(tmp_path / "in", tmp_path / "out", to="coco")
    assert any("1 shape without an area (line): left out (0.json)" in line for line in result.lines)
    rows = json.loads((tmp_path / "out/annotations.json").read_text())["annotations"]
    found = {row["category_id"]: row for row in rows}
    ball, cat, dog = found[1], found[2], found[3]
    assert len(rows) == 3
    assert (cat["bbox"], cat["area"]) == ([51, 31, 3, 2], 6)
    assert ball["bbox"] == pytest.approx([10, 10, 20, 20], abs=0.1)
    assert ball["area"] == pytest.approx(np.pi * 100, rel=0.03)
    assert (dog["bbox"], len(dog["segmentation"])) == ([0, 0, 12, 4], 2)


def test_cvat_masks_ellipses_and_rotated_boxes(tmp_path):
    """A mask of 4 x 3 pixels whose middle row has two pixels; a box turned by 90 degrees."""
    examples.images(tmp_path / "in/images", ["0.png"])
    shapes = (
        '<mask label="cat" rle="5, 2, 5" left="20" top="10" width="4" height="3" z_order="0"></mask>'
        '<ellipse label="dog" cx="40" cy="20" rx="10" ry="5" rotation="90"></ellipse>'
        '<box label="bird" xtl="2" ytl="10" xbr="12" ybr="14" rotation="90"></box>'
        '<points label="cat" points="1,1"></points>'
    )
    text = f'<annotations><image id="0" name="0.png" width="60" height="40">{shapes}</image></annotations>'
    examples.write(tmp_path / "in/annotations.xml", text)
    result = convert(tmp_path / "in", tmp_path / "out", to="coco")
    assert any("1 point shape without a box: left out" in line for line in result.lines)
    rows = json.loads((tmp_path / "out/annotations.json").read_text())["annotations"]
    bird, cat, dog = (next(r for r in rows if r["category_id"] == number) for number in (1, 2, 3))
    assert (cat["bbox"], cat["area"]) == ([21, 11, 2, 1], 2)
    assert dog["bbox"] == pytest.approx([35, 10, 10, 20], abs=0.1)
    assert bird["bbox"] == [5, 7, 4, 10]


def test_label_studio_turns_a_box_around_its_corner(tmp_path):
    """10 x 4 pixels at (30, 10), turned by 90 degrees clockwise: x 26..30, y 10..20."""
    examples.label_studio_boxes(tmp_path / "in")
    file = next((tmp_path / "in").glob("*.json"))
    tasks = json.loads(file.read_text())[:1]
    region = tasks[0]["annotations"][0]["result"][0]
    region["value"] = {
        "x": 50, "y": 25, "width": 100 / 6, "height": 10, "rotation": 90, "rectanglelabels": ["cat"],
    }  # fmt: skip
    tasks[0]["annotations"][0]["result"] = [region]
    file.write_text(json.dumps(tasks))
    convert(tmp_path / "in", tmp_path / "out", to="coco")
    row = json.loads((tmp_path / "out/annotations.json").read_text())["annotations"][0]
    assert row["bbox"] == pytest.approx([26, 10, 4, 10], abs=0.01)


def test_what_is_not_used_of_label_studio_is_counted(tmp_path):
    examples.label_studio_boxes(tmp_path / "in")
    file = next((tmp_path / "in").glob("*.json"))
    tasks = json.loads(file.read_text())
    names = [task["file_upload"] for task in tasks]
    tasks[0]["annotations"] = []  # predictions alone do not count
    tasks[1]["annotations"][0]["was_cancelled"] = True
    tasks[2]["annotations"].append({"id": 77, "result": tasks[2]["annotations"][0]["result"][:1]})
    tasks[2]["annotations"][1]["result"][0]["value"]["rectanglelabels"] = ["CAT", "bird"]
    file.write_text(json.dumps(tasks))
    result = convert(tmp_path / "in", tmp_path / "out", to="coco")
    assert result.lines[1:5] == [
        "Label Studio: classes of almost the same name: 'CAT' and 'cat'; if they are one class, correct "
        "the labels",
        f"Label Studio: 2 images not annotated, or skipped: left out ({names[0]}, {names[1]})",
        "Label Studio: 1 annotation of an image with a later one, or with a ground truth: left out "
        f"({names[2]})",
        f"Label Studio: 1 label after the first of a region: left out ({names[2].partition('-')[2]})",
    ]
    data = json.loads((tmp_path / "out/annotations.json").read_text())
    assert len(data["images"]) == len(tasks) - 2
    assert len(data["annotations"]) == 2 * (len(tasks) - 3) + 1


@pytest.mark.parametrize("nested", [True, False])
def test_an_oriented_box_of_supervisely_is_turned_around_its_center(tmp_path, nested):
    """20 x 6 pixels at (10, 17), turned by 90 degrees: x 17..23, y 10..30."""
    examples.supervisely(tmp_path / "in", kinds=("rectangle", "rectangle"))
    corners = [[10, 17], [30, 23]]
    for file in (tmp_path / "in").rglob("ann/*.json"):
        content = json.loads(file.read_text())
        content["objects"] = content["objects"][:1]
        points = {"exterior": corners, "interior": []} if nested else corners
        content["objects"][0] |= {"geometryType": "oriented_bbox", "points": points, "angle": math.pi / 2}
        file.write_text(json.dumps(content))
    result = convert(tmp_path / "in", tmp_path / "out", to="coco")
    assert not any("left out" in line for line in result.lines)
    rows = json.loads((tmp_path / "out/train.json").read_text())["annotations"]
    assert [row["bbox"] for row in rows] == [pytest.approx([17, 10, 6, 20], abs=0.01)] * len(examples.TRAIN)


def brush(values, *, bits=8):
    """Label Studio's code, by hand: one block of single values, then one of a repeated value."""
    head, (value, times) = values
    stream = f"{len(head) + times:032b}{bits - 1:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    stream += f"0{1:02b}{len(head) - 1:04b}" + "".join(f"{v:0{bits}b}" for v in head)
    stream += f"1{2:02b}{times - 1:08b}{value:0{bits}b}"
    stream += "0" * (-len(stream) % 8)
    return [int(stream[at : at + 8], 2) for at in range(0, len(stream), 8)]


def test_a_brush_is_decoded_by_its_alpha():
    """2 x 3 pixels: the first two are (9, 9, 9, 0) and (1, 1, 1, 1), the other four 255."""
    code = brush(([9, 9, 9, 0, 1, 1, 1, 1], (255, 16)))
    np.testing.assert_array_equal(decode_brush(code, 2, 3), [[False, True, True], [True, True, True]])
    with pytest.raises(ValueError, match="24 values"):
        decode_brush(code, 3, 3)
    with pytest.raises(ValueError, match="ends early"):
        decode_brush(code[:-2], 2, 3)


def test_supervisely_polygons_have_holes(tmp_path):
    examples.supervisely(tmp_path / "in", kinds=("polygon", "bitmap"))
    file = tmp_path / "in/train/ann/a0.png.json"
    content = json.loads(file.read_text())
    content["objects"][0]["points"]["interior"] = [examples.outline((14, 12, 20, 18))]
    file.write_text(json.dumps(content))
    to_masks(tmp_path / "in", tmp_path / "out")
    mask = mask_of(tmp_path / "out", "a0.png", "train")
    assert (mask[13:17, 15:19] == 0).all()
    assert (mask[9:11, 11:29] == 1).all()


def test_coco_run_lengths_and_crowds(tmp_path):
    """Uncompressed counts go down the columns: 60 columns of 40; the first 80 pixels are two columns."""
    examples.coco_official(tmp_path / "in")
    file = tmp_path / "in/annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = {"size": [40, 60], "counts": [0, 80, 2320]}
    content["annotations"][1].update(iscrowd=1, segmentation={"size": [40, 60], "counts": [2320, 80]})
    file.write_text(json.dumps(content))
    to_masks(tmp_path / "in", tmp_path / "out")
    expected = np.zeros(examples.SIZE, np.uint8)
    expected[:, :2], expected[:, 58:] = 1, 255
    np.testing.assert_array_equal(mask_of(tmp_path / "out", "a0.png", "train"), expected)


# ---- images, files, errors


def test_images_are_linked_or_copied_and_the_input_stays_as_it_is(tmp_path):
    examples.labelme(tmp_path / "in")
    before = {path: path.read_bytes() for path in sorted((tmp_path / "in").iterdir())}
    linked = to_masks(tmp_path / "in", tmp_path / "linked")
    assert any("6 images hard-linked, which takes no space" in line for line in linked.lines)
    assert os.path.samefile(tmp_path / "in/0.png", tmp_path / "linked/images/0.png")
    copied = to_masks(tmp_path / "in", tmp_path / "copied", copy=True)
    assert any("6 images copied" in line for line in copied.lines)
    assert not os.path.samefile(tmp_path / "in/0.png", tmp_path / "copied/images/0.png")
    assert (tmp_path / "copied/images/0.png").read_bytes() == (tmp_path / "in/0.png").read_bytes()
    assert {path: path.read_bytes() for path in sorted((tmp_path / "in").iterdir())} == before


def test_where_links_are_impossible_images_are_copied(tmp_path, monkeypatch):
    examples.labelme(tmp_path / "in")

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    result = to_masks(tmp_path / "in", tmp_path / "out")
    assert any("6 images copied" in line for line in result.lines)


def test_deleted_datasets_are_not_read(tmp_path):
    examples.supervisely(tmp_path / "in")
    shutil.copytree(tmp_path / "in/train", tmp_path / "in/#recycle/old")
    to_masks(tmp_path / "in", tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("masks/**/*.png"))) == 6


def test_names_stay_different(tmp_path):
    """Images of two datasets with the same names, and one whose flattened name equals another's."""
    examples.supervisely(tmp_path / "in")
    (tmp_path / "in/train").rename(tmp_path / "in/first")
    (tmp_path / "in/val").rename(tmp_path / "in/second")
    for kind, end in (("img", ""), ("ann", ".json")):
        for source, target in (("second", "second/{}/b0.png"), ("first", "first/{}/a0.png")):
            (tmp_path / "in" / target.format(kind).replace("png", f"png{end}")).rename(
                tmp_path / "in" / source / kind / f"same.png{end}"
            )
    to_masks(tmp_path / "in", tmp_path / "out")
    written = sorted(path.stem for path in (tmp_path / "out/images").iterdir())
    assert written == ["first_a1", "first_a2", "first_a3", "first_same", "second_b1", "second_same"]
    examples.images(tmp_path / "other/images", ["a_b.png", "a/b.png"])
    examples.write(tmp_path / "other/annotations.xml", examples.cvat_xml(["a_b.png", "a/b.png"]))
    to_masks(tmp_path / "other", tmp_path / "out2")
    assert sorted(os.listdir(tmp_path / "out2/masks")) == ["a_b.png", "a_b_2.png"]
    assert sorted(os.listdir(tmp_path / "out2/images")) == ["a_b.png", "a_b_2.png"]


def turned_photo(root, *, annotated):
    """A JPEG file of 60 x 40 pixels that is to be turned by 90 degrees (EXIF 6)."""
    root.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(root / "0.jpg", exif=exif)
    content = examples.labelme_json("0.jpg")
    content["imageHeight"], content["imageWidth"] = annotated
    examples.write(root / "0.json", content)


def test_a_turned_photo_is_treated_as_by_the_reader(tmp_path):
    turned_photo(tmp_path / "upright", annotated=(60, 40))
    to_masks(tmp_path / "upright", tmp_path / "a")
    assert mask_of(tmp_path / "a").shape == (60, 40)
    turned_photo(tmp_path / "stored", annotated=(40, 60))
    refuses(partial(to_masks, tmp_path / "stored", tmp_path / "b"), "set orientation=stored")
    result = to_masks(tmp_path / "stored", tmp_path / "b", orientation="stored")
    np.testing.assert_array_equal(mask_of(tmp_path / "b"), examples.expected_mask())
    assert "data.orientation=stored" in result.overrides


@pytest.mark.slow
def test_what_cannot_be_read_is_named_and_counted(tmp_path):
    examples.labelme(tmp_path / "in")
    (tmp_path / "in/0.json").write_text("{")
    (tmp_path / "in/1.png").write_bytes(b"no image")
    (tmp_path / "in/2.json").unlink()
    (tmp_path / "in/3.json").write_text(json.dumps(examples.labelme_json("3.png") | {"imageWidth": 7}))
    printed = run("convert", "input=in", "out=out", "to=masks", cwd=tmp_path, status=1)
    assert "files left out: 3\n" in printed
    assert "0.json: not valid JSON" in printed
    assert "1.png: " in printed
    assert "3.png: the image is 40 x 60, but in/3.json says 40 x 7" in printed
    assert "1 image without a JSON file: left out (2.png)" in printed
    assert "next: python tools/train.py task=seg data=masks data.root=out" in printed
    assert sorted(os.listdir(tmp_path / "out/masks")) == ["4.png", "5.png"]


@pytest.mark.parametrize(
    ("builder", "place", "label"),
    [
        (examples.yolo_outlines, "images/train", "labels/train/new.txt"),
        (examples.labelme, ".", "new.json"),
        (examples.supervisely, "train/img", "train/ann/new.heic.json"),
    ],
)
def test_files_that_are_not_images_are_counted(builder, place, label, tmp_path):
    builder(tmp_path / "in")
    (tmp_path / "in" / place / "new.heic").write_bytes(b"....ftypheic")
    (tmp_path / "in" / label).write_text("")
    lines = to_masks(tmp_path / "in", tmp_path / "out").lines
    expected = f"{place.strip('.')}: 1 file left out: new.heic; images must be"
    assert any(expected in line for line in lines), lines


def test_yolo_files_in_no_split_and_missing_splits_are_named(tmp_path):
    examples.yolo_outlines(tmp_path / "in")
    examples.image(tmp_path / "in/images/spare/c.png")
    examples.write(tmp_path / "in/labels/spare/c.txt", "0 .1 .1 .5 .1 .5 .6\n")
    examples.write(tmp_path / "in/labels/train/lost.txt", "0 .1 .1 .5 .1 .5 .6\n")
    yaml = tmp_path / "in/data.yaml"
    yaml.write_text(yaml.read_text() + "test: images/absent\n")
    lines = to_masks(tmp_path / "in", tmp_path / "out").lines
    assert f"YOLO: {yaml}: test: images/absent does not exist; the split is left out" in lines
    assert "YOLO: 1 label file without an image: left out (lost.txt)" in lines
    assert "YOLO: 1 image with a label file, but in no split: left out (c.png)" in lines


def test_no_folder_is_overwritten_and_none_remains_after_an_error(tmp_path):
    examples.labelme(tmp_path / "in")
    (tmp_path / "out").mkdir()
    refuses(partial(to_masks, tmp_path / "in", tmp_path / "out"), "already exists; choose another folder")
    refuses(partial(to_masks, tmp_path / "in", tmp_path / "in/out"), "is inside")
    for file in (tmp_path / "in").glob("*.json"):
        file.write_text("{}")
    refuses(
        partial(to_masks, tmp_path / "in", tmp_path / "new", format="labelme"), "no image could be converted"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    examples.labelme(tmp_path / "in")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("doctor.convert.masks.write_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        to_masks(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_what_is_converted_must_be_clear(tmp_path):
    examples.images(tmp_path / "none", examples.FLAT)
    refuses(partial(to_masks, tmp_path / "none", tmp_path / "out"), "no annotations that can be converted")
    examples.labelme(tmp_path / "both")
    examples.write(tmp_path / "both/annotations.xml", examples.cvat_xml(examples.FLAT))
    refuses(partial(to_masks, tmp_path / "both", tmp_path / "out"), "labelme and cvat; set format=")
    assert to_masks(tmp_path / "both", tmp_path / "out", format="cvat").unreadable == []
    examples.coco_official(tmp_path / "coco")
    refuses(partial(convert, tmp_path / "coco", tmp_path / "x", to="coco", format="coco"), "already COCO")
    refuses(partial(convert, tmp_path / "coco", tmp_path / "x", to="coco"), "already COCO")


def test_a_gray_image_and_a_jpeg_keep_their_files(tmp_path):
    write_png(tmp_path / "in/0.png", np.full(examples.SIZE, 7, np.uint8))
    examples.write(tmp_path / "in/0.json", examples.labelme_json("0.png"))
    Image.fromarray(np.full((*examples.SIZE, 3), 9, np.uint8)).save(tmp_path / "in/1.JPG")
    examples.write(tmp_path / "in/1.json", examples.labelme_json("1.JPG"))
    to_masks(tmp_path / "in", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out/images")) == ["0.png", "1.jpg"]


WRONG = (None, 7, "x", [], {}, [None], [[1]], {"points": 3}, 1e999, -1, float("nan"))


def wrong_values(content):
    """The JSON content with each of its values replaced by each of `WRONG`, one at a time."""

    def places(node, path):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield [*path, key]
            if isinstance(value, dict | list):
                yield from places(value, [*path, key])

    for path in list(places(content, [])):
        for value in WRONG:
            changed = json.loads(json.dumps(content))
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = value
            yield changed


def one_label_studio(root, minimal):
    examples.label_studio(root, minimal=minimal)
    (file,) = root.glob("*.json")
    content = json.loads(file.read_text())[:1]
    if not minimal:
        content[0]["annotations"][0]["result"] = content[0]["annotations"][0]["result"][:1]
    return file, content


@pytest.mark.weekly
@pytest.mark.parametrize("name", ["labelme", "supervisely", "label_studio", "label_studio_min", "coco"])
def test_any_wrong_value_is_left_out_or_an_error_of_the_user(name, tmp_path):
    """No value of a file leads to another exception."""
    root = tmp_path / "in"
    if name == "labelme":
        one_labelme(root)
        file, content = root / "0.json", examples.labelme_json("0.png")
    elif name == "supervisely":
        examples.supervisely(root)
        file = root / "train/ann/a0.png.json"
        content = json.loads(file.read_text())
    elif name == "coco":
        examples.coco_official(root)
        file = root / "annotations/instances_train2017.json"
        content = examples.coco_json(examples.TRAIN[:1])
    else:
        file, content = one_label_studio(root, minimal=name.endswith("min"))
    seen = set()
    for number, changed in enumerate(wrong_values(content)):
        file.write_text(json.dumps(changed))
        try:
            convert(root, tmp_path / str(number), to="masks", format=name.removesuffix("_min"))
            seen.add("converted")
        except UserError:
            seen.add("refused")
    assert "converted" in seen


def test_shapes_far_outside_and_huge_codes_are_left_out(tmp_path):
    """They would take gigabytes to draw."""
    far = [[0, 0], [1e12, 0], [1e12, 1e12]]
    one_labelme(
        tmp_path / "in",
        {"label": "cat", "points": far, "shape_type": "polygon"},
        {"label": "dog", "points": examples.outline((1, 2, 9, 9)), "shape_type": "polygon"},
    )
    result = to_masks(tmp_path / "in", tmp_path / "out")
    assert any("1 shape with an invalid outline: left out (0.png)" in line for line in result.lines)
    examples.images(tmp_path / "cvat/images", ["0.png"])
    sides = 'left="0" top="0" width="10000000" height="10000000"'
    huge = f'<mask label="cat" rle="0,100000000000000" {sides}></mask>'
    fine = '<polygon label="cat" points="1,1;9,1;9,9"></polygon>'
    text = (
        f'<annotations><image id="0" name="0.png" width="60" height="40">{huge}{fine}</image></annotations>'
    )
    examples.write(tmp_path / "cvat/annotations.xml", text)
    result = to_masks(tmp_path / "cvat", tmp_path / "out2")
    assert any("1 shape with invalid numbers: left out (0.png)" in line for line in result.lines)


def one_yolo(root, rows, described=""):
    examples.yolo_ultralytics(root)
    for file in root.rglob("labels/*/*.txt"):
        file.write_text(rows)
    with open(root / "data.yaml", "a") as file:
        file.write(described)


def boxes_in(out):
    content = json.loads((out / "train.json").read_text())
    return {tuple(row["bbox"]) for row in content["annotations"]}


@pytest.mark.parametrize(
    ("rows", "described", "line"),
    [
        ("0 .5 .5 .2 .2 .45 .45 .55 .55", "kpt_shape: [2, 2]\n", "with keypoints: only the box is used"),
        ("0 .5 .5 .2 .2 .9 .9 2 0 0 0", "kpt_shape: [2, 3]\n", "with keypoints: only the box is used"),
        ("0 .5 .5 .2 .2 .9 7", "", "with a score or a track id after the box: only the box is used"),
        ("0 .5 .5 .2 .2 .9", "", "with a score or a track id after the box: only the box is used"),
    ],
)
def test_of_yolo_rows_with_keypoints_only_the_box_is_converted(tmp_path, rows, described, line):
    one_yolo(tmp_path / "in", rows, described)
    result = convert(tmp_path / "in", tmp_path / "out", to="coco")
    height, width = examples.HEIGHT, examples.WIDTH
    expected = [0.4 * width, 0.4 * height, 0.2 * width, 0.2 * height]
    assert boxes_in(tmp_path / "out") == {tuple(round(number, 2) for number in expected)}
    assert any(line in each for each in result.lines)


def test_yolo_rows_that_may_be_keypoints_or_polygons_are_not_guessed(tmp_path):
    one_yolo(tmp_path / "in", "0 .5 .5 .2 .2 .45 .45 .55 .55")
    refuses(
        lambda: convert(tmp_path / "in", tmp_path / "out", to="coco"),
        r"\.txt: line 1: may be a polygon, or a box with keypoints; add kpt_shape",
    )


@pytest.mark.parametrize("points", [[[2, 3], [9, 3], [9, 8], [2, 8]], [[9, 8], [2, 3]]])
def test_a_rectangle_may_have_four_corners(tmp_path, points):
    """As X-AnyLabeling writes it."""
    shape = {"label": "cat", "points": points, "shape_type": "rectangle"}
    one_labelme(tmp_path / "in", shape)
    convert(tmp_path / "in", tmp_path / "out", to="coco")
    content = json.loads((tmp_path / "out/annotations.json").read_text())
    assert [row["bbox"] for row in content["annotations"]] == [[2, 3, 7, 5]]


def stored_photo(path):
    """Stored as 80 x 100 (height x width), shown as 100 x 80."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path.parent.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3)).astype(np.uint8)).save(
        path, exif=exif
    )


@pytest.mark.parametrize(
    ("orientation", "box"),
    [
        ("upright", [0.5 * 80 - 16, 0.25 * 100 - 5, 32, 10]),
        ("stored", [0.5 * 100 - 20, 0.25 * 80 - 4, 40, 8]),
    ],
)
def test_fractions_of_a_turned_photo_are_of_the_chosen_orientation(tmp_path, orientation, box):
    stored_photo(tmp_path / "in/images/train/a.jpg")
    examples.write(tmp_path / "in/labels/train/a.txt", "0 .5 .25 .4 .1\n")
    examples.write(tmp_path / "in/data.yaml", "train: images/train\nnames: [a]\n")
    convert(tmp_path / "in", tmp_path / "out", to="coco", orientation=orientation)
    assert boxes_in(tmp_path / "out") == {tuple(box)}


def test_coco_outlines_on_a_stored_photo_name_the_option_that_accepts_them(tmp_path):
    stored_photo(tmp_path / "in/images/train/a.jpg")
    outline = [30, 16, 70, 16, 70, 24, 30, 24]
    row = {"id": 1, "image_id": 1, "category_id": 1, "area": 320, "iscrowd": 0, "segmentation": [outline]}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 80, "width": 100}],
        "annotations": [{**row, "bbox": [30, 16, 40, 8]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    examples.write(tmp_path / "in/annotations/train.json", content)
    refuses(lambda: to_masks(tmp_path / "in", tmp_path / "out"), r"a\.jpg.*: set orientation=stored")
    to_masks(tmp_path / "in", tmp_path / "out", orientation="stored")
    (mask,) = (tmp_path / "out/masks").rglob("*.png")
    expected = np.zeros((80, 100), np.uint8)
    expected[16:24, 30:70] = 1
    np.testing.assert_array_equal(read_labels(mask), expected)


def test_the_largest_size_of_images_is_an_option_of_this_tool(tmp_path, monkeypatch):
    """The remedy was data.max_megapixels, which convert refused."""
    monkeypatch.setattr(reading, "MAX_PIXELS", reading.MAX_PIXELS)
    monkeypatch.setenv("MOBILENET_DENSE_MAX_PIXELS", str(reading.MAX_PIXELS))
    examples.labelme(tmp_path / "in")  # images of less than 0.1 megapixels
    refuses(
        lambda: to_masks(tmp_path / "in", tmp_path / "out", max_megapixels=1e-5), "; set max_megapixels=0.1, "
    )
    result = to_masks(tmp_path / "in", tmp_path / "out", max_megapixels=100)
    assert result.unreadable == []
    assert result.overrides[-1] == "data.max_megapixels=100"
    message = refuses(lambda: to_masks(tmp_path / "in", tmp_path / "out2", max_megapixels=2000))
    assert message.startswith("max_megapixels must be above 0")
