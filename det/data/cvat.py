"""CVAT: XML files ("CVAT for images 1.1") that list many images with their shapes."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from det.data.cleaning import AnnotationIssues, Sizes
from det.data.coco import build_source
from det.data.dataset import DetectionSource
from det.data.formats import cvat_xml
from det.data.formats.coco_json import CocoFile
from det.data.formats.cvat_xml import CvatFile, CvatImage
from det.data.reader_options import OnError, ReaderOptions
from engine.data.coco_layout import folder_with
from engine.data.images import Orientation
from engine.data.splits import SPLIT_NAMES
from engine.errors import UserError, check_command
from engine.io.files import existing_root

_FILES = ("{}/annotations.xml", "{}.xml", "annotations/{}.xml", "{}/annotations/annotations.xml")
"""Where the file of a split may be."""


_IMAGE_FOLDERS = ("", "images", "images/{}", "{}/images", "{}", "images/default", "data")
"""Where the images of a split may be, below the folder of its file or the root."""


def cvat(
    *,
    root: str,
    images: str | None = None,
    classes: Sequence[str] | None = None,
    sizes: Sizes = "check",
    allow_same_names: bool = False,
    allow_same_files: bool = False,
    orientation: Orientation = "upright",
    on_error: OnError = "fail",
) -> DetectionSource:
    """Images and XML files below `root`: one XML file per split (train.xml or train/annotations.xml), or a
    single one. Its splits are CVAT's subsets Train, Validation and Test. Without Validation or subsets,
    `det.data.division` makes val.

    Boxes, polygons, ellipses and masks become their upright bounding boxes; cuboids, skeletons, points, lines
    and tags are left out. Shapes with the attribute `difficult` or `ignore` are not trained on, and are
    neither hits nor misses. Classes are in the order of the labels in the file.

    Args:
        root: the folder, or an XML file.
        images: folder of the images, below `root`. Default: one with a usual name that contains them.
        classes: names of the labels to use, in this order; the boxes of others are left out.
        sizes, allow_same_names, allow_same_files, orientation, on_error: see `ReaderOptions`.

    Raises:
        UserError: if a file is wrong; names the file and the line, before training.
    """
    options = ReaderOptions(
        classes=classes,
        sizes=sizes,
        allow_same_names=allow_same_names,
        allow_same_files=allow_same_files,
        orientation=orientation,
        on_error=on_error,
    )
    base, issues = Path(root).expanduser(), AnnotationIssues()
    parts, labels = read_parts(base, images=images)
    pairs = {
        split or "train": (part.folder, _as_coco(part.path, part.images, labels, issues))
        for split, part in parts.items()
    }
    return build_source(
        pairs,
        issues,
        options,
        name=f"CVAT at {base}",
        whole=list(parts) == [""],
        remedy="assign subsets in CVAT, or write train.xml and val.xml",
        reading="cvat",
    )


class Part(NamedTuple):
    """A split: the XML file, the folder of its images, and what the file says about them."""

    path: Path
    folder: Path
    images: Sequence[CvatImage]


def read_parts(
    base: Path, *, images: str | None = None, keep_values: bool = False
) -> tuple[dict[str, Part], list[str]]:
    """The splits below `base` (under "" if there are none), and the labels.

    images: name of the folder of the images. keep_values: see `cvat_xml.read`.

    Raises: UserError if there is no file, one is wrong, or there are no images.
    """
    paths = find_files(base)
    files = {split: cvat_xml.read(path, keep_values=keep_values) for split, path in paths.items()}
    entries = {split: (paths[split], file.images) for split, file in files.items()}
    if list(paths) == [""]:
        entries = _subsets(paths[""], files[""].images)
    parts = {
        split: Part(path, _image_folder(base, path, split, listed, images), listed)
        for split, (path, listed) in entries.items()
    }
    return parts, _labels(files.values())


def find_files(base: Path) -> dict[str, Path]:
    """Split -> XML file; the split of a single file is ""."""
    if base.is_file():
        return {"": base}
    existing_root(base)
    found = {}
    for split, names in SPLIT_NAMES.items():
        spellings = [spelling for name in names for spelling in (name, name.capitalize())]
        places = (base / place.format(name) for place in _FILES for name in spellings)
        if (path := next((place for place in places if place.is_file()), None)) is not None:
            found[split] = path
    single = [*base.glob("*.xml"), *base.glob("annotations/*.xml")]
    if "train" in found or (found and set(single) <= set(found.values())):
        return found
    usual = [path for path in single if path.name == "annotations.xml"]
    single = usual or single
    if len(single) != 1:
        reason = f"{len(single)} XML files" if single else "no XML files"
        other = "" if single else f"; for labels of another format: {check_command(base)}"
        raise UserError(
            f"{base}: {reason}; data=cvat needs annotations.xml, or train.xml and val.xml (for one XML file "
            f"per image, use data=voc){other}"
        )
    return {"": single[0]}


def _labels(files: Collection[CvatFile]) -> list[str]:
    """The labels of all files, in their order; those of the shapes, sorted, if the files have no header."""
    labels = list(dict.fromkeys(label for file in files for label in file.labels))
    shapes = (shape for file in files for image in file.images for shape in image.shapes)
    return labels or sorted({shape.label for shape in shapes})


def _subsets(path: Path, images: Sequence[CvatImage]) -> dict[str, tuple[Path, list[CvatImage]]]:
    """The images of a file by split, from CVAT's subsets; under "" if no subset is train."""
    split_of = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    by_split: dict[str, list[CvatImage]] = {}
    for image in images:
        by_split.setdefault(split_of.get(image.subset.lower(), ""), []).append(image)
    if "train" not in by_split or len(by_split) == 1:
        return {"": (path, list(images))}
    if "" in by_split:
        image = by_split[""][0]
        raise UserError(
            f"{path}: {image.name}: subset {image.subset!r} is not Train, Validation or Test; assign "
            "all images to one of them"
        )
    return {split: (path, by_split[split]) for split in SPLIT_NAMES if split in by_split}


