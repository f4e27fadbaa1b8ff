"""Copies of small datasets, to plant faults in: the user's files are never touched.

`copy_dataset` takes a part of a dataset into one of the layouts below; `Copy` opens it again.

| kind | files |
|---|---|
| masks | `images/<split>/*`, `masks/<split>/*.png`, `classes.json` |
| voc | `JPEGImages/*`, `Annotations/*.xml`, `ImageSets/Main/<split>.txt` |
| coco | `images/<split>/*`, `<split>.json` |
| yolo | `images/<split>/*`, `labels/<split>/*.txt`, `data.yaml` |
| folders | `<split>/<class>/*` |
| cityscapes | `leftImg8bit/<split>/<city>/*`, `gtFine/<split>/<city>/*`, of parts of the images |
"""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from engine.data.class_map import ClassMap
from engine.data.images import read_image, read_labels, write_png
from seg.data.cityscapes import CITYSCAPES_CLASSES

SPLITS = ("train", "val")


class Sample(NamedTuple):
    """label: mask, XML file or text file; for COCO, the JSON file; None for class folders."""

    image: Path
    label: Path | None


class Box(NamedTuple):
    """label: index of the class, or its name in VOC; corners: xyxy in pixels."""

    label: int | str
    corners: tuple[float, float, float, float]


def copy_dataset(source, target, kind, *, most=40):
    """Copy up to `most` images of each split of `source`, evenly spaced; returns the `Copy`."""
    makers = {
        "masks": _masks,
        "cityscapes": _cityscapes,
        "voc": _voc,
        "coco": _coco,
        "yolo": _yolo,
        "folders": _folders,
    }
    makers[kind](Path(source), Path(target), most)
    return Copy(target)


