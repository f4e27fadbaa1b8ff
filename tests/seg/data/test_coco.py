"""COCO instances as masks: what is drawn, and what is left out, counted and named."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_masks

from engine.data.dataset_builder import DatasetBuilder
from engine.data.images import write_png
from engine.data.loader import SampleKey
from engine.data.preprocessing import refuse_incomplete
from engine.runtime import Runtime
from seg.data.coco import coco
from seg.transforms import EvalTransform
from tests.refusals import refuses

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def square(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def write_split(
    root, annotations, *, file="annotations/instances_train.json", images="train", count=1, **entry
):
    """Images of 10 x 12 (height x width) and a JSON file."""
    for number in range(count):
        pixels = np.random.default_rng([number, len(str(file))]).integers(0, 256, (10, 12, 3), np.uint8)
        write_png(root / images / f"{number}.png", pixels)
    listed = [{"id": n, "file_name": f"{n}.png", "height": 10, "width": 12, **entry} for n in range(count)]
    rows = [{"id": n, "image_id": 0, "iscrowd": 0, **row} for n, row in enumerate(annotations)]
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    content = {"images": listed, "annotations": rows, "categories": CATEGORIES}
    (root / file).write_text(json.dumps(content))
    return root / file


VAL = {"file": "annotations/instances_val.json", "images": "val"}
CAT = {"category_id": 3, "segmentation": square(0, 0, 4, 5)}


def label(root, split="train"):
    return coco(root=str(root)).dataset(split, EvalTransform())[SampleKey(0, 0)]["label"].numpy()


def test_flags_and_ids_may_be_text_and_ignored_objects_are_ignored(tmp_path):
    """Columns 0 and 1 are a cat, 2 and 3 a crowd, 4 and 5 are ignored, the others background."""
    flags = ({"iscrowd": "0"}, {"iscrowd": "1"}, {"ignore": 1})
    columns = [
        {"category_id": 3, "segmentation": square(2 * n, 0, 2 * n + 2, 10), "image_id": "00", **flag}
        for n, flag in enumerate(flags)
    ]
    write_split(tmp_path, columns)
    write_split(tmp_path, [CAT], **VAL)
    assert label(tmp_path)[5].tolist() == [1, 1, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0]
    write_split(tmp_path, [{**CAT, "iscrowd": "2"}])
    refuses(lambda: coco(root=str(tmp_path)), "instances_train.json: .*iscrowd must be 0 or 1, got '2'")


def test_polygons_and_both_run_length_codes_are_drawn(tmp_path):
    """Classes are background 0, cat (3) 1, dog (7) 2. The smaller dog lies on the cat; a crowd is 255."""
    crowd = np.zeros((10, 12), np.uint8, order="F")
    crowd[8:, :] = 1
    packed = coco_masks.encode(crowd)
    runs = {"size": [10, 12], "counts": [60, 10, 50]}  # column by column: column 6
    write_split(
        tmp_path,
        [
            {"category_id": 7, "segmentation": square(1, 1, 3, 3)},
            {"category_id": 3, "segmentation": square(0, 0, 6, 7)},
            {"category_id": 3, "segmentation": runs},
            {
                "category_id": 7,
                "iscrowd": 1,
                "segmentation": {"size": [10, 12], "counts": packed["counts"].decode()},
            },
        ],
    )
    write_split(tmp_path, [CAT], **VAL)
    expected = np.zeros((10, 12), np.uint8)
    expected[8:] = 255
    expected[:7, :6] = 1
    expected[:, 6] = 1
    expected[1:3, 1:3] = 2
    np.testing.assert_array_equal(label(tmp_path), expected)
    assert coco(root=str(tmp_path)).classes.names == ("background", "cat", "dog")


def test_an_upright_outline_with_a_rotation_is_counted(tmp_path):
    """CVAT's rotation of a box is not in an outline that was made of its corners."""
    tilted = [[2, 0, 4, 2, 2, 4, 0, 2]]
    rotations = ((90.0, square(0, 0, 4, 5)), (180, square(0, 0, 4, 5)), (45, tilted), (0, square(0, 0, 4, 5)))
    rows = [{"category_id": 3, "segmentation": o, "attributes": {"rotation": r}} for r, o in rotations]
    write_split(tmp_path, rows)
    write_split(tmp_path, [CAT], **VAL)
    warnings = "\n".join(coco(root=str(tmp_path)).warnings)
    assert (
        "1 annotation with a rotation, but an upright rectangle as outline: drawn without the rotation"
        in warnings
    )


