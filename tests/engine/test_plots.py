"""The picture of a confusion matrix."""

import numpy as np
import pytest
from PIL import Image

from engine.data.class_map import ClassMap
from engine.plots import confusion_picture

CLASSES = ClassMap(names=tuple(f"class {number}" for number in range(19)))


@pytest.mark.parametrize("extra", [0, 1])
def test_confusion_picture_is_written(tmp_path, extra):
    matrix = np.eye(19, 19 + extra, dtype=np.int64) * 90
    matrix[0, -1] = 10
    matrix[3] = 0  # a class without labels
    confusion_picture(matrix, CLASSES, tmp_path / "new" / "confusion.png", of="pixels")
    with Image.open(tmp_path / "new" / "confusion.png") as picture:
        assert min(picture.size) > 900
        assert len(set(picture.convert("RGB").get_flattened_data())) > 20
    with pytest.raises(ValueError, match="matrix must be"):
        confusion_picture(matrix[:5], CLASSES, tmp_path / "a.png", of="pixels")
