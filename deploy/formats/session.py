"""A network that is loaded in some runtime, and how an optional runtime is imported."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UserError

INPUT = "images"
"""Name of the one input of every exported network."""


LEAST_SIZE = "least_size"
"""Name of the metadata that hold the smallest (height, width) of a file with a dynamic size."""


Arrays = list[NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Session:
    """A network that is loaded and ready to run.

    Attributes:
        run: images [N, 3, H, W] of `dtype` -> its outputs, in the graph's order.
        output_names: their names.
        runtime: name and version of the library that runs it.
        dtype: of the images, `uint8` or `float32`; None where any goes.
        shape: (N, H, W) that it takes; None where any number goes.
        metadata: what travels in the file, texts by name; empty for PyTorch itself.
    """

    run: Callable[[NDArray[Any]], Arrays]
    output_names: tuple[str, ...]
    runtime: str
    dtype: str | None = None
    shape: tuple[int | None, int | None, int | None] = (None, None, None)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @functools.cached_property
    def least_size(self) -> tuple[int, int]:
        """The smallest (height, width) that it takes where any goes."""
        height, width = json.loads(self.metadata.get(LEAST_SIZE, "[1, 1]"))
        return height, width

    def __call__(self, images: NDArray[Any]) -> Arrays:
        """Images [N, 3, H, W] -> outputs.

        Raises:
            UserError: images of another type or size than the network takes.
        """
        if self.dtype is not None and str(images.dtype) != self.dtype:
            raise UserError(f"the network takes images of {self.dtype}, got {images.dtype}")
        given = (images.shape[0], *images.shape[2:])
        if any(want is not None and want != got for want, got in zip(self.shape, given, strict=True)):
            wanted = "x".join("any" if side is None else str(side) for side in self.shape)
            raise UserError(
                f"the network takes images of [N x height x width] {wanted}, got "
                f"{'x'.join(map(str, given))}: resize them (data.eval_size, data.size), or export at their "
                "size or with dynamic=size"
            )
        if any(got < least for least, got in zip(self.least_size, given[1:], strict=True)):
            # Runtimes do not agree on a window that is larger than its map, and none of them refuses it.
            raise UserError(
                f"the network takes images of at least {'x'.join(map(str, self.least_size))}, got "
                f"{'x'.join(map(str, given[1:]))}: resize them, or export at their size with dynamic=none"
            )
        try:
            return self.run(np.ascontiguousarray(images))
        except Exception as error:  # each library has exceptions of its own
            if not self.metadata:  # no file that a user chose: ours to mend
                raise
            raise UserError(
                f"{self.runtime} cannot run images of {'x'.join(map(str, given))} ({first_line(error)}): "
                "resize them, or export at their size with dynamic=none"
            ) from None


def require(module: str, extra: str) -> Any:
    """Import an optional library.

    Raises:
        UserError: it cannot be imported; the message names the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        remedy = f"pip install -e '.[{extra}]'"
        if extra == "litert":  # no extra of this package: its pins do not go with the others'
            remedy = "pip install litert-torch in an environment of its own (docs/guides/export.md)"
        raise UserError(f"{missing} cannot be imported ({first_line(error)}); {remedy}") from None


def first_line(error: BaseException) -> str:
    """A library's error in one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    # OpenVINO begins with places in its own source.
    lines = [line for line in lines if line and not line.startswith("Exception from src/")]
    return (lines[0] if lines else type(error).__name__)[:300]