class Copy:
    """A copied dataset. samples: split -> the samples, sorted by their names."""

    def __init__(self, root):
        self.root = Path(root)
        layouts = {"masks": "masks", "gtFine": "cityscapes", "JPEGImages": "voc"}
        layouts |= {"train.json": "coco", "data.yaml": "yolo"}
        self.kind = next((kind for name, kind in layouts.items() if (self.root / name).exists()), "folders")
        self.samples = {split: self._samples(split) for split in SPLITS}

    def _samples(self, split):
        root = self.root
        if self.kind == "voc":
            names = (root / f"ImageSets/Main/{split}.txt").read_text().split()
            images = {path.stem: path for path in (root / "JPEGImages").iterdir()}
            return [Sample(images[name], root / f"Annotations/{name}.xml") for name in sorted(names)]
        folders = {"folders": root / split, "cityscapes": root / "leftImg8bit" / split}
        folder = folders.get(self.kind, root / "images" / split)
        images = sorted(path for path in folder.rglob("*") if path.is_file())
        label_of = {
            "masks": lambda image: root / "masks" / split / f"{image.stem}.png",
            "cityscapes": lambda image: gt_fine(image, "labelIds"),
            "yolo": lambda image: root / "labels" / split / f"{image.stem}.txt",
            "coco": lambda image: root / f"{split}.json",
            "folders": lambda image: None,
        }[self.kind]
        return [Sample(image, label_of(image)) for image in images]

    @property
    def classes(self):
        """The class map of the masks."""
        return CITYSCAPES_CLASSES if self.kind == "cityscapes" else ClassMap.read(self.root / "classes.json")

    def boxes(self, sample):
        """The boxes of an image."""
        if self.kind == "voc":
            return [
                Box(item.findtext("name"), tuple(float(item.findtext(f"bndbox/{side}")) for side in _SIDES))
                for item in ElementTree.parse(sample.label).iter("object")
            ]
        if self.kind == "yolo":
            width, height = size_of(sample.image)
            rows = [list(map(float, line.split())) for line in sample.label.read_text().splitlines() if line]
            found = np.array(rows).reshape(-1, 5)
            centers, sides = found[:, 1:3] * (width, height), found[:, 3:] * (width, height)
            corners = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1).tolist()
            return [Box(int(row[0]), tuple(box)) for row, box in zip(rows, corners, strict=True)]
        content = json.loads(sample.label.read_text())
        (entry,) = [entry for entry in content["images"] if entry["file_name"] == sample.image.name]
        return [
            Box(row["category_id"], _corners(row["bbox"]))
            for row in content["annotations"]
            if row["image_id"] == entry["id"]
        ]

    def set_boxes(self, sample, boxes):
        """Replace the boxes of an image."""
        if self.kind == "voc":
            tree = ElementTree.parse(sample.label)
            for item in list(tree.getroot().iter("object")):
                tree.getroot().remove(item)
            for box in boxes:
                item = ElementTree.SubElement(tree.getroot(), "object")
                ElementTree.SubElement(item, "name").text = box.label
                corners = ElementTree.SubElement(item, "bndbox")
                for side, value in zip(_SIDES, box.corners, strict=True):
                    ElementTree.SubElement(corners, side).text = f"{value:g}"
            tree.write(sample.label)
        elif self.kind == "yolo":
            width, height = size_of(sample.image)
            rows = []
            for label, (x1, y1, x2, y2) in boxes:
                numbers = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height]
                numbers += [(x2 - x1) / width, (y2 - y1) / height]
                rows.append(" ".join([str(label), *(f"{number:.6f}" for number in numbers)]))
            sample.label.write_text("\n".join(rows) + "\n")
        else:
            content = json.loads(sample.label.read_text())
            (entry,) = [entry for entry in content["images"] if entry["file_name"] == sample.image.name]
            kept = [row for row in content["annotations"] if row["image_id"] != entry["id"]]
            for label, (x1, y1, x2, y2) in boxes:
                row = {"image_id": entry["id"], "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                kept.append({**row, "area": (x2 - x1) * (y2 - y1), "iscrowd": 0})
            for number, row in enumerate(kept, start=1):
                row["id"] = number
            sample.label.write_text(json.dumps({**content, "annotations": kept}))


def gt_fine(image, kind):
    """The file of an image of Cityscapes in gtFine: `labelIds` or `instanceIds`."""
    folder = image.parents[3] / "gtFine" / image.parent.relative_to(image.parents[2])
    return folder / image.name.replace("_leftImg8bit.png", f"_gtFine_{kind}.png")


_SIDES = ("xmin", "ymin", "xmax", "ymax")


def size_of(image):
    """(width, height)."""
    with Image.open(image) as header:
        return header.size


def _corners(bbox):
    left, top, width, height = bbox
    return left, top, left + width, top + height


def _spaced(items, most):
    step = max(1, len(items) // most)
    return items[::step][:most]


def _thirds(items, most):
    """Every third item for val, the others for train; up to `most` of each."""
    train = [item for at, item in enumerate(items) if at % 3]
    return {"train": _spaced(train, most), "val": _spaced(items[::3], most)}


def _put(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _masks(source, target, most):
    """From train alone: every third image is for val, so that the splits do not differ."""
    images = sorted((source / "images/train").iterdir())
    for split, chosen in _thirds(images, most).items():
        for image in chosen:
            _put(image, target / "images" / split / image.name)
            _put(source / f"masks/train/{image.stem}.png", target / f"masks/{split}/{image.stem}.png")
    _put(source / "classes.json", target / "classes.json")


def _voc(source, target, most):
    images = {path.stem: path for path in (source / "JPEGImages").iterdir()}
    for split in SPLITS:
        names = _spaced(sorted((source / f"ImageSets/Main/{split}.txt").read_text().split()), most)
        for name in names:
            _put(images[name], target / "JPEGImages" / images[name].name)
            _put(source / f"Annotations/{name}.xml", target / f"Annotations/{name}.xml")
        (target / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (target / f"ImageSets/Main/{split}.txt").write_text("\n".join(names) + "\n")


def _coco(source, target, most):
    """From one JSON file: every third image is for val."""
    content = json.loads(next(source.glob("*.json")).read_text())
    images = {path.name: path for path in (source / "images").rglob("*.*")}
    entries = sorted(content["images"], key=lambda entry: entry["file_name"])
    for split, chosen in _thirds(entries, most).items():
        for entry in chosen:
            name = Path(entry["file_name"]).name
            _put(images[name], target / "images" / split / name)
        ids = {entry["id"] for entry in chosen}
        part = {
            "images": [{**entry, "file_name": Path(entry["file_name"]).name} for entry in chosen],
            "annotations": [row for row in content["annotations"] if row["image_id"] in ids],
            "categories": content["categories"],
        }
        (target / f"{split}.json").write_text(json.dumps(part))


def _yolo(source, target, most):
    images = sorted((source / "images").rglob("*.*"))
    for split, chosen in _thirds(images, most).items():
        for image in chosen:
            _put(image, target / "images" / split / image.name)
            label = source / "labels" / image.relative_to(source / "images").with_suffix(".txt")
            _put(label, target / "labels" / split / label.name)
    names = (source / "data.yaml").read_text().partition("names:")[2]
    (target / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:{names}")


def _folders(source, target, most):
    """Images in one folder: alternately in two classes, every third of them for val."""
    for at, image in enumerate(_spaced(sorted(source.iterdir()), 3 * most)):
        split, name = ("val" if at % 3 == 0 else "train"), ("even", "odd")[at % 2]
        _put(image, target / split / name / image.name)


VIEW = (64, 128)
"""(height, width) of the parts of Cityscapes images, all of which are enlarged or reduced to this size."""

_CITIES = {"train": ("aachen", "bochum"), "val": ("frankfurt", "lindau")}
_BRIGHTNESS = (0.85, 1.0, 1.15)


def _cityscapes(source, target, most):
    """Parts of the few real images, mirrored and in different brightness, as if they were frames."""
    views = _views([*_frames(source / "tree"), *_crops(source)])
    for split, chosen in _thirds(list(enumerate(views)), most).items():
        for place, (number, (pixels, labels, instances)) in enumerate(chosen):
            city = _CITIES[split][place % 2]
            name = f"{city}_{place:06}_000019_leftImg8bit.png"
            image = target / "leftImg8bit" / split / city / name
            bright = np.clip(pixels * _BRIGHTNESS[number // 2 % 3], 0, 255).astype(np.uint8)
            for file, values in (
                (image, bright),
                (gt_fine(image, "labelIds"), labels),
                (gt_fine(image, "instanceIds"), instances),
            ):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_png(file, values)


def _frames(tree):
    """(image, label ids, instance ids) of the official tree."""
    for image in sorted(tree.glob("leftImg8bit/*/*/*_leftImg8bit.png")):
        yield (
            read_image(image),
            read_labels(gt_fine(image, "labelIds")),
            read_labels(gt_fine(image, "instanceIds")),
        )


def _crops(folder):
    """The same of an image with a mask of training ids; every object has the id of its class."""
    for image in sorted(folder.glob("*_segmentation.bmp")):
        kinds = read_labels(image.with_name(f"{image.stem}_mask.bmp"))
        kinds = kinds if kinds.ndim == 2 else kinds[..., 0]
        ids = np.zeros(256, np.uint8)
        ids[: len(CITYSCAPES_CLASSES)] = CITYSCAPES_CLASSES.ids
        yield read_image(image), ids[kinds], ids[kinds].astype(np.uint16)


def _views(frames):
    """Parts of each frame, three eighths as large, an eighth of a side apart, each of them also mirrored."""
    for frame in frames:
        height, width = frame[1].shape
        tall, wide = height * 3 // 8, width * 3 // 8
        for top in range(0, height - tall + 1, height // 8):
            for left in range(0, width - wide + 1, width // 8):
                part = [each[top : top + tall, left : left + wide] for each in frame]
                kinds = (cv2.INTER_LINEAR, cv2.INTER_NEAREST, cv2.INTER_NEAREST)
                part = [
                    cv2.resize(each, VIEW[::-1], interpolation=kind)
                    for each, kind in zip(part, kinds, strict=True)
                ]
                yield part
                yield [np.ascontiguousarray(each[:, ::-1]) for each in part]
