"""Pairs of tensor names, {our key: their key}, for the layers that all libraries have.

Our keys are those of `cls.model.Classifier`, whose `MobileNet` is `backbone`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from backbones.spec import NetSpec

Keys = dict[str, str]

WITH_BIAS = ("weight", "bias")
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def tensors(ours: str, theirs: str, names: tuple[str, ...] = WITH_BIAS) -> Keys:
    """The tensors of one layer."""
    return {f"{ours}.{name}": f"{theirs}.{name}" for name in names}


def conv_and_norm(ours: str, conv: str, norm: str) -> Keys:
    """A `ConvNormAct` of ours, whose convolution and batch norm have these names there."""
    return tensors(f"{ours}.conv", conv, ("weight",)) | tensors(f"{ours}.bn", norm, _BATCH_NORM)


def stage_positions(
    pattern: str, keys: Iterable[str], spec: NetSpec, *, elsewhere: int
) -> list[tuple[int, int]]:
    """(stage, number in the stage) of the blocks in their order, read off a state dict's keys.

    Args:
        pattern: of the keys of a block, with a group for the stage and one for the number.
        elsewhere: how many blocks of `spec` match no such key; -1: one match more than there are blocks.

    Raises:
        ValueError: there is another number of blocks.
    """
    positions = sorted({(int(m[1]), int(m[2])) for key in keys if (m := re.match(pattern, key))})
    if len(positions) != len(spec.blocks) - elsewhere:
        raise ValueError(
            f"these weights are not those of {spec.name} with these options: {len(positions) + elsewhere} "
            f"blocks, not {len(spec.blocks)}"
        )
    return positions
