"""Pascal VOC: one XML file per image, in the official folders or similar ones."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from det.data.cleaning import ROTATED, AnnotationIssues, RawSplit, Sizes, around_rotated, clean_split
from det.data.dataset import DetectionSource, DetectionSplit
from det.data.division import part_of
from det.data.formats import voc_xml
from det.data.formats.voc_layout import SplitFiles, find_splits
from det.data.formats.voc_xml import VocFile
from det.data.reader_options import OnError, ReaderOptions
from det.data.source_checks import checked_source
from engine.data.class_map import ClassMap, alike_line
from engine.data.images import Orientation
from engine.errors import FileErrors, UserError, check_command, raise_or_collect

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
    allow_same_files: bool = False,
    orientation: Orientation = "upright",
    on_error: OnError = "fail",
) -> DetectionSource:
    """Images and XML files with the same names below `root`; `det.data.formats.voc_layout` lists the layouts.

    Objects marked difficult or ignore are not trained on, and are neither hits nor misses, as in VOC's own
    evaluation.
    `det.data.cleaning` has the rules for boxes, `det.data.source_checks` those for splits.

    Args:
        images, annotations: names of the two folders.
        splits: split -> list or folder.
        classes: names, in order (default: those in the files, sorted).
        others: what to do with objects of other classes.
        missing: how to treat images without an XML file, if other images of the split have one.
        one_based: pixels are counted from 1 and boxes include their last pixel, as in the data of the VOC
            challenge: x1 = xmin - 1, x2 = xmax. By default coordinates are corners counted from 0, as current
            programs write them, and as conversions to COCO and pycocotools read them.
        sizes, allow_same_names, allow_same_files, orientation, on_error: see `ReaderOptions`.

    Raises:
        UserError: if a file is wrong; names the file and the element, before training.
        ValueError: if an option is unknown.
    """
    options = VocOptions(
        classes=classes,
        others=others,
        missing=missing,
        one_based=one_based,
        sizes=sizes,
        allow_same_names=allow_same_names,
        allow_same_files=allow_same_files,
        orientation=orientation,
        on_error=on_error,
    )
    return read_files(VOC, options, root=root, images=images, annotations=annotations, splits=splits)


@dataclass(frozen=True, kw_only=True)
class VocOptions(ReaderOptions):
    """The options of a format with an annotation file per image.

    Attributes:
        others: what to do with objects of other classes.
        missing: how to treat images without an annotation file, if other images of the split have one.
        one_based: whether pixels are counted from 1 and boxes include their last pixel.

    Raises:
        ValueError: if an option is unknown.
    """

    others: Others = "refuse"
    missing: Missing = "refuse"
    one_based: bool = False

    def __post_init__(self) -> None:
        if self.others not in ("refuse", "ignore"):
            raise ValueError(f"others must be refuse or ignore, got {self.others!r}")
        if self.missing not in ("refuse", "negative"):
            raise ValueError(f"missing must be refuse or negative, got {self.missing!r}")


class Kind(NamedTuple):
    """A format with an annotation file per image.

    Attributes:
        name: what messages call the dataset; noun: what they call its files.
        suffix: of the files, in lower case.
        read: reads one file.
        reading: a key of `det.data.readings.READINGS`, or empty.
    """

    name: str
    noun: str
    suffix: str
    read: Callable[[str], VocFile]
    reading: str = ""


_UNUSED = "without an image: left out"


VOC = Kind("VOC", "XML file", ".xml", voc_xml.read, "voc")


def read_files(
    kind: Kind,
    options: VocOptions,
    *,
    root: str,
    images: str | None,
    annotations: str | None,
    splits: Mapping[str, str] | None,
) -> DetectionSource:
    """The data source of a format with an annotation file per image; the arguments are those of `voc`."""
    base, issues = Path(root).expanduser(), AnnotationIssues()
    files, warnings = find_splits(
        base, images=images, annotations=annotations, splits=splits, suffix=kind.suffix
    )
    if options.on_error == "skip":
        files = {split: _with_absent_images(part) for split, part in files.items()}
    with_image = {name for part in files.values() for name in part.images}
    unused = {
        path for part in files.values() for name, path in part.annotations.items() if name not in with_image
    }
    issues.add(kind.noun, _UNUSED, map(os.path.basename, sorted(unused)))
    listed = {part.images.get(name) for part in files.values() for name in part.names}
    annotated = {part.images.get(name) for part in files.values() for name in part.annotations}
    in_no_split = sorted(path for path in annotated - listed if path is not None)
    what = f"with {_article(kind.noun)}, but in no split: left out"
    issues.add("image", what, map(os.path.basename, in_no_split))
    own = _without_parts(files)
    contents = {split: _read(base, kind, split, part, options.missing, issues) for split, part in own.items()}
    names = {item.name for part in contents.values() for file in part.values() for item in file.objects}
    class_map = _classes(kind, base, options.classes, names, issues)
    cleaned: dict[str, DetectionSplit] = {}
    for split, part in files.items():
        if split in contents:
            raw = _raw_split(kind, part, contents[split], class_map, options.others, issues)
            raw.boxes[:, :2] -= options.one_based
            cleaned[split] = clean_split(raw, issues, sizes=options.sizes, orientation=options.orientation)
        elif (known := part_of([part.images[name] for name in part.names], cleaned)) is not None:
            cleaned[split] = known
    return checked_source(
        name=f"{kind.name} at {base}",
        classes=class_map,
        splits=cleaned,
        issues=issues,
        warnings=warnings,
        options=options,
    )


def _without_parts(files: Mapping[str, SplitFiles]) -> dict[str, SplitFiles]:
    """The splits, except those whose images and annotation files all belong to an earlier one."""
    own: dict[str, SplitFiles] = {}
    for split, part in files.items():
        pairs = {(part.images.get(name), part.annotations.get(name)) for name in part.names}
        known = (
            {(other.images.get(name), other.annotations.get(name)) for name in other.names}
            for other in own.values()
        )
        if not any(pairs <= each for each in known):
            own[split] = part
    return own


def _with_absent_images(files: SplitFiles) -> SplitFiles:
    """The files, with paths also for listed images that do not exist; reading these is an error later."""
    folder = os.path.dirname(next(iter(files.images.values())))
    absent = {name: os.path.join(folder, name) for name in files.names if name not in files.images}
    if len(absent) == len(files.names):
        return files
    return files._replace(images=files.images | absent)


def _read(
    root: Path, kind: Kind, split: str, files: SplitFiles, missing: Missing, issues: AnnotationIssues
) -> dict[str, VocFile]:
    """The content of a split's annotation files, by name; a test split needs none."""
    without_image = [name for name in files.names if name not in files.images]
    if without_image:
        folder = os.path.dirname(next(iter(files.images.values())))
        some = len(without_image) < len(files.names)
        remedy = "add the images, correct the list, or set data.on_error=skip"
        raise UserError(
            f"{os.path.join(folder, without_image[0])}: no such image ({len(without_image)} of the "
            f"{len(files.names)} names of {split} have none); "
            f"{remedy if some else 'add the images, or correct the list'}"
        )
    # A listed image that does not exist is an error when it is read; it needs no annotations.
    absent = [
        name for name in files.names if name not in files.annotations and os.path.isfile(files.images[name])
    ]
    if len(absent) == len(files.names) and split == "test":
        return {}
    if absent and (missing == "refuse" or len(absent) == len(files.names)):
        unused = [finding for finding in issues.findings() if _UNUSED in finding]
        remedy = f"name the {kind.noun}s like the images, or " if unused else ""
        remedy += "set data.source.annotations=<their folder>"
        if missing == "refuse" and len(absent) < len(files.names):
            remedy += ", or, if these images have no objects, data.source.missing=negative"
        elif not unused:
            remedy += f"; for labels of another format: {check_command(root)}"
        shares = "; ".join([f"{len(absent)} of {len(files.names)} images of {split} have none", *unused])
        raise_or_collect(
            UserError(
                f"{files.images[absent[0]]}: no {absent[0]}{kind.suffix} ({shares}); {remedy}",
                files=[files.images[name] for name in absent],
            )
        )
        if len(absent) == len(files.names):
            return {}
    issues.add(
        "image",
        f"without {_article(kind.noun)}: treated as having no objects",
        (os.path.basename(files.images[name]) for name in absent),
    )
    contents, errors = dict[str, VocFile](), FileErrors()
    for name in (name for name in files.names if name in files.annotations):
        path = files.annotations[name]
        with errors.of(path):
            contents[name] = kind.read(path)
            for noun, what in contents[name].findings:
                issues.add(noun, what, [os.path.basename(path)])
    errors.check()
    issues.refuse(errors.files)
    return contents


