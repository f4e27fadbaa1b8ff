"""Mixup for detection: the average of two images, with the boxes of both.

From "Bag of Freebies for Training Object Detection Neural Networks" (Zhang et al. 2019, arXiv 1902.04103,
section 3.1). As in YOLOX (arXiv 2107.08430), both images have the same weight, and every box counts fully.
"""

import numpy as np

from det.augment.mosaic import Sample


def mixup(one: Sample, other: Sample) -> Sample:
    """The mean of two images of the same size (halves are rounded up), and the boxes and labels of both.

    Raises:
        ValueError: if the images differ in size.
    """
    (image, boxes, labels), (second, more_boxes, more_labels) = one, other
    if image.shape != second.shape:
        raise ValueError(f"mixup needs images of the same size, got {image.shape[:2]} and {second.shape[:2]}")
    mean = (image.astype(np.uint16) + second + 1) // 2
    return mean.astype(np.uint8), np.concatenate([boxes, more_boxes]), np.concatenate([labels, more_labels])
