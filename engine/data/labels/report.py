"""The result of a task's label check (`TaskInfo.label_check`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.contracts import Finding, Image


class Fact(NamedTuple):
    """What is known about a file: the bytes that a function returned for it, or why it raised a UserError.

    Attributes:
        value: empty if there is an error.
        error: the message; empty if there is none.
        kind: the class of the error.
        content: a hash of the file's bytes; empty if it cannot be read.
    """

    value: bytes
    error: str = ""
    kind: str = ""
    content: bytes = b""


class ReadFacts(Protocol):
    """Calls `function` for each file, in parallel and from a cache; yields (position, fact), in any order.

    paths: packed (`engine.io.files.pack_paths`); an array stays shared between processes, a list does not.
    key: changes with everything that the function's result depends on, except the bytes of the file.
    """

    def __call__(
        self, paths: NDArray[np.bytes_], function: Callable[[str], bytes], *, key: str, unit: str
    ) -> Iterator[tuple[int, Fact]]: ...


@dataclass(kw_only=True)
class ClassAmounts:
    """How much of each class a split has, without a list of its images.

    Attributes:
        images: number of labeled images.
        total: float64 [K], the sum over images of the amount (pixels as shares, boxes, images).
        squares: float64 [K], the sum of their squares.
        present: int64 [K], in how many images the class occurs.
        ignored: share of pixels or boxes that do not count.
    """

    images: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    present: NDArray[np.int64]
    ignored: float = 0.0

    @property
    def shares(self) -> NDArray[np.float64]:
        """float64 [K], which sum to 1."""
        return self.total / max(float(self.total.sum()), 1e-12)


@dataclass(kw_only=True)
class LabelReport:
    """The labels of a dataset.

    Attributes:
        unit: what the amounts count: pixels, boxes or images.
        amounts: per labeled split.
        findings: what is wrong with the labels.
        lines: lines of the reader (`source.warnings`) that the findings do not cover.
        samples: class index -> a few (split, index) of samples with that class.
        draw: (split, index) -> the sample with its labels drawn.
        boxes: for detection, float32 [B, 4]: centers as fractions of the image, and width and height in
            pixels of the network's input, of a sample of the objects.
        strides: of the network's feature maps, in pixels.
    """

    unit: str
    amounts: Mapping[str, ClassAmounts]
    findings: list[Finding]
    lines: Sequence[str] = ()
    samples: Callable[[int], Sequence[tuple[str, int]]]
    draw: Callable[[str, int], Image]
    boxes: NDArray[np.float32] | None = None
    strides: Sequence[float] = field(default_factory=tuple)


class ExaminedSplit(NamedTuple):
    """A split whose images have been read.

    Attributes:
        dataset: its dataset, without a transform.
        sizes: int32 [N, 2], (height, width) of each image; 0 for one that cannot be read.
        contents: uint8 [N, 16], a hash of each image file's bytes.
    """

    dataset: Any
    sizes: NDArray[np.int32]
    contents: NDArray[np.uint8]
