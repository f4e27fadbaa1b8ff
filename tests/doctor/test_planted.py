"""The generator of faults changes only what it says, in the same way for the same seed."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from engine.config.compose import compose_config
from engine.config.training import build_source
from engine.data.images import read_labels, write_png
from engine.errors import UserError
from tests.doctor import planted
from tests.doctor.copies import Box, Copy, copy_dataset, gt_fine, size_of
from tests.doctor.layouts import examples
from tests.doctor.planted import KINDS, plant

COUNT = 6  # images of each split


def photo(path, seed):
    """40 x 60 pixels, as JPEG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*examples.SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def dataset(kind, root):
    """A dataset that `copy_dataset` can copy."""
    if kind == "masks":
        for split in ("train", "val"):
            for number in range(COUNT):
                photo(root / f"images/{split}/{split}{number}.jpg", [len(split), number])
                examples.mask(root / f"masks/{split}/{split}{number}.png")
        entries = [{"id": at, "name": name} for at, name in enumerate(("rest", "cat", "dog"))]
        examples.write(root / "classes.json", {"classes": entries, "ignore": [255]})
    elif kind == "cityscapes":
        image = root / "tree/leftImg8bit/val/bonn/bonn_000000_000019_leftImg8bit.png"
        photo(image, 0)
        examples.mask(gt_fine(image, "labelIds"), (7, 24, 26))
        write_png(gt_fine(image, "instanceIds"), read_labels(gt_fine(image, "labelIds")).astype(np.uint16))
    elif kind == "voc":
        for at in range(2 * COUNT):
            photo(root / f"JPEGImages/{at}.jpg", at)
            examples.write(root / f"Annotations/{at}.xml", examples.voc_xml(f"{at}.jpg"))
        for split, numbers in (("train", range(COUNT)), ("val", range(COUNT, 2 * COUNT))):
            examples.write(root / f"ImageSets/Main/{split}.txt", "".join(f"{at}\n" for at in numbers))
    elif kind == "folders":
        for at in range(3 * COUNT):
            photo(root / f"{at:02}.jpg", at)
    else:
        names = [f"{at:02}.jpg" for at in range(3 * COUNT)]
        for at, name in enumerate(names):
            photo(root / "images/all" / name, at)
            examples.write(root / f"labels/all/{name[:-4]}.txt", examples.yolo_rows())
        if kind == "coco":
            examples.write(root / "instances.json", examples.coco_json(names))
        examples.write(root / "data.yaml", "train: images/all\nnames:\n  0: cat\n  1: dog\n")
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return {kind: dataset(kind, tmp_path_factory.mktemp(kind)) for kind in planted.ALL}


def content(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


CASES = [(kind, fault) for fault, kinds in KINDS.items() for kind in kinds]


@pytest.mark.parametrize(("kind", "fault"), CASES, ids=[f"{fault.__name__}-{kind}" for kind, fault in CASES])
def test_a_fault_changes_what_it_names_and_is_the_same_for_the_same_seed(kind, fault, source, tmp_path):
    original = content(source[kind])
    for name in ("a", "b"):
        copy_dataset(source[kind], tmp_path / name, kind)
    before = content(tmp_path / "a")
    done = plant(tmp_path / "a", fault, seed=3)
    after = content(tmp_path / "a")
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    if fault is planted.image_in_two_classes:  # it names the image, of which there is a copy
        assert (len(changed), done.files[0].read_bytes() in after.values()) == (1, True)
    else:
        assert changed == {path.relative_to(tmp_path / "a") for path in done.files}
    plant(tmp_path / "b", fault, seed=3)
    assert content(tmp_path / "b") == after
    assert content(source[kind]) == original


@pytest.mark.parametrize("kind", planted.BOXES)
def test_boxes_are_read_and_written_in_pixels(kind, source, tmp_path):
    copy = copy_dataset(source[kind], tmp_path / "copy", kind)
    sample = copy.samples["train"][1]
    boxes = copy.boxes(sample)
    assert [box.corners for box in boxes] == [
        pytest.approx(box, abs=0.01) for box in examples.OBJECTS.values()
    ]
    copy.set_boxes(sample, [*boxes, Box(boxes[0].label, (1, 2, 31, 22))])
    assert Copy(tmp_path / "copy").boxes(sample)[2].corners == pytest.approx((1, 2, 31, 22), abs=0.01)
    other = copy.samples["train"][0]
    assert len(copy.boxes(other)) == 2


def test_the_faults_of_masks_are_in_the_pixels(source, tmp_path):
    def mask_after(fault):
        copy_dataset(source["masks"], tmp_path / fault.__name__, "masks")
        return read_labels(plant(tmp_path / fault.__name__, fault).files[0])

    assert mask_after(planted.mask_size).shape == (39, 59)
    assert mask_after(planted.rotated_mask).shape == (60, 40)
    assert set(np.unique(mask_after(planted.ignored_mask))) == {255}
    assert set(np.unique(mask_after(planted.single_class_mask))) == {0}
    assert set(np.unique(mask_after(planted.unknown_values))) == {0, 1, 2, 3}


def test_the_faults_of_boxes_are_in_the_files(source, tmp_path):
    def after(fault, kind):
        root = tmp_path / f"{fault.__name__}-{kind}"
        copy_dataset(source[kind], root, kind)
        file = plant(root, fault).files[0]
        changed = [sample for sample in Copy(root).samples["train"] if sample.label == file]
        return max(map(Copy(root).boxes, changed), key=len), file

    boxes = after(planted.box_duplicate, "yolo")[0]
    assert boxes[2] == boxes[0]
    assert after(planted.box_outside, "coco")[0][2].corners == (65, 10, 85, 40)
    assert after(planted.box_degenerate, "voc")[0][2].corners == (11, 13, 11, 43)
    assert len(set(after(planted.many_objects, "voc")[0])) == 132
    _, file = after(planted.annotated_size, "voc")
    assert ElementTree.parse(file).getroot().findtext("size/width") == "120"
    rotated = json.loads(after(planted.box_rotated, "coco")[1].read_text())["annotations"]
    assert [row["attributes"] for row in rotated if "attributes" in row] == [{"rotation": 30.0}]


REFUSED = [
    (planted.same_image_in_splits, "share"),
    (planted.unknown_values, "not in"),
    (planted.mask_size, "the mask is"),
    (planted.missing_mask, "no mask"),
]


@pytest.mark.parametrize(("fault", "message"), REFUSED, ids=[fault.__name__ for fault, _ in REFUSED])
def test_what_the_reader_refuses_is_refused(fault, message, source, tmp_path):
    """The faults are real: without them the same source builds."""
    copy_dataset(source["masks"], tmp_path / "copy", "masks")
    config = compose_config("train", ["task=seg", "data=masks", f"data.root={tmp_path}/copy"])
    build_source(config)
    plant(tmp_path / "copy", fault)
    with pytest.raises(UserError):
        build_source(config)


def test_an_image_can_be_opened_upside_down_with_the_same_pixels(source, tmp_path):
    copy_dataset(source["folders"], tmp_path / "copy", "folders")
    image = plant(tmp_path / "copy", planted.exif_rotation).files[0]
    assert size_of(image) == (60, 40)
