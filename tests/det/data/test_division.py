"""Without val, a fifth of train is used as val: in all readers, with the message of seg and cls."""

import json

import pytest

from cls.data.folders import folders
from det.data.coco import coco
from det.data.cvat import cvat
from det.data.labelme import labelme
from det.data.voc import voc
from det.data.yolo import yolo
from engine.errors import UserError
from seg.data.coco import coco as coco_masks
from tests.det.data.small_splits import write_image

COUNT = 20
NAMES = [f"{number}.png" for number in range(COUNT)]


def images(folder, names=NAMES, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        write_image(folder / name, seed=first + number)


def coco_json(path, names=NAMES):
    outline = {"bbox": [1, 2, 10, 20], "area": 200, "segmentation": [[1, 2, 11, 2, 11, 22]]}
    content = {
        "images": [{"id": n, "file_name": name, "height": 40, "width": 60} for n, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, **outline} for n in range(len(names))],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path.write_text(json.dumps(content))


def in_coco(root, split="train", names=NAMES, first=0):
    images(root / split, names, first)
    coco_json(root / f"{split}.json", names)


def in_yolo(root, split="train", names=NAMES, first=0):
    images(root / "images" / split, names, first)
    labels = root / "labels" / split
    labels.mkdir(parents=True)
    for name in names:
        (labels / name).with_suffix(".txt").write_text("0 .5 .5 .2 .2\n")
    with (root / "data.yaml").open("a") as file:
        file.write(f"{split}: images/{split}\n" + ("names: [cat]\n" if split == "train" else ""))


def in_voc(root, split="train", names=NAMES, first=0):
    images(root / split, names, first)
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>22</ymax></bndbox>"
    for name in names:
        text = f"<annotation><object><name>cat</name>{box}</object></annotation>"
        (root / split / name).with_suffix(".xml").write_text(text)


def in_labelme(root, split="train", names=NAMES, first=0):
    images(root / split, names, first)
    shape = {"label": "cat", "shape_type": "rectangle", "points": [[1, 2], [11, 22]]}
    for name in names:
        content = {"shapes": [shape], "imagePath": name, "imageHeight": 40, "imageWidth": 60}
        (root / split / name).with_suffix(".json").write_text(json.dumps(content))


def in_cvat(root, split="train", names=NAMES, first=0):
    images(root / "images" / split, names, first)
    rows = [
        f'<image id="{n}" name="{name}" width="60" height="40">'
        '<box label="cat" xtl="1" ytl="2" xbr="11" ybr="22" occluded="0"/></image>'
        for n, name in enumerate(names)
    ]
    label = "<label><name>cat</name></label>"
    head = f"<meta><task><labels>{label}</labels></task></meta>"
    (root / f"{split}.xml").write_text(f"<annotations>{head}{''.join(rows)}</annotations>")


DETECTION = [(coco, in_coco), (yolo, in_yolo), (voc, in_voc), (labelme, in_labelme), (cvat, in_cvat)]
IDS = ["coco", "yolo", "voc", "labelme", "cvat"]


def names_of(split):
    return {name.decode() for name in split.names.tolist()}


@pytest.mark.parametrize(("reader", "write"), DETECTION, ids=IDS)
def test_without_val_a_fifth_of_train_is_val(tmp_path, reader, write):
    write(tmp_path)
    data = reader(root=str(tmp_path))
    train, val = data.splits["train"], data.splits["val"]
    assert list(data.splits) == ["train", "val"]
    assert 1 <= len(val) <= 8
    assert sorted(names_of(train) | names_of(val), key=int) == [str(number) for number in range(COUNT)]
    assert len(train) + len(val) == COUNT
    assert len(train.boxes) == len(train)
    assert len(val.boxes) == len(val)
    line = f"no val; {len(val)} of {COUNT} images of train are used as val, chosen by a hash of their names; "
    assert [line in warning for warning in data.warnings].count(True) == 1
    # images that are added later do not move the others
    more = [f"{number}.png" for number in range(COUNT, COUNT + 8)]
    if reader in (voc, labelme):
        write(tmp_path, "train", more, 100)
        again = reader(root=str(tmp_path)).splits
        assert names_of(val) <= names_of(again["val"])
        assert names_of(train) <= names_of(again["train"])


@pytest.mark.parametrize(("reader", "write"), DETECTION, ids=IDS)
def test_a_test_split_stays_whole(tmp_path, reader, write):
    write(tmp_path)
    write(tmp_path, "test", [f"t{number}.png" for number in range(5)], 50)
    data = reader(root=str(tmp_path))
    assert list(data.splits) == ["train", "val", "test"]
    assert len(data.splits["test"]) == 5
    assert len(data.splits["train"]) + len(data.splits["val"]) == COUNT


@pytest.mark.parametrize(("reader", "write"), DETECTION, ids=IDS)
def test_a_val_of_its_own_is_used(tmp_path, reader, write):
    write(tmp_path)
    write(tmp_path, "val", ["v0.png", "v1.png"], 50)
    data = reader(root=str(tmp_path))
    assert {split: len(part) for split, part in data.splits.items()} == {"train": COUNT, "val": 2}
    assert not any("used as val" in line for line in data.warnings)


@pytest.mark.parametrize(("reader", "write"), DETECTION, ids=IDS)
def test_val_alone_is_not_divided(tmp_path, reader, write):
    if reader is yolo:
        (tmp_path / "data.yaml").write_text("names: [cat]\n")
    write(tmp_path, "val")
    assert {split: len(part) for split, part in reader(root=str(tmp_path)).splits.items()} == {"val": COUNT}


@pytest.mark.parametrize(("reader", "write"), DETECTION, ids=IDS)
def test_a_single_image_cannot_be_divided(tmp_path, reader, write):
    write(tmp_path, "train", NAMES[:1])
    with pytest.raises(UserError, match="only one image; train and val need at least one each"):
        reader(root=str(tmp_path))


def test_a_val_that_data_yaml_names_but_that_does_not_exist_is_not_replaced(tmp_path):
    in_yolo(tmp_path)
    with (tmp_path / "data.yaml").open("a") as file:
        file.write("val: images/vla\n")
    data = yolo(root=str(tmp_path))
    assert list(data.splits) == ["train"]
    assert [line for line in data.warnings if "images/vla does not exist; the split is left out" in line]


def test_seg_and_cls_say_the_same(tmp_path):
    in_coco(tmp_path / "seg")
    (tmp_path / "seg/annotations").mkdir()
    (tmp_path / "seg/train.json").rename(tmp_path / "seg/annotations/instances_train.json")
    for number, name in enumerate(NAMES):
        images(tmp_path / "cls/train" / f"class{number % 2}", [name], number)
    for data in (coco_masks(root=str(tmp_path / "seg")), folders(root=str(tmp_path / "cls"))):
        count = len(data.splits["val"])
        line = (
            f"no val; {count} of {COUNT} images of train are used as val, chosen by a hash of their names; "
        )
        assert any(line in warning for warning in data.warnings), data.warnings


# ------------------------------------------------------------------ val that repeats train


def outside(root):
    """A box of each of 20 images ends 10 pixels to the right of it, in all formats alike."""
    for path in root.rglob("*.*"):
        text = path.read_text() if path.suffix in (".xml", ".json", ".txt") else ""
        for old, new in (
            ("<xmax>11<", "<xmax>70<"),
            ('xbr="11"', 'xbr="70"'),
            ("[[1, 2], [11, 22]]", "[[1, 2], [70, 22]]"),
            ('"bbox": [1, 2, 10, 20]', '"bbox": [1, 2, 69, 20]'),
            ("0 .5 .5 .2 .2", "0 .9 .5 .4 .2"),
        ):
            text = text.replace(old, new)
        if text:
            path.write_text(text)


def repeated_in_coco(root):
    in_coco(root)
    pair = {"images": str(root / "train"), "annotations": str(root / "train.json")}
    return lambda **options: coco(train=pair, val=dict(pair), **options)


def repeated_in_yolo(root, val="images/train"):
    in_yolo(root)
    with (root / "data.yaml").open("a") as file:
        file.write(f"val: {val}\n")
    return lambda **options: yolo(root=str(root), **options)


def repeated_in_voc(root, names=NAMES, reader=voc, write=in_voc):
    write(root)
    (root / "train").rename(root / "images")
    (root / "ImageSets/Main").mkdir(parents=True)
    for split, listed in (("train", NAMES), ("val", names)):
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(listed))
    return lambda **options: reader(root=str(root), **options)


