"""Checks the boxes of a dataset, for `tools/check.py`: what was cleaned, and how well anchors match them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from det.anchors.coverage import TINY, anchor_coverage, tiny_share
from det.anchors.input_size import choose_size, median_aspect, relative_sides
from det.anchors.matcher import Matcher
from det.boxes import Detections
from det.data.cleaning import ROTATED
from det.data.dataset import DetectionDataset, DetectionSource, DetectionSplit
from det.data.source_checks import class_amounts
from det.drawing import overlay
from det.eval.object_limits import over_limits
from det.task import Detection
from engine.contracts import Finding, Image, Severity
from engine.data.class_map import ClassMap
from engine.data.labels.report import ExaminedSplit, LabelReport, ReadFacts
from engine.errors import counted
from engine.io.files import evenly_spaced
from engine.sample_images import panel_size, resize_panel

_GOOD_RECALL = 0.95  # best possible
_SHOWN_BOXES = 20_000
_SAMPLES = 3  # per class, those with the most objects


class _Kind(NamedTuple):
    """How an issue that the readers count (`AnnotationIssues`) is reported."""

    code: str
    severity: Severity
    why: str
    remedy: str


_LOST = "Objects that are left out are learned as background."
_CORRECT = "correct the annotations"
_KINDS: Mapping[str, _Kind] = {
    "with non-finite coordinates": _Kind("box_not_finite", "warning", _LOST, _CORRECT),
    "with left and right": _Kind("box_swapped", "warning", "The sides are swapped back when read.", _CORRECT),
    "partly outside": _Kind("box_clipped", "note", "They are clipped to the image.", _CORRECT),
    "outside the image": _Kind("box_outside", "warning", _LOST, _CORRECT),
    "thinner than 1 pixel": _Kind("box_degenerate", "warning", _LOST, _CORRECT),
    "of the same class at the same place": _Kind(
        "box_duplicate",
        "warning",
        "Only one of them is used; with both, even a perfect detector would miss one.",
        _CORRECT,
    ),
    ROTATED: _Kind(
        "box_rotated",
        "warning",
        "The axis-aligned box around a rotated one contains more background.",
        "redraw them without rotation",
    ),
    "fitting only the": _Kind(
        "box_orientation",
        "error",
        "The boxes do not lie on their objects.",
        _CORRECT,
    ),
    "without objects: kept": _Kind(
        "image_without_objects",
        "note",
        "They are used as background images.",
        "annotate their objects, if there are any",
    ),
    "treated as having no objects": _Kind(
        "image_without_labels",
        "warning",
        "Their objects are learned as background.",
        "add the annotation files, or list the images in a JSON file and set data.exclude=<file>",
    ),
    "without an image": _Kind(
        "labels_without_image", "warning", "They are not used.", "add the images, or delete the annotations"
    ),
    "in no split": _Kind(
        "labeled_images_unused",
        "warning",
        "They are used for neither training nor evaluation.",
        "add them to a split, or ignore this",
    ),
    "of other classes": _Kind(
        "other_classes", "warning", _LOST, "add the classes to data.source.classes, or correct their names"
    ),
}
"""Part of an issue's text -> how it is reported. The first match counts; others are `annotation` warnings."""

_UNLABELED, _WITHOUT_OBJECTS = "treated as having no objects", "without objects"
_CONVENTION = (
    " do not fit their images as ",
    "they may be fractions",
    "they may be percentages",
    "they may be for larger",
)
_REPORTED_ELSEWHERE = ("that cannot be read", "that no annotation file lists")  # by the checks of images


def examine(
    *, task: Detection, source: DetectionSource, splits: Mapping[str, ExaminedSplit], read: ReadFacts
) -> LabelReport:
    """Report problems with the boxes; opening the source has read them, so `read` is not used."""
    labeled = {name: split.dataset.split for name, split in splits.items() if split.dataset.has_labels}
    findings = [*_issues(source), *_sizes(splits)]
    if "train" in labeled:
        findings += _anchors(labeled["train"], task)
    findings += [finding for name, split in labeled.items() for finding in _crowded(name, split, task)]
    size = task.eval_transform.size
    return LabelReport(
        unit="boxes",
        amounts={name: class_amounts(split, len(source.classes)) for name, split in labeled.items()},
        findings=findings,
        lines=list(source.notes) or ([] if source.issues is not None else list(source.warnings)),
        samples=lambda index: _samples(labeled, index),
        draw=lambda name, index: _draw(splits[name].dataset, index, source.classes),
        boxes=_shown_boxes(labeled.get("train"), size),
        strides=sorted({size[0] / height for height, _ in getattr(task.model, "map_sizes", list)()}),
    )


