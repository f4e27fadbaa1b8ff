"""Mixup of detection samples, by hand."""

import numpy as np
import pytest

from det.augment.mixup import mixup


def sample(value, box, label):
    return np.full((4, 6, 3), value, np.uint8), np.array([box], np.float32), np.array([label])


def test_pixels_are_averaged_and_all_boxes_kept():
    image, boxes, labels = mixup(sample(255, (0, 0, 3, 2), 1), sample(200, (1, 1, 6, 4), 0))
    assert image.dtype == np.uint8
    assert (image == 228).all()  # 227.5, without an overflow
    assert boxes.tolist() == [[0, 0, 3, 2], [1, 1, 6, 4]]
    assert labels.tolist() == [1, 0]


def test_images_of_different_sizes_are_refused():
    image, boxes, labels = sample(0, (0, 0, 1, 1), 0)
    with pytest.raises(ValueError, match="the same size"):
        mixup((image, boxes, labels), (image[:2], boxes, labels))
