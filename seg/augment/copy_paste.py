"""Copy-paste augmentation: pastes some classes of one training image onto another.

ClassMix (Olsson et al. 2021, section 3.1) pastes half of the classes of an image, using predicted masks of
unlabeled images. Here the masks are labels.
"""

from collections.abc import Sequence
from random import Random

import cv2
import numpy as np

from engine.data.class_map import IGNORE
from engine.data.images import count_values
from seg.augment.mosaic import Sample


def paste_classes(
    target: Sample, source: Sample, random: Random, *, classes: Sequence[int] | None = None
) -> Sample:
    """Paste all pixels of half of the classes in `source` (rounded up, at random) onto a copy of `target`.

    Both samples must have the same size. Ignored pixels of `source` are never pasted.

    Args:
        classes: indices of the classes that can be pasted; None: all.
    """
    image, label = (pixels.copy() for pixels in target)
    other_image, other_label = source
    present = np.flatnonzero(count_values(other_label)[:IGNORE]).tolist()
    if classes is not None:
        present = [index for index in present if index in classes]
    table = np.zeros(256, np.uint8)
    table[random.sample(present, (len(present) + 1) // 2)] = 255
    pasted = cv2.LUT(other_label, table)
    cv2.copyTo(other_image, pasted, image)
    cv2.copyTo(other_label, pasted, label)
    return image, label
