"""COCO: instances in JSON files, with folders of images; the official layout of 2017, or your own."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from det.data.cleaning import AnnotationIssues, Sizes, clean_split
from det.data.dataset import DetectionSource
from det.data.division import with_val
from det.data.formats import coco_json, coco_split
from det.data.formats.coco_json import CocoFile
from det.data.formats.coco_split import Missing
from det.data.source_checks import checked_source
from engine.data.class_map import ClassMap
from engine.data.images import Orientation
from engine.data.splits import SPLIT_NAMES
from engine.errors import UserError, nearest
from engine.io.files import existing_root

_LAYOUT = (
    "expected train2017/, val2017/ and annotations/instances_train2017.json, instances_val2017.json below "
    "data.root, or data.train.images=<folder> data.train.annotations=<file>, and the same for val"
)


_OTHER_FILES = (
    *("annotations/{}.json", "{}.json", "{}/annotations.json", "{}/labels.json", "{0}/{0}.json"),
    *("annotations/{}_*.json", "annotations/*_{}.json", "{}_*.json", "*_{}.json"),
)
"""Where the file of a split may be, besides COCO's and Roboflow's own places."""


Pair = tuple[Path, Path | None]
"""Folder of images, and JSON file."""


def coco(
    *,
    root: str | None = None,
    train: Mapping[str, str | None] | None = None,
    val: Mapping[str, str | None] | None = None,
    test: Mapping[str, str | None] | None = None,
    classes: Sequence[str] | None = None,
    sizes: Sizes = "check",
    allow_same_names: bool = False,
    allow_same_files: bool = False,
    orientation: Orientation = "upright",
    on_error: Missing = "fail",
) -> DetectionSource:
    """Boxes from a JSON file and images from a folder, per split.

    Category ids can start anywhere, have gaps and be unsorted. Classes are in the order of their ids, and all
    files must agree on them. iscrowd regions are not trained on, and are neither hits nor misses. Annotations
    of unknown images or categories are left out. A missing box is computed from the polygons.
    `det.data.cleaning` has the rules for boxes, `det.data.source_checks` those for splits.

    Args:
        root: folder to search for splits that are not set below: annotations/instances_<split>*.json with
            <split>*/ or images/<split>*/; as exported by Roboflow, <split>/_annotations.coco.json next to
            its images; or a JSON file named after the split, in a usual place, and the folder with its
            images. Without val, `det.data.division` takes it from train, or from a single JSON file for
            all images.
        train, val, test: {"images": folder, "annotations": file}. Only `test` needs no annotations.
        classes: names of the categories to use, in this order; the boxes of others are left out.
        sizes: see `det.data.cleaning.clean_split`.
        allow_same_names: whether images of train and val may have the same names.
        allow_same_files: whether splits may share images.
        orientation: whether boxes refer to upright or to stored images, as in `data.orientation`.
        on_error: `skip` leaves out images that do not exist like those that cannot be read.

    Raises:
        UserError: if a file is wrong; names the file and the key, before training.
    """
    options = {"train": train or {}, "val": val or {}, "test": test or {}}
    base = None if root is None else Path(root).expanduser()
    pairs = {
        split: pair for split, paths in options.items() if (pair := _pair(split, paths, base)) is not None
    }
    divided = None
    if not pairs:
        divided = None if base is None else _only_file(base)
        if divided is None:
            raise UserError(f"{base or 'data'}: no COCO annotations; {_LAYOUT}")
        pairs = {"train": divided}
    return read_pairs(
        pairs,
        divided=divided is not None,
        on_error=on_error,
        name=f"COCO at {base or next(iter(pairs.values()))[0]}",
        classes=classes,
        sizes=sizes,
        allow_same_names=allow_same_names,
        allow_same_files=allow_same_files,
        orientation=orientation,
    )


def read_pairs(
    pairs: Mapping[str, Pair],
    *,
    name: str,
    classes: Sequence[str] | None = None,
    sizes: Sizes = "check",
    allow_same_names: bool = False,
    allow_same_files: bool = False,
    orientation: Orientation = "upright",
    on_error: Missing = "fail",
    divided: bool = False,
) -> DetectionSource:
    """The data source for known folders and files; `name` is what messages call it.

    divided: whether train contains all images, because there are no splits.
    """
    files = {
        split: (folder, None if path is None else coco_json.read(path))
        for split, (folder, path) in pairs.items()
    }
    return build_source(
        files,
        AnnotationIssues(),
        name=name,
        classes=classes,
        sizes=sizes,
        allow_same_names=allow_same_names,
        allow_same_files=allow_same_files,
        orientation=orientation,
        on_error=on_error,
        divided=divided,
        remedy="set images and annotations for data.train and data.val",
    )


def build_source(
    files: Mapping[str, tuple[Path, CocoFile | None]],
    issues: AnnotationIssues,
    *,
    name: str,
    classes: Sequence[str] | None,
    sizes: Sizes,
    allow_same_names: bool,
    allow_same_files: bool,
    orientation: Orientation,
    on_error: Missing,
    divided: bool,
    remedy: str,
    reading: str = "coco",
) -> DetectionSource:
    """The data source of splits that have been read: folder of images, and annotations or None.

    Args:
        divided: whether train contains all images, because there are no splits.
        remedy: how the user can choose the images of val, if there is none.
        reading: a key of `det.data.readings.READINGS`, or empty.
    """
    class_map = _classes([file for _, file in files.values() if file is not None], classes)
    raws = {}
    for split, (folder, file) in files.items():
        if file is None:
            raws[split] = coco_split.unannotated(folder)
        else:
            raws[split] = coco_split.annotated(file, folder, class_map, issues, missing=on_error)
            raws[split].format = reading
        if not raws[split].has_labels and split == "train":
            raise UserError(f"{file and file.path}: annotations: is missing, but the training split needs it")
    listed = [path for raw in raws.values() for path in raw.images]
    coco_split.count_unlisted({folder for folder, _ in files.values()}, listed, issues)
    splits = {
        split: clean_split(raw, issues, sizes=sizes, orientation=orientation) for split, raw in raws.items()
    }
    splits, warnings = with_val(name, splits, remedy=remedy, whole=divided)
    return checked_source(
        name=name,
        classes=class_map,
        splits=splits,
        issues=issues,
        warnings=warnings,
        allow_same_names=allow_same_names,
        allow_same_files=allow_same_files,
    )


def _pair(split: str, paths: Mapping[str, str | None], base: Path | None) -> Pair | None:
    if unknown := set(paths) - {"images", "annotations"}:
        raise UserError(f"data.{split}: unknown key {min(unknown)!r}; its keys are images and annotations")
    images, annotations = (paths.get(key) for key in ("images", "annotations"))
    default = _find_pair(base, split) if base is not None and not (images and annotations) else None
    folder = Path(images).expanduser() if images else default and default[0]
    file = Path(annotations).expanduser() if annotations else default and default[1]
    if folder is None and file is None:
        return None
    if folder is None or (file is None and split != "test"):
        missing = "images=<folder>" if folder is None else "annotations=<file>"
        raise UserError(f"data.{split}: needs both images and annotations; set data.{split}.{missing} too")
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; check data.{split}.images")
    return folder, file


def _find_pair(base: Path, split: str) -> Pair | None:
    """The folder and file of a split in one of the usual layouts; prefers 2017 to other years."""
    existing_root(base)
    for name in SPLIT_NAMES[split]:
        roboflow = base / name / "_annotations.coco.json"
        if roboflow.is_file():
            return roboflow.parent, roboflow
        kinds = ("instances", "image_info") if split == "test" else ("instances",)
        for kind in kinds:
            files = sorted(
                base.glob(f"annotations/{kind}_{name}*.json"), key=lambda p: ("2017" not in p.name, p)
            )
            for file in files:
                tag = file.stem.removeprefix(f"{kind}_")
                for folder in (base / tag, base / "images" / tag, base / name, base / "images" / name):
                    if folder.is_dir():
                        return folder, file
            if files:
                return _folder_of(base, files[0], split, name), files[0]
        for pattern in _OTHER_FILES:
            if len(files := sorted(base.glob(pattern.format(name)))) == 1:
                return _folder_of(base, files[0], split, name), files[0]
    return None


def _folder_of(base: Path, file: Path, split: str, name: str) -> Path:
    """The folder with the images of a file, for a split with this `name`."""
    names = coco_json.read(file).file_names
    parents = dict.fromkeys((file.parent, base))
    places = (name, f"images/{name}", f"{name}/images", "images", "data", "JPEGImages", "")
    found = {
        folder: sum(path is not None for path in coco_split.find_paths(folder, names))
        for folder in dict.fromkeys(parent / place for place in places for parent in parents)
        if folder.is_dir()
    }
    best = max(found, key=found.__getitem__)
    if not found[best]:
        folder = base / file.stem.removeprefix("instances_")
        missing = f"{base / name / names[0]}: no such file, nor in images/" if folder.is_dir() else ""
        raise UserError(
            f"{missing or f'{folder}: no such folder'}, but {file} needs its images; set data.{split}.images"
        )
    return best


def _only_file(base: Path) -> Pair | None:
    """The only JSON file of `base`, such as Label Studio's result.json or CVAT's
    annotations/instances_default.json, and the folder of its images; None if there is none."""
    files = [*base.glob("*.json"), *base.glob("annotations/*.json")]
    if len(files) != 1:
        return None
    names = coco_json.read(files[0]).file_names
    folders = (base, base / "images", base / "images/default", base / "default", files[0].parent)
    for folder in folders:
        if any(path is not None for path in coco_split.find_paths(folder, names)):
            return folder, files[0]
    raise UserError(
        f"{base / names[0]}: no such file, nor in images/, but {files[0]} needs it; set data.train.images="
        f"<folder> data.train.annotations={files[0]}, and the same for val"
    )


def _classes(files: list[CocoFile], selected: Sequence[str] | None) -> ClassMap:
    names: dict[int, str] = {}
    named_by: dict[int, Path] = {}
    used: set[int] = set()
    for file in files:
        used.update(np.unique(file.category_ids).tolist())
        for id_, name in file.categories.items():
            if names.setdefault(id_, name) != name:
                raise UserError(
                    f"{file.path}: category {id_} is {name!r} but {names[id_]!r} in {named_by[id_]}; "
                    "export all splits with the same categories"
                )
            named_by.setdefault(id_, file.path)
    # Some exports (Roboflow) list a class a second time, as a parent category that has no boxes.
    ids = [id_ for id_ in sorted(names) if id_ in used or list(names.values()).count(names[id_]) == 1]
    where = files[0].path if files else "data.train.annotations"
    if selected is not None:
        by_name = {names[id_]: id_ for id_ in ids}
        for name in selected:
            if not isinstance(name, str) or name not in by_name:
                hint = nearest(str(name), by_name)
                raise UserError(f"data.source.classes: {where} has no category {name!r}{hint}")
        ids = [by_name[name] for name in selected]
    try:
        return ClassMap(names=tuple(names[id_] for id_ in ids), ids=tuple(ids))
    except ValueError as error:
        raise UserError(f"{where}: categories: {error}") from None
