"""Plants faults in copies of datasets (`tests.doctor.copies`), one kind at a time.

Each function changes a copy and returns the count and the files that the doctor should report. The code
of the finding is the function's name, or what `REPORTED_AS` says. `KINDS` says in which kinds of datasets a
fault can be planted.
"""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from engine.data.images import read_labels, write_png
from tests.doctor.copies import Box, Copy, gt_fine, size_of

MASKS, BOXES = ("masks", "cityscapes"), ("voc", "coco", "yolo")
ALL = (*MASKS, *BOXES, "folders")


class Planted(NamedTuple):
    """What the doctor should find. count: None if it is at least one."""

    root: Path
    code: str
    count: int | None
    files: list[Path]


def plant(root, fault, *, seed=0):
    """Plant the fault in the copy at `root`; which files it hits depends only on the seed."""
    copy = Copy(root)
    assert copy.kind in KINDS[fault], f"{fault} cannot be planted in {copy.kind}"
    count, files = fault(copy, np.random.default_rng(seed))
    return Planted(copy.root, REPORTED_AS.get(fault, fault.__name__), count, files)


def _pick(samples, random):
    return samples[int(random.integers(len(samples)))]


def _pair(first, second, random):
    """A sample of each list, different and with images of the same size."""
    for _ in range(1000):
        one, other = _pick(first, random), _pick(second, random)
        if one.image != other.image and size_of(one.image) == size_of(other.image):
            return one, other
    raise AssertionError("no two images of one size")


def _save_again(image, target):
    """As JPEG of quality 60, or as PNG after that."""
    data = BytesIO()
    Image.open(image).convert("RGB").save(data, format="JPEG", quality=60)
    if target.suffix == ".png":
        Image.open(data).save(target)
    else:
        target.write_bytes(data.getvalue())


# ---- images


