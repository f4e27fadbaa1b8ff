"""Mosaics of detection samples: how the four images are scaled, and which boxes remain."""

import numpy as np
import pytest

from det.augment.mosaic import mosaic

SIZE = (160, 240)


def places(number):
    """An image whose pixels are (row, column, number), with one box and the number as its label."""
    rows, columns = np.indices(SIZE, dtype=np.uint8)
    image = np.stack([rows, columns, np.full(SIZE, number, np.uint8)], axis=2)
    return image, np.array([[80.0, 50, 160, 110]]), np.array([number])


def quarters(image):
    """The four parts of a mosaic of `places`, from top left to bottom right, and where they meet: (y, x)."""
    y, x = int((image[:, 0, 2] == 0).sum()), int((image[0, :, 2] == 0).sum())
    return [image[:y, :x], image[:y, x:], image[y:, :x], image[y:, x:]], (y, x)


def steps(part):
    """How many rows and columns of an image lie between two pixels of a part."""
    values = part[..., :2].astype(float)
    return np.diff(values[:, 0, 0]).mean(), np.diff(values[0, :, 1]).mean()


def test_each_image_keeps_its_aspect_ratio_and_fills_its_quarter():
    samples = [places(number) for number in range(4)]
    smallest, largest = [], []
    for seed in range(60):
        image, _, _ = mosaic(samples, SIZE, np.random.default_rng(seed), min_visible=0.5, area=False)
        parts, (y, x) = quarters(image)
        for number, part in enumerate(parts):
            assert (part[..., 2] == number).all()
            down, right = steps(part)
            assert down == pytest.approx(right, rel=0.1)
            # Between its own size and the size at which it fits into its quarter whole along one side.
            limit = min(SIZE[0] / part.shape[0], SIZE[1] / part.shape[1])
            assert 0.95 < down < limit * 1.1
            smallest.append(down)
            largest.append(down / limit)
        assert 0.3 * SIZE[0] - 1 <= y <= 0.7 * SIZE[0] + 1
        assert 0.3 * SIZE[1] - 1 <= x <= 0.7 * SIZE[1] + 1
    assert min(smallest) < 1.05
    assert max(largest) > 0.95


def test_boxes_are_where_their_pixels_are():
    samples = [places(number) for number in range(4)]
    kept = 0
    for seed in range(60):
        image, boxes, labels = mosaic(samples, SIZE, np.random.default_rng(seed), min_visible=1, area=False)
        kept += len(boxes)
        for box, label in zip(boxes.round().astype(int), labels, strict=True):
            left, top, right, bottom = box
            inside = image[top:bottom, left:right].astype(int)
            assert (inside[..., 2] == label).all()
            assert inside[0, 0, :2] == pytest.approx((50, 80), abs=3)
            assert inside[-1, -1, :2] == pytest.approx((109, 159), abs=3)
    assert 20 < kept < 200


def test_more_boxes_remain_if_less_of_them_must_be_visible():
    samples = [places(number) for number in range(4)]

    def count(min_visible):
        rngs = map(np.random.default_rng, range(30))
        return sum(len(mosaic(samples, SIZE, rng, min_visible=min_visible, area=False)[1]) for rng in rngs)

    assert count(1) < count(0.5) < count(0.05) <= 120


def test_a_mosaic_of_three_images_is_refused():
    with pytest.raises(ValueError, match="4"):
        mosaic([places(0)] * 3, SIZE, np.random.default_rng(0), min_visible=0.5, area=False)
