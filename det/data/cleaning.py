"""Cleans annotated boxes for training, with the same rules for all formats.

Boxes with non-finite coordinates are left out. Swapped corners are corrected. Boxes are clipped to their
image, and left out if they are entirely outside it or thinner than `MIN_BOX_SIDE` pixels. Of several boxes
of one class at the same place, one is kept. Images without objects are kept as negatives. Every change is
counted and reported once, with example files.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from det.data.dataset import DetectionSplit, to_offsets
from det.data.readings import doubts
from engine.data.images import Orientation, image_size
from engine.errors import FileErrors, UserError, counted
from engine.io.files import evenly_spaced, pack_paths

MIN_BOX_SIDE = 0.99
"""Pixels: one, minus the error of normalized coordinates that are rounded to six digits."""


_UNREPORTED_OVERRUN = 0.5  # pixels; boxes that extend less beyond the image are clipped silently


_SAME_BOX = 0.02  # pixels; boxes of one class whose sides differ by less are the same


_SIZES_CHECKED = 1000  # per split; reading a header takes about 0.15 ms


Sizes = Literal["check", "file"]


_OTHER: Mapping[Orientation, Orientation] = {"upright": "stored", "stored": "upright"}


class AnnotationIssues:
    """What was wrong with the annotations of a dataset: counts by kind, in the order of first occurrence."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._files: dict[tuple[str, str], list[str]] = {}
        self._notes: list[str] = []
        self._refused: set[str] = set()

    def refuse(self, files: Iterable[str]) -> None:
        """Do not count these files as without objects: they are reported as errors."""
        self._refused.update(map(os.path.basename, files))

    def is_refused(self, file: str) -> bool:
        return file in self._refused

    def note(self, line: str) -> None:
        """Report `line` first."""
        self._notes.append(line)

    def add(self, noun: str, what: str, files: Iterable[str]) -> None:
        """Count a `noun` per file, to be reported as "3 boxes thinner than 1 pixel: left out (a.xml)"."""
        kind = (noun, what)
        for file in files:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            examples = self._files.setdefault(kind, [])
            if len(examples) < 3 and file not in examples:
                examples.append(file)

    def include(self, other: "AnnotationIssues") -> None:
        """Also report everything that `other` reports."""
        self._notes += other._notes
        for (noun, what), count in other._counts.items():
            examples = other._files[noun, what]
            self.add(noun, what, [*examples, *[examples[0]] * (count - len(examples))])

    @property
    def notes(self) -> list[str]:
        """The lines of `note`."""
        return list(self._notes)

    def kinds(self) -> list[tuple[str, str, int, list[str]]]:
        """The noun, what was done, the number, and up to three files of each kind."""
        return [(noun, what, count, self._files[noun, what]) for (noun, what), count in self._counts.items()]

    def lines(self, source: str) -> list[str]:
        """The report; each line begins with `source`, the name of the dataset."""
        return [f"{source}: {finding}" for finding in self.findings()]

    def findings(self) -> list[str]:
        """The lines of the report without the name of the dataset."""
        return self._notes + [
            f"{counted(count, noun)} {what} ({', '.join(self._files[noun, what][:2])})"
            for (noun, what), count in self._counts.items()
        ]


@dataclass(kw_only=True, eq=False)
class RawSplit:
    """One split as read from its files: N images and B boxes, in any order.

    Attributes:
        images, names: paths and names.
        files: per image, the file to name in messages about its boxes.
        sizes: (height, width) as annotated; None if unknown.
        image_ids: COCO's; None for 1..N.
        owners: int64 [B], the index of the box's image.
        boxes: float64 [B, 4], xyxy in pixels.
        labels: int64 [B].
        crowd, difficult: bool [B]; None if no box is.
        areas: float64 [B], NaN to use the box's area.
        has_labels: whether the split is annotated.
        format: a key of `det.data.readings.READINGS`, or empty.
    """

    images: list[str]
    names: list[str]
    files: list[str]
    sizes: Sequence[tuple[int, int] | None]
    image_ids: Sequence[int] | None = None
    owners: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    boxes: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 4)))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    crowd: NDArray[np.bool_] | None = None
    difficult: NDArray[np.bool_] | None = None
    areas: NDArray[np.float64] | None = None
    has_labels: bool = True
    format: str = ""


