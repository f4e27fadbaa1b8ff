"""Layouts of images and masks: which files are paired, and messages that name what is missing."""

import json
import os
import re

import numpy as np
import pytest

from engine.data.images import write_png
from engine.data.loader import SampleKey
from engine.errors import UserError
from seg.data.masks import masks
from seg.transforms import EvalTransform
from tests.refusals import refuses

SIZE = (8, 10)


def write_image(path, seed):
    write_png(path, np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8))


def write_mask(path, number):
    """Class 1 in the first column, and in one other pixel whose place is `number`."""
    mask = np.zeros(SIZE, np.uint8)
    mask[:, 0] = 1
    mask[number // 9 % 8, 1 + number % 9] = 1
    write_png(path, mask)


def tree(root, pairs, *, classes=True):
    """Images and masks at these paths, and classes.json."""
    root.mkdir(parents=True, exist_ok=True)
    for number, (image, mask) in enumerate(pairs):
        write_image(root / image, number)
        if mask:
            write_mask(root / mask, number)
    if classes:
        entries = [{"id": 0, "name": "rest"}, {"id": 1, "name": "cell"}]
        (root / "classes.json").write_text(json.dumps({"classes": entries, "ignore": [255]}))
    return root


def build(root, **options):
    return masks(root=str(root), **options)


def paired(root, **options):
    """{split: {image's name: number of its mask}}, from the pixels."""
    data = build(root, **options)
    found = {}
    for split in data.splits:
        dataset = data.dataset(split, EvalTransform())
        found[split] = {}
        for index in range(len(dataset)):
            label = dataset[SampleKey(index, 0)].get("label")
            row, column = np.argwhere(label.numpy()[:, 1:])[0] if label is not None else (0, None)
            found[split][dataset.name(index)] = None if column is None else int(row * 9 + column)
    return found


TWO = {"train": {"a": 0, "b": 1}, "val": {"c": 2, "d": 3}}
_OTHER_WORDS = [f"{kind}_dir/{split}/{{}}.png" for split in ("train", "val") for kind in ("img", "ann")]
_SUFFIXED = [f"{kind}/{{}}{end}.png" for kind, end in (("images/train", ""), ("masks/train", "_mask"))]
LAYOUTS = {
    "images/train": ("images/train/{}.png", "masks/train/{}.png", "images/val/{}.png", "masks/val/{}.png"),
    "other words": _OTHER_WORDS,
    "validation": (
        "images/training/{}.png", "annotations/training/{}.png",
        "images/validation/{}.png", "annotations/validation/{}.png",
    ),
    "two words": ("images/Train/{}.png", "masks/train/{}.png", "images/valid/{}.png", "masks/val/{}.png"),
    "train/images": [f"{s}/{kind}/{{}}.png" for s in ("train", "valid") for kind in ("images", "masks")],
    "CamVid": ("train/{}.png", "trainannot/{}.png", "val/{}.png", "valannot/{}.png"),
    "train_images": ("train_images/{}.png", "train_masks/{}.png", "val_images/{}.png", "val_masks/{}.png"),
    "flat masks": ("images/train/{}.png", "masks/{}.png", "images/val/{}.png", "masks/{}.png"),
    "x_mask": (*_SUFFIXED, "images/val/{}.png", "masks/val/{}_mask.png"),
    "any suffix": ("images/train/{}.png", "gt/train/{}-L7.png", "images/val/{}.png", "gt/val/{}-L7.png"),
    "beside": ("train/{}.png", "train/{}_mask.png", "val/{}.png", "val/{}_mask.png"),
    "beside, images": (
        "images/train/{}.png", "images/train/{}_gt.png", "images/val/{}.png", "images/val/{}_gt.png",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_with_splits(tmp_path, layout):
    image, mask, image_of_val, mask_of_val = LAYOUTS[layout]
    pairs = [(image.format(n), mask.format(n)) for n in "ab"]
    pairs += [(image_of_val.format(n), mask_of_val.format(n)) for n in "cd"]
    assert paired(tree(tmp_path, pairs)) == TWO


def test_voc_lists_and_folders(tmp_path):
    """ImageSets/Segmentation divides; an image of no list is not used; test has no masks."""
    names = "abcdef"
    pairs = [(f"JPEGImages/{n}.png", f"SegmentationClass/{n}.png" if n != "f" else None) for n in names]
    pairs.append(("SegmentationObject/a.png", None))
    root = tree(tmp_path, pairs)
    (root / "Annotations").mkdir()
    (root / "Annotations/a.xml").write_text("<annotation/>")
    for split, content in (
        ("train", "a\nb\n"),
        ("val", "c \n\nd.png\n"),
        ("test", "f\n"),
        ("trainval", "a\nd\n"),
    ):
        (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(content)
    assert paired(root) == {"train": {"a": 0, "b": 1}, "val": {"c": 2, "d": 3}, "test": {"f": None}}
    (root / "ImageSets/Segmentation/train.txt").write_text("a\nb\nz\n")
    refuses(lambda: build(root), r"JPEGImages: no image z, listed in train \(1 of 3")
    above = tmp_path.parent / f"{tmp_path.name}_above"
    (above / "VOCdevkit").mkdir(parents=True)
    tmp_path.rename(above / "VOCdevkit/VOC2012")
    refuses(lambda: build(above), "did you mean data.root=.*VOCdevkit/VOC2012")


FLAT = [(f"images/{n}.png", f"masks/{n}.png") for n in range(20)]


@pytest.mark.parametrize(
    "pairs",
    [
        FLAT,
        [(f"images/train/{n}.png", f"masks/train/{n}.png") for n in range(20)],
        [(f"imgs/{n}.png", f"masks/{n}_mask.png") for n in range(20)],
        [(f"{n}.png", f"{n}_label.png") for n in range(20)],
        [(f"images/street{n % 3}/{n}.png", f"masks/street{n % 3}/{n}.png") for n in range(20)],
    ],
)
def test_without_val_a_fifth_is_divided_off_the_same_way_each_time(tmp_path, pairs):
    first, second = (paired(tree(tmp_path, pairs)) for _ in range(2))
    assert first == second
    assert list(first) == ["train", "val"]
    numbers = {
        int(name.rpartition("/")[2]): number for part in first.values() for name, number in part.items()
    }
    assert numbers == {number: number for number in range(20)}
    assert 1 <= len(first["val"]) <= 8
    lines = [line for line in build(tmp_path).warnings if "chosen by a hash" in line]
    assert len(lines) == 1
    assert f"{len(first['val'])} of 20 images" in lines[0]


def test_a_name_keeps_its_side_when_images_are_added(tmp_path):
    before = paired(tree(tmp_path, FLAT))
    for number in range(20, 40):
        write_image(tmp_path / f"images/{number}.png", number)
        write_mask(tmp_path / f"masks/{number}.png", number)
    after = paired(tmp_path)
    assert before["val"].keys() <= after["val"].keys()
    assert before["train"].keys() <= after["train"].keys()


def test_identical_images_are_on_one_side(tmp_path):
    tree(tmp_path, FLAT)
    for number in range(20):
        write_image(tmp_path / f"images/copy{number}.png", number)
        write_mask(tmp_path / f"masks/copy{number}.png", number)
    found = paired(tmp_path)
    sides = [{name.removeprefix("copy") for name in part} for part in found.values()]
    assert sides[0].isdisjoint(sides[1])
    assert any("20 images are copies of another" in line for line in build(tmp_path).warnings)


def test_val_alone_and_test_alone_are_not_divided(tmp_path):
    root = tree(
        tmp_path, [("images/val/a.png", "masks/val/a.png"), ("images/test/b.png", "masks/test/b.png")]
    )
    assert paired(root) == {"val": {"a": 0}, "test": {"b": 1}}


def test_two_suffixes_need_a_choice(tmp_path):
    root = tree(tmp_path, [(f"images/{n}.png", f"masks/{n}_mask.png") for n in range(10)])
    for number in range(10):
        write_mask(root / f"masks/{number}_gt.png", number + 1)
    refuses(lambda: build(root), "ending in _gt and _mask; set data.source.mask_suffix=_gt")
    found = paired(root, mask_suffix="_gt")
    assert found["train"] | found["val"] == {str(number): number + 1 for number in range(10)}


def test_a_longer_name_is_not_taken_for_a_suffix(tmp_path):
    """1 and 10: the mask 10_mask starts with 1, too."""
    root = tree(tmp_path, [(f"images/{n}.png", f"masks/{n}_mask.png") for n in (1, 10, 100, 2)])
    found = paired(root)
    assert found["train"] | found["val"] == {"1": 0, "10": 1, "100": 2, "2": 3}


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("masks/b_segm.png", r"b\.png: no mask .*b\.png \(1 of 3 images have none\); there is b_segm: set "
         "data.source.mask_suffix=_segm"),
        ("masks/B.png", r"b\.png: no mask .*; the nearest name is B: rename one"),
        ("masks/other.png", "no mask .*; add the masks or remove the images"),
    ],
)  # fmt: skip
def test_a_missing_mask_names_the_nearest(tmp_path, mask, message):
    root = tree(
        tmp_path, [("images/a.png", "masks/a.png"), ("images/b.png", mask), ("images/c.png", "masks/c.png")]
    )
    refuses(lambda: build(root), message)


def test_a_missing_mask_names_the_one_of_the_same_number(tmp_path):
    pairs = [(f"images/photo_{n}.png", f"masks/m{n:03d}.png") for n in (1, 2, 10)]
    root = tree(tmp_path, [*pairs, ("images/photo_3.png", None)])
    refuses(lambda: build(root), r"photo_1\.png: no mask .*; there is m001, with the same number: rename one")


@pytest.mark.parametrize("folders", [("site_0", "site_1"), ("east", "west")])
def test_masks_without_the_subfolders_of_the_images_are_named(tmp_path, folders):
    pairs = [(f"images/{folders[n % 2]}/{n:03d}.png", f"masks/{n:03d}.png") for n in range(4)]
    refuses(
        lambda: build(tree(tmp_path, pairs)),
        rf"{folders[0]}/000\.png: no mask .*; there is 000: put masks into the same subfolders",
    )


def test_files_that_are_no_masks_are_named_where_a_mask_is_missing(tmp_path):
    root = tree(tmp_path, [("images/a.png", "masks/a.png"), ("images/b.png", None)])
    (root / "masks/b.gif").write_bytes(b"GIF89a")
    refuses(lambda: build(root), r"no mask .*masks: 1 file left out: b\.gif")
    root = tree(tmp_path / "none", [("images/a.png", None), ("images/b.png", None)])
    refuses(lambda: build(root), "no mask .*images/ has no mask folder next to it")


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/image_{}.png", "masks/mask_{}.png"),
        ("{}_sat.png", "{}_mask.png"),
        ("imgs/a{}x.png", "gt/b{}y.png"),
    ],
)
def test_other_words_in_the_names_are_recognized_and_said(tmp_path, image, mask):
    root = tree(tmp_path, [(image.format(n), mask.format(n)) for n in range(10, 20)])
    found = paired(root)
    names = {int(re.sub(r"\D", "", name)): number for part in found.values() for name, number in part.items()}
    assert names == {number: number - 10 for number in range(10, 20)}
    assert any("masks paired by the differing part of their names" in line for line in build(root).warnings)


