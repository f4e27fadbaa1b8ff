"""Mosaic: combines parts of four images, so a batch shows more scenes, and classes next to unusual neighbors.

The idea is from YOLOv4 (Bochkovskiy et al. 2020, section 3.4). Here each part is cropped, scaled and mirrored
like a whole sample, so objects have the same sizes as without a mosaic.
"""

from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from engine.data.preprocessing import MOSAIC_CENTER, Image, Size

Sample = tuple[Image, Image]
"""(image uint8 [H, W, 3], label uint8 [H, W])"""


def mosaic(
    samples: Sequence[Sample], size: Size, cropped: Callable[[Sample, Size, Random], Sample], random: Random
) -> Sample:
    """Four samples -> one of `size` (height, width).

    Args:
        cropped: (sample, size, random) -> a random crop of it, at exactly this size.

    Raises:
        ValueError: if there are not four samples.
    """
    y, x = (round(side * random.uniform(*MOSAIC_CENTER)) for side in size)
    rows, columns = (slice(0, y), slice(y, size[0])), (slice(0, x), slice(x, size[1]))
    image, label = np.empty((*size, 3), np.uint8), np.empty(size, np.uint8)
    quarters = [(row, column) for row in rows for column in columns]
    for sample, quarter in zip(samples, quarters, strict=True):
        height, width = (part.stop - part.start for part in quarter)
        image[quarter], label[quarter] = cropped(sample, (height, width), random)
    return image, label