def clean_split(
    raw: RawSplit,
    issues: AnnotationIssues,
    *,
    sizes: Sizes = "check",
    orientation: Orientation = "upright",
) -> DetectionSplit:
    """Clean a split by the rules of this module.

    An unreadable image is only counted here; it is an error when its pixels are read. If its size is not
    annotated either, its boxes are left out.

    Args:
        issues: counts what was changed.
        sizes: `check` compares the annotated sizes with those of a sample of the files; `file` ignores them
            and reads the size of every file.
        orientation: whether sizes and boxes refer to the upright or to the stored images.

    Raises:
        UserError: if an image's size differs from the annotated one.
        ValueError: if `sizes` is unknown.
    """
    image_sizes = _image_sizes(raw, sizes, issues, orientation)
    upright = ~_note_turned(raw, image_sizes, issues, orientation)
    for line in doubts(raw.boxes[upright], image_sizes[raw.owners[upright]], raw.format):
        issues.note(line)
    boxes, kept = _clean_boxes(raw, image_sizes, issues)
    kept = _without_duplicates(raw, boxes, kept, issues)
    rows = kept[np.argsort(raw.owners[kept], kind="stable")]
    boxes = boxes[rows]
    counts = np.bincount(raw.owners[rows], minlength=len(raw.images))
    if raw.has_labels:
        readable = image_sizes.any(axis=1)
        empty = [raw.files[index] for index in np.flatnonzero((counts == 0) & readable)]
        kept_empty = [file for file in empty if not issues.is_refused(file)]
        issues.add("image", "without objects: kept as negatives", kept_empty)
    crowd = np.zeros(len(rows), bool) if raw.crowd is None else raw.crowd[rows]
    difficult = np.zeros(len(rows), bool) if raw.difficult is None else raw.difficult[rows]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    if raw.areas is not None:
        annotated = raw.areas[rows]
        plausible = (annotated >= 0) & (annotated < 1e12)  # False for NaN
        areas = np.where(plausible, annotated, areas)
    ids = range(1, len(raw.images) + 1) if raw.image_ids is None else raw.image_ids
    return DetectionSplit(
        images=pack_paths(raw.images),
        names=pack_paths(raw.names),
        image_ids=np.array(ids, np.int64),
        sizes=image_sizes,
        offsets=to_offsets(counts),
        boxes=boxes.astype(np.float32),
        labels=raw.labels[rows].astype(np.int32),
        crowd=crowd,
        ignored=crowd | difficult,
        areas=areas.astype(np.float32),
        has_labels=raw.has_labels,
    )


ROTATED = "rotated: replaced by the upright box around it"
"""What readers report of the boxes that went through `around_rotated`."""


def says_ignored(attribute: str, value: object) -> bool:
    """Whether an attribute of an object, as annotation tools let users define, says that it does not count:
    `difficult` or `ignore`."""
    return attribute.lower() in ("difficult", "ignore") and str(value).lower() in ("true", "1", "yes")