def test_numbers_with_zeros_in_front_are_the_same_numbers(tmp_path):
    numbers = (1, 2, 10, 11, 100)
    root = tree(tmp_path / "a", [(f"images/image_{n}.png", f"masks/mask_{n:02d}.png") for n in numbers])
    found = paired(root)
    assert found["train"] | found["val"] == {f"image_{n}": index for index, n in enumerate(numbers)}
    assert any("such as image_1 and mask_01" in line for line in build(root).warnings)
    root = tree(
        tmp_path / "b", [(f"images/s{n % 2}_{n:03d}.png", f"masks/s{n % 2}_{n}.png") for n in range(6)]
    )
    found = paired(root)
    assert found["train"] | found["val"] == {f"s{n % 2}_{n:03d}": n for n in range(6)}
    write_mask(root / "masks/s1_01.png", 7)  # s1_1 or s1_01?
    refuses(lambda: build(root), r"s0_000\.png: no mask")


def test_masks_named_with_one_word_replaced_are_paired_and_reported(tmp_path):
    for kind, word in (("images", "frame"), ("masks", "label")):
        for number, name in enumerate(("seq1", "seq1", "seq2", "seq2")):
            pixels = np.full((4, 6) if kind == "masks" else (4, 6, 3), number % 2, np.uint8)
            pixels[0, 0] = number
            write_png(tmp_path / kind / f"{name}_{word}_{number}.png", pixels)
    source = build(tmp_path)
    pairs = {
        os.path.basename(image): os.path.basename(label)
        for split in source.splits.values()
        for image, label in zip(split.images, split.labels, strict=True)
    }
    assert len(pairs) == 4
    assert all(label == image.replace(b"frame", b"label") for image, label in pairs.items())
    assert any(
        "masks paired by replacing frame with label in the images' names, such as" in w
        for w in source.warnings
    )
    write_png(tmp_path / "masks/seq1_depth_0.png", np.zeros((4, 6), np.uint8))  # not of all images
    assert len(build(tmp_path).splits["train"].labels) + len(build(tmp_path).splits["val"].labels) == 4
    for name in ("seq1_depth_1", "seq2_depth_2", "seq2_depth_3"):
        write_png(tmp_path / f"masks/{name}.png", np.zeros((4, 6), np.uint8))
    refuses(lambda: build(tmp_path), "the nearest name is")


