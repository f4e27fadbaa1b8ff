"""COCO: instances in JSON files, with folders of images; the official layout of 2017, or your own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from det.data.cleaning import AnnotationIssues, RawSplit, Sizes, clean_split
from det.data.dataset import DetectionSource
from det.data.division import with_val
from det.data.formats import coco_json, coco_split
from det.data.formats.coco_json import CocoFile
from det.data.reader_options import OnError, ReaderOptions
from det.data.source_checks import checked_source
from engine.data.class_map import ClassMap
from engine.data.coco_layout import Layout, find_layout
from engine.data.images import Orientation
from engine.errors import UserError, nearest


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
    on_error: OnError = "fail",
) -> DetectionSource:
    """Boxes from a JSON file and images from a folder, per split.

    Category ids can start anywhere, have gaps and be unsorted. Classes are in the order of their ids, and all
    files must agree on them. iscrowd regions are not trained on, and are neither hits nor misses. Annotations
    of unknown images or categories are left out. A missing box is computed from the polygons.
    `det.data.cleaning` has the rules for boxes, `det.data.source_checks` those for splits.

    Args:
        root: folder to search for splits that are not set below, by `engine.data.coco_layout.find_layout`.
            Without val, `det.data.division` takes it from train, or from a single JSON file for all images.
        train, val, test: {"images": folder, "annotations": file}. Only `test` needs no annotations.
        classes: names of the categories to use, in this order; the boxes of others are left out.
        sizes, allow_same_names, allow_same_files, orientation, on_error: see `ReaderOptions`.

    Raises:
        UserError: if a file is wrong; names the file and the key, before training.
    """
    layout = find_layout(root, {"train": train, "val": val, "test": test}, unannotated=["test"])
    place = next(iter(layout.pairs.values()))[0] if root is None else Path(root).expanduser()
    return read_pairs(
        layout,
        name=f"COCO at {place}",
        options=ReaderOptions(
            classes=classes,
            sizes=sizes,
            allow_same_names=allow_same_names,
            allow_same_files=allow_same_files,
            orientation=orientation,
            on_error=on_error,
        ),
    )


def read_pairs(
    layout: Layout,
    *,
    name: str,
    options: ReaderOptions = ReaderOptions(),  # noqa: B008 (it is frozen)
) -> DetectionSource:
    """The data source for known folders and files; `name` is what messages call it."""
    contents = {path: coco_json.read(path) for _, path in layout.pairs.values() if path is not None}
    files = {
        split: (folder, None if path is None else contents[path])
        for split, (folder, path) in layout.pairs.items()
    }
    issues = AnnotationIssues()
    for line in layout.lines:
        issues.note(line)
    remedy = "set images and annotations for data.train and data.val"
    return build_source(files, issues, options, name=name, whole=layout.whole, remedy=remedy)


def build_source(
    files: Mapping[str, tuple[Path, CocoFile | None]],
    issues: AnnotationIssues,
    options: ReaderOptions,
    *,
    name: str,
    whole: bool,
    remedy: str,
    reading: str = "coco",
) -> DetectionSource:
    """The data source of splits that have been read: folder of images, and annotations or None.

    Args:
        whole: whether train contains all images, because there are no splits.
        remedy: how the user can choose the images of val, if there is none.
        reading: a key of `det.data.readings.READINGS`, or empty.
    """
    class_map = _classes([file for _, file in files.values() if file is not None], options.classes)
    raws = _raw_splits(files, class_map, issues, options, reading)
    listed = [path for raw in raws.values() for path in raw.images]
    coco_split.count_unlisted({folder for folder, _ in files.values()}, listed, issues)
    cleaned = {
        raw: clean_split(raw, issues, sizes=options.sizes, orientation=options.orientation)
        for raw in dict.fromkeys(raws.values())
    }
    splits = {split: cleaned[raw] for split, raw in raws.items()}
    splits, warnings = with_val(name, splits, remedy=remedy, whole=whole)
    return checked_source(
        name=name,
        classes=class_map,
        splits=splits,
        issues=issues,
        warnings=warnings,
        options=options,
    )


def _raw_splits(
    files: Mapping[str, tuple[Path, CocoFile | None]],
    classes: ClassMap,
    issues: AnnotationIssues,
    options: ReaderOptions,
    reading: str,
) -> dict[str, RawSplit]:
    """The splits as they are in their files; the same object for two splits with the same file."""
    owners = {  # what is wrong in a file is not counted again for a second split
        split: next(other for other, pair in files.items() if pair[0] == folder and pair[1] is file)
        for split, (folder, file) in files.items()
    }
    raws = {}
    for split in dict.fromkeys(owners.values()):
        folder, file = files[split]
        if file is None:
            raws[split] = coco_split.unannotated(folder)
        else:
            raws[split] = coco_split.annotated(file, folder, classes, issues, missing=options.on_error)
            raws[split].format = reading
        if not raws[split].has_labels and split == "train":
            raise UserError(f"{file and file.path}: annotations: is missing, but the training split needs it")
    return {split: raws[owner] for split, owner in owners.items()}


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