def test_two_points_are_no_box(tmp_path):
    """pycocotools takes [1, 1, 8, 6] for x, y, width and height if it comes first."""
    write_split(tmp_path, [{"category_id": 3, "segmentation": [[1, 1, 8, 6], *square(0, 0, 4, 5)]}])
    write_split(tmp_path, [CAT], **VAL)
    expected = np.zeros((10, 12), np.uint8)
    expected[:5, :4] = 1
    np.testing.assert_array_equal(label(tmp_path), expected)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[[1, 1], [8, 1], [8, 6]]], r"polygons must be lists \[x1, y1, x2, y2, \.\.\.\]"),
        ([[1, 1, 8, 6]], "no polygon has three points"),
    ],
)
def test_outlines_of_another_form_are_refused_with_the_right_one(tmp_path, segmentation, reason):
    write_split(tmp_path, [{"category_id": 3, "segmentation": segmentation}])
    write_split(tmp_path, [CAT], **VAL)
    refuses(lambda: label(tmp_path), rf"annotation 0 of 0.png: invalid segmentation \({reason}\)")


def test_masks_are_drawn_again_only_if_the_annotations_change(tmp_path, capsys):
    for options in ({}, VAL):
        write_split(tmp_path, [CAT], **options)
    assert label(tmp_path).sum() == 20
    assert "mask drawn" in capsys.readouterr().out
    assert label(tmp_path).sum() == 20
    assert "mask drawn" not in capsys.readouterr().out
    write_split(tmp_path, [{**CAT, "category_id": 7}])
    assert label(tmp_path).sum() == 40


def test_one_file_for_all_images_is_divided(tmp_path):
    write_split(tmp_path, [CAT], file="result.json", images="images", count=20)
    data = coco(root=str(tmp_path), allow_same_files=True)
    assert sum(len(split) for split in data.splits.values()) == 20
    assert any("of 20 images are used as val" in line for line in data.warnings)


def test_what_is_left_out_is_counted_and_named(tmp_path):
    rows = [CAT, {"category_id": 3, "bbox": [1, 1, 2, 2]}, {**CAT, "image_id": 9}, {**CAT, "category_id": 8}]
    write_split(tmp_path, rows, count=2)
    write_split(tmp_path, [CAT], **VAL)
    (tmp_path / "train/1.png").unlink()
    refuses(lambda: coco(root=str(tmp_path)), r"train/1\.png: no such file \(1 of 2 images", "on_error=skip")
    warnings = "\n".join(coco(root=str(tmp_path), on_error="skip").warnings)
    for line in (
        "1 annotation left out: without a segmentation",
        "of an unknown image",
        "of an unknown category",
    ):
        assert line in warnings


@pytest.mark.parametrize(
    ("table", "entries", "message"),
    [
        ("categories", [{"id": 3, "name": "dog"}, {"id": 3, "name": "cat"}], r"\[1\]\.id: 3 is .* of 'dog'"),
        ("categories", [{"id": 3, "name": "dog"}, {"id": "3", "name": "cat"}], r"\[1\]\.id: '3' is .* 'dog'"),
        ("images", [{"id": 0, "file_name": f"{n}.png"} for n in (0, 1)], r"\[1\]\.id: 0 is .* '0\.png'"),
        ("categories", {"3": "cat"}, r": must be a list, got \{'3': 'cat'\}; export it again"),
    ],
)
def test_an_id_belongs_to_one_image_or_category(tmp_path, table, entries, message):
    """Otherwise, annotations of the one would become the other's."""
    for split in ({}, VAL):
        file = write_split(tmp_path, [CAT], count=2, **split)
        file.write_text(json.dumps({**json.loads(file.read_text()), table: entries}))
    refuses(lambda: coco(root=str(tmp_path)), f"instances_train.json: {table}{message}")


def test_category_ids_may_be_text_as_for_boxes(tmp_path):
    """Columns 0 and 1 are a cat, the others background; categories are in the order of their names."""
    cat = {"category_id": "c-1", "segmentation": square(0, 0, 2, 10)}
    for split in ({}, VAL):
        file = write_split(tmp_path, [cat], **split)
        content = json.loads(file.read_text())
        content["categories"] = [{"id": "a-9", "name": "dog"}, {"id": "c-1", "name": "cat"}]
        file.write_text(json.dumps(content))
    assert coco(root=str(tmp_path)).classes.names == ("background", "cat", "dog")
    assert label(tmp_path).tolist() == [[1, 1] + [0] * 10] * 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": [[1, 2]]}, r"annotation 0 of 0\.png: invalid segmentation"),
        ({"segmentation": {"size": [5, 5], "counts": [25]}}, r"size \[5, 5\], but the image is 10 x 12"),
        ({"category_id": None}, "not COCO's format"),
        ({"category_id": "cat"}, r"COCO's format \(category_id must be a whole number, got 'cat'\); export"),
        ({"image_id": 0, "iscrowd": 3}, r"COCO's format \(iscrowd must be 0 or 1, got 3\); export"),
    ],
)
def test_invalid_annotations_are_named(tmp_path, change, message):
    write_split(tmp_path, [{**CAT, **change}])
    write_split(tmp_path, [CAT], **VAL)
    refuses(lambda: coco(root=str(tmp_path)), message)