def test_other_numbers_are_no_words(tmp_path):
    """Images 10 to 19 and masks 20 to 29 do not belong together."""
    root = tree(tmp_path, [(f"images/{n}.png", f"masks/{n + 10}.png") for n in range(10, 20)])
    refuses(lambda: build(root), r"images/10\.png: no mask")


def test_folders_with_other_names(tmp_path):
    root = tree(tmp_path, [(f"left/{n}.png", f"truth/{n}.png") for n in range(5)])
    refuses(lambda: build(root), "no folder of images with masks; expected .*data.source.images=<folder>")
    found = paired(root, images="left", masks="truth")
    assert len(found["train"] | found["val"]) == 5
    refuses(
        lambda: build(root, images="right", masks="truth"), "right: no such folder; check data.source.images"
    )
    root = tree(tmp_path / "two", [(f"images/{n}.png", f"masks/{n}.png") for n in range(5)])
    for number in range(5):
        write_mask(root / f"labels/{number}.png", 40 + number)
    refuses(lambda: build(root), "masks/ and labels/ could both be the masks; set data.source.masks")
    found = paired(root, masks="labels")
    assert found["train"] | found["val"] == {str(number): 40 + number for number in range(5)}


def test_two_folders_of_one_split_are_refused(tmp_path):
    pairs = [(f"images/{s}/{s}.png", f"masks/{s}/{s}.png") for s in ("train", "val", "valid")]
    refuses(
        lambda: build(tree(tmp_path, pairs)), "images: val/ and valid/ are both the split val; merge them"
    )


