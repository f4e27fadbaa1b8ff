"""COCO's files and images are found in the same places, under the same names, by both of its readers."""

import json
import shutil

import pytest

from det.data.coco import coco as coco_boxes
from seg.data.coco import coco as coco_masks
from tests.det.data.small_splits import write_image
from tests.refusals import refuses

READERS = [coco_boxes, coco_masks]
OUTLINE = {"bbox": [1, 2, 10, 20], "area": 200, "segmentation": [[1, 2, 11, 2, 11, 22, 1, 22]]}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def write_json(path, names):
    content = {
        "images": [{"id": n, "file_name": name, "height": 40, "width": 60} for n, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, **OUTLINE} for n in range(len(names))],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write(root, *, split="train", file="{}.json", images="{}", count=6):
    folder = root / images.format(split)
    names = [f"{split}{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        write_image(folder / name, seed=number + 100 * split.lower().startswith("val"))
    write_json(root / file.format(split), names)


def sizes(data):
    return {split: len(part) for split, part in data.splits.items()}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("annotations/instances_{}2017.json", "{}2017"),
        ("annotations/instances_{}2017.json", "{}2017/images"),
        ("annotations/instances_{}.json", "images/{}"),
        ("annotations/instances_{}.json", "images"),
        ("{}/_annotations.coco.json", "{}"),
        ("{}.json", "{}"),
        ("{}.json", "images"),
        ("annotations/{}.json", "images"),
        ("{}/labels.json", "{}/data"),
        ("instances_{}2017_128.json", "images/{}2017"),
        ("annotations/{}.json", "photos/of {}"),
    ],
)
@pytest.mark.parametrize("splits", [("train", "val"), ("Train", "Val"), ("TRAIN", "VALIDATION")])
def test_every_layout_is_found(tmp_path, reader, file, images, splits):
    for split in splits:
        write(tmp_path, split=split, file=file, images=images)
    assert sizes(reader(root=str(tmp_path))) == {"train": 6, "val": 6}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("listed", "stored"),
    [
        ("a b.png", "A B.PNG"),
        ("a%20b.png", "a b.png"),
        ("a b", "a b.png"),
        ("a b.jpg", "a b.png"),
        ("C:\\photos\\a b.png", "a b.png"),
        ("/home/me/photos/a b.png", "a b.png"),
        ("photos%2Fa%20b.png", "a b.png"),
        ("https://host/photos/a%20b.png?token=1", "a b.png"),
        ("/data/local-files/?d=a b.png", "a b.png"),  # Label Studio
        ("caf\u00e9.png", "cafe\u0301.png"),  # as macOS stores the accent
        ("Cafe\u0301.png", "caf\u00c9.png"),
    ],
)
def test_file_names_may_be_spelled_differently(tmp_path, reader, listed, stored):
    write(tmp_path)
    write_json(tmp_path / "train.json", [listed, *(f"train{number}.png" for number in range(1, 6))])
    (tmp_path / "train/train0.png").rename(tmp_path / "train" / stored)
    data = reader(root=str(tmp_path))
    assert sum(sizes(data).values()) == 6
    other = listed.replace("\\", "/").rpartition("/")[2] != stored  # the last part
    assert sum("spelled differently" in line for line in data.warnings) == other


@pytest.mark.parametrize("reader", READERS)
def test_two_files_that_differ_in_case_only_are_not_confused(tmp_path, reader):
    write(tmp_path)
    for number, name in enumerate(("a.png", "A.png")):
        write_image(tmp_path / "train" / name, seed=50 + number)
    write_json(tmp_path / "train.json", ["a.png", "A.png", "train1.png"])
    assert sum(sizes(reader(root=str(tmp_path))).values()) == 3
    (tmp_path / "train/a.png").rename(tmp_path / "train/A.PNG")
    refuses(lambda: reader(root=str(tmp_path)), r"train/a\.png: no such file \(1 of 3 images")


