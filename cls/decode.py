"""Outputs of an exported classifier -> probabilities, using only NumPy. tools/export.py writes this file next
to the exported file.

    about = json.loads(Path("preprocess.json").read_text())
    probabilities = decode(dict(zip(about["outputs"], outputs)), about, (height, width))

Apache-2.0; from mobilenet-dense, cls/decode.py.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def decode(
    outputs: Mapping[str, NDArray[Any]], about: Mapping[str, Any], size: tuple[int, int], index: int = 0
) -> NDArray[np.float32]:
    """The probability of each class, [K], in image `index` of the batch; only `outputs` is used."""
    scores = np.asarray(outputs["logits"][index], np.float32)
    powers = np.exp(scores - scores.max())
    probabilities: NDArray[np.float32] = powers / powers.sum()
    return probabilities
