"""Pairs of tensor names, {our key: their key}, for the layers that all libraries share.

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
    """The tensors of our `ConvNormAct`, given the other library's names of its convolution and batch norm."""
    return tensors(f"{ours}.conv", conv, ("weight",)) | tensors(f"{ours}.bn", norm, _BATCH_NORM)


def stage_positions(
    pattern: str, keys: Iterable[str], spec: NetSpec, *, elsewhere: int
) -> list[tuple[int, int]]:
    """(stage, number in the stage) of the blocks in order, derived from a state dict's keys.

    Args:
        pattern: of the keys of a block, with a group for the stage and one for the number.
        elsewhere: number of blocks of `spec` that do not match the pattern; -n: n matches are not blocks.

    Raises:
        ValueError: the number of blocks differs from the spec's.
    """
    positions = sorted({(int(m[1]), int(m[2])) for key in keys if (m := re.match(pattern, key))})
    if len(positions) != len(spec.blocks) - elsewhere:
        raise ValueError(
            f"these weights do not fit {spec.name} with these options: {len(positions) + elsewhere} blocks, "
            f"not {len(spec.blocks)}"
        )
    return positions