# ------------------------------------------------------------------ other JSON files


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("other", ["info.json", "annotations/notes.json"])
@pytest.mark.parametrize(
    "text",
    ['{"version": "1.0"}', "[1, 2]", '{"images": "none"}', '{"images": [{"file_name": "train0.png"}]}'],
)
def test_a_json_file_without_annotations_is_left_out_and_named(tmp_path, reader, other, text):
    write(tmp_path, file="result.json", images="images")
    (tmp_path / "annotations").mkdir()
    (tmp_path / other).write_text(text)
    data = reader(root=str(tmp_path))
    assert sum(sizes(data).values()) == 6
    line = f"1 JSON file without COCO's images and categories left out ({other})"
    assert sum(line in warning for warning in data.warnings) == 1


@pytest.mark.parametrize("reader", READERS)
def test_a_json_file_beside_that_of_a_split_is_not_taken_for_it(tmp_path, reader):
    for split in ("train", "val"):
        write(tmp_path, split=split, file="{}_annotations.json", images="{}")
        (tmp_path / f"{split}_info.json").write_text('{"version": 1}')
    assert sizes(reader(root=str(tmp_path))) == {"train": 6, "val": 6}


@pytest.mark.parametrize("reader", READERS)
def test_files_named_like_a_split_that_are_not_used_are_named(tmp_path, reader):
    write(tmp_path)
    (tmp_path / "val.json").write_text("[]")
    line = "val: not read from val.json (no list of images in it); set data.val.annotations=<file>"
    data = reader(root=str(tmp_path))
    assert sum(sizes(data).values()) == 6
    assert sum(line in warning for warning in data.warnings) == 1
    for name in ("val_a.json", "val_b.json"):
        shutil.copy(tmp_path / "train.json", tmp_path / name)
    line = "val: not read from val.json, val_a.json, val_b.json (several fit)"
    assert sum(line in warning for warning in reader(root=str(tmp_path)).warnings) == 1


@pytest.mark.parametrize("reader", READERS)
def test_one_file_named_after_two_splits_is_divided(tmp_path, reader):
    write(tmp_path, file="train_val.json", images="images")
    data = reader(root=str(tmp_path))
    assert sorted(sizes(data)) == ["train", "val"]
    assert sum(sizes(data).values()) == 6
    assert sum("no splits; " in warning for warning in data.warnings) == 1


@pytest.mark.parametrize("reader", READERS)
def test_two_folders_with_images_of_the_same_names_are_refused(tmp_path, reader):
    write(tmp_path, file="result.json", images="photos")
    shutil.copytree(tmp_path / "photos", tmp_path / "previews/of photos")
    one, other = tmp_path / "photos", tmp_path / "previews/of photos"
    refuses(
        lambda: reader(root=str(tmp_path)),
        rf"result\.json: both {one} and {other} have its images; set data\.train\.images=<folder>",
    )
    file = {"images": str(one), "annotations": str(tmp_path / "result.json")}
    assert sum(sizes(reader(root=str(tmp_path), train=file)).values()) == 6


@pytest.mark.parametrize("reader", READERS)
def test_a_file_without_any_image_is_refused(tmp_path, reader):
    write(tmp_path)
    write_json(tmp_path / "train.json", [])
    refuses(lambda: reader(root=str(tmp_path)), r"train\.json: images: is empty; a split needs at least one")


@pytest.mark.parametrize("reader", READERS)
def test_two_files_with_annotations_and_no_splits_are_named(tmp_path, reader):
    write(tmp_path, file="first.json", images="images")
    shutil.copy(tmp_path / "first.json", tmp_path / "second.json")
    refuses(
        lambda: reader(root=str(tmp_path)),
        r"2 JSON files with annotations, none named after a split \(first\.json, second\.json\); expected",
    )


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_json_file_is_an_error_of_its_own(tmp_path, reader):
    write(tmp_path, file="result.json", images="images")
    (tmp_path / "result.json").write_text('{"images": [')
    refuses(lambda: reader(root=str(tmp_path)), r"result\.json: not valid JSON")
