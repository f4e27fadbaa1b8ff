"""Datasets on disk: what is read, and errors that name file and remedy before the first step."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from engine.data.class_map import ClassMap
from engine.data.images import write_png
from engine.data.loader import SampleKey
from engine.errors import UserError
from engine.io.files import evenly_spaced, pack_paths
from seg.data.cityscapes import CITYSCAPES_CLASSES, cityscapes, mask_kind
from seg.data.dataset import SegmentationSource, SegmentationSplit
from seg.data.masks import masks
from seg.data.streets import streets
from seg.transforms import EvalTransform, TrainTransform
from tests.refusals import refuses

RNG = np.random.default_rng(0)
LUT = CITYSCAPES_CLASSES.lut()


# ------------------------------------------------------------------ Cityscapes

LABEL_IDS = np.array([0, 1, 3, 4, 7, 8, 11, 17, 20, 21, 23, 24, 26, 29, 33], np.uint8)


def write_city(root, split, name, ids, *, train_ids=None, image=True, instances=True):
    city = name.split("_")[0]
    if image:
        pixels = RNG.integers(0, 256, (*ids.shape, 3), dtype=np.uint8)
        write_png(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", pixels)
    masks_at = root / "gtFine" / split / city
    write_png(masks_at / f"{name}_gtFine_labelIds.png", ids)
    if train_ids is not None:
        write_png(masks_at / f"{name}_gtFine_labelTrainIds.png", train_ids)
    if instances:
        things = np.where(ids >= 24, ids.astype(np.uint16) * 1000 + 1, ids).astype(np.uint16)
        write_png(masks_at / f"{name}_gtFine_instanceIds.png", things)


@pytest.fixture
def city(tmp_path):
    for split, towns in {"train": "aachen", "val": "ulm", "test": "bonn"}.items():
        for number in range(3):
            ids = RNG.choice(LABEL_IDS, (16, 32))
            ids[0, :5] = (0, 7, 21, 26, 33)
            write_city(tmp_path, split, f"{towns}_00000{number}_000019", ids)
    return tmp_path


def test_cityscapes_classes_are_the_19_of_the_paper():
    assert len(CITYSCAPES_CLASSES) == 19
    assert CITYSCAPES_CLASSES.names[:3] == ("road", "sidewalk", "building")
    assert CITYSCAPES_CLASSES.names[13] == "car"
    assert CITYSCAPES_CLASSES.ids[13] == 26
    assert CITYSCAPES_CLASSES.colors[13] == (0, 0, 142)
    assert sum(CITYSCAPES_CLASSES.instances) == 8
    assert CITYSCAPES_CLASSES.category_names == (
        "flat", "construction", "object", "nature", "sky", "human", "vehicle",
    )  # fmt: skip
    assert (LUT[:34] != 254).all()
    assert (LUT[:34] == 255).sum() == 15


def test_cityscapes_tree_is_read(city):
    data = cityscapes(root=str(city))
    assert list(data.splits) == ["train", "val", "test"]
    assert data.classes is CITYSCAPES_CLASSES
    assert "train 3, val 3, test 3" in data.description
    assert len(data.warnings) == 3  # none of the counts is official
    assert "official split has 2975" in data.warnings[0]
    dataset = data.dataset("val", EvalTransform(), 0)
    assert len(dataset) == 3
    assert dataset.name(2) == "ulm_000002_000019"
    sample = dataset[SampleKey(1, 0)]
    stored = np.asarray(Image.open(city / "gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png"))
    assert sample["image"].shape == (3, 16, 32)
    assert sample["image"].dtype == sample["label"].dtype == torch.uint8
    np.testing.assert_array_equal(sample["label"], LUT[stored])
    assert sample["instances"].dtype == torch.int32
    np.testing.assert_array_equal(sample["instances"] // 1000 == 26, stored == 26)
    assert sample["index"] == 1
    image = np.asarray(Image.open(city / "leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png"))
    np.testing.assert_array_equal(sample["image"].permute(1, 2, 0), image)


def test_deleted_cityscapes_images_are_not_read(city):
    shutil.copytree(city / "leftImg8bit/train/aachen", city / "leftImg8bit/train/#recycle")
    for path in (city / "leftImg8bit/train/#recycle").iterdir():
        path.rename(path.with_name(path.name.replace("aachen", "deleted")))
    assert "train 3, val 3, test 3" in cityscapes(root=str(city)).description


def test_images_that_two_cityscapes_splits_share_are_rejected(city):
    source = next((city / "leftImg8bit/train").rglob("*.png"))
    shutil.copy(source, next((city / "leftImg8bit/val").rglob("*.png")))
    refuses(
        lambda: cityscapes(root=str(city)),
        r"the same image as .*\(train and val share 1\); remove .* data\.source\.allow_same_files=true",
    )
    assert len(cityscapes(root=str(city), allow_same_files=True).splits["val"]) == 3


def test_instances_are_read_for_evaluation_and_only_if_every_image_has_them(city):
    assert (
        "instances" not in cityscapes(root=str(city)).dataset("val", TrainTransform(crop=32))[SampleKey(0, 0)]
    )
    os.remove(city / "gtFine/val/ulm/ulm_000001_000019_gtFine_instanceIds.png")
    data = cityscapes(root=str(city))
    assert "instances" not in data.dataset("val", EvalTransform())[SampleKey(0, 0)]
    assert "instances" in data.dataset("train", EvalTransform())[SampleKey(0, 0)]
    (line,) = [line for line in data.warnings if "instanceIds" in line]
    assert "1 of 3 val images, such as ulm_000001_000019, have no *_gtFine_instanceIds.png" in line


def replace_masks(root, convert, keep=()):
    for path in sorted((root / "gtFine").rglob("*_labelIds.png")):
        if not any(part in str(path) for part in keep):
            write_png(path, convert(np.asarray(Image.open(path))))


def test_the_kind_of_a_mask_follows_from_its_content(city):
    expected = cityscapes(root=str(city)).dataset("val", EvalTransform())[SampleKey(0, 0)]["label"]
    replace_masks(city, lambda ids: LUT[ids])  # training ids in files named like label ids
    data = cityscapes(root=str(city))
    assert "labelTrainIds" in data.description
    assert any("labelIds.png contain labelTrainIds" in line for line in data.warnings)
    assert torch.equal(data.dataset("val", EvalTransform())[SampleKey(0, 0)]["label"], expected)
    for path in (city / "gtFine").rglob("*_labelIds.png"):  # and the same under their own name
        path.rename(str(path).replace("labelIds", "labelTrainIds"))
    data = cityscapes(root=str(city))
    assert torch.equal(data.dataset("val", EvalTransform())[SampleKey(0, 0)]["label"], expected)
    assert not any("hold" in line for line in data.warnings)


def test_with_on_error_skip_missing_files_and_the_rarer_kind_of_ids_are_errors_when_they_are_read(city):
    replace_masks(city, lambda ids: LUT[ids], keep=("/train/", "ulm_000001"))
    image = city / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    mask = city / "gtFine/val/ulm/ulm_000002_000019_gtFine_labelIds.png"
    image.unlink()
    mask.unlink()
    with pytest.raises(UserError, match="no image leftImg8bit"):
        cityscapes(root=str(city))
    data = cityscapes(root=str(city), on_error="skip")
    assert "masks of labelIds" in data.description
    train, val = data.dataset("train", None), data.dataset("val", None)
    assert (train.image_path(0), val.sample_files(2)[1]) == (str(image), str(mask))
    for dataset, index, message in (
        (train, 0, "cannot be read"),
        (val, 0, "255"),
        (val, 2, "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            dataset.read(index)
    assert val.read(1)[1].shape == (16, 32)


def test_label_ids_are_preferred_to_training_ids(city):
    for path in (city / "gtFine").rglob("*_labelIds.png"):
        write_png(str(path).replace("labelIds", "labelTrainIds"), np.zeros((16, 32), np.uint8))
    label = cityscapes(root=str(city)).dataset("val", EvalTransform())[SampleKey(0, 0)]["label"]
    assert set(label[0, :5].tolist()) == {255, 0, 8, 13, 18}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((1, 3, 7, 8, 11, 21, 23, 26), "labelIds"),
        ((0, 1, 19), "labelIds"),
        ((0, 1, 2, 10, 255), "labelTrainIds"),
        ((255,), "labelTrainIds"),
        ((0, 1, 2, 3), None),  # an official test mask, or a street without sky: decided by name
        (tuple(range(19)), None),
    ],
)
def test_mask_kind(tmp_path, values, kind):
    write_png(tmp_path / "m.png", np.array([values], np.uint8))
    assert mask_kind(str(tmp_path / "m.png")) == kind


def test_ambiguous_masks_follow_their_name(city):
    replace_masks(city, lambda ids: np.full_like(ids, 7))
    label = cityscapes(root=str(city)).dataset("val", EvalTransform())[SampleKey(0, 0)]["label"]
    assert (label == 0).all()  # label id 7 is road; as a training id it would be class 7
    for path in (city / "gtFine").rglob("*_labelIds.png"):
        path.rename(str(path).replace("labelIds", "labelTrainIds"))
    label = cityscapes(root=str(city)).dataset("val", EvalTransform())[SampleKey(0, 0)]["label"]
    assert (label == 7).all()


def test_mixed_kinds_are_rejected_before_training(city):
    replace_masks(city, lambda ids: LUT[ids], keep=["aachen"])
    refuses(
        lambda: cityscapes(root=str(city)),
        r"ulm_\d+_\d+_gtFine_labelIds",
        "aachen",
        "training ids",
        "label ids",
    )


def test_values_of_neither_kind_are_rejected_before_training(city):
    path = city / "gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png"
    for values in ((7, 40), (20, 255)):
        write_png(path, np.resize(np.array(values, np.uint8), (16, 32)))
        refuses(lambda: cityscapes(root=str(city)), path.name, f"{values[1]}", "gtFine_trainvaltest.zip")
    write_png(path, np.zeros((16, 32, 3), np.uint8))
    refuses(lambda: cityscapes(root=str(city)), path.name, "color image")


def test_an_unknown_value_after_the_start_names_file_value_and_count(city):
    data = cityscapes(root=str(city))
    path = city / "gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png"
    ids = np.full((16, 32), 7, np.uint8)
    ids[:2, :3] = 99
    ids[5, 5] = 255
    write_png(path, ids)
    dataset = data.dataset("val", EvalTransform())
    refuses(
        lambda: dataset[SampleKey(1, 0)],
        path.name,
        r"unknown values 99 \(6 pixels\), 255 \(1 pixels\)",
        "restore",
    )


def test_missing_parts_of_the_tree_are_named(city, tmp_path):
    message = refuses(
        lambda: cityscapes(root=str(tmp_path / "none")), "none", "manual download", "register at"
    )
    for step in ("1.", "2.", "3.", "4.", "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"):
        assert step in message
    mask = city / "gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png"
    moved = mask.rename(city / "away.png")
    refuses(
        lambda: cityscapes(root=str(city)), "ulm_000001_000019_leftImg8bit", "1 of 3 val images", "gtFine"
    )
    moved.rename(mask)
    image = city / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    moved = image.rename(city / "away.png")
    refuses(
        lambda: cityscapes(root=str(city)), "aachen_000000_000019_gtFine", "1 of 3 train masks", "leftImg8bit"
    )
    moved.rename(image)
    shutil.rmtree(city / "gtFine/test")
    data = cityscapes(root=str(city))
    assert "label" not in data.dataset("test", EvalTransform())[SampleKey(0, 0)]
    shutil.rmtree(city / "leftImg8bit/train")
    shutil.rmtree(city / "gtFine/train")
    data = cityscapes(root=str(city))
    refuses(lambda: data.dataset("train", EvalTransform()), "no split 'train'", "add images to train")


@pytest.mark.data
def test_a_real_cityscapes_pair(data_folder):
    tree = str(data_folder / "cityscapes_real" / "tree")
    sample = cityscapes(root=tree).dataset("val", EvalTransform())[SampleKey(0, 0)]
    folder = os.path.join(tree, "gtFine", "val", "frankfurt", "frankfurt_000000_000294_gtFine_")
    # the pair was scaled down, so that the two masks differ in a few pixels at edges
    assert (sample["label"].numpy() == np.asarray(Image.open(folder + "labelTrainIds.png"))).mean() > 0.99
    assert mask_kind(folder + "labelIds.png") == "labelIds"
    assert mask_kind(folder + "labelTrainIds.png") == "labelTrainIds"


# ----------------------------------------------------------------------- masks


CLASSES = {
    "classes": [
        {"id": 5, "name": "cell", "color": [255, 0, 0]},
        {"id": 1, "name": "rest", "color": [0, 255, 0]},
        {"id": 300, "name": "dust", "color": [0, 0, 255]},
    ],
    "ignore": [9],
    "ignore_colors": [[0, 0, 0]],
}


@pytest.fixture
def masks_tree(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    for split, names in {"train": "abc", "val": "xy", "test": "t"}.items():
        for name in names:
            image = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
            write_png(tmp_path / "images" / split / f"{name}.png", image)
            if split != "test":
                write_png(
                    tmp_path / "masks" / split / f"{name}.png", RNG.choice(np.uint8([5, 1, 9]), (12, 20))
                )
    return tmp_path


def build(root, **options):
    return masks(root=str(root), **options)


def label_of(root, split="val", index=0):
    return build(root).dataset(split, EvalTransform())[SampleKey(index, 0)]["label"].numpy()


def test_masks_are_read(masks_tree):
    data = build(masks_tree)
    assert {split: len(files) for split, files in data.splits.items()} == {"train": 3, "val": 2, "test": 1}
    assert list(data.splits) == ["train", "val", "test"]
    assert len(data.classes) == 3
    stored = np.asarray(Image.open(masks_tree / "masks/val/y.png"))
    expected = np.select([stored == 5, stored == 1], [0, 1], 255)
    np.testing.assert_array_equal(label_of(masks_tree, index=1), expected)
    assert data.dataset("val", EvalTransform()).name(1) == "y"
    assert "label" not in data.dataset("test", EvalTransform())[SampleKey(0, 0)]


def test_every_kind_of_mask_gives_the_same_label(masks_tree):
    index = RNG.integers(0, 4, (12, 20))
    expected = np.array([0, 1, 2, 255], np.uint8)[index]
    path = masks_tree / "masks/val/x.png"
    write_png(path, np.array([5, 1, 300, 9], np.uint16)[index])
    np.testing.assert_array_equal(label_of(masks_tree), expected)
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]], np.uint8)[index]
    write_png(path, colors)
    np.testing.assert_array_equal(label_of(masks_tree), expected)
    alpha = Image.fromarray(colors)
    alpha.putalpha(128)
    alpha.save(path)
    np.testing.assert_array_equal(label_of(masks_tree), expected)
    palette = Image.frombytes("P", (20, 12), np.array([5, 1, 9, 9], np.uint8)[index].tobytes())
    palette.putpalette(bytes(range(256)) * 3)
    palette.save(path)
    np.testing.assert_array_equal(label_of(masks_tree), np.where(expected == 2, 255, expected))


def save_palette(path, index, colors):
    image = Image.fromarray(index.astype(np.uint8), mode="P")
    image.putpalette(np.uint8(colors).tobytes())
    image.save(path)


RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
"""Of the ids 5, 1, 300 (classes 0, 1, 2) and of ignored pixels, in CLASSES."""


def test_color_masks_that_were_saved_with_a_palette_keep_their_colors(masks_tree):
    """optipng stores blue, black, red, green as the indices 0 to 3, none of which are ids but 1."""
    index = RNG.integers(0, 4, (12, 20))
    save_palette(masks_tree / "masks/val/x.png", index, [BLUE, BLACK, RED, GREEN])
    np.testing.assert_array_equal(label_of(masks_tree), np.array([2, 255, 0, 1])[index])


def test_palette_masks_whose_indices_are_ids_are_read_by_index(masks_tree):
    """Ids 1, 5, 9 are classes 1, 0 and ignored; their colors are those of a drawing program, or agree."""
    index = RNG.choice([1, 5, 9], (12, 20))
    expected = np.select([index == 1, index == 5], [1, 0], 255)
    colors = RNG.integers(1, 250, (10, 3))
    save_palette(masks_tree / "masks/val/x.png", index, colors)
    np.testing.assert_array_equal(label_of(masks_tree), expected)
    colors[[1, 5, 9]] = GREEN, RED, BLACK
    save_palette(masks_tree / "masks/val/x.png", index, colors)
    np.testing.assert_array_equal(label_of(masks_tree), expected)


def test_a_palette_mask_that_can_mean_two_things_is_refused_with_the_choice(masks_tree):
    """Index 1 is the id of class 1, and red, the color of class 0; index 5 the other way round."""
    index, path = RNG.choice([1, 5], (12, 20)), masks_tree / "masks/val/x.png"
    colors = np.zeros((6, 3), int)
    colors[[1, 5]] = RED, GREEN
    save_palette(path, index, colors)
    refuses(
        lambda: build(masks_tree),
        r"val/x\.png: a palette image whose index 1 is a class id, but has another class.*\[255, 0, 0\]",
        r"data\.source\.palette=ids or data\.source\.palette=colors$",
    )
    for choice, expected in (("ids", index == 5), ("colors", index == 1)):
        data = build(masks_tree, palette=choice).dataset("val", EvalTransform())
        np.testing.assert_array_equal(data[SampleKey(0, 0)]["label"] == 0, expected)


def test_a_palette_that_is_neither_ids_nor_colors_is_refused(masks_tree):
    save_palette(masks_tree / "masks/val/x.png", np.full((12, 20), 3), [RED, RED, RED, (1, 2, 3)])
    refuses(lambda: build(masks_tree), r"unknown value 3 \(240 pixels\)")
    refuses(lambda: build(masks_tree, palette="colors"), r"unknown value \[1, 2, 3\] \(240 pixels\)")


def spoil(path, values, dtype=np.uint8):
    write_png(path, np.resize(np.array(values, dtype), (12, 20, 3) if np.ndim(values) > 1 else (12, 20)))


def test_unknown_values_are_rejected_before_training(masks_tree):
    path = masks_tree / "masks/train/b.png"
    spoil(path, [5, 1, 255, 255])
    refuses(
        lambda: build(masks_tree),
        r"train/b\.png",
        r"unknown value 255 \(120 pixels\)",
        r"classes\.json",
        "ignore",
    )
    spoil(path, [5, 1, 299], np.uint16)
    refuses(lambda: build(masks_tree), r"299 \(80 pixels\)")
    spoil(path, range(10, 40))
    refuses(lambda: build(masks_tree), "unknown values 10", "and 25 more")
    spoil(path, [[255, 0, 0], [0, 254, 0]])
    refuses(lambda: build(masks_tree), r"\[0, 254, 0\] \(120 pixels\)", "ignore_colors")


def test_a_single_class_is_refused(masks_tree):
    (masks_tree / "classes.json").write_text(
        json.dumps({"classes": CLASSES["classes"][:1], "ignore": [1, 9]})
    )
    refuses(lambda: build(masks_tree), "train: 3 of 3 masks read: cell", "at least two classes")
    with pytest.raises(UserError, match=r"mine: 'a' is the only class, .* at least 2 classes are needed"):
        SegmentationSource(classes=ClassMap(names=("a",)), splits={}, read_label=None, description="mine")


def stripes(root, split, name, **rows):
    """A mask of 10 rows of 10 pixels, `v5=3` of them with the value 5, and its image."""
    values = [int(value[1:]) for value, count in rows.items() for _ in range(count)]
    write_png(root / "masks" / split / f"{name}.png", np.repeat(np.uint8(values), 10).reshape(10, 10))
    write_png(root / "images" / split / f"{name}.png", RNG.integers(0, 256, (10, 10, 3), dtype=np.uint8))


def striped(root, classes, **splits):
    entries = [{"id": number, "name": name} for name, number in classes.items()]
    root.mkdir(exist_ok=True)
    (root / "classes.json").write_text(json.dumps({"classes": entries, "ignore": [255]}))
    for split, masks_of_split in splits.items():
        for index, rows in enumerate(masks_of_split):
            stripes(root, split, f"{split}{index}", **rows)
    return root


def test_the_shares_of_classes_and_ignored_pixels_are_reported_before_training(tmp_path):
    """train: 20 rows, 12 of sky, 2 of car, 6 ignored; val: 10 rows, 5 of sky, 5 of sign."""
    train = [{"v0": 8, "v1": 2}, {"v0": 4, "v255": 6}]
    root = striped(tmp_path / "a", {"sky": 0, "car": 1, "sign": 2}, train=train, val=[{"v0": 5, "v2": 5}])
    assert [line.removeprefix(f"{root}: ") for line in build(root).warnings] == [
        "train: 2 of 2 masks read: sky 60.0%, car 10.0%, ignored 30.0%",
        "train: none of the 2 masks read contains sign; check the ids and `ignore` in classes.json",
        "val: 1 of 1 masks read: sky 50.0%, sign 50.0%, ignored 0.0%",
        "val: the mask read does not contain car; check the ids and `ignore` in classes.json",
    ]


def test_a_foreground_that_is_ignored_is_refused(tmp_path):
    """Masks of 0 and 255 with the usual "ignore": [255]: only background is left, and mIoU would be 1."""
    rows = [{"v0": 8, "v255": 2}]
    root = striped(tmp_path / "a", {"background": 0, "crack": 1}, train=rows, val=rows)
    refuses(
        lambda: build(root), "train: 1 of 1 masks read: background 80.0%, ignored 20.0%; at least two classes"
    )
    root = striped(tmp_path / "b", {"sky": 0, "car": 1}, train=[{"v0": 5, "v1": 5}], val=[{"v255": 10}])
    refuses(lambda: build(root), "val: 1 of 1 masks read: no class, ignored 100.0%; nothing can be scored")


def test_masks_are_read_on_until_a_second_class_occurs(tmp_path):
    """27 masks: the 24 that are read first, evenly spaced, leave out number 13, which has the only car."""
    masks_of_train = [{"v0": 10}] * 13 + [{"v0": 5, "v1": 5}] + [{"v0": 10}] * 13
    assert 13 not in evenly_spaced(27, 24)
    root = striped(tmp_path / "a", {"sky": 0, "car": 1}, train=masks_of_train, val=[{"v0": 5, "v1": 5}])
    assert any("car" in line for line in build(root).warnings)


def test_broken_pairs_are_rejected_before_training(masks_tree):
    (masks_tree / "masks/val/y.png").rename(masks_tree / "y.png")
    refuses(lambda: build(masks_tree), r"images/val/y\.png: no mask .*masks/val/y\.png", "1 of 2")
    shutil.rmtree(masks_tree / "masks/val")
    refuses(lambda: build(masks_tree), "2 of 2 images of val")


def test_differing_sizes_are_rejected_even_if_exif_rotates_the_image(masks_tree):
    write_png(masks_tree / "masks/val/y.png", np.full((12, 21), 5, np.uint8))
    refuses(
        lambda: build(masks_tree),
        r"masks/val/y\.png: the mask is 12 x 21 but .*y\.png is 12 x 20",
        "same size",
    )
    write_png(masks_tree / "masks/val/y.png", np.full((12, 20), 5, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(masks_tree / "images/val/y.png").save(masks_tree / "images/val/y.png", exif=exif)
    refuses(lambda: build(masks_tree), "12 x 20 but .* 20 x 12", "EXIF")


def test_sizes_are_checked_again_when_a_sample_is_read(masks_tree):
    dataset = build(masks_tree).dataset("val", EvalTransform())
    write_png(masks_tree / "masks/val/y.png", np.full((12, 21), 5, np.uint8))
    refuses(lambda: dataset[SampleKey(1, 0)], r"masks/val/y\.png: the mask is 12 x 21", "12 x 20")


def test_images_that_train_and_val_share_are_rejected(masks_tree):
    shutil.copy(masks_tree / "images/train/b.png", masks_tree / "images/val/copy.png")
    shutil.copy(masks_tree / "masks/train/b.png", masks_tree / "masks/val/copy.png")
    refuses(lambda: build(masks_tree), r"val/copy\.png: the same image as .*train/b\.png")
    refuses(lambda: build(masks_tree, allow_same_names=True), "the same image")
    os.remove(masks_tree / "images/val/copy.png")
    os.remove(masks_tree / "masks/val/copy.png")
    for folder in ("images", "masks"):
        (masks_tree / folder / "val/x.png").rename(masks_tree / folder / "val/b.png")
    refuses(lambda: build(masks_tree), "'b' is in both", "allow_same_names")
    assert len(build(masks_tree, allow_same_names=True).splits["val"]) == 2


def add_copy(root, source, split, name):
    for kind in ("images", "masks") if split != "test" else ("images",):
        (root / kind / split).mkdir(exist_ok=True)
        if (root / kind / source).exists():
            shutil.copy(root / kind / source, root / kind / split / f"{name}.png")


@pytest.mark.parametrize("split", ["test", "holdout"])
def test_images_that_any_two_splits_share_are_counted_and_rejected(masks_tree, split):
    for number, source in enumerate(["train/a.png", "train/b.png", "val/x.png"]):
        add_copy(masks_tree, source, split, f"copy{number}")
    add_copy(masks_tree, "val/y.png", "train", "copy3")
    refuses(
        lambda: build(masks_tree),
        r"the same image as .*\(train and val share 1, train and "
        rf"{split} share 2, val and {split} share 1\)",
        r"or set data\.source\.allow_same_files=true$",
    )
    assert len(build(masks_tree, allow_same_files=True).splits["train"]) == 4
    (masks_tree / "images/train/copy3.png").rename(masks_tree / "images/train/y.png")
    (masks_tree / "masks/train/copy3.png").rename(masks_tree / "masks/train/y.png")
    # The same image under the same name: the only option that helps is named.
    refuses(lambda: build(masks_tree), r"or set data\.source\.allow_same_files=true$")
    assert len(build(masks_tree, allow_same_files=True).splits["train"]) == 4


def test_images_of_a_single_color_may_be_in_two_splits(masks_tree):
    for split, names in (("train", "nm"), ("val", "kl")):
        for name in names:
            write_png(masks_tree / "images" / split / f"{name}.png", np.zeros((12, 20, 3), np.uint8))
            write_png(masks_tree / "masks" / split / f"{name}.png", np.full((12, 20), 9, np.uint8))
    assert (
        f"{masks_tree}: 2 of the images of val have a single color and are also in train"
        in build(masks_tree).warnings
    )
    add_copy(masks_tree, "train/a.png", "val", "copy")
    refuses(lambda: build(masks_tree), "train and val share 1")


def test_empty_and_missing_folders_are_rejected(masks_tree):
    (masks_tree / "images/extra").mkdir()
    refuses(lambda: build(masks_tree), "images/extra: no images")
    shutil.rmtree(masks_tree / "images")
    refuses(
        lambda: build(masks_tree), "no folder of images with masks; expected images/train and masks/train"
    )
    (masks_tree / "images").mkdir()
    refuses(lambda: build(masks_tree), "images: no images")


def test_masks_without_image_are_reported_and_equal_stems_rejected(masks_tree):
    write_png(masks_tree / "masks/val/z.png", np.full((12, 20), 5, np.uint8))
    assert "masks/val/z.png: no image of this name (unused masks of val: 1)" in build(masks_tree).warnings[0]
    Image.open(masks_tree / "images/val/x.png").save(masks_tree / "images/val/x.jpg")
    refuses(lambda: build(masks_tree), "has the same name", "rename")


@pytest.mark.data
def test_camvid_as_distributed(data_folder):
    data = build(str(data_folder / "camvid"))
    assert {split: len(files) for split, files in data.splits.items()} == {"train": 367, "val": 101}
    assert len(data.classes) == 11
    sample = data.dataset("val", EvalTransform())[SampleKey(0, 0)]
    assert sample["label"].shape == sample["image"].shape[1:] == (360, 480)
    assert set(sample["label"].unique().tolist()) <= {*range(11), 255}


# --------------------------------------------------------------------- dataset


def test_an_error_in_a_worker_stays_a_user_error_that_names_the_file(masks_tree):
    dataset = build(masks_tree).dataset("train", EvalTransform())
    (masks_tree / "images/train/b.png").write_bytes(b"\x89PNG half a file")
    loader = DataLoader(dataset, sampler=[SampleKey(i, 0) for i in range(3)], num_workers=1, batch_size=None)
    with pytest.raises(UserError, match=r"images/train/b\.png.*(restore|remove)"):
        list(loader)


def test_a_sample_depends_on_nothing_but_seed_epoch_and_index(masks_tree):
    data, transform = build(masks_tree), TrainTransform(crop=32)

    def sample(seed, index, epoch):
        return data.dataset("train", transform, seed)[SampleKey(index, epoch)]["image"].numpy().tobytes()

    assert sample(1, 2, 3) == sample(1, 2, 3)
    assert len({sample(1, 2, epoch) for epoch in range(8)}) > 5
    assert len({sample(seed, 2, 0) for seed in range(8)}) > 5


def test_paths_are_packed_without_python_objects():
    paths = pack_paths(["short.png", "a/much/longer/päth.png"])
    assert paths.dtype.kind == "S"
    assert [os.fsdecode(path) for path in paths] == ["short.png", "a/much/longer/päth.png"]
    with pytest.raises(ValueError, match="one name"):
        SegmentationSplit(images=paths, names=paths[:1])


def test_evenly_spaced_indices_include_both_ends():
    assert evenly_spaced(5, 10) == [0, 1, 2, 3, 4]
    assert evenly_spaced(2975, 3) == [0, 1487, 2974]
    assert evenly_spaced(1, 3) == [0]


# --------------------------------------------------------------------- streets


def test_streets_are_drawn_once_and_then_reused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = {"num_train": 2, "num_val": 1, "num_test": 0, "size": (64, 128), "seed": 3}
    data = streets(**options)
    assert {split: len(files) for split, files in data.splits.items()} == {"train": 2, "val": 1}
    sample = data.dataset("val", EvalTransform())[SampleKey(0, 0)]
    assert sample["label"].shape == (64, 128)
    assert sample["image"].shape == (3, 64, 128)
    folders = list((tmp_path / "mobilenet-dense").iterdir())
    assert len(folders) == 1  # no partial copy next to it
    assert "64x128" in folders[0].name
    before = {path: path.stat().st_mtime_ns for path in folders[0].rglob("*.png")}
    streets(**options)
    assert before == {path: path.stat().st_mtime_ns for path in folders[0].rglob("*.png")}
    again = streets(**options, root=str(tmp_path / "elsewhere"))
    assert torch.equal(again.dataset("val", EvalTransform())[SampleKey(0, 0)]["image"], sample["image"])


def test_streets_are_described_as_drawn(tmp_path):
    data = streets(root=str(tmp_path / "s"), num_train=1, num_val=1, num_test=0, size=(64, 128))
    assert data.description.startswith("built-in street scenes at")
    assert data.warnings == ()  # no warning that the official split has 2975


def test_streets_that_cannot_be_written_are_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    refuses(lambda: streets(root=str(tmp_path / "file" / "s")), "cannot be written", "another data.root")


def test_streets_do_not_ask_to_delete_a_cityscapes_tree(tmp_path):
    (tmp_path / "leftImg8bit").mkdir()
    assert "delete" not in refuses(lambda: streets(root=str(tmp_path)), "data=cityscapes")


def test_streets_never_overwrite_something_else(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    refuses(
        lambda: streets(root=str(tmp_path)),
        "not a folder of the built-in street scenes",
        "choose another folder",
    )
    assert (tmp_path / "mine.txt").read_text() == "precious"
    with pytest.raises(ValueError, match="num_train"):
        streets(num_train=0)
    with pytest.raises(ValueError, match="size must be"):
        streets(size=(8, 8))
