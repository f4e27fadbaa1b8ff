"""From boxes as they were annotated to boxes that can be trained on: the rules all formats share.

Boxes that are not finite are left out; sides that are exchanged are put right; what lies outside the picture
is cut off, and a box wholly outside left out; then a box thinner than `MIN_SIDE` pixels is left out. Pictures
without objects stay, as negatives. Each is counted and reported once, with files.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from det.data.dataset import Annotations, offsets
from engine.data.images import image_size
from engine.errors import UserError
from engine.io.files import pack, spread

MIN_BOX_SIDE = 0.99
"""Pixels: one, less what a normalized coordinate loses when it is rounded to six digits."""


_OVERSHOOT = 0.5  # pixels by which a box may leave its picture without mention


_SIZES_CHECKED = 1000  # per split; a header takes about 0.15 ms


Sizes = Literal["check", "file"]


class AnnotationIssues:
    """Counts by kind, in the order of first notice."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._files: dict[tuple[str, str], list[str]] = {}

    def note(self, noun: str, what: str, files: Iterable[str]) -> None:
        """One `noun` per item of `files`, which becomes "3 boxes thinner than 1 pixel: left out (a.xml)"."""
        kind = (noun, what)
        for file in files:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            shown = self._files.setdefault(kind, [])
            if len(shown) < 2 and file not in shown:
                shown.append(file)

    def lines(self, where: str) -> list[str]:
        """The report; `where` says which data it is about."""
        return [
            f"{where}: {count} {counted(noun, count)} {what} ({', '.join(self._files[noun, what])})"
            for (noun, what), count in self._counts.items()
        ]


def counted(noun: str, count: int) -> str:
    """The noun in the number that `count` asks for."""
    if count == 1:
        return noun
    return f"{noun}es" if noun.endswith(("x", "ss")) else f"{noun}s"


@dataclass(kw_only=True)
class RawSplit:
    """One split as it was read; lists of N images and arrays of B boxes in any order.

    files: what to name in messages about an image's boxes. sizes: (height, width) as annotated; None where
    nothing is said. owners: int64 [B], the image's index. boxes: float64 [B, 4], xyxy in pixels. areas:
    float64 [B], NaN for the area of the box.
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


def finish(raw: RawSplit, findings: AnnotationIssues, *, sizes: Sizes = "check") -> Annotations:
    """Apply the rules. sizes: "check" compares the annotated sizes with a sample of the files, "file" takes
    all sizes from the files.

    A picture that cannot be read is an error later, when it is read, and mentioned now; where its size is not
    annotated either, it has no boxes.

    Raises: UserError for a picture of another size than annotated.
    """
    heights_widths = _sizes(raw, sizes, findings)
    boxes, kept = _mend(raw, heights_widths, findings)
    order = np.argsort(raw.owners[kept], kind="stable")
    rows = kept[order]
    boxes, owners = boxes[rows], raw.owners[rows]
    counts = np.bincount(owners, minlength=len(raw.images))
    if raw.has_labels:
        empty = [raw.files[index] for index in np.flatnonzero(counts == 0)]
        findings.note("image", "without objects: kept as negatives", empty)
    crowd = np.zeros(len(rows), bool) if raw.crowd is None else raw.crowd[rows]
    difficult = np.zeros(len(rows), bool) if raw.difficult is None else raw.difficult[rows]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    if raw.areas is not None:
        stated = raw.areas[rows]
        areas = np.where((stated >= 0) & (stated < 1e12), stated, areas)  # also where it is NaN
    ids = range(1, len(raw.images) + 1) if raw.image_ids is None else raw.image_ids
    return Annotations(
        images=pack(raw.images),
        names=pack(raw.names),
        image_ids=np.array(ids, np.int64),
        sizes=heights_widths,
        first=offsets(counts),
        boxes=boxes.astype(np.float32),
        labels=raw.labels[rows].astype(np.int32),
        crowd=crowd,
        ignored=crowd | difficult,
        areas=areas.astype(np.float32),
        has_labels=raw.has_labels,
    )


def _mend(
    raw: RawSplit, sizes: NDArray[np.int32], findings: AnnotationIssues
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Boxes [B, 4] put right, and the rows that are kept."""

    def note(what: str, rows: NDArray[np.bool_]) -> None:
        findings.note("box", what, (raw.files[raw.owners[row]] for row in np.flatnonzero(rows)))

    finite = np.isfinite(raw.boxes).all(axis=1)
    note("with coordinates that are not finite: left out", ~finite)
    limits = sizes[raw.owners][:, None, ::-1].astype(np.float64)  # width, height of each box's picture
    finite &= limits[:, 0, 0] > 0
    corners = np.where(finite[:, None], raw.boxes, 0).reshape(-1, 2, 2)
    exchanged = (corners[:, 0] > corners[:, 1]).any(axis=1)
    note("with left and right, or top and bottom, exchanged: put right", exchanged)
    corners = np.sort(corners, axis=1)
    outside = finite & ((corners[:, 1] < 0) | (corners[:, 0] > limits[:, 0])).any(axis=1)
    note("outside of the picture: left out", outside)
    cut = np.clip(corners, 0, limits)
    thin = (cut[:, 1] - cut[:, 0] < MIN_BOX_SIDE).any(axis=1) & finite & ~outside
    note("thinner than 1 pixel: left out", thin)
    kept = finite & ~outside & ~thin
    over = (np.abs(cut - corners) > _OVERSHOOT).any(axis=(1, 2))
    note("partly outside of the picture: cut off", over & kept)
    return cut.reshape(-1, 4), np.flatnonzero(kept)


def _sizes(raw: RawSplit, sizes: Sizes, findings: AnnotationIssues) -> NDArray[np.int32]:
    if sizes not in ("check", "file"):
        raise ValueError(f"sizes must be check or file (read from each picture), got {sizes!r}")
    known = [None] * len(raw.images) if sizes == "file" else list(raw.sizes)
    if sizes == "check":
        for index in spread(len(known), _SIZES_CHECKED) if known else []:
            if (size := known[index]) is not None:
                _check_size(raw.images[index], raw.files[index], size)
    known = [size or header_size(image) for size, image in zip(known, raw.images, strict=True)]
    unreadable = [file for file, size in zip(raw.files, known, strict=True) if size is None]
    findings.note("image", "that cannot be read", unreadable)
    return np.array([size or (0, 0) for size in known], np.int32).reshape(-1, 2)


def header_size(image: str) -> tuple[int, int] | None:
    """(height, width) of the upright picture, from its header; None where it cannot be read."""
    try:
        return image_size(image)
    except UserError:
        return None


def _check_size(image: str, file: str, size: tuple[int, int]) -> None:
    found = header_size(image)
    if found is None or found == size:
        return
    if image_size(image, upright=False) == size:
        reason = "it is turned by its EXIF orientation, and boxes must be those of the upright picture"
    else:
        reason = "scale the boxes with the picture"
    raise UserError(
        f"{file}: says {size[0]} x {size[1]} but {image} is {found[0]} x {found[1]} (height x width); "
        f"{reason}, or, where only the stated size is wrong, give data.source.sizes=file"
    )
