"""`task.loss.class_weights=auto`: weights for rare classes, from the pixels of the training masks."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.contracts import Choice
from engine.data.class_map import IGNORE
from engine.data.images import count_values
from engine.data.pixel_cache import MaskFiles
from engine.errors import UserError
from engine.io.files import evenly_spaced
from engine.io.parallel import parallel_map

_MOST_MASKS = 2000  # evenly spaced; enough for the shares of all but the rarest classes
_OFFSET = 1.02


def class_weights(source: Any, config: Mapping[str, Any]) -> Choice:
    """The weights of ENet for the pixel counts of the split train.

    Args:
        source: a `seg.data.dataset.SegmentationSource`.
        config: the training configuration.

    Raises:
        UserError: if a mask cannot be read (except with data.on_error=skip), or none has labeled pixels.
    """
    masks = source.dataset("train", None).masks()
    if masks is None:
        raise UserError("task.loss.class_weights=auto: the training split has no masks; set it to null")
    data = config["data"]
    counts, number = pixel_counts(masks, workers=data["workers"], skip_damaged=data["on_error"] == "skip")
    shares = counts[: len(source.classes)]
    if not shares.sum():
        raise UserError("task.loss.class_weights=auto: no training mask has labeled pixels; correct them")
    weights = enet_weights(shares)
    rarest = int(np.where(shares > 0, shares, shares.max()).argmin())
    return Choice(
        value=weights,
        reason=f"1 / ln({_OFFSET} + share of the pixels), from {number} training masks; "
        f"the rarest class, {source.classes.names[rarest]}, has {shares[rarest] / shares.sum():.2%}",
    )


def enet_weights(counts: NDArray[np.int64]) -> list[float]:
    """Pixels per class -> 1 / ln(1.02 + share) per class, from 1.4 to 50 (ENet, Paszke et al. 2016).

    A class without pixels gets 1, because its weight could only act through label smoothing.
    """
    shares = counts / counts.sum()
    weights = np.where(counts > 0, 1 / np.log(_OFFSET + shares), 1.0)
    return [round(float(weight), 4) for weight in weights]


def pixel_counts(
    masks: MaskFiles, *, workers: int = 0, skip_damaged: bool = False
) -> tuple[NDArray[np.int64], int]:
    """Pixels per class index [256], ignored ones at 255, in at most 2000 masks; and the number of masks.

    Raises:
        UserError: naming a mask that cannot be read, unless damaged masks are skipped.
    """
    chosen = evenly_spaced(len(masks.paths), _MOST_MASKS)
    counts, number = np.zeros(IGNORE + 1, np.int64), 0
    count = partial(_count, masks, chosen)
    for result in parallel_map(count, range(len(chosen)), workers=workers, unit="mask"):
        if result.error and not skip_damaged:
            raise UserError(result.error)
        if not result.error:
            counts += result.value
            number += 1
    return counts, number


def _count(masks: MaskFiles, chosen: list[int], position: int) -> NDArray[np.int64]:
    return np.asarray(count_values(masks.read(masks.paths[chosen[position]])), np.int64)
