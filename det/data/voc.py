"""Pascal VOC: one XML file per picture, in the official tree or any like it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from det.data import voc_xml
from det.data.assembly import assemble
from det.data.cleaning import AnnotationIssues, RawSplit, Sizes, finish
from det.data.dataset import DetectionData
from det.data.voc_layout import Found, find_splits
from det.data.voc_xml import VocFile
from engine.data.class_map import ClassMap
from engine.errors import UserError

Others = Literal["refuse", "ignore"]


Missing = Literal["refuse", "negative"]


def voc(
    *,
    root: str,
    images: str | None = None,
    annotations: str | None = None,
    splits: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    others: Others = "refuse",
    missing: Missing = "refuse",
    one_based: bool = False,
    sizes: Sizes = "check",
    allow_same_names: bool = False,
) -> DetectionData:
    """XML files beside pictures of the same name below `root`; `det.data.voc_layout` says where they are looked for.

    images, annotations: names of the two folders. splits: split -> list or folder. classes: the names in
    their order (default: those in the files, sorted); others: what to do with objects of other names.
    missing: what a picture without an XML file means, where others of its split have one. Objects marked
    difficult are neither trained nor counted as misses, as in VOC's own evaluation.

    one_based: pixels are counted from 1 and the last belongs to the box, as in the sets of the VOC challenge:
    x1 = xmin - 1, x2 = xmax. Default: coordinates are corners from 0, which is what today's programs write
    and what a conversion to COCO and pycocotools takes them for.

    See `det.data.cleaning` for the rules about boxes and `sizes`, `det.data.assembly` for what splits must not share.

    Raises: UserError, before training, naming the file and element.
    """
    if others not in ("refuse", "ignore"):
        raise ValueError(f"others must be refuse or ignore, got {others!r}")
    if missing not in ("refuse", "negative"):
        raise ValueError(f"missing must be refuse or negative, got {missing!r}")
    base, findings = Path(root).expanduser(), AnnotationIssues()
    found, warnings = find_splits(base, images=images, annotations=annotations, splits=splits)
    pictured = {name for files in found.values() for name in files.images}
    alone = {path for files in found.values() for name, path in files.xmls.items() if name not in pictured}
    findings.note("XML file", "without a picture: left out", map(os.path.basename, sorted(alone)))
    read = {split: _read(split, files, missing, findings) for split, files in found.items()}
    names = {thing.name for files in read.values() for file in files.values() for thing in file.objects}
    class_map = _classes(base, classes, names)
    finished = {}
    for split, files in read.items():
        raw = _raw(found[split], files, class_map, others, findings)
        if one_based:
            raw.boxes[:, :2] -= 1
        finished[split] = finish(raw, findings, sizes=sizes)
    return assemble(
        source=f"VOC at {base}",
        classes=class_map,
        splits=finished,
        findings=findings,
        warnings=warnings,
        allow_same_names=allow_same_names,
    )


def _read(split: str, found: Found, missing: Missing, findings: AnnotationIssues) -> dict[str, VocFile]:
    """The XML files of a split by name; those of a test split may all be absent."""
    unpictured = [name for name in found.names if name not in found.images]
    if unpictured:
        folder = os.path.dirname(next(iter(found.images.values())))
        raise UserError(
            f"{os.path.join(folder, unpictured[0])}: no such picture ({len(unpictured)} of the "
            f"{len(found.names)} names of {split} lack one); add the pictures or correct the list"
        )
    absent = [name for name in found.names if name not in found.xmls]
    if len(absent) == len(found.names) and split == "test":
        return {}
    if absent and (missing == "refuse" or len(absent) == len(found.names)):
        remedy = "name the folder by data.source.annotations"
        if missing == "refuse" and len(absent) < len(found.names):
            remedy += ", or, where it means that there are no objects, give data.source.missing=negative"
        raise UserError(
            f"{found.images[absent[0]]}: no {absent[0]}.xml ({len(absent)} of {len(found.names)} pictures of "
            f"{split} lack one); {remedy}"
        )
    findings.note(
        "image",
        "without an XML file: taken as without objects",
        (os.path.basename(found.images[name]) for name in absent),
    )
    return {name: voc_xml.read(found.xmls[name]) for name in found.names if name in found.xmls}


def _classes(base: Path, wanted: Sequence[str] | None, names: set[str]) -> ClassMap:
    if not names and wanted is None:
        raise UserError(f"{base}: no object in any XML file; annotate some, or check data.source.annotations")
    try:
        return ClassMap(names=tuple(sorted(names) if wanted is None else wanted))
    except ValueError as error:
        raise UserError(f"{base}: classes: {error}") from None


def _raw(
    found: Found, files: Mapping[str, VocFile], classes: ClassMap, others: Others, findings: AnnotationIssues
) -> RawSplit:
    index = {name: number for number, name in enumerate(classes.names)}
    owners, boxes, labels, difficult = [], [], [], []
    for owner, name in enumerate(found.names):
        for thing in files[name].objects if name in files else ():
            if thing.name not in index:
                if others == "refuse":
                    raise UserError(
                        f"{found.xmls[name]}: class {thing.name!r} is not one of {', '.join(classes.names)}; "
                        "add it to data.source.classes, or give data.source.others=ignore"
                    )
                findings.note("object", "of other classes: left out", [os.path.basename(found.xmls[name])])
                continue
            owners.append(owner)
            boxes.append(thing.box)
            labels.append(index[thing.name])
            difficult.append(thing.difficult)
    return RawSplit(
        images=[found.images[name] for name in found.names],
        names=list(found.names),
        files=[os.path.basename(found.xmls.get(name, found.images[name])) for name in found.names],
        sizes=[files[name].size if name in files else None for name in found.names],
        owners=np.array(owners, np.int64),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        difficult=np.array(difficult, bool),
        has_labels=bool(files),
    )
