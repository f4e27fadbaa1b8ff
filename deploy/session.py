"""A network that is loaded and ready to run, with the same interface for every runtime."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.libraries import first_line
from engine.errors import UserError

INPUT = "images"
"""Name of the only input of every exported network."""

MIN_SIZE = "min_size"
"""Metadata key: the smallest (height, width) for a file with a dynamic size."""

Arrays = list[NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Session:
    """A network that is loaded and ready to run.

    Attributes:
        run: images [N, 3, H, W] of `dtype` -> the outputs, in the graph's order.
        output_names: their names.
        runtime: name and version of the library that runs the network.
        dtype: type of the images, `uint8` or `float32`; None if it takes either.
        shape: (N, H, W) that it takes; None where any number is allowed.
        metadata: the file's metadata, all values are strings; empty for PyTorch itself.
    """

    run: Callable[[NDArray[Any]], Arrays]
    output_names: tuple[str, ...]
    runtime: str
    dtype: str | None = None
    shape: tuple[int | None, int | None, int | None] = (None, None, None)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def described_by(
        cls, metadata: Mapping[str, str], *, run: Callable[[NDArray[Any]], Arrays], runtime: str
    ) -> Session:
        """A session for a runtime that does not know the inputs and outputs: they are in the metadata."""
        images = json.loads(metadata.get("input", "{}"))
        return cls(
            run=run,
            output_names=tuple(json.loads(metadata.get("outputs", "[]"))),
            runtime=runtime,
            dtype=images.get("dtype", "float32"),
            shape=without_channels(images.get("shape", [None] * 4)),
            metadata=metadata,
        )

    @functools.cached_property
    def min_size(self) -> tuple[int, int]:
        """The smallest (height, width) for a network with a dynamic size."""
        height, width = json.loads(self.metadata.get(MIN_SIZE, "[1, 1]"))
        return height, width

    def __call__(self, images: NDArray[Any]) -> Arrays:
        """Images [N, 3, H, W] -> outputs.

        Raises:
            UserError: if the network does not take images of this type or size.
        """
        if self.dtype is not None and str(images.dtype) != self.dtype:
            raise UserError(f"the network takes {self.dtype} images, got {images.dtype}")
        size = (images.shape[0], *images.shape[2:])
        if any(want is not None and want != got for want, got in zip(self.shape, size, strict=True)):
            wanted = "x".join("any" if side is None else str(side) for side in self.shape)
            raise UserError(
                f"the network takes images of [N x height x width] {wanted}, got {'x'.join(map(str, size))}; "
                "resize them (data.eval_size, data.size), or export at their size (or, except for detectors, "
                "with dynamic=size)"
            )
        if any(got < smallest for smallest, got in zip(self.min_size, size[1:], strict=True)):
            # Runtimes disagree on windows larger than their feature map, and none of them reports an error.
            raise UserError(
                f"the network takes images of at least {'x'.join(map(str, self.min_size))}, got "
                f"{'x'.join(map(str, size[1:]))}; resize them, or export at their size with dynamic=none"
            )
        try:
            return self.run(np.ascontiguousarray(images))
        except Exception as error:  # each library has its own exceptions
            if not self.metadata:  # not a file that a user chose, so a bug of ours
                raise
            raise UserError(
                f"{self.runtime} cannot run images of {'x'.join(map(str, size))} ({first_line(error)}); "
                "resize them, or export at their size with dynamic=none"
            ) from None


def run_in_batches(session: Session, images: NDArray[Any]) -> Arrays:
    """Run any number of images through a network that can have a fixed batch size."""
    count = session.shape[0]
    if count is None or count == len(images):
        return session(images)
    parts = []
    for start in range(0, len(images), count):
        batch = images[start : start + count]
        missing = count - len(batch)
        full = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
        parts.append([output[: len(batch)].copy() for output in session(full)])
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def without_channels(shape: Sequence[int | None]) -> tuple[int | None, int | None, int | None]:
    """[N, 3, H, W] -> (N, H, W)"""
    return shape[0], shape[2], shape[3]