def _article(noun: str) -> str:
    return f"a{'n' if noun[:1] in 'AEIOUX' else ''} {noun}"


def _classes(
    kind: Kind, base: Path, selected: Sequence[str] | None, names: set[str], issues: AnnotationIssues
) -> ClassMap:
    if not names and selected is None:
        findings = issues.findings()
        known = f" ({'; '.join(findings)})" if findings else ""
        raise UserError(
            f"{base}: no objects in any {kind.noun}{known}; annotate some, or check data.source.annotations"
        )
    for line in alike_line(sorted(names)) if selected is None else ():
        issues.note(line)
    try:
        return ClassMap(names=tuple(sorted(names) if selected is None else selected))
    except ValueError as error:
        raise UserError(f"{base}: classes: {error}") from None


def _raw_split(
    kind: Kind,
    files: SplitFiles,
    contents: Mapping[str, VocFile],
    classes: ClassMap,
    others: Others,
    issues: AnnotationIssues,
) -> RawSplit:
    label_of = {name: label for label, name in enumerate(classes.names)}
    owners, boxes, labels, difficult, angles = [], [], [], [], []
    for owner, name in enumerate(files.names):
        file = files.annotations.get(name, "")
        for item in contents[name].objects if name in contents else ():
            if item.name not in label_of:
                if others == "refuse":
                    raise UserError(
                        f"{file}: class {item.name!r} is not one of {', '.join(classes.names)}; "
                        "add it to data.source.classes, or set data.source.others=ignore"
                    )
                issues.add("object", "of other classes: left out", [os.path.basename(file)])
                continue
            owners.append(owner)
            boxes.append(item.box)
            labels.append(label_of[item.name])
            difficult.append(item.difficult)
            angles.append(item.angle)
            if item.angle:
                issues.add("box", ROTATED, [os.path.basename(file)])
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    turned = np.array(angles, np.float64)
    corners[turned != 0] = around_rotated(corners[turned != 0], turned[turned != 0])
    return RawSplit(
        images=[files.images[name] for name in files.names],
        names=list(files.names),
        files=[os.path.basename(files.annotations.get(name, files.images[name])) for name in files.names],
        sizes=[contents[name].size if name in contents else None for name in files.names],
        owners=np.array(owners, np.int64),
        boxes=corners,
        labels=np.array(labels, np.int64),
        difficult=np.array(difficult, bool),
        has_labels=bool(contents),
        format=kind.reading,
    )