def _issues(source: DetectionSource) -> list[Finding]:
    if source.issues is None:
        return []
    findings = []
    kinds = source.issues.kinds()
    unlabeled = sum(count for _, what, count, _ in kinds if _UNLABELED in what)
    for noun, what, count, files in kinds:
        if what.startswith(_WITHOUT_OBJECTS):
            count -= unlabeled  # they are counted as such
        if not count or any(part in what for part in _REPORTED_ELSEWHERE):
            continue
        default = _Kind("annotation", "warning", "It was corrected or left out.", _CORRECT)
        kind = next((kind for part, kind in _KINDS.items() if part in what), default)
        what, _, remedy = what.partition(": if this holds for all boxes, set ")
        if remedy:
            kind = kind._replace(remedy=f"{remedy}, if this holds for all boxes")
        title = f"{counted(count, noun)} {what}"
        findings.append(_finding(kind, title, count, files))
    conventions = [line for line in source.issues.notes if any(part in line for part in _CONVENTION)]
    if conventions:
        count = sum(int(line.split()[0]) for line in conventions if line.split()[0].isdigit())
        title, _, remedy = conventions[0].partition("; ")
        kind = _Kind("box_convention", "error", "The boxes do not lie on their objects.", remedy or _CORRECT)
        findings.append(_finding(kind, title, max(1, count), conventions[1:]))
    kind = _Kind("reader_note", "note", "Noted while reading the annotations.", "see docs/guides/data.md")
    others = (line for line in source.issues.notes if line not in conventions)
    return findings + [_finding(kind, line, 1, []) for line in others]


def _finding(kind: _Kind, title: str, count: int, files: list[str] | tuple[str, ...]) -> Finding:
    return Finding(
        code=kind.code,
        severity=kind.severity,
        title=title,
        count=count,
        examples=tuple(files[:3]),
        why=kind.why,
        remedy=kind.remedy,
    )


def _sizes(splits: Mapping[str, ExaminedSplit]) -> list[Finding]:
    """Images whose size differs from the annotated one."""
    wrong = []
    for name, split in splits.items():
        annotated = split.dataset.split.sizes
        known = split.sizes.any(axis=1) & annotated.any(axis=1)
        wrong += [(name, int(row)) for row in np.flatnonzero(known & (annotated != split.sizes).any(axis=1))]
    if not wrong:
        return []
    excluded: dict[str, tuple[str, ...]] = {}
    for name, row in wrong:
        excluded[name] = (*excluded.get(name, ()), splits[name].dataset.name(row))
    texts = []
    for name, row in wrong[:3]:
        (height, width), other = splits[name].sizes[row], splits[name].dataset.split.sizes[row]
        path = splits[name].dataset.image_path(row)
        texts.append(f"{path}: {height} x {width}, annotated as {other[0]} x {other[1]}")
    noun = "1 image differs" if len(wrong) == 1 else f"{len(wrong)} images differ"
    kind = _Kind(
        "annotated_size",
        "error",
        "The boxes do not lie on their objects, and training stops at such an image.",
        "data.source.sizes=file, if only the annotated sizes are wrong; otherwise scale the boxes, or set "
        "data.exclude=<out>/exclude.json",
    )
    finding = _finding(kind, f"{noun} in size from the annotation", len(wrong), texts)
    return [Finding(**{**finding.__dict__, "exclude": excluded})]


def _anchors(split: DetectionSplit, task: Detection) -> list[Finding]:
    size, matcher = task.eval_transform.size, task.matcher
    if len(matcher.report(split, task.anchors, size)) < 2:
        return []
    findings, tiny = [], tiny_share(split, size)
    if tiny > 0.05:
        findings.append(
            _finding(
                _Kind(
                    "tiny_objects",
                    "warning",
                    "Objects smaller than a cell of the finest feature map are hardly ever detected.",
                    _larger_input(split, size),
                ),
                f"{tiny:.0%} of the objects are smaller than {TINY:g} pixels at "
                f"data.size=[{size[0]},{size[1]}]",
                round(tiny * len(split.boxes)),
                _with_smallest(split),
            )
        )
    return findings + (_overlaps(split, task, matcher) if isinstance(matcher, Matcher) else [])