def around_rotated(boxes: NDArray[np.float64], angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upright boxes around `boxes` [B, 4] xyxy that are turned about their centers by `angles` [B], in
    radians, in either direction."""
    centers, (width, height) = (boxes[:, :2] + boxes[:, 2:]) / 2, np.abs(boxes[:, 2:] - boxes[:, :2]).T / 2
    cosines, sines = np.abs(np.cos(angles)), np.abs(np.sin(angles))
    reach = np.column_stack([width * cosines + height * sines, width * sines + height * cosines])
    return np.concatenate([centers - reach, centers + reach], axis=1)


def _clean_boxes(
    raw: RawSplit, sizes: NDArray[np.int32], issues: AnnotationIssues
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cleaned boxes [B, 4], and the rows to keep."""

    def add(what: str, rows: NDArray[np.bool_]) -> None:
        issues.add("box", what, (raw.files[raw.owners[row]] for row in np.flatnonzero(rows)))

    usable: NDArray[np.bool_] = np.asarray(np.isfinite(raw.boxes).all(axis=1))
    add("with non-finite coordinates: left out", ~usable)
    limits = sizes[raw.owners][:, None, ::-1].astype(np.float64)  # width, height of each box's image
    usable &= limits[:, 0, 0] > 0
    corners = np.where(usable[:, None], raw.boxes, 0).reshape(-1, 2, 2)
    x_swapped, y_swapped = (corners[:, 0] > corners[:, 1]).T
    add("with left and right, or top and bottom, swapped: corrected", x_swapped | y_swapped)
    corners = np.sort(corners, axis=1)
    outside = usable & ((corners[:, 1] < 0) | (corners[:, 0] > limits[:, 0])).any(axis=1)
    add("outside the image: left out", outside)
    clipped = np.clip(corners, 0, limits)
    thin = (clipped[:, 1] - clipped[:, 0] < MIN_BOX_SIDE).any(axis=1) & usable & ~outside
    add("thinner than 1 pixel: left out", thin)
    kept = usable & ~outside & ~thin
    overruns = (np.abs(clipped - corners) > _UNREPORTED_OVERRUN).any(axis=(1, 2))
    add("partly outside the image: clipped", overruns & kept)
    return clipped.reshape(-1, 4), np.flatnonzero(kept)


def _without_duplicates(
    raw: RawSplit, boxes: NDArray[np.float64], kept: NDArray[np.int64], issues: AnnotationIssues
) -> NDArray[np.int64]:
    """The rows to keep, without those with the same image, class, box and flags as an earlier one."""
    flags = [flag for flag in (raw.crowd, raw.difficult) if flag is not None]
    columns = [raw.owners, raw.labels, *(flag.astype(np.int64) for flag in flags)]
    group, own = np.column_stack(columns)[kept], boxes[kept]
    order = np.lexsort([own[:, 0], *group.T])
    group, own, again = group[order], own[order], np.zeros(len(kept), bool)
    first, distance = np.arange(len(kept)), 1
    while len(first := first[first + distance < len(kept)]):
        second = first + distance
        near = (group[first] == group[second]).all(axis=1) & (own[second, 0] - own[first, 0] < _SAME_BOX)
        first, second = first[near], second[near]
        same = (np.abs(own[first] - own[second]) < _SAME_BOX).all(axis=1)
        again[np.maximum(order[first], order[second])[same]] = True
        distance += 1  # boxes with the same left side may lie between two that are the same
    files = (raw.files[owner] for owner in raw.owners[kept[again]])
    issues.add("box", "of the same class at the same place as another: left out", files)
    return kept[~again]


def _note_turned(
    raw: RawSplit, sizes: NDArray[np.int32], issues: AnnotationIssues, orientation: Orientation
) -> NDArray[np.bool_]:
    """Count boxes that do not fit their image, but would fit it in the other orientation. Returns: bool [B],
    which these are."""
    limits = sizes[raw.owners][:, ::-1]  # width, height
    ends = raw.boxes.reshape(-1, 2, 2).max(axis=1)
    beyond = (ends > limits + 1).any(axis=1) & (ends <= limits[:, ::-1] + 1).all(axis=1)
    other = _OTHER[orientation]
    turned = {
        owner
        for owner in np.unique(raw.owners[beyond]).tolist()
        if read_size(raw.images[owner], other) == tuple(sizes[owner, ::-1])
    }
    rows = beyond & np.isin(raw.owners, list(turned))
    what = (
        f"fitting only the {other} image, not the {orientation} one (EXIF): if this holds for all boxes, set "
        f"data.orientation={other}"
    )
    issues.add("box", what, (raw.files[owner] for owner in raw.owners[rows]))
    return np.asarray(rows)


def _image_sizes(
    raw: RawSplit, sizes: Sizes, issues: AnnotationIssues, orientation: Orientation
) -> NDArray[np.int32]:
    if sizes not in ("check", "file"):
        raise ValueError(f"sizes must be check or file, got {sizes!r}")
    known = [None] * len(raw.images) if sizes == "file" else list(raw.sizes)
    if sizes == "check":
        errors = FileErrors()
        for index in evenly_spaced(len(known), _SIZES_CHECKED) if known else []:
            if (size := known[index]) is not None:
                with errors.of(raw.images[index]):
                    _check_size(raw.images[index], raw.files[index], size, orientation)
        errors.check()
    known = [size or read_size(image, orientation) for size, image in zip(known, raw.images, strict=True)]
    unreadable = [image for image, size in zip(raw.images, known, strict=True) if size is None]
    issues.add("image", "that cannot be read", map(os.path.basename, unreadable))
    return np.array([size or (0, 0) for size in known], np.int32).reshape(-1, 2)


def read_size(image: str, orientation: Orientation = "upright") -> tuple[int, int] | None:
    """(height, width) from its header; None if it cannot be read."""
    try:
        return image_size(image, upright=orientation == "upright")
    except UserError:
        return None


def _check_size(image: str, file: str, annotated: tuple[int, int], orientation: Orientation) -> None:
    size, other = read_size(image, orientation), _OTHER[orientation]
    if size is None or size == annotated:
        return
    if read_size(image, other) == annotated:
        remedy = f"it has an EXIF rotation: if its boxes fit the {other} image, set data.orientation={other},"
    else:
        remedy = "scale the boxes with the image"
    raise UserError(
        f"{file}: the annotated size is {annotated[0]} x {annotated[1]} but {image} is {size[0]} x {size[1]} "
        f"(height x width); {remedy} or, if only the annotated size is wrong, set data.source.sizes=file"
    )
