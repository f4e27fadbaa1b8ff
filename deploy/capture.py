"""A module's graph, as torch.export captures it: the one source of every format."""

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
    """A module whose one input is called `images`, as in every exported network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Any:
        return self.module(images)


def capture(
    module: nn.Module, example: Tensor, *, dynamic_batch: bool = False, dynamic_size: bool = False
) -> ExportedProgram:
    """The module's graph.

    Args:
        module: images -> a tensor or a tuple of tensors; its `forward` calls them `images`.
        example: images [N, 3, H, W]; they fix what is not dynamic.
        dynamic_batch, dynamic_size: whether N, and H and W, may be any number.

    Raises:
        UserError: if the module's computation depends on what is to be dynamic.
    """
    free: dict[int, Any] = {}
    if dynamic_batch:
        free[0] = Dim.DYNAMIC
        # torch.export treats sizes 0 and 1 as constants.
        example = example if example.shape[0] > 1 else example.expand(2, -1, -1, -1).contiguous()
    if dynamic_size:
        free |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        # Oblivious: a pooled map of one row is a case like any other, not one with a guard of its own.
        oblivious = fx_config.patch(backed_size_oblivious=bool(free))  # type: ignore[attr-defined]
        with torch.no_grad(), oblivious:
            program = torch.export.export(module, (example,), dynamic_shapes={INPUT: free} if free else None)
            # A window that grows with the image is not refused but treated as a constant, with a guard.
            program.module()(_other_size(example, free))
        return program
    except Exception as error:
        if not free:
            raise
        what = "size" if dynamic_size else "batch"
        raise UserError(
            f"dynamic={what}: this network computes with its input's {what} ({first_line(error)[:120]}); "
            f"export with dynamic={'batch' if dynamic_size else 'none'}"
        ) from None


def min_size(program: ExportedProgram) -> list[int]:
    """[height, width] from which on the graph equals the module: smaller images may not fill its windows."""
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
    """Without the exporters' notes on their own workings, about which a user can do nothing."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