def _overlaps(split: DetectionSplit, task: Detection, matcher: Matcher) -> list[Finding]:
    coverage = anchor_coverage(split, task.anchors, task.eval_transform.size, matcher)
    if coverage is None or (coverage.too_small <= 0.1 and coverage.overlapping >= 0.8):
        return []
    severity: Severity = "warning" if coverage.reached < _GOOD_RECALL else "note"
    remedy = "data.min_scale=0.1 if the objects are small, or a larger data.size"
    return [
        _finding(
            _Kind("anchors", severity, f"The best possible recall is {coverage.reached:.1%}.", remedy),
            f"{1 - coverage.overlapping:.0%} of the objects overlap no anchor well "
            f"(IoU >= {matcher.matched:g})",
            round((1 - coverage.overlapping) * len(split.boxes)),
            [],
        )
    ]


def _larger_input(split: DetectionSplit, size: tuple[int, int]) -> str:
    """The remedy for tiny objects: `data.size=auto` if it would choose a larger input, and tiles."""
    sides = relative_sides(split)
    height, width, _ = choose_size(sides, aspect=median_aspect(split))
    tiles = "cut the images into tiles"
    return f"data.size=auto ({height}x{width}), or {tiles}" if height * width > size[0] * size[1] else tiles


def _with_smallest(split: DetectionSplit) -> list[str]:
    owners = np.repeat(np.arange(len(split)), np.diff(split.offsets))
    order = owners[np.argsort(split.areas, kind="stable")]
    return [split.images[row].decode(errors="replace") for row in list(dict.fromkeys(order.tolist()))[:3]]


def _crowded(name: str, split: DetectionSplit, task: Detection) -> list[Finding]:
    lines = over_limits(split, task.object_limits)
    if not lines:
        return []
    counts = np.diff(split.offsets)
    title, _, remedy = lines[0].rpartition("; ")
    order = np.argsort(-counts, kind="stable")[:3]
    kind = _Kind(
        "many_objects",
        "warning",
        "Objects beyond the limit always count as missed.",
        remedy.rpartition("set ")[2],
    )
    files = [f"{split.images[row].decode(errors='replace')}: {counts[row]} objects" for row in order]
    count = int(title.partition(" ")[0])
    return [_finding(kind, f"{name}: {title}", count, files)]


def _samples(splits: Mapping[str, DetectionSplit], label: int) -> list[tuple[str, int]]:
    found = []
    for name, split in splits.items():
        owners = np.repeat(np.arange(len(split)), np.diff(split.offsets))
        images, counts = np.unique(owners[split.labels == label], return_counts=True)
        found += [(int(count), name, int(image)) for image, count in zip(images, counts, strict=True)]
    best = sorted(found, key=lambda row: -row[0])[:_SAMPLES]
    return [(name, image) for _, name, image in best]


def _shown_boxes(split: DetectionSplit | None, size: tuple[int, int]) -> NDArray[np.float32] | None:
    """Center x and y as fractions, width and height in pixels at `size`, of evenly spaced objects."""
    if split is None or not len(split.boxes):
        return None
    owners = np.repeat(np.arange(len(split)), np.diff(split.offsets))
    rows = evenly_spaced(len(owners), _SHOWN_BOXES)
    scales = np.tile(np.maximum(split.sizes[owners[rows], ::-1], 1), 2)
    boxes = split.boxes[rows] / scales
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([centers, sides * np.array(size[::-1])], axis=1).astype(np.float32)


def _draw(dataset: DetectionDataset, index: int, classes: ClassMap) -> Image:
    image = dataset.read_pixels(dataset.image_path(index))
    size = panel_size(image)
    scale = np.tile([size[1] / image.shape[1], size[0] / image.shape[0]], 2)
    boxes, labels, ignored = dataset.split.objects(index)
    truth = Detections(
        torch.from_numpy((boxes[~ignored] * scale).astype(np.float32)),
        torch.ones(int((~ignored).sum())),
        torch.from_numpy(labels[~ignored].astype(np.int64)),
    )
    return overlay(resize_panel(image, size), truth, classes, scores=False)