def damaged_image(copy, random):
    image = _pick(copy.samples["train"], random).image
    data = image.read_bytes()
    image.write_bytes(data[: len(data) // 2])
    return 1, [image]


def missing_image(copy, random):
    image = _pick(copy.samples["train"], random).image
    image.unlink()
    return 1, [image]


def exif_rotation(copy, random):
    """Upside down, so that the size stays; the pixels are not compressed again."""
    image = _pick(copy.samples["train"], random).image
    with Image.open(image) as opened:
        exif = opened.getexif()
        exif[0x0112] = 3
        quality = {"quality": "keep"} if opened.format == "JPEG" else {}
        opened.save(image.with_suffix(".new"), format=opened.format, exif=exif, **quality)
    image.with_suffix(".new").rename(image)
    return 1, [image]


def uniform_image(copy, random):
    image = _pick(copy.samples["train"], random).image
    Image.new("RGB", size_of(image), (90, 90, 90)).save(image)
    return 1, [image]


def same_image_in_splits(copy, random):
    one, other = _pair(copy.samples["train"], copy.samples["val"], random)
    shutil.copyfile(one.image, other.image)
    return 1, [other.image]


def near_duplicates_in_splits(copy, random):
    one, other = _pair(copy.samples["train"], copy.samples["val"], random)
    _save_again(one.image, other.image)
    return 1, [other.image]


def copies(copy, random):
    """In class folders, of an image of the same class."""
    one, other = _pair(copy.samples["train"], copy.samples["train"], random)
    while copy.kind == "folders" and one.image.parent != other.image.parent:
        one, other = _pair(copy.samples["train"], copy.samples["train"], random)
    shutil.copyfile(one.image, other.image)
    return 1, [other.image]


def near_duplicates(copy, random):
    one, other = _pair(copy.samples["train"], copy.samples["train"], random)
    _save_again(one.image, other.image)
    return 1, [other.image]


def unsupported_format(copy, random):
    image = _pick(copy.samples["train"], random).image.with_suffix(".heic")
    image.write_bytes(b"ftypheic")
    return 1, [image]


def unused_images(copy, random):
    """An image that no list and no annotation names."""
    image = _pick(copy.samples["train"], random).image.with_name("unlisted.png")
    write_png(image, random.integers(0, 256, (64, 64, 3), np.uint8))
    return 1, [image]


def brightness_drift(copy, random):
    """All images of val are brighter by a third of the range."""
    for sample in copy.samples["val"]:
        pixels = np.asarray(Image.open(sample.image).convert("RGB"), np.float32)
        Image.fromarray((85 + pixels * 2 / 3).astype(np.uint8)).save(sample.image, quality=95)
    return 1, [sample.image for sample in copy.samples["val"]]


# ---- masks


def _rewrite(sample, change):
    labels = read_labels(sample.label)
    write_png(sample.label, np.ascontiguousarray(change(labels)).astype(np.uint8))
    return sample.label


def _rewrite_all(samples, change):
    """Rewrite the masks that change; returns their files."""
    changed = []
    for sample in samples:
        labels = read_labels(sample.label)
        if (new := change(labels.copy())).tobytes() != labels.tobytes():
            changed.append(_rewrite(sample, lambda _, new=new: new))
    return changed


def _ignored(copy):
    return copy.classes.ignore[0]


def damaged_mask(copy, random):
    mask = _pick(copy.samples["train"], random).label
    data = mask.read_bytes()
    mask.write_bytes(data[: len(data) // 2])
    return 1, [mask]


def missing_mask(copy, random):
    mask = _pick(copy.samples["train"], random).label
    mask.unlink()
    return 1, [mask]


def unknown_values(copy, random):
    """A few pixels with a value that is neither a class nor ignored."""
    sample = _pick(copy.samples["train"], random)
    classes = copy.classes
    unknown = next(value for value in range(256) if value not in (*classes.ids, *classes.ignore))

    def change(labels):
        labels[:4, :4] = unknown
        return labels

    return 1, [_rewrite(sample, change)]


def mask_size(copy, random):
    return 1, [_rewrite(_pick(copy.samples["train"], random), lambda labels: labels[1:, :-1])]


def rotated_mask(copy, random):
    return 1, [_rewrite(_pick(copy.samples["train"], random), np.rot90)]


def ignored_mask(copy, random):
    value = _ignored(copy)
    return 1, [_rewrite(_pick(copy.samples["train"], random), lambda labels: np.full_like(labels, value))]


def single_class_mask(copy, random):
    value = copy.classes.ids[0]
    return 1, [_rewrite(_pick(copy.samples["train"], random), lambda labels: np.full_like(labels, value))]


def imbalance(copy, random):
    """One class keeps ten pixels in train."""
    value, left = _frequent_class(copy), 10

    def change(labels):
        nonlocal left
        places = np.flatnonzero(labels == value)
        labels.flat[places[left:]] = _ignored(copy)
        left -= min(left, len(places))
        return labels

    return 1, _rewrite_all(copy.samples["train"], change)


def class_drift(copy, random):
    """In val, a class loses seven eighths of its pixels."""
    value = _frequent_class(copy)

    def change(labels):
        places = np.flatnonzero(labels == value)
        labels.flat[places[: len(places) * 7 // 8]] = _ignored(copy)
        return labels

    return 1, _rewrite_all(copy.samples["val"], change)


def _frequent_class(copy):
    """The id of the class whose shares in train and val are the most alike, of those with a tenth or more."""
    classes, shares = copy.classes, []
    for samples in copy.samples.values():
        counts = sum(np.bincount(read_labels(sample.label).ravel(), minlength=256) for sample in samples)
        shares.append(counts[list(classes.ids)] / counts.sum())
    ratio = np.abs(np.log(np.maximum(shares[0], 1e-9) / np.maximum(shares[1], 1e-9)))
    ratio[np.minimum(*shares) < 0.1] = np.inf
    return classes.ids[int(ratio.argmin())]


def class_absent(copy, random):
    """A class that occurs in both splits is removed from val."""
    val = copy.samples["val"]
    if copy.kind == "folders":
        names = sorted({sample.image.parent for sample in val})
        shutil.rmtree(names[0])
        return 1, [sample.image for sample in val if sample.image.parent == names[0]]
    if copy.kind in MASKS:
        value, ignored = _frequent_class(copy), _ignored(copy)
        return 1, _rewrite_all(val, lambda labels: np.where(labels == value, ignored, labels))
    boxes = {sample: copy.boxes(sample) for sample in val}
    used = {box.label for found in boxes.values() for box in found}
    in_train = {box.label for sample in copy.samples["train"] for box in copy.boxes(sample)}
    alone = {found[0].label for found in boxes.values() if len({box.label for box in found}) == 1}
    gone = min((used & in_train) - alone, key=str)  # no image remains without objects
    changed = [sample for sample in val if gone in {box.label for box in boxes[sample]}]
    for sample in changed:
        copy.set_boxes(sample, [box for box in boxes[sample] if box.label != gone])
    return 1, list(dict.fromkeys(sample.label for sample in changed))


def instances(copy, random):
    """Damaged or of another size; only those of val are read."""
    one, other = random.choice(len(copy.samples["val"]), 2, replace=False)
    damaged, small = (gt_fine(copy.samples["val"][int(at)].image, "instanceIds") for at in (one, other))
    damaged.write_bytes(damaged.read_bytes()[:100])
    write_png(small, np.ascontiguousarray(read_labels(small)[1:, :-1]))
    return 2, [damaged, small]


def missing_instances(copy, random):
    file = gt_fine(_pick(copy.samples["val"], random).image, "instanceIds")
    file.unlink()
    return 1, [file]


def training_ids(copy, random):
    """A mask of training ids under the name of one of label ids; some of its pixels are ignored (255)."""
    table = np.full(256, 255, np.uint8)
    table[list(copy.classes.ids)] = range(len(copy.classes))

    def change(labels):
        converted = table[labels]
        converted[0, 0] = 255
        return converted

    return 1, [_rewrite(_pick(copy.samples["train"], random), change)]


# ---- boxes


def _add(copy, random, make):
    """Add to a training image with objects the box that `make` returns for (its size, its first box)."""
    sample = _pick([s for s in copy.samples["train"] if copy.boxes(s)], random)
    boxes = copy.boxes(sample)
    new = make(size_of(sample.image), boxes[0])
    copy.set_boxes(sample, [*boxes, Box(boxes[0].label, new)])
    return 1, [sample.label]


def box_degenerate(copy, random):
    return _add(copy, random, lambda size, box: (11, 13, 11, 43))


def box_outside(copy, random):
    return _add(copy, random, lambda size, box: (size[0] + 5, 10, size[0] + 25, 40))


def box_clipped(copy, random):
    return _add(copy, random, lambda size, box: (size[0] - 41, 17, size[0] + 20, 71))


def box_duplicate(copy, random):
    return _add(copy, random, lambda size, box: box.corners)


def box_swapped(copy, random):
    return _add(copy, random, lambda size, box: (61, 23, 21, 67))


def box_rotated(copy, random):
    """An attribute, as CVAT writes it, says that a box is turned by 30 degrees; it stays inside the image."""
    places = [
        (sample, at)
        for sample in copy.samples["train"]
        for at, box in enumerate(copy.boxes(sample))
        if _turns_inside(box.corners, size_of(sample.image))
    ]
    sample, at = _pick(places, random)
    if copy.kind == "voc":
        tree = ElementTree.parse(sample.label)
        item = list(tree.getroot().iter("object"))[at]
        attribute = ElementTree.SubElement(ElementTree.SubElement(item, "attributes"), "attribute")
        ElementTree.SubElement(attribute, "name").text = "rotation"
        ElementTree.SubElement(attribute, "value").text = "30"
        tree.write(sample.label)
    else:
        content = json.loads(sample.label.read_text())
        ids = {entry["file_name"]: entry["id"] for entry in content["images"]}
        rows = [row for row in content["annotations"] if row["image_id"] == ids[sample.image.name]]
        rows[at]["attributes"] = {"rotation": 30.0}
        sample.label.write_text(json.dumps(content))
    return 1, [sample.label]


def _turns_inside(corners, size):
    """Whether the circle around a box lies inside the image."""
    x1, y1, x2, y2 = corners
    radius = np.hypot(x2 - x1, y2 - y1) / 2
    return all(
        radius <= (a + b) / 2 <= side - radius for a, b, side in ((x1, x2, size[0]), (y1, y2, size[1]))
    )


def many_objects(copy, random):
    """132 boxes at different places, of all classes in turn."""
    labeled = [sample for sample in copy.samples["train"] if copy.boxes(sample)]
    labels = sorted({box.label for sample in labeled for box in copy.boxes(sample)}, key=str)
    sample = _pick(labeled, random)
    width, height = size_of(sample.image)
    side = min(width, height) // 4
    places = [(x, y) for x in np.linspace(0, width - side, 12) for y in np.linspace(0, height - side, 11)]
    corners = [(x, y, x + side, y + side) for x, y in np.round(places).tolist()]
    boxes = [Box(labels[at % len(labels)], box) for at, box in enumerate(corners)]
    copy.set_boxes(sample, boxes)
    return 1, [sample.label]


def tiny_objects(copy, random):
    """Half of the training images get four more objects of 2 x 2 pixels."""
    chosen = [sample for sample in copy.samples["train"] if copy.boxes(sample)][::2]
    for sample in chosen:
        boxes = copy.boxes(sample)
        added = [Box(boxes[0].label, (x, 9, x + 2, 11)) for x in (5, 15, 25, 35)]
        copy.set_boxes(sample, [*boxes, *added])
    return None, [sample.label for sample in chosen]


def annotated_size(copy, random):
    """The annotation states twice the width."""
    sample = _pick(copy.samples["train"], random)
    if copy.kind == "voc":
        tree = ElementTree.parse(sample.label)
        width = tree.getroot().find("size/width")
        width.text = str(2 * int(width.text))
        tree.write(sample.label)
    else:
        content = json.loads(sample.label.read_text())
        (entry,) = [entry for entry in content["images"] if entry["file_name"] == sample.image.name]
        entry["width"] *= 2
        sample.label.write_text(json.dumps(content))
    return 1, [sample.label]


def image_without_labels(copy, random):
    label = _pick([s for s in copy.samples["train"] if copy.boxes(s)], random).label
    label.unlink()
    return 1, [label]


def labels_without_image(copy, random):
    label = copy.samples["train"][0].label.with_name(f"alone{copy.samples['train'][0].label.suffix}")
    shutil.copyfile(copy.samples["train"][0].label, label)
    return 1, [label]


# ---- class folders


def image_in_two_classes(copy, random):
    image = _pick(copy.samples["train"], random).image
    other = next(folder for folder in sorted(image.parent.parent.iterdir()) if folder != image.parent)
    shutil.copyfile(image, other / f"again{image.suffix}")
    return 1, [image]


# ---- what no reader can relax


def no_labels(copy, random):
    """No mask or label file of train is left."""
    labels = [sample.label for sample in copy.samples["train"]]
    for label in labels:
        label.unlink()
    return len(labels), labels


def junk_rows(copy, random):
    """An unknown class, words, and a row that ends early, beside other rows."""
    chosen = random.choice(len(copy.samples["train"]), 3, replace=False)
    files = [copy.samples["train"][int(at)].label for at in chosen]
    for file, row in zip(files, ("999 .5 .5 .1 .1", "x y z", "0 .5 .5 .1"), strict=True):
        file.write_text(f"{file.read_text().strip()}\n{row}\n")
    return 3, files


def broken_xml(copy, random):
    label = _pick(copy.samples["train"], random).label
    label.write_text(label.read_text()[:-20])
    return 1, [label]


def wrong_type(copy, random):
    """The corners of a box, of an image and a class with others, are a text."""
    file = copy.samples["train"][0].label
    content = json.loads(file.read_text())
    rows = content["annotations"]
    counts = {key: Counter(row[key] for row in rows) for key in ("image_id", "category_id")}
    several = [row for row in rows if all(counts[key][row[key]] > 1 for key in counts)]
    _pick(several, random)["bbox"] = "1 2 3 4"
    file.write_text(json.dumps(content))
    return 1, [file]


def unknown_class(copy, random):
    """A folder of val that train does not have."""
    image = copy.root / "val/unicorn/a.png"
    image.parent.mkdir()
    write_png(image, random.integers(0, 256, (64, 64, 3), np.uint8))
    return 1, [image]


KINDS = {
    damaged_image: ALL,
    missing_image: ("cityscapes", "voc", "coco"),
    exif_rotation: ALL,
    uniform_image: ALL,
    same_image_in_splits: ALL,
    near_duplicates_in_splits: ALL,
    copies: ALL,
    near_duplicates: ALL,
    unsupported_format: ALL,
    unused_images: ("cityscapes", "voc", "coco"),
    brightness_drift: ALL,
    damaged_mask: MASKS,
    missing_mask: MASKS,
    unknown_values: MASKS,
    mask_size: MASKS,
    rotated_mask: MASKS,
    ignored_mask: MASKS,
    single_class_mask: MASKS,
    imbalance: MASKS,
    instances: ("cityscapes",),
    missing_instances: ("cityscapes",),
    training_ids: ("cityscapes",),
    class_drift: MASKS,
    class_absent: ALL,
    box_degenerate: BOXES,
    box_outside: BOXES,
    box_clipped: BOXES,
    box_duplicate: BOXES,
    box_swapped: ("voc",),
    box_rotated: ("voc", "coco"),
    many_objects: BOXES,
    tiny_objects: BOXES,
    annotated_size: ("voc", "coco"),
    image_without_labels: ("voc", "yolo"),
    labels_without_image: ("voc", "yolo"),
    image_in_two_classes: ("folders",),
    no_labels: ("masks", "cityscapes", "voc", "yolo"),
    junk_rows: ("yolo",),
    broken_xml: ("voc",),
    wrong_type: ("coco",),
    unknown_class: ("folders",),
}
"""Fault -> the kinds of datasets in which it can be planted."""

REFUSED = (no_labels, junk_rows, broken_xml, wrong_type, unknown_class)
"""Faults with which training cannot start, whatever the overrides."""

REPORTED_AS = {
    missing_instances: "reader",
    training_ids: "unknown_values",
    **dict.fromkeys(REFUSED, "refused"),
}
"""Fault -> the code under which it is reported, if it is not the function's name."""
