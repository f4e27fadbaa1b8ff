"""Images in two splits: those with a single stored value are allowed."""

import cv2
import numpy as np
import pytest

from engine.data.splits import check_leaks
from tests.refusals import refuses

HALVES = np.repeat([[0, 1]], 8, 0).repeat(4, 1)


def in_two_splits(folder, pixels, suffix):
    paths = []
    for split in ("train", "val"):
        paths.append(folder / f"{split}{suffix}")
        assert cv2.imwrite(str(paths[-1]), pixels)
    return {path.stem: [str(path).encode()] for path in paths}


@pytest.mark.parametrize(
    ("pixels", "suffix"),
    [
        (np.full((8, 8), np.nan, np.float32), ".tif"),
        (np.full((8, 8), -9999, np.float32), ".tif"),
        (np.full((8, 8), -9999, np.int16), ".tif"),
        (np.full((8, 8, 3), 3000, np.uint16), ".png"),
        (np.full((8, 8, 3), 90, np.uint8), ".png"),
    ],
)
def test_single_values_are_allowed_at_any_depth(pixels, suffix, tmp_path):
    splits = in_two_splits(tmp_path, pixels, suffix)
    line = "1 of the images of val have a single color and are also in train"
    assert check_leaks(splits, override="x=true") == [line]


@pytest.mark.parametrize(
    ("pixels", "suffix"),
    [
        ((100 * HALVES).astype(np.uint16), ".png"),  # without data.pixel_range, all of it is black
        (np.where(HALVES, np.nan, 1).astype(np.float32), ".tif"),
        ((HALVES - 9999).astype(np.int16), ".tif"),
    ],
)
def test_other_images_are_leaks(pixels, suffix, tmp_path):
    splits = in_two_splits(tmp_path, pixels, suffix)
    refuses(lambda: check_leaks(splits, override="x=true"), r"train and val share 1\)")