def _image_folder(
    base: Path, path: Path, split: str, entries: Sequence[CvatImage], chosen: str | None
) -> Path:
    names = [image.name for image in entries]
    home = base if base.is_dir() else base.parent
    if chosen is not None:
        if not (home / chosen).is_dir():
            raise UserError(f"{home / chosen}: no such folder; check data.source.images")
        return home / chosen
    subset = entries[0].subset or split
    spellings = dict.fromkeys((subset, split, *SPLIT_NAMES.get(split, ())))
    places = dict.fromkeys(place.format(name) for place in _IMAGE_FOLDERS for name in spellings)
    best = folder_with([parent / place for parent in (path.parent, home) for place in places], names)
    if best is None:
        raise UserError(
            f"{path.parent / names[0]}: no such file, nor in images/, but {path} needs it; put the images "
            f"in {path.parent / 'images'}, or set data.source.images=<their folder>"
        )
    return best


def _as_coco(
    path: Path, entries: Sequence[CvatImage], labels: Sequence[str], issues: AnnotationIssues
) -> CocoFile:
    """The images and shapes as COCO's tables; shapes with an unlisted label get category 0."""
    for image in entries:
        for noun, what in image.findings:
            issues.add(noun, what, [os.path.basename(image.name)])
    ids: Mapping[str, int] = {label: number for number, label in enumerate(labels, start=1)}
    shapes = [(number, shape) for number, image in enumerate(entries, start=1) for shape in image.shapes]
    count = len(shapes)
    return CocoFile(
        path=path,
        image_ids=list(range(1, len(entries) + 1)),
        file_names=[image.name for image in entries],
        sizes=[image.size for image in entries],
        categories={number: label for label, number in ids.items()},
        owners=np.array([owner for owner, _ in shapes], np.int64),
        category_ids=np.array([ids.get(shape.label, 0) for _, shape in shapes], np.int64),
        boxes=np.array([shape.box for _, shape in shapes], np.float64).reshape(-1, 4),
        rotated=np.zeros(count, bool),  # counted above
        areas=np.full(count, np.nan),
        crowd=np.zeros(count, bool),
        ignored=np.array([shape.ignored for _, shape in shapes], bool),
        annotated=True,
        notes=[],
    )