def test_images_that_are_not_listed_are_counted_and_named(tmp_path):
    write_split(tmp_path, [CAT], count=2)
    write_split(tmp_path, [CAT], **VAL)
    pixels = np.random.default_rng(9).integers(0, 256, (10, 12, 3), np.uint8)
    write_png(tmp_path / "train/more/extra.png", pixels)
    warnings = coco(root=str(tmp_path)).warnings
    assert f"{tmp_path}: 1 image that no annotation file lists: left out (extra.png)" in warnings


def test_an_image_listed_twice_is_refused(tmp_path):
    """Each entry would have a part of the annotations, and the other objects would be background."""
    write_split(tmp_path, [CAT], count=2, file_name="0.png")
    refuses(lambda: coco(root=str(tmp_path)), r"instances_train\.json: images: .*0\.png is listed 2 times")


def test_ids_may_be_numbers_with_a_fraction_of_zero(tmp_path):
    write_split(tmp_path, [CAT], id=0.0)
    write_split(tmp_path, [CAT], **VAL)
    assert label(tmp_path).sum() == 20


def test_what_was_left_out_is_said_if_nothing_remains(tmp_path):
    write_split(tmp_path, [{"category_id": 3, "bbox": [1, 1, 2, 2]}])
    write_split(tmp_path, [CAT], **VAL)
    message = r"train: .*two classes must occur: check the annotations; .*1 annotation left out: without"
    refuses(lambda: coco(root=str(tmp_path)), message)


def test_missing_images_count_like_unreadable_ones(tmp_path):
    write_split(tmp_path, [CAT], count=4)
    write_split(tmp_path, [CAT], **VAL)
    (tmp_path / "train/2.png").unlink()
    source = coco(root=str(tmp_path), on_error="skip")
    builder = DatasetBuilder(runtime=Runtime(torch.device("cpu")), on_error="skip", error_budget=0.25)
    assert len(builder.dataset(source, "train", EvalTransform())) == 3
    assert "2.png: cannot be read (No such file" in builder.skipped["train"][0]["error"]
    builder = DatasetBuilder(runtime=Runtime(torch.device("cpu")), on_error="skip")
    refuses(lambda: builder.dataset(source, "train", EvalTransform()), "1 of 4 files of train cannot be read")


def test_an_image_with_a_damaged_header_can_be_skipped(tmp_path):
    write_split(tmp_path, [CAT], count=2)
    write_split(tmp_path, [CAT], **VAL)
    (tmp_path / "train/1.png").write_bytes(b"damaged")
    for options in ({}, {"on_error": "skip"}):
        data = coco(root=str(tmp_path), **options).dataset("train", EvalTransform())
        refuses(
            lambda data=data: refuse_incomplete([data], runtime=Runtime(torch.device("cpu")), budget=0.01),
            r"1\.png: truncated.*data\.on_error=skip",
        )
    refuses(lambda: data.read(1), r"1\.png: truncated")


def test_annotations_of_stored_images_name_the_option(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for options in ({}, VAL):
        write_split(tmp_path, [CAT], **options)
        path = tmp_path / options.get("images", "train") / "0.png"
        Image.open(path).save(path, exif=exif)
    refuses(lambda: coco(root=str(tmp_path)), r"the image is 12 x 10.*set data\.orientation=stored")
    assert coco(root=str(tmp_path), orientation="stored").splits.keys() == {"train", "val"}


def test_wrong_files_are_named(tmp_path):
    refuses(lambda: coco(root=str(tmp_path)), "no COCO annotations; expected train2017/")
    write_split(tmp_path, [CAT], width=10, height=12)
    refuses(lambda: coco(root=str(tmp_path)), r"0\.png: the image is 10 x 12, but its JSON says 12 x 10")
    (tmp_path / "annotations/instances_train.json").write_text("[")
    refuses(lambda: coco(root=str(tmp_path)), r"instances_train\.json: not valid JSON")