def unmasked(root):
    with pytest.raises(UserError) as caught:
        build(root)
    return str(caught.value).partition(" have none); ")[2] or str(caught.value)


def test_masks_of_kinds_that_are_not_read_are_named(tmp_path):
    root = tree(tmp_path, [("images/a.png", None), ("images/b.png", None)])
    for name in "ab":
        (root / "masks").mkdir(exist_ok=True)
        (root / "masks" / f"{name}_mask.gif").write_bytes(b"GIF89a")
    assert unmasked(root) == "masks/ has files that are not read: a_mask.gif, b_mask.gif; convert them to PNG"


@pytest.mark.parametrize("split", ["train", "valid"])
def test_masks_next_to_images_in_splits_are_named(tmp_path, split):
    root = tree(tmp_path, [(f"images/{split}/{name}.png", f"overlays/{split}/{name}.png") for name in "ab"])
    assert unmasked(root) == (
        "images/ has no mask folder next to it; if the masks are in overlays, set data.source.masks=overlays"
    )
    (root / "masks" / split).mkdir(parents=True)
    for name in "ab":
        (root / "masks" / split / f"{name}.npy").touch()
    unread = f"{split}/a.npy, {split}/b.npy"
    assert unmasked(root) == f"masks/ has files that are not read: {unread}; convert them to PNG"


