"""Captures a module's graph with torch.export; all formats are written from this graph."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as fx_config

from deploy.libraries import first_line
from deploy.session import INPUT
from engine.errors import UserError


class NamedInput(nn.Module):
    """A module whose only input is called `images`, as in every exported network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Any:
        return self.module(images)


def capture(
    module: nn.Module,
    example: Tensor,
    *,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    size_remedy: str = "",
) -> ExportedProgram:
    """The module's graph.

    Args:
        module: images -> a tensor or a tuple of tensors; its `forward` calls them `images`.
        example: images [N, 3, H, W]; dimensions that are not dynamic are fixed at its size.
        dynamic_batch, dynamic_size: whether N, or H and W, can vary.
        size_remedy: what to do if H and W cannot vary, for the message.

    Raises:
        UserError: if the module's computation depends on a dimension that should be dynamic.
    """
    free: dict[int, Any] = {}
    if dynamic_batch:
        free[0] = Dim.DYNAMIC
        # torch.export treats sizes 0 and 1 as constants.
        example = example if example.shape[0] > 1 else example.expand(2, -1, -1, -1).contiguous()
    if dynamic_size:
        free |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        # Oblivious: a pooled map with one row is not a special case with its own guard.
        oblivious = fx_config.patch(backed_size_oblivious=bool(free))  # type: ignore[attr-defined]
        with torch.no_grad(), oblivious:
            program = torch.export.export(module, (example,), dynamic_shapes={INPUT: free} if free else None)
            # A window that grows with the image is not rejected, but becomes a constant with a guard.
            program.module()(_other_size(example, free))
        return program
    except Exception as error:
        if not free:
            raise
        what = "size" if dynamic_size else "batch"
        remedy = size_remedy if dynamic_size else "export with dynamic=none"
        raise UserError(
            f"dynamic={what}: this network's computation depends on the input's {what} "
            f"({first_line(error)[:120]}); {remedy}"
        ) from None


def min_size(program: ExportedProgram) -> list[int]:
    """The smallest [height, width] at which the graph equals the module; smaller ones do not fill windows."""
    (image,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.name == INPUT)
    ranges = program.range_constraints
    sides = (side.node.expr for side in image.meta["val"].shape[2:])
    return [int(ranges[side].lower) for side in sides]


def _other_size(example: Tensor, free: Mapping[int, Any]) -> Tensor:
    """Zeros that differ from the example in every dynamic dimension."""
    more = {0: 1, 2: 32, 3: 64}
    grown = [count + (more[axis] if axis in free else 0) for axis, count in enumerate(example.shape)]
    return example.new_zeros(*grown)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the exporters' output and warnings, which users cannot act on."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
