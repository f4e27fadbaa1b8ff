"""Names for the layers of files that have none: those of PyTorch's layers with equal weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.quantize.quantizer import layer_name

SAME_WEIGHTS = 1e-3
"""Weights are the same if they differ by less than this share of their channel's largest one."""


def known_layers(weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """Names of PyTorch's layers -> their weights, `without_scales`."""
    return {layer_name(name): without_scales(values) for name, values in weights.items() if values.ndim > 1}


def without_scales(weight: NDArray[Any]) -> NDArray[np.float64]:
    """Weights [out, ...] -> absolute values [out, n], divided by the largest of their output channel.

    Batch normalization that was folded into the weights has no effect on the result.
    """
    # A grouped convolution's shape is [groups, out / groups, ...] in OpenVINO.
    channels = weight.shape[0] * (weight.shape[1] if weight.ndim == 5 else 1)
    rows = np.abs(np.asarray(weight, np.float64).reshape(channels, -1))
    largest = rows.max(axis=1, keepdims=True)
    relative: NDArray[np.float64] = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    return relative


def layer_with(weights: NDArray[np.float64], known: Mapping[str, NDArray[np.float64]]) -> str | None:
    """Name of the layer with these weights, all `without_scales`; None if there is none."""
    differences = {  # median over channels: one that is all zeros matches nothing
        name: float(np.median(np.abs(weights - other).max(axis=1)))
        for name, other in known.items()
        if other.shape == weights.shape
    }
    best = min(differences, key=lambda name: differences[name], default=None)
    return best if best is not None and differences[best] < SAME_WEIGHTS else None
