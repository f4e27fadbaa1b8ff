"""Outputs of an exported segmenter -> a label map of the image, using only NumPy. tools/export.py writes this
file next to the exported file.

    about = json.loads(Path("preprocess.json").read_text())
    labels = decode(dict(zip(about["outputs"], outputs)), about, (height, width))

Apache-2.0; from mobilenet-dense, seg/decode.py.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = 32
"""Number of rows of the result that are computed at once, to save memory."""


def decode(
    outputs: Mapping[str, NDArray[Any]], about: Mapping[str, Any], size: tuple[int, int], index: int = 0
) -> NDArray[np.uint8]:
    """The class index of each pixel, [height, width], of image `index` of the batch.

    Args:
        outputs: by name, as the file returns them.
        about: the content of preprocess.json.
        size: (height, width) of the image before it was resized.
    """
    aligned = about["decoding"]["align_corners"]
    if about["output"] == "argmax":
        labels = outputs["labels"][index]
        rows, columns = (nearest(*sides, aligned) for sides in zip(labels.shape, size, strict=True))
        return np.asarray(labels[rows][:, columns], np.uint8)
    scores = np.asarray(outputs["logits"][index], np.float32)  # [K, h, w]
    top, bottom, down = between(scores.shape[1], size[0], aligned)
    left, right, across = between(scores.shape[2], size[1], aligned)
    result = np.empty(size, np.uint8)
    for start in range(0, size[0], ROWS):
        some = slice(start, start + ROWS)
        part = scores[:, top[some]] * (1 - down[some, None]) + scores[:, bottom[some]] * down[some, None]
        part = part[:, :, left] * (1 - across) + part[:, :, right] * across
        result[some] = part.argmax(axis=0)
    return result


def between(length: int, new_length: int, aligned: bool) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """For each output position: the two input positions around it, and the weight of the second."""
    places = np.arange(new_length, dtype=np.float32)
    if aligned:
        exact = places * np.float32((length - 1) / max(new_length - 1, 1))
    else:
        exact = ((places + 0.5) * np.float32(length / new_length) - 0.5).clip(0)
    first = np.minimum(exact.astype(np.int64), length - 1)
    return first, np.minimum(first + 1, length - 1), (exact - first).astype(np.float32)


def nearest(length: int, new_length: int, aligned: bool) -> NDArray[Any]:
    """The nearest input position of each output position, computed with integers only."""
    places = np.arange(new_length)
    if aligned:
        steps = max(new_length - 1, 1)
        return (2 * places * (length - 1) + steps) // (2 * steps)
    return (2 * places + 1) * length // (2 * new_length)