def repeated_in_labelme(root):
    return repeated_in_voc(root, NAMES[:7], labelme, in_labelme)


def part_in_voc(root):
    return repeated_in_voc(root, NAMES[:7])


def part_in_yolo(root):
    (root / "few.txt").write_text("\n".join(f"images/train/{name}" for name in NAMES[:7]))
    return repeated_in_yolo(root, "few.txt")


def linked_in_yolo(root):
    read = repeated_in_yolo(root, "images/val")
    for kind in ("images", "labels"):
        (root / kind / "val").symlink_to(root / kind / "train")
    return read


REPEATED = [
    (linked_in_yolo, COUNT),
    (repeated_in_coco, COUNT),
    (repeated_in_yolo, COUNT),
    (part_in_yolo, 7),
    (repeated_in_voc, COUNT),
    (part_in_voc, 7),
    (repeated_in_labelme, 7),
]


@pytest.mark.parametrize(("write", "count"), REPEATED)
def test_a_val_that_repeats_train_is_named_and_its_rows_count_once(tmp_path, write, count):
    read = write(tmp_path)
    outside(tmp_path)
    data = read()
    assert list(data.splits) == ["train"]
    line = f": val: all of its {count} images are also in train; the split is left out"
    assert sum(warning.endswith(line) for warning in data.warnings) == 1
    clipped = [warning for warning in data.warnings if "partly outside" in warning]
    assert len(clipped) == 1
    assert f" {COUNT} boxes partly outside" in clipped[0]
    both = read(allow_same_files=True).splits
    assert {split: len(part) for split, part in both.items()} == {"train": COUNT, "val": count}
    assert both["val"].boxes.shape == (count, 4)
    assert (both["val"].boxes == both["train"].boxes[:1]).all()
