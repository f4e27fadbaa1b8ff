"""COCO: instances as JSON, beside folders of pictures; the official layout of 2017 or any of one's own."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from det.data import coco_json, coco_split
from det.data.assembly import SPLIT_NAMES, assemble
from det.data.cleaning import AnnotationIssues, Sizes, finish
from det.data.coco_json import CocoFile
from det.data.dataset import DetectionData
from engine.config.instantiate import nearest
from engine.data.class_map import ClassMap
from engine.errors import UserError

_LAYOUT = (
    "expected train2017/, val2017/ and annotations/instances_train2017.json, instances_val2017.json below "
    "data.root, or data.train.images=<folder> data.train.annotations=<file>, and the same for val"
)


Pair = tuple[Path, Path | None]
"""Folder of pictures and JSON file."""


def coco(
    *,
    root: str | None = None,
    train: Mapping[str, str | None] | None = None,
    val: Mapping[str, str | None] | None = None,
    test: Mapping[str, str | None] | None = None,
    classes: Sequence[str] | None = None,
    sizes: Sizes = "check",
    allow_same_names: bool = False,
) -> DetectionData:
    """Any JSON file and folder of pictures per split: {"images": folder, "annotations": file}.

    What is not given is looked for below `root`: annotations/instances_<split>*.json with <split>*/ or
    images/<split>*/, or, as Roboflow exports, <split>/_annotations.coco.json beside its pictures. Only `test`
    may do without annotations.

    Category ids may start anywhere, have gaps and be unsorted: classes are in the order of their ids, and all
    files must agree on them. classes: names to take instead, in this order; the boxes of others are left out.
    iscrowd regions are neither trained nor counted as misses. Annotations of unknown images or categories are
    left out, and repetitions of an id with the same box; a box that is missing is drawn around the polygons.
    See `det.data.cleaning` for the rules about boxes and `sizes`, `det.data.assembly` for what splits must not share.

    Raises: UserError, before training, naming the file and key.
    """
    given = {"train": train or {}, "val": val or {}, "test": test or {}}
    base = None if root is None else Path(root).expanduser()
    pairs = {split: pair for split, paths in given.items() if (pair := _pair(split, paths, base)) is not None}
    if not pairs:
        raise UserError(f"{base or 'data'}: no COCO annotations; {_LAYOUT}")
    return read_pairs(
        pairs,
        source=f"COCO at {base or next(iter(pairs.values()))[0]}",
        classes=classes,
        sizes=sizes,
        allow_same_names=allow_same_names,
    )


def read_pairs(
    pairs: Mapping[str, Pair],
    *,
    source: str,
    classes: Sequence[str] | None = None,
    sizes: Sizes = "check",
    allow_same_names: bool = False,
) -> DetectionData:
    """`coco` for files that are known already."""
    findings = AnnotationIssues()
    files = {split: coco_json.read(path) for split, (_, path) in pairs.items() if path is not None}
    class_map = _classes(list(files.values()), classes)
    splits = {}
    for split, (folder, _) in pairs.items():
        if split in files:
            raw = coco_split.annotated(files.pop(split), folder, class_map, findings)
        else:
            raw = coco_split.pictures(folder)
        if not raw.has_labels and split == "train":
            raise UserError(f"{pairs[split][1]}: annotations: is missing, and the training split needs them")
        splits[split] = finish(raw, findings, sizes=sizes)
    return assemble(
        source=source, classes=class_map, splits=splits, findings=findings, allow_same_names=allow_same_names
    )


def _pair(split: str, paths: Mapping[str, str | None], base: Path | None) -> Pair | None:
    if unknown := set(paths) - {"images", "annotations"}:
        raise UserError(f"data.{split}: unknown key {min(unknown)!r}; give images and annotations")
    images, annotations = (paths.get(key) for key in ("images", "annotations"))
    found = _below(base, split) if base is not None and not (images and annotations) else None
    folder = Path(images).expanduser() if images else found and found[0]
    file = Path(annotations).expanduser() if annotations else found and found[1]
    if folder is None and file is None:
        return None
    if folder is None or (file is None and split != "test"):
        missing = "images=<folder>" if folder is None else "annotations=<file>"
        raise UserError(f"data.{split}: half of a pair; give data.{split}.{missing} too")
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; check data.{split}.images")
    return folder, file


def _below(base: Path, split: str) -> Pair | None:
    """The pair of a split in one of the usual layouts; 2017 before other years."""
    if not base.is_dir():
        raise UserError(f"{base}: no such folder; check data.root")
    for name in SPLIT_NAMES[split]:
        beside = base / name / "_annotations.coco.json"
        if beside.is_file():
            return beside.parent, beside
        kinds = ("instances", "image_info") if split == "test" else ("instances",)
        for kind in kinds:
            found = sorted(
                base.glob(f"annotations/{kind}_{name}*.json"), key=lambda p: ("2017" not in p.name, p)
            )
            for path in found:
                tag = path.stem.removeprefix(f"{kind}_")
                for folder in (base / tag, base / "images" / tag, base / name, base / "images" / name):
                    if folder.is_dir():
                        return folder, path
            if found:
                tag = found[0].stem.removeprefix(f"{kind}_")
                raise UserError(
                    f"{base / tag}: no such folder, which {found[0]} needs; give data.{split}.images"
                )
    return None


def _classes(files: list[CocoFile], wanted: Sequence[str] | None) -> ClassMap:
    names: dict[int, str] = {}
    said_by: dict[int, Path] = {}
    used: set[int] = set()
    for file in files:
        used.update(np.unique(file.categories_of).tolist())
        for number, name in file.categories.items():
            if names.setdefault(number, name) != name:
                raise UserError(
                    f"{file.path}: category {number} is {name!r} but {names[number]!r} in {said_by[number]}; "
                    "export all splits with the same categories"
                )
            said_by.setdefault(number, file.path)
    # Some exports (Roboflow) list a class a second time, as a group of its own without any box.
    ids = [n for n in sorted(names) if n in used or list(names.values()).count(names[n]) == 1]
    where = files[0].path if files else "data.train.annotations"
    if wanted is not None:
        by_name = {names[number]: number for number in ids}
        for name in wanted:
            if not isinstance(name, str) or name not in by_name:
                raise UserError(f"classes: {where} has no category {name!r}{nearest(str(name), by_name)}")
        ids = [by_name[name] for name in wanted]
    try:
        return ClassMap(names=tuple(names[number] for number in ids), ids=tuple(ids))
    except ValueError as error:
        raise UserError(f"{where}: categories: {error}") from None
