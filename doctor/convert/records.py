"""Annotated images, independent of the tool that wrote them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from det.data.cleaning import AnnotationIssues


class Box(NamedTuple):
    """An upright rectangle, in pixels."""

    left: float
    top: float
    right: float
    bottom: float


class Polygons(NamedTuple):
    """The parts of an object: for each, its corners, float64 [N, 2] of x and y."""

    parts: tuple[NDArray[np.float64], ...]


class Bitmap(NamedTuple):
    """The pixels of an object: bool [h, w], whose upper left corner is at (left, top)."""

    left: int
    top: int
    pixels: NDArray[np.bool_]


class RunLengths(NamedTuple):
    """COCO's code of an object: {"size": [height, width], "counts": ...}."""

    code: dict[str, Any]


Geometry = Box | Polygons | Bitmap | RunLengths


@dataclass(frozen=True)
class Shape:
    """An object. ignored: it counts neither for nor against a prediction (crowd, difficult)."""

    label: str
    geometry: Geometry
    ignored: bool = False


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image and its objects.

    Attributes:
        name: the image's path in the dataset, without a suffix.
        split: train, val or test; empty if the dataset has no splits.
        size: (height, width) as annotated; None if unknown.
        origin: what messages call the annotation, such as its file.
    """

    image: Path
    name: str
    split: str
    size: tuple[int, int] | None
    shapes: Sequence[Shape]
    origin: str


class Report(AnnotationIssues):
    """What was left out or changed, with counts; `unreadable` has a message for each file that is damaged,
    missing or contradicts its annotation."""

    def __init__(self) -> None:
        super().__init__()
        self.unreadable: list[str] = []


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset in some format.

    Attributes:
        title: the format in words.
        count: number of images.
        samples: yields them, and adds to a report what is left out; can be called several times.
        labels: the classes, in order; empty if no file lists them.
    """

    title: str
    count: int
    samples: Callable[[Report], Iterator[Sample]]
    labels: Sequence[str] = field(default=())