def test_the_folder_of_the_images_is_not_the_root(tmp_path):
    root = tree(tmp_path, [(f"images/train/{name}.png", f"masks/train/{name}.png") for name in "ab"])
    assert unmasked(root / "images") == f"the images have masks next to images/: set data.root={root}"


def test_annotations_of_boxes_lead_to_the_check(tmp_path):
    root = tree(tmp_path, [("JPEGImages/a.png", None), ("JPEGImages/b.png", None)])
    (root / "Annotations").mkdir()
    (root / "Annotations" / "a.xml").touch()
    assert unmasked(root) == f"Annotations/ has no masks, but a.xml; run python tools/check.py {root}"


@pytest.mark.parametrize("folder", ["", "train/", "images/"])
def test_annotations_next_to_the_images_lead_to_the_check(tmp_path, folder):
    """LabelMe's files; folders beside data.root are none of its masks."""
    for number in range(3):
        write_mask(tmp_path / f"other/{number}.png", 1)
    root = tree(tmp_path / "photos", [(f"{folder}{name}.png", None) for name in "ab"])
    for name in "ab":
        (root / f"{folder}{name}.json").write_text("{}")
    where = folder.rstrip("/") or "photos"
    assert unmasked(root) == f"{where}/ has no masks, but a.json, b.json; run python tools/check.py {root}"


def test_a_mask_folder_beside_the_root_is_named_with_a_root_that_works(tmp_path):
    root = tree(tmp_path / "set", [(f"photos/{name}.png", f"truth/{name}.png") for name in "abcd"])
    assert unmasked(root / "photos") == (
        f"photos/ has no mask folder next to it; if the masks are in truth, set data.root={root} "
        "data.source.images=photos data.source.masks=truth"
    )
    assert sum(len(part) for part in build(root, images="photos", masks="truth").splits.values()) == 4


def test_folders_of_a_split_with_other_names_are_named(tmp_path):
    pairs = [(f"training/image_2/{name}.png", f"training/semantic/{name}.png") for name in "abcd"]
    root = tree(tmp_path, pairs)
    with pytest.raises(UserError) as caught:
        build(root)
    assert str(caught.value).endswith(
        "training/ has no mask folder next to it; if two of image_2, semantic are images and masks, set "
        "data.source.images=<folder> and data.source.masks=<folder>, as paths below data.root"
    )
    given = build(root, images="training/image_2", masks="training/semantic")
    assert sum(len(files) for files in given.splits.values()) == 4


def test_a_split_that_repeats_another_is_left_out(tmp_path):
    root = tree(tmp_path, [(f"JPEGImages/{name}.png", f"SegmentationClass/{name}.png") for name in "abc"])
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text("a\nb\n")
    data = build(root)
    assert {split: len(files) for split, files in data.splits.items()} == {"train": 2}
    assert f"{root}: val: all of its 2 images are also in train; the split is left out" in data.warnings
    both = build(root, allow_same_files=True, allow_same_names=True)
    assert {split: len(files) for split, files in both.splits.items()} == {"train": 2, "val": 2}


def test_a_mask_folder_with_another_name_is_named(tmp_path):
    root = tree(tmp_path, [(f"imgs/{name}.png", f"lbls/{name}.png") for name in "abcd"])
    assert unmasked(root) == (
        "imgs/ has no mask folder next to it; if the masks are in lbls, set data.source.masks=lbls"
    )
    assert sum(len(files) for files in build(root, masks="lbls").splits.values()) == 4


def test_one_mask_per_class_is_not_taken_for_a_wrong_name(tmp_path):
    root = tree(
        tmp_path, [(f"images/{name}.png", f"masks/{cls}/{name}.png") for name in "ab" for cls in ("x", "y")]
    )
    assert unmasked(root) == (
        "one mask per class (x, y) is not read: merge those of each image into one mask"
    )
