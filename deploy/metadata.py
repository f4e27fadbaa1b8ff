"""The metadata of an exported file, and how it turns an image into the network's input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.session import INPUT
from engine.contracts import ExportedTask, Image


def describe(
    module: ExportedTask,
    *,
    task: str,
    facts: Mapping[str, str],
    pixel_range: tuple[float, float] | None = None,
    upright: bool = True,
) -> dict[str, str]:
    """The metadata of an export as strings: everything that the file's user needs to know.

    Args:
        module: the module that is exported.
        task: name of the task.
        facts: more entries, such as `run`, `checkpoint_sha256` and `license`.
        pixel_range: for images of more than 8 bits, the stored values that become 0 and 255.
        upright: whether images are rotated by their EXIF or TIFF orientation.
    """
    mean, std = (part.flatten().tolist() for part in (module.normalize.mean, module.normalize.std))
    preprocessing = {
        "image": "decoded as 8-bit RGB, without alpha",
        "upright": upright,
        "channel_order": "RGB",
        "pixel_range": None if pixel_range is None else list(pixel_range),
        "transform": str(module.eval_transform),
        "resize": getattr(module.eval_transform, "resizing", {"mode": "custom"}),
        "layout": "NCHW",
        "mean": [round(value, 6) for value in mean],
        "std": [round(value, 6) for value in std],
        "in_graph": module.normalized,
    }
    return {
        "task": task,
        "output": module.output,
        "classes": json.dumps(module.classes.to_dict()),
        "preprocessing": json.dumps(preprocessing),
        "decoding": json.dumps(getattr(module, "decoding", {})),
        **facts,
    }


def describe_graph(*, shape: Sequence[int | None], dtype: str, names: Sequence[str]) -> dict[str, str]:
    """The metadata `input` and `outputs`; None in `shape` stands for any number."""
    images = {"name": INPUT, "shape": list(shape), "dtype": dtype}
    return {"input": json.dumps(images), "outputs": json.dumps(list(names))}


def network_input(image: Image, metadata: Mapping[str, str], *, dtype: str | None = None) -> NDArray[Any]:
    """The transformed image, RGB [h, w, 3] -> the network's input [3, h, w].

    dtype: type of an input that is not normalized; default: the one in the file's metadata.
    """
    preprocessing = json.loads(metadata["preprocessing"])
    pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
    if not preprocessing["in_graph"]:
        mean, std = (np.array(preprocessing[name], np.float32)[:, None, None] for name in ("mean", "std"))
        return (pixels.astype(np.float32) - mean) / std
    return pixels.astype(dtype or json.loads(metadata["input"])["dtype"])
